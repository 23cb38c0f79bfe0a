"""Telemetry: Prometheus and TensorBoard behind the metrics interface.

In: measurements. Out: an HTTP endpoint, a final `.prom` file, event files.
"""
