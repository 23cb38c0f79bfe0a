"""One Ray cluster for all tests that want one: started by the first, private, gone at the end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import schema
from workers import cluster

NUM_CPUS = 3


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Session]:
    """A session that has started a local cluster with cores for three workers."""
    folder = tmp_path_factory.mktemp("token")
    token = folder / "auth_token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    before = dict(os.environ)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ.pop("RAY_ADDRESS", None)
    settings = schema.ClusterConfig(address="local", num_workers=NUM_CPUS)
    with cluster.Session(settings) as session:
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
