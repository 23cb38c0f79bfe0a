"""Work of single processes, and its distribution over Ray.

In: settings and folders, from `jobs`. Out: datasets, checkpoints and outputs, committed by workers; results to the
driver. Only `cluster`, `fanout` and `train` import Ray.
"""
