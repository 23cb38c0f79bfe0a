"""Telemetry: the catalogue of metrics and the interface that records them.

In: measurements. Out: calls of whatever implements the interface: nothing, a list in memory, or Prometheus.
"""
