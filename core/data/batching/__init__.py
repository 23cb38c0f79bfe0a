"""Batching: the tokens of each training batch.

In: token streams and line lengths. Out: lanes and windows of text, buckets of pairs, seeded permutations.
"""
