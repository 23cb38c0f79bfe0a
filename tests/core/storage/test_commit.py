"""Laws of the commit protocol: exactly once, nothing incomplete is visible, only our own files are deleted."""

import json
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.storage import commit, location

PLAN = {"decoding": {"beam_size": 5, "max_length": 7}, "parts": ["00000", "00001"], "precision": "fp32"}


def unfenced() -> None:
    """Nobody else is here."""


def put(store: commit.PartStore, part: str, data: bytes) -> dict[str, Any]:
    file = commit.put_content(store.folder, f"part-{part}", ".arrow", data)
    return {"rows": len(data), "files": [file.to_json()]}


def test_equal_content_has_one_name_and_repeated_writes_are_harmless(root: location.Location) -> None:
    first = commit.put_content(root, "train/part-00000", ".arrow", b"abc")
    again = commit.put_content(root, "train/part-00000", ".arrow", b"abc")
    assert first == again
    # The hash of b"abc" is in FIPS 180-2, appendix B.1.
    assert first.name == "train/part-00000-ba7816bf8f01cfea.arrow"
    assert first.size_bytes == 3
    assert root.join("train").list_names() == ["part-00000-ba7816bf8f01cfea.arrow"]
    commit.verify(root, [first])


def test_a_truncated_content_file_is_rewritten(root: location.Location) -> None:
    record = commit.put_content(root, "x", ".bin", b"abc")
    root.join(record.name).replace(b"a")
    assert commit.put_content(root, "x", ".bin", b"abc") == record
    commit.verify(root, [record])


@pytest.mark.parametrize("damage", [b"abd", b"ab", b"abcd", b""])
def test_damage_is_reported_with_both_hashes(root: location.Location, damage: bytes) -> None:
    record = commit.put_content(root, "x", ".bin", b"abc")
    root.join(record.name).replace(damage)
    with pytest.raises(errors.IntegrityError) as caught:
        commit.verify(root, [record])
    message = str(caught.value)
    assert record.name in message
    assert record.sha256 in message
    assert commit.sha256_hex(damage) in message
    root.join(record.name).remove()
    with pytest.raises(errors.IntegrityError, match="is missing"):
        commit.verify(root, [record])


@pytest.mark.parametrize("name", ["../x", "a/../x", "/x", "a//x", "", "a b", "a\nb", "..", "ü"])
def test_a_manifest_cannot_refer_to_files_outside_its_folder(name: str) -> None:
    with pytest.raises(errors.IntegrityError, match="is not a valid file name here"):
        commit.FileRecord.from_json({"name": name, "sha256": "0", "size_bytes": 1}, "m.json")


@pytest.mark.parametrize("value", [None, [], {}, {"name": "x"}, {"name": 1, "sha256": "0", "size_bytes": 1}])
def test_a_malformed_file_record_is_an_integrity_error(value: object) -> None:
    with pytest.raises(errors.IntegrityError, match=r"m\.json: .* is not a file record"):
        commit.FileRecord.from_json(value, "m.json")
    record = commit.FileRecord("a/b.bin", "00", 3)
    assert commit.FileRecord.from_json(record.to_json(), "m.json") == record


def test_manifests_are_checked_for_format_and_version(root: location.Location) -> None:
    commit.write_manifest(root, "M.json", {"format": "raycurrent-x", "version": 2, "rows": 3})
    assert commit.read_manifest(root, "M.json", "raycurrent-x", 2)["rows"] == 3
    with pytest.raises(errors.IntegrityError, match="reads up to 1; update"):
        commit.read_manifest(root, "M.json", "raycurrent-x", 1)
    with pytest.raises(errors.IntegrityError, match="not in the format raycurrent-y"):
        commit.read_manifest(root, "M.json", "raycurrent-y", 2)
    with pytest.raises(errors.NotFoundError):
        commit.read_manifest(root, "other.json", "raycurrent-x", 2)
    commit.write_manifest(root, "M.json", {"format": "raycurrent-x", "version": 2, "rows": 3})
    with pytest.raises(errors.LockedError, match="another run has finished here"):
        commit.write_manifest(root, "M.json", {"format": "raycurrent-x", "version": 2, "rows": 4})
    for version in (0, "2", True, None):
        root.join("M.json").replace(json.dumps({"format": "raycurrent-x", "version": version}).encode())
        with pytest.raises(errors.IntegrityError, match="version"):
            commit.read_manifest(root, "M.json", "raycurrent-x", 2)


