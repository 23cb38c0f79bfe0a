"""A run with a bundle of random weights, and a session that works in this process."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

from core.config import schema
from core.models import bundle as bundles
from core.storage import commit, location
from workers.cluster import session as sessions

NONE = schema.ClusterConfig(address="none")


def save(made: bundles.Bundle, root: pathlib.Path, step: int = 5) -> location.Location:
    """Writes a run's root with one checkpoint, or a further one into it."""
    folder = root / "checkpoints" / f"step-{step:08d}-e1"
    (folder / "bundle").mkdir(parents=True)
    files = []
    for name, data in bundles.to_files(made).items():
        (folder / "bundle" / name).write_bytes(data)
        files.append(commit.FileRecord(f"bundle/{name}", commit.sha256_hex(data), len(data)).to_json())
    manifest = {"format": "raycurrent-checkpoint", "version": 1, "step": step, "epoch": 1, "best": True}
    (folder / "MANIFEST.json").write_text(json.dumps({**manifest, "validation": None, "files": files}))
    return location.Location.parse(str(root))


@contextlib.contextmanager
def session(settings: schema.ClusterConfig = NONE) -> Iterator[sessions.Session]:
    with sessions.Session(settings) as opened:
        yield opened
