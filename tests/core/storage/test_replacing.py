"""Replacing an output: every step that destroys asks first who holds the folder."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.storage import commit, location, replacing


def _output(store: commit.PartStore, text: str) -> dict[str, Any]:
    """Commits two parts, one of which is the same in every output; returns the manifest."""
    store.begin()
    files = []
    for part, content in (("part-000000", text), ("part-000001", "the same")):
        file = commit.put_content(store.folder, part, ".arrow", content.encode()).to_json()
        files += store.commit(part, {"files": [file]})["files"]
    return {"format": "raycurrent-output", "version": 1, "files": files}


def _replace(folder: location.Location, scratch: Path, check: Any) -> None:
    """Replaces an output, with a file beside its shards that has one name in both."""
    scratch.write_bytes(b"new")
    store = replacing.store_beside(commit.PartStore(folder, {"value": 2}))
    manifest = _output(store, "new")
    staged = replacing.stage(store, scratch, "merged.txt", commit.sha256_hex(b"new"))
    replacing.swap(store, manifest, {staged: "merged.txt"}, ["merged.txt"], check)


def _old_output(path: Path) -> location.Location:
    """Makes an output with value 1."""
    folder = location.Location.parse(str(path))
    store = commit.PartStore(folder, {"value": 1})
    store.finish(_output(store, "old"))
    folder.join("merged.txt").put_if_absent(b"old")
    return folder


def test_every_step_that_destroys_asks_first_whether_another_driver_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _old_output(tmp_path / "out")
    steps: list[str] = []

    def noting(name: str) -> Any:
        real = getattr(location.Location, name)

        def call(self: location.Location, *arguments: Any) -> Any:
            steps.append(name)
            return real(self, *arguments)

        return call

    for name in ("replace", "take", "remove"):
        monkeypatch.setattr(location.Location, name, noting(name))
    _replace(folder, tmp_path / "new.txt", lambda: steps.append("check"))
    destroying = [before for before, step in itertools.pairwise(steps) if step != "check"]
    assert set(destroying) == {"check"}
    assert steps.count("replace") == 3, "the note, the manifest and the plan"
    assert {"take", "remove"} <= set(steps)
    assert [name for name in folder.list_names() if name.startswith("part-")] == sorted(
        file["name"] for file in (commit.PartStore(folder, {"value": 2}).manifest() or {})["files"]
    )


def test_a_driver_that_has_lost_the_folder_at_any_step_leaves_what_the_next_one_finishes(tmp_path: Path) -> None:
    for limit in itertools.count(1):
        root = _old_output(tmp_path / str(limit))
        calls = itertools.count(1)

        def check(calls: Any = calls, limit: int = limit) -> None:
            if next(calls) == limit:
                raise errors.LockedError("another driver has taken over")

        try:
            _replace(root, tmp_path / "new.txt", check)
        except errors.LockedError:
            replacing.settle(root, lambda: None, keep=None)
        else:
            assert limit > 5
            return
        content = root.join(commit.MANIFEST).read_json()
        commit.verify(root, [commit.FileRecord.from_json(file, "") for file in content["files"]])
        is_new = content["plan"] == commit.PartStore(root, {"value": 2}).fingerprint
        assert root.join("merged.txt").read_bytes() == (b"new" if is_new else b"old")
