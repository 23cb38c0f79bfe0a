"""Preparing a dataset: passes over the parts of the corpora, each a fan-out of tasks of one kind.

In: settings of the corpora. Out: Arrow shards, tokenizers, statistics and an index.
"""
