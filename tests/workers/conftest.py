"""One Ray cluster for all tests that want one: started by the first, private, gone at the end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import schema
from workers.cluster import session as sessions

NUM_CPUS = 3


@pytest.fixture(scope="session")
def ray_session() -> Iterator[sessions.Session]:
    """A session that has started a local cluster with cores for three workers."""
    before = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    settings = schema.ClusterConfig(address="local", num_workers=NUM_CPUS)
    with sessions.Session(settings) as session:
        session.start_ray()
        session.should_stop.restore()  # Ctrl-C belongs to pytest
        yield session
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which workers leave marks for the test, or for each other."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder
