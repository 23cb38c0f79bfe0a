"""Translation: beam search and sampled search over a sequence-to-sequence model.

In: source lines. Out: translations with scores and alignments.
"""
