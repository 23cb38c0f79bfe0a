"""Inference: parts of lines translated or scored, each committed as a whole.

In: a bundle and inputs. Out: an output folder.
"""
