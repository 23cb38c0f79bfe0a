"""Telemetry: Prometheus behind the metrics interface, and TensorBoard event files.

In: measurements and the run log. Out: an HTTP endpoint per node, a final `.prom` file, event files.
"""
