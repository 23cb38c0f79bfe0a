"""Replacing an output: killed or overtaken at any step, the old or the new one is whole, and nothing is left over."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.decoding.lines import inputs, output_writer, outputs, results
from core.storage import commit, control_files, location, lock_owner, run_lock, temporary

FORMS = ("file", "file with parts", "folder", "several inputs")
PARTS = ("part-000000", "part-000001")
SEVERAL = ("named by the writer below",)


class KilledError(BaseException):
    """The process is gone: nothing after this runs, not even clean-ups."""


def output(root: Path, form: str) -> outputs.Output:
    if form == "several inputs":
        return outputs.Output("translations", location.Location.parse(str(root / "out")), None, SEVERAL)
    path = location.Location.parse(str(root / ("out" if form == "folder" else "out.jsonl")))
    return outputs.Output.at("scores", path, form == "folder", "--output", keeps_parts=form == "file with parts")


def write(target: outputs.Output, value: float, overwrite: bool = False) -> bool:
    """Writes two parts that hold a value; returns whether they were there already."""
    if target.names:
        return write_several(target, value, overwrite)
    with output_writer.open_output(target, "score", {"value": value}, overwrite) as opened:
        if opened.manifest is not None:
            return True
        records = []
        for line, part in enumerate(PARTS):
            record = opened.store.committed(part)
            if record is None:
                # The second part is the same in all outputs, so that its shard is shared.
                row = results.Score(value if line == 0 else 7.0, 1, 0)
                data = results.encode(results.to_table("scores", line, [row]))
                shard = commit.put_content(opened.store.folder, part, ".arrow", data).to_json()
                record = opened.store.commit(part, {"shard": shard, "files": [shard]})
            records.append(record)
        opened.finish(records, {"summary": {"value": value}})
    return False


def write_several(target: outputs.Output, value: float, overwrite: bool) -> bool:
    """As `write`, of one input and one that each output has, and one that depends on the value; with sidecars."""
    names = (f"only-{value:g}.jsonl", "sub/always.jsonl", "translated.jsonl")
    target = dataclasses.replace(target, names=names)
    plan = {"value": value, "files": {name.removesuffix(".jsonl"): {} for name in names}, "format": "jsonl"}
    with output_writer.open_output(target, "translate", plan, overwrite) as opened:
        if opened.manifest is not None:
            return True
        target.copies.join("compressed-0123456789abcdef.txt").put_if_absent(b"unpacked")
        records = []
        for number, name in enumerate(names):
            part = inputs.Part(f"file-{number:05d}-part-000000", (), origin=inputs.Origin(name, number, number))
            record = opened.store.committed(part.name)
            if record is None:
                row = results.Translation("same" if number == 1 else str(value), 0.0, 1)
                data = results.encode(results.to_table("translations", 0, [row]))
                shard = commit.put_content(target.folder, outputs.stem(part), ".arrow", data).to_json()
                record = opened.store.commit(part.name, {"shard": shard, "files": [shard], "file": name})
            records.append(record)

        def write_sidecars() -> None:
            # Of one file; another, in an output with value 1.
            opened.files[0 if value == 1.0 else 2].put_sidecar(outputs.ALIGNMENTS, lambda: [str(value)])

        opened.finish(records, {"summary": {"value": value}}, write_sidecars)
    return False


def read(target: outputs.Output) -> list[float]:
    """Returns the values as a reader finds them, who knows the manifest of a folder and verifies what it lists."""
    if target.names:
        return read_several(target)
    if target.file is not None:
        return [json.loads(line)["nll_nats"] for line in target.file.read_bytes().splitlines()]
    manifest = control_files.read(target.folder.join(commit.MANIFEST))
    commit.verify(target.folder, [commit.FileRecord.from_json(file, "") for file in manifest["files"]])
    shards = [target.folder.join(name) for name in manifest["shards"]]
    return [results.decode("scores", shard.read_bytes(), "")["nll_nats"][0].as_py() for shard in shards]


def read_several(target: outputs.Output) -> list[float]:
    """Returns the values of an output by its manifest; each merged file is that of this output or of another, whole."""
    manifest = control_files.read(target.folder.join(commit.MANIFEST))
    commit.verify(target.folder, [commit.FileRecord.from_json(file, "") for file in manifest["files"]])
    value = manifest["summary"]["value"]
    for entry in manifest["merged"]:
        (shard,) = (target.folder.join(name) for name in entry["shards"])
        text = results.decode("translations", shard.read_bytes(), "")["text"][0].as_py()
        assert text == ("same" if entry["name"] == "sub/always.jsonl" else str(value))
    for path in target.folder.path.glob("**/*.jsonl"):
        (row,) = map(json.loads, path.read_text().splitlines())
        assert row["text"] in ("same", "1.0", "2.0", "3.0"), "a file is whole, or not there"
    return [value, 7.0]


def assert_files_are_those_of_the_manifest(target: outputs.Output) -> None:
    manifest = control_files.read(target.folder.join(commit.MANIFEST))
    listed = [*manifest["merged"], *manifest["sidecars"]]
    for entry in listed:
        commit.verify_file(target.folder, entry["name"], entry["sha256"])
    visible = {name for name in names(target.folder.path) if not name.startswith("_")}
    assert visible == {entry["name"] for entry in listed}


def names(root: Path) -> set[str]:
    """Returns all files below a folder, but for those of the lock, whose numbers grow."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != run_lock.FOLDER
    }


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of steps, on disks that take milliseconds for each; `test_crashes` is about syncs."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever held a lock is dead; and what was being written is nobody's."""
    monkeypatch.setattr(lock_owner, "is_dead", lambda owner: True)
    monkeypatch.setattr(temporary, "_writer_has_ended", lambda name: True)


