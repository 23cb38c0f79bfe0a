"""Chaos tests: workers, drivers and nodes are killed while commands run."""
