"""Comparison with other programs (`make bench-peers`): the same data and sizes, each side a process of its own.

In: which rows, and a folder of real corpora, if there is one. Out: a table of ratios, with versions and processor.
"""
