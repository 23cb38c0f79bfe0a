"""Text, tensors and files: everything but Ray and the command line.

In: settings and files. Out: datasets, models, checkpoints, translations, scores and reports.
"""
