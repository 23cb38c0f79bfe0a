"""What is measured: the catalogue of metrics and who records them."""