def test_a_stage_from_plan_to_manifest_and_once_more(root: location.Location) -> None:
    store = commit.PartStore(root, PLAN)
    assert store.manifest() is None
    store.begin()
    assert store.committed("00000") is None
    record = put(store, "00000", b"abc")
    assert store.commit("00000", record) == record
    assert store.committed("00000") == record
    again = commit.PartStore(root, PLAN)
    again.begin()
    assert again.committed("00000") == record
    assert again.manifest() is None
    again.finish({"format": "raycurrent-output", "version": 1, "rows": 3})
    again.finish({"format": "raycurrent-output", "version": 1, "rows": 3})
    manifest = store.manifest()
    assert manifest is not None
    assert manifest["rows"] == 3


def test_another_plan_is_refused_with_the_differences(root: location.Location) -> None:
    commit.PartStore(root, PLAN).begin()
    store = commit.PartStore(root, PLAN)
    store.commit("00000", put(store, "00000", b"abc"))
    store.finish({"rows": 3})
    other = commit.PartStore(root, {**PLAN, "decoding": {"beam_size": 4, "max_length": 7}, "unit": "line"})
    uses: list[Callable[[], object]] = [
        other.begin,
        lambda: other.committed("00000"),
        lambda: other.commit("00000", {}),
        other.manifest,
    ]
    for use in uses:
        with pytest.raises(errors.LockedError) as caught:
            use()
        assert 'decoding.beam_size: was 5, now 4; unit: was null, now "line"' in str(caught.value)
        assert "max_length" not in str(caught.value)


def test_one_of_many_attempts_at_a_part_wins_and_all_agree_on_it(root: location.Location) -> None:
    def attempt(who: int) -> dict[str, Any]:
        store = commit.PartStore(root, PLAN)
        store.begin()
        return store.commit("00000", {"who": who})

    with futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(attempt, range(8)))
    assert records == [records[0]] * 8
    assert commit.PartStore(root, PLAN).committed("00000") == records[0]


def test_a_commit_whose_reply_was_lost_counts_as_won(root: location.Location, monkeypatch: pytest.MonkeyPatch) -> None:
    store = commit.PartStore(root, PLAN)
    store.begin()
    real = location.Location.put_if_absent

    def loses_the_reply(self: location.Location, data: bytes) -> bool:
        assert real(self, data)
        return False

    monkeypatch.setattr(location.Location, "put_if_absent", loses_the_reply)
    assert store.commit("00000", {"who": "me"}) == {"who": "me"}
    commit.PartStore(root.join("again"), PLAN).begin()


def test_a_zombie_changes_nothing(root: location.Location) -> None:
    store = commit.PartStore(root, PLAN)
    store.begin()
    winner = put(store, "00000", b"right")
    store.commit("00000", winner)
    late = put(store, "00000", b"other")
    assert store.commit("00000", late) == winner
    commit.verify(root, [commit.FileRecord.from_json(file, "") for file in winner["files"]])


def test_removal_deletes_listed_files_and_nothing_else(root: location.Location) -> None:
    root.join("theirs.txt").put_if_absent(b"precious")
    root.join("_commits/notes.txt").put_if_absent(b"precious")
    store = commit.PartStore(root, PLAN)
    store.begin()
    for part in ("00000", "00001"):
        store.commit(part, put(store, part, part.encode()))
    orphan = commit.put_content(root, "part-00000", ".arrow", b"of a killed attempt")
    index = commit.put_content(root, "tokenizer", ".json", b"{}")
    store.finish({"files": [index.to_json()]}, "index.json")
    commit.PartStore(root, {"another": "plan"}).remove(unfenced, "index.json")
    assert root.list_names() == sorted(["_commits", orphan.name, "theirs.txt"])
    assert root.join("_commits").list_names() == ["notes.txt"]
    store.remove(unfenced)


def test_removal_starts_with_the_manifest_and_ends_with_the_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    root = location.Location.parse("memory://removal/x")
    store = commit.PartStore(root, PLAN)
    store.begin()
    shard = put(store, "00000", b"abc")
    store.commit("00000", shard)
    store.finish({"rows": 3})
    removed: list[str] = []
    real = location.Location.remove

    def noting(self: location.Location) -> None:
        removed.append(self.name)
        real(self)

    monkeypatch.setattr(location.Location, "remove", noting)
    store.remove(unfenced)
    assert removed == ["_MANIFEST.json", "00000.json", "_PLAN.json", shard["files"][0]["name"]]


