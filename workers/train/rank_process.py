"""What one rank does: settles where and with what it computes, and trains."""

import dataclasses

import torch.distributed

from core.models import compute
from core.training import collective, trainer
from workers.telemetry import prometheus
from workers.train import messages, validator


def run_rank(job: trainer.TrainingJob, place: messages.Place, hooks: trainer.Hooks) -> trainer.TrainingSummary:
    """Trains as one rank of a group, or alone; returns what rank 0 knows at the end."""
    compute.set_threads(place.threads)
    group: collective.Collective = collective.Torch() if torch.distributed.is_initialized() else collective.Alone()
    metrics = prometheus.worker_metrics(str(group.rank))
    job = dataclasses.replace(job, device=place.device)
    examiner = validator.Examiner(job.training.validation, job.compute, job.seed)
    return trainer.train(job, group, metrics, hooks, examiner)
