"""N-gram models: probabilities from counts.

In: counts of n-grams. Out: smoothed conditional distributions.
"""
