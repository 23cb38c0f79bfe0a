"""Fixtures: drivers that end with their test, and reproducible random choices."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e import driving, stored


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[driving.Drive]:
    """Yields a function that starts `python -m jobs` with the given arguments, or another program."""
    drivers: list[driving.Driver] = []

    def start(*arguments: str, program: Sequence[str] = driving.JOBS) -> driving.Driver:
        folder = tmp_path / f"driver-{len(drivers)}"
        folder.mkdir()
        drivers.append(driving.Driver(folder, arguments, program))
        return drivers[-1]

    yield start
    for driver in reversed(drivers):
        driver.clean_up()


@pytest.fixture
def chance() -> random.Random:
    """Returns a random generator; a failing test prints the seed that repeats its choices."""
    seed = int(os.environ.get("RAYCURRENT_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"repeat with RAYCURRENT_CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Returns a folder with 200 pairs and their sides, plain and in each compressed format."""
    stored.write_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"
