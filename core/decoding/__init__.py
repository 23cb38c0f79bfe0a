"""Decoding: translation, scoring, generation and forecasting with a trained model.

In: bundles and lines, prefixes or series. Out: translations, scores, texts and forecasts, as rows in their input order.
"""
