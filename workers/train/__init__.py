"""Training of a run: its ranks, and the driver that starts and watches them.

In: a `core.training.trainer.TrainingJob`. Out: checkpoints, the run log and a summary.
"""
