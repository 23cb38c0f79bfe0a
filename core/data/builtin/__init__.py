"""Built-in data: a small English–French grammar for the demo, and a sine for forecasting.

In: a number. Out: a sentence pair, or a value.
"""
