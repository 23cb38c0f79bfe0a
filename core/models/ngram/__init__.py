"""N-gram models: smoothed probabilities from counts.

In: counts of n-grams. Out: conditional distributions of the next token.
"""
