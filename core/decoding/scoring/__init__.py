"""Scoring: log-probabilities of text and of given translations.

In: lines, a stream, or pairs of lines. Out: negative log-likelihoods in nats.
"""
