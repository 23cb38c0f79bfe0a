"""What one rank does: settles where and with what it computes, and trains."""

import dataclasses

import torch.distributed

from core.models import compute
from core.training import collective, loop
from workers import examining, ranks, telemetry


def run_rank(job: loop.TrainingJob, place: ranks.Place, hooks: loop.Hooks) -> loop.TrainingSummary:
    """Trains as one rank of a group, or alone; returns what rank 0 knows at the end."""
    compute.set_threads(place.threads)
    group: collective.Collective = collective.Torch() if torch.distributed.is_initialized() else collective.Alone()
    recorder = telemetry.worker_recorder(str(group.rank))
    job = dataclasses.replace(job, device=place.device)
    validator = examining.Examiner(job.training.validation, job.compute, job.seed)
    return loop.train(job, group, recorder, hooks, validator)
