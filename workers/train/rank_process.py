"""One rank of a training run: sets up computing, metrics and validation, and trains."""

import dataclasses

import torch.distributed

from core.models import compute
from core.training import callbacks, collective, trainer
from workers.telemetry import prometheus
from workers.train import messages, validator


def run_rank(
    job: trainer.TrainingJob, context: messages.RankContext, callbacks: callbacks.Callbacks
) -> trainer.TrainingSummary:
    """Trains as one rank of a group, or alone; returns the summary, which rank 0's caller uses."""
    compute.set_threads(context.threads)
    is_distributed = torch.distributed.is_initialized()
    group: collective.Collective = collective.TorchDistributed() if is_distributed else collective.SingleProcess()
    metrics = prometheus.worker_metrics(str(group.rank))
    job = dataclasses.replace(job, device=context.device)
    decoder = validator.DecodingValidator(job.training.validation, job.evaluation, job.compute, job.seed)
    return trainer.train(job, group, metrics, callbacks, decoder)
