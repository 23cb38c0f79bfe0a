"""Tests of the Kubernetes manifests and monitoring; `python -m tests.k8s` checks manifests."""
