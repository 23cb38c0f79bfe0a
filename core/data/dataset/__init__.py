"""Datasets: Arrow shards of token ids, and the index that lists them.

In: token ids. Out: memory-mapped rows and streams, word statistics, duplicate lines.
"""
