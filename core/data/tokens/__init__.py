"""Tokens: from lines to token ids and back.

In: text. Out: ids, by tokenizers with their vocabularies, which are stored as `tokenizer.json`.
"""
