"""Benchmarks: throughput, memory, and results on the real corpora."""
