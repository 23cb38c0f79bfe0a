"""One root in each kind of store."""

import uuid
from pathlib import Path

import pytest

from core.storage import location


@pytest.fixture(params=["file", "memory", "s3", "gs", "abfs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> location.Location:
    """An empty folder in each kind of store."""
    if request.param == "file":
        return location.Location.parse(str(tmp_path))
    if request.param == "memory":
        return location.Location.parse(f"memory://{uuid.uuid4().hex}")
    stored = request.getfixturevalue(f"{request.param}_root")
    assert isinstance(stored, location.Location)
    return stored
