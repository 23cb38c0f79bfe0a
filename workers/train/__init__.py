"""Training: the ranks of a run and the driver that starts them.

In: a training job. Out: checkpoints and a summary.
"""
