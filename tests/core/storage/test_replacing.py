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


def _replace(folder: location.Location, check: Any) -> None:
    """Replaces an output, with a file beside its shards that has one name in both."""
    store = replacing.store_beside(commit.PartStore(folder, {"value": 2}))
    manifest = _output(store, "new")
    staged = replacing.stage(store, lambda file: file.write(b"new"), "merged.txt")
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
    _replace(folder, lambda: steps.append("check"))
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
            _replace(root, check)
        except errors.LockedError:
            replacing.settle(root, lambda: None, keep=None)
        else:
            assert limit > 5
            return
        content = root.join(commit.MANIFEST).read_json()
        commit.verify(root, [commit.FileRecord.from_json(file, "") for file in content["files"]])
        is_new = content["plan"] == commit.PartStore(root, {"value": 2}).fingerprint
        assert root.join("merged.txt").read_bytes() == (b"new" if is_new else b"old")


def test_work_of_another_plan_is_discarded_and_shards_that_others_use_stay(tmp_path: Path) -> None:
    folder = _old_output(tmp_path)
    stores = [replacing.store_beside(commit.PartStore(folder, {"value": value})) for value in (2, 3)]
    for store, text in zip(stores, ("two", "three"), strict=True):
        _output(store, text)
    replacing.stage(stores[0], lambda file: file.write(b"two"), "merged.txt")
    replacing.settle(folder, lambda: None, keep=None)
    assert all(folder.join(store.control).exists() for store in stores), "who replaces nothing discards nothing"
    replacing.settle(folder, lambda: None, keep=stores[1].control)
    assert not folder.join(stores[0].control).exists()
    kept = {*commit.listed(folder.join(commit.MANIFEST)), *commit.shards_of_records(folder.join(stores[1].control))}
    assert len(kept) == 3, "the first part of two outputs, and the second part that is the same in both"
    assert {name for name in folder.list_names() if name.startswith("part-")} == kept
    replacing.settle(folder, lambda: None, keep="")
    assert {name for name in folder.list_names() if name.startswith("part-")} == set(
        commit.listed(folder.join(commit.MANIFEST))
    )


@pytest.mark.parametrize("damage", ["shard", "record"])
def test_parts_that_do_not_verify_are_done_again(tmp_path: Path, damage: str) -> None:
    folder = location.Location.parse(str(tmp_path))
    for store in (
        commit.PartStore(folder, {"value": 1}),
        replacing.store_beside(commit.PartStore(folder, {"value": 2})),
    ):
        manifest = _output(store, f"of {store.control}")
        replacing.drop_damaged(store, lambda: None)
        assert len(store.committed_names()) == 2
        record = folder.join(*([store.control] if store.control else []), commit.RECORDS, "part-000000.json")
        damaged = folder.join(manifest["files"][0]["name"]) if damage == "shard" else record
        damaged.replace(damaged.read_bytes()[:-2])
        replacing.drop_damaged(store, lambda: None)
        assert store.committed_names() == {"part-000001"}


def test_a_replacement_whose_note_is_damaged_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    folder = _old_output(tmp_path)
    store = replacing.store_beside(commit.PartStore(folder, {"value": 2}))
    _output(store, "new")
    folder.join(store.control, "_REPLACED.json").put_if_absent(b"{")
    replacing.settle(folder, lambda: None, keep=None)
    assert commit.PartStore(folder, {"value": 1}).manifest() is not None
    assert len(store.committed_names()) == 2
