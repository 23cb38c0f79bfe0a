"""Telemetry: the catalogue of metrics and the interface that records them."""
