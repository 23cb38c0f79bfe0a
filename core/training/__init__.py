"""Training of one rank: batches, loss, truncated backpropagation through time, optimizer step, checkpoint, resume.

In: a `resume.TrainingJob` and the group of ranks. Out: checkpoints, the run log and a `trainer.TrainingSummary`.
"""
