"""Preparing: corpora to an Arrow dataset, by passes over parts of lines.

In: corpus settings. Out: shards, tokenizers, statistics, an index.
"""