def killed_at(step: int, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs work whose process is killed before its n-th change of the disk; returns whether it came that far."""
    counter, is_dead = itertools.count(), False

    def counted(real: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal is_dead
            if counts(*arguments) and (is_dead or next(counter) == step):
                is_dead = True
                raise KilledError
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", counted(os.open, lambda path, flags, *_: bool(flags & os.O_CREAT)))
        for owner, name in ((os, "link"), (os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "rmdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            work()
        except KilledError:
            return True
    return False


@pytest.mark.usefixtures("dead")
# Another plan, and the same one again.
@pytest.mark.parametrize(
    ("form", "value"),
    [("file", 2.0), ("folder", 2.0), ("file with parts", 1.0), ("several inputs", 2.0)],
)
def test_a_driver_killed_at_any_step_of_overwriting_leaves_the_old_or_the_new_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, value: float
) -> None:
    write(output(tmp_path / "expected", form), value)
    seen = set()
    for step in itertools.count():
        root = tmp_path / str(step)
        target = output(root, form)
        write(target, 1.0)
        was_killed = killed_at(step, functools.partial(write, target, value, overwrite=True), monkeypatch)
        seen.add(tuple(read(target)))
        assert read(target) in ([1.0, 7.0], [value, 7.0])
        if not was_killed:
            break
        # Who does not overwrite finds it done or is refused, and changes nothing.
        before = read(target)
        for other in {1.0, value}:
            with contextlib.suppress(errors.LockedError):
                assert write(target, other)
            assert read(target) == before
        if target.names:
            assert_files_are_those_of_the_manifest(target)
        write(target, value, overwrite=True)
        assert read(target) == [value, 7.0]
        assert write(target, value)
        shared = names(root) - names(tmp_path / "expected")
        assert {name for name in shared if not name.startswith(("out/_commits", "out.jsonl.parts/_commits"))} == set()
    assert step > 30
    assert seen == {(1.0, 7.0), (value, 7.0)}


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["check", "put_if_absent"])
def test_a_driver_that_wakes_after_another_has_finished_destroys_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, where: str
) -> None:
    """It sleeps before each of its steps in turn, while another takes over the lock and replaces the output."""
    owner = run_lock.RunLock if where == "check" else location.Location
    real: Any = getattr(owner, where)
    num_refused = 0
    for step in itertools.count():
        target = output(tmp_path / str(step), form)
        write(target, 1.0)
        counter = itertools.count()

        def sleeps(
            self: Any, *arguments: Any, counter: Iterator[int] = counter, target: Any = target, step: int = step
        ) -> Any:
            if next(counter) == step:
                with monkeypatch.context() as awake:
                    awake.setattr(owner, where, real)
                    write(target, 3.0, overwrite=True)
            return real(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, sleeps)
            try:
                write(target, 2.0, overwrite=True)
                was_refused = False
            except (errors.LockedError, errors.StorageError):
                was_refused = True
        num_refused += was_refused
        has_slept = next(counter) > step
        assert read(target) == ([3.0, 7.0] if has_slept and was_refused else read(target))
        if not has_slept:
            assert read(target) == [2.0, 7.0]
            break
        if was_refused:
            assert write(target, 3.0), "the output of the other is complete"
    assert num_refused > 0


@pytest.mark.parametrize("form", FORMS)
def test_what_others_keep_in_the_folder_stays(tmp_path: Path, form: str) -> None:
    target = output(tmp_path, form)
    target.folder.join("theirs.txt").put_if_absent(b"precious")
    write(target, 1.0)
    write(target, 2.0, overwrite=True)
    assert target.folder.join("theirs.txt").read_bytes() == b"precious"
    assert read(target) == [2.0, 7.0]


def test_a_foreign_file_that_appears_during_the_work_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = output(tmp_path, "file")
    assert target.file is not None
    foreign = target.file
    real = commit.PartStore.commit

    def committing(self: commit.PartStore, part: str, record: Any) -> Any:
        foreign.put_if_absent(b"precious")
        return real(self, part, record)

    monkeypatch.setattr(commit.PartStore, "commit", committing)
    with pytest.raises(errors.LockedError, match="was not written by this run"):
        write(target, 1.0)
    assert foreign.read_bytes() == b"precious"


def test_an_interrupted_overwrite_is_resumed_with_its_committed_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = output(tmp_path, "folder")
    write(target, 1.0)
    done: list[str] = []
    real = commit.PartStore.commit

    def stops_after(limit: int) -> Callable[..., Any]:
        def committing(self: commit.PartStore, part: str, record: Any) -> Any:
            if len(done) == limit:
                raise errors.InterruptedRunError("stopped")
            done.append(part)
            return real(self, part, record)

        return committing

    monkeypatch.setattr(commit.PartStore, "commit", stops_after(1))
    with pytest.raises(errors.InterruptedRunError):
        write(target, 2.0, overwrite=True)
    assert read(target) == [1.0, 7.0]
    monkeypatch.setattr(commit.PartStore, "commit", stops_after(2))
    write(target, 2.0, overwrite=True)
    assert done == list(PARTS)
    assert read(target) == [2.0, 7.0]


def test_a_damaged_shard_is_made_again_by_overwrite(tmp_path: Path) -> None:
    target = output(tmp_path, "folder")
    write(target, 1.0)
    (shard,) = (tmp_path / "out").glob("part-000000-*.arrow")
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(errors.IntegrityError):
        read(target)
    write(target, 1.0, overwrite=True)
    assert read(target) == [1.0, 7.0]


def test_temporary_files_of_killed_writers_are_swept_by_age_and_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, foreign = (tmp_path / f".writing-{number:032x}.tmp" for number in range(3))
    inside = tmp_path / "out.jsonl.parts" / "_commits" / ".writing-0.tmp"
    inside.parent.mkdir(parents=True)
    for path in (old, new, foreign, inside):
        path.write_bytes(b"half")
    for path in (old, foreign, inside):
        os.utime(path, (1, 1))
    real = Path.lstat

    def of_another_user(self: Path) -> Any:
        status = real(self)
        return os.stat_result((*status[:4], os.getuid() + 1, *status[5:])) if self == foreign else status

    monkeypatch.setattr(Path, "lstat", of_another_user)
    write(output(tmp_path, "file"), 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.jsonl",
        "out.jsonl.manifest.json",
        new.name,
        foreign.name,
    }
