"""Proof of the guards: each is taken away in a copy of the tree, and a test must fail."""
