"""Scoring: log-probabilities of text and of given translations.

In: lines or a stream. Out: negative log-likelihoods in nats.
"""
