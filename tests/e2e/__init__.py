"""End-to-end tests: whole commands as separate processes."""
