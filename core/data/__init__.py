"""Data: from text to token ids, and from token ids to batches.

In: files of text or numbers. Out: tokenizers, datasets, and the batches of training.
"""
