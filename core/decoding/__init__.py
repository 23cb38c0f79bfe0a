"""Decoding: translation, scoring, generation and forecasting with a trained model."""
