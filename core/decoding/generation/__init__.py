"""Generation: continuations of text, and forecasts of numeric series.

In: a prefix or an ending, or past values. Out: text, or values.
"""
