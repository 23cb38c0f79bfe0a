"""Batching: which tokens form a training batch.

In: streams and lengths. Out: lanes and windows of text, buckets of pairs, seeded orders.
"""
