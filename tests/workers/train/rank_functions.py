"""Functions for ranks to run in tests: small, importable by workers, and failing on request."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from core import errors
from workers.train import messages


def _sum_of_ranks(context: messages.RankContext) -> int:
    total = torch.tensor([context.rank + 1])
    distributed.all_reduce(total)
    return int(total.item())


def _mark_start(job: dict[str, Any], context: messages.RankContext) -> int:
    """Creates a file for this start, and returns the number of starts of this rank."""
    marks = Path(job["marks"])
    (marks / f"start-{context.rank}-{time.time_ns()}").touch()
    return len(list(marks.glob(f"start-{context.rank}-*")))


def add_up(job: dict[str, Any], context: messages.RankContext, callbacks: Any) -> dict[str, Any]:
    """Adds the ranks up."""
    callbacks.on_progress(("far", context.rank))
    return {"sum": _sum_of_ranks(context), "world_size": context.world_size, "threads": os.environ["OMP_NUM_THREADS"]}


def diverge(job: dict[str, Any], context: messages.RankContext, callbacks: Any) -> None:
    """Rank 1 alone raises an error of the user, while rank 0 waits for it."""
    _mark_start(job, context)
    _sum_of_ranks(context)
    if context.rank == 1:
        raise errors.DivergedError("training: step 7: three steps without a finite gradient; lower the rate")
    _sum_of_ranks(context)


def stumble(job: dict[str, Any], context: messages.RankContext, callbacks: Any) -> None:
    """Has a bug."""
    _mark_start(job, context)
    raise KeyError("no such thing")


def die(job: dict[str, Any], context: messages.RankContext, callbacks: Any) -> None:
    """Rank 1 dies."""
    _mark_start(job, context)
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _sum_of_ranks(context)


def until_stopped(job: dict[str, Any], context: messages.RankContext, callbacks: Any) -> str:
    """Runs until rank 0 gets a stop request; in the first group, rank 1 is killed."""
    if _mark_start(job, context) == 1 and context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        word = torch.tensor([int(context.rank == 0 and callbacks.should_stop())])
        distributed.broadcast(word, src=0)
        callbacks.on_progress("running")
        if word.item():
            return "stopped"
        time.sleep(0.05)
