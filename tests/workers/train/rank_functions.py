"""Functions that tests have ranks call: small, importable by workers, and badly behaved on request."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from core import errors
from workers.train import messages


def _sum_of_ranks(place: messages.Place) -> int:
    total = torch.tensor([place.rank + 1])
    distributed.all_reduce(total)
    return int(total.item())


def _mark_start(job: dict[str, Any], place: messages.Place) -> int:
    """Leaves a mark, and says how many there are of this rank."""
    marks = Path(job["marks"])
    (marks / f"start-{place.rank}-{time.time_ns()}").touch()
    return len(list(marks.glob(f"start-{place.rank}-*")))


def add_up(job: dict[str, Any], place: messages.Place, hooks: messages.Hooks) -> dict[str, Any]:
    """Adds the ranks up."""
    hooks.progress(("far", place.rank))
    return {"sum": _sum_of_ranks(place), "world_size": place.world_size, "threads": os.environ["OMP_NUM_THREADS"]}


def diverge(job: dict[str, Any], place: messages.Place, hooks: messages.Hooks) -> None:
    """Rank 1 alone finds that the user must act, while rank 0 waits for it."""
    _mark_start(job, place)
    _sum_of_ranks(place)
    if place.rank == 1:
        raise errors.DivergedError("training: step 7: three steps without a finite gradient; lower the rate")
    _sum_of_ranks(place)


def stumble(job: dict[str, Any], place: messages.Place, hooks: messages.Hooks) -> None:
    """Has a bug."""
    _mark_start(job, place)
    raise KeyError("no such thing")


def die(job: dict[str, Any], place: messages.Place, hooks: messages.Hooks) -> None:
    """Rank 1 dies."""
    _mark_start(job, place)
    if place.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _sum_of_ranks(place)


def until_stopped(job: dict[str, Any], place: messages.Place, hooks: messages.Hooks) -> str:
    """Goes on until rank 0 is told to stop; in the first group, rank 1 is killed on the way."""
    if _mark_start(job, place) == 1 and place.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        word = torch.tensor([int(place.rank == 0 and hooks.should_stop())])
        distributed.broadcast(word, src=0)
        hooks.progress("going on")
        if word.item():
            return "stopped"
        time.sleep(0.05)
