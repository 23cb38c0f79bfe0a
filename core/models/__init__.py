"""Models: recurrent language models and encoder-decoders, n-gram models, regressors, and the bundle that stores them.

In: model settings and token ids. Out: logits and states; bundles, which hold all that inference needs.
"""
