"""Stateless random numbers: seeds are functions of the position in a run.

torch's default generators are seeded again at the start of every step. The dropout masks of a step then depend on the
run's seed, the step and the rank alone, so that a checkpoint needs no random state, and a resumed run draws the same
masks as an uninterrupted one.
"""

import hashlib

import torch


def derive(seed: int, *path: int | str) -> int:
    """Returns a seed in [0, 2^63) for one purpose: equal arguments give equal seeds, others unrelated ones."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_initialization(seed: int) -> None:
    """Seeds the default generators for the initial weights: the same on all ranks."""
    _seed(derive(seed, "initialisation"))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds the default generators, of CPU and device, for one step of one rank."""
    _seed(derive(seed, "step", step, rank))


def _seed(value: int) -> None:
    # torch.manual_seed formats the call stack for each missing kind of device: 0.4 ms, a tenth of a small step.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(value)
