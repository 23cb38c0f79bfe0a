"""The dataset: Arrow shards of token ids, and the index that lists them.

In: token ids. Out: memory-mapped shards, their statistics, duplicate lines.
"""