def test_every_removal_asks_first_whether_another_driver_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a local filesystem files are removed one after the other.
    root = location.Location.parse(str(tmp_path))
    store = commit.PartStore(root, PLAN)
    store.begin()
    shards = [put(store, part, part.encode()) for part in ("00000", "00001")]
    for part, shard in zip(("00000", "00001"), shards, strict=True):
        store.commit(part, shard)
    store.finish({"files": [file for shard in shards for file in shard["files"]]})
    steps: list[str] = []
    real = location.Location.remove

    def noting(self: location.Location) -> None:
        steps.append("remove")
        real(self)

    monkeypatch.setattr(location.Location, "remove", noting)
    store.remove(lambda: steps.append("check"))
    # The manifest, two records, the plan and two shards.
    assert steps == ["check", "remove"] * 6


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"record": {"files": ["../../x"]}}'])
def test_damaged_commit_records_are_reported(root: location.Location, damage: bytes) -> None:
    store = commit.PartStore(root, PLAN)
    store.begin()
    root.join("_commits/00000.json").replace(damage)
    with pytest.raises(errors.IntegrityError, match=r"00000\.json"):
        store.committed("00000")


def test_content_is_verified_by_its_name_as_it_is_read(root: location.Location) -> None:
    record = commit.put_content(root, "statistics", ".json", b"abc")
    assert commit.read_content(root, record.name) == b"abc"
    root.join(record.name).replace(b"abd")
    with pytest.raises(errors.IntegrityError, match=f"{record.name}: is damaged: expected sha256 {record.sha256[:16]}"):
        commit.read_content(root, record.name)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_listed_file_that_is_a_link_out_of_its_folder_or_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_bytes(b"abc")
    record = commit.FileRecord("x.bin", commit.sha256_hex(b"abc"), 3)
    if kind == "link":
        (tmp_path / "out/x.bin").symlink_to(tmp_path / "secret")
    else:
        (tmp_path / "out/x.bin").mkdir()
    folder = location.Location.parse(str(tmp_path / "out"))
    for read in (commit.verify_file, lambda *_: commit.read_file(folder, record)):
        with pytest.raises(errors.IntegrityError, match=r"x\.bin: is a (link out of its folder|folder)"):
            read(folder, record.name, record.sha256)


def test_a_commit_whose_record_disappears_is_no_success(
    root: location.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = commit.PartStore(root, PLAN)
    store.begin()
    monkeypatch.setattr(location.Location, "put_if_absent", lambda self, data: False)
    with pytest.raises(errors.StorageError, match=r"00000\.json: disappeared while it was read"):
        store.commit("00000", {"files": []})


def test_a_folder_whose_plan_is_damaged_is_not_begun(root: location.Location) -> None:
    store = commit.PartStore(root, PLAN)
    assert not store.is_begun()
    store.begin()
    assert store.is_begun()
    assert not commit.PartStore(root, {"another": "plan"}).is_begun()
    root.join(commit.PLAN).replace(b"{")
    assert not store.is_begun()


@pytest.mark.parametrize("damage", [b"{", b'{"files": [3]}', b'{"files": 3}', b'{"files": [{"name": "../x"}]}'])
def test_removal_leaves_what_a_damaged_manifest_lists(root: location.Location, damage: bytes) -> None:
    store = commit.PartStore(root, PLAN)
    store.begin()
    shard = commit.put_content(root, "train/part-00000", ".arrow", b"abc")
    store.finish({"files": [shard.to_json()]})
    root.join(commit.MANIFEST).replace(damage)
    store.remove(unfenced)
    assert root.list_names(folders=False) == []
    assert root.join(shard.name).read_bytes() == b"abc"


def test_removal_takes_the_folders_of_shards_away_once_they_are_empty(tmp_path: Path) -> None:
    folder = location.Location.parse(str(tmp_path / "out"))
    store = commit.PartStore(folder, PLAN)
    store.begin()
    files = [commit.put_content(folder, f"{split}/part-00000", ".arrow", b"abc") for split in ("train", "valid")]
    store.commit("00000", {"files": [file.to_json() for file in files]})
    assert store.committed_names() == {"00000"}
    (tmp_path / "out/valid/theirs").write_bytes(b"precious")
    store.remove(unfenced)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["theirs", "valid"]
