"""Seeds as functions of where a run is, so that no random state has to be saved.

torch's default generators are seeded anew at the start of every step. What a step draws (dropout masks) then
depends on the run's seed, the step and the rank alone, and a resumed run draws what the uninterrupted one did.
"""

import hashlib

import torch


def derive(seed: int, *path: int | str) -> int:
    """A seed in [0, 2^63) for one purpose: equal arguments give equal seeds, others unrelated ones."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_initialisation(seed: int) -> None:
    """Seeds the default generators for drawing first weights: the same on all ranks."""
    _seed(derive(seed, "initialisation"))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds the default generators, of CPU and device, for one step of one rank."""
    _seed(derive(seed, "step", step, rank))


def _seed(value: int) -> None:
    # torch.manual_seed formats the call stack for each kind of device that is not there: 0.4 ms, a small step's tenth.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(value)
