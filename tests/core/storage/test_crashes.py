"""After a loss of power at any instant, a reader finds the old or the new state, never a part of one.

The model is that of a weak filesystem: data that was not synced may be missing or half there, and of the changes
to a folder that was not synced any subset may have happened. The operations are recorded from the real writers.

Source: Pillai et al., All File Systems Are Not Created Equal (OSDI 2014).
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from core import errors
from core.storage import commit, local_files, location

_GONE = -1  # in the place of an inode: the name was removed


class Operation(NamedTuple):
    """One step of a writer; `file` is an inode, `name` a path below the folder."""

    kind: str
    name: str
    file: int


class Recording:
    """The operations of a writer in order, and the bytes written to each file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[Operation] = []
        self.content: dict[int, bytes] = {}

    def note(self, kind: str, path: str | os.PathLike[str], read_from: str | os.PathLike[str] | None = None) -> None:
        source = Path(read_from or path)
        inode = source.stat().st_ino if source.exists() else 0
        self.operations.append(Operation(kind, os.path.relpath(path, self.folder), inode))

    def run(self, write: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
        """Runs a writer with every operation noted."""
        real_open, real_fsync, real_link = os.open, os.fsync, os.link
        real_replace, real_unlink, real_mkdir = Path.replace, Path.unlink, Path.mkdir

        def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            descriptor = real_open(path, flags, *rest, **options)
            if flags & os.O_CREAT:
                self.note("enter", path)
            return descriptor

        def synced(descriptor: int) -> None:
            real_fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.note("sync folder" if path.is_dir() else "sync file", path)
            if path.is_file():
                self.content[path.stat().st_ino] = path.read_bytes()

        def linked(source: Any, target: Any) -> None:
            real_link(source, target)
            self.note("enter", target)

        def replaced(source: Path, target: Path) -> Path:
            self.content.setdefault(source.stat().st_ino, source.read_bytes())
            moved = f"{os.path.relpath(source, self.folder)}>{os.path.relpath(target, self.folder)}"
            self.operations.append(Operation("move", moved, source.stat().st_ino))
            return real_replace(source, target)

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            self.note("leave", path)
            real_unlink(path, missing_ok)

        def made(path: Path, *arguments: Any, **options: Any) -> None:
            real_mkdir(path, *arguments, **options)
            self.note("enter", path)

        with patch.context() as context:
            context.setattr(os, "open", opened)
            context.setattr(os, "fsync", synced)
            context.setattr(os, "link", linked)
            context.setattr(Path, "replace", replaced)
            context.setattr(Path, "unlink", unlinked)
            context.setattr(Path, "mkdir", made)
            write()

    def states(self, before: dict[str, bytes]) -> Iterator[tuple[bool, dict[str, bytes | None]]]:
        """Yields (whether the writer was done, what is there) for every crash; None is a folder."""
        for done in range(len(self.operations) + 1):
            yield from ((done == len(self.operations), state) for state in self._after(done, before))

    def _after(self, done: int, before: dict[str, bytes]) -> Iterator[dict[str, bytes | None]]:
        happened = self.operations[:done]
        synced = {operation.file for operation in happened if operation.kind == "sync file"}
        changes, certain = [], []
        for position, operation in enumerate(happened):
            if operation.kind in ("enter", "leave", "move"):
                later = {later.name for later in happened[position + 1 :] if later.kind == "sync folder"}
                changes.append(operation)
                # A move within a filesystem is one step, of both folders.
                certain.append({str(Path(name).parent) for name in operation.name.split(">")} <= later)
        for chosen in itertools.product(*((True,) if sure else (True, False) for sure in certain)):
            names: dict[str, int] = {}
            for operation, takes_place in zip(changes, chosen, strict=True):
                if takes_place:
                    _apply(operation, names)
            yield from self._contents(names, synced, before)

    def _contents(
        self, names: dict[str, int], synced: set[int], before: dict[str, bytes]
    ) -> Iterator[dict[str, bytes | None]]:
        unsure = sorted({file for file in names.values() if file in self.content and file not in synced})
        for lengths in itertools.product((0.0, 0.5, 1.0), repeat=len(unsure)):
            share = dict(zip(unsure, lengths, strict=True))
            state: dict[str, bytes | None] = dict(before)
            for name, file in names.items():
                if file == _GONE:
                    state.pop(name, None)
                    continue
                data = self.content.get(file)
                state[name] = None if data is None else data[: int(len(data) * share.get(file, 1.0))]
            yield state


def _apply(operation: Operation, names: dict[str, int]) -> None:
    source, moved, target = operation.name.partition(">")
    if operation.kind == "enter":
        names[operation.name] = operation.file
    elif operation.kind == "leave":
        names[operation.name] = _GONE
    elif moved:
        names[source] = _GONE
        names[target] = operation.file


def test_a_replaced_file_is_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"old!")
    recording = Recording(tmp_path)
    recording.run(lambda: local_files.replace(tmp_path / "x", lambda file: file.write(b"new!")), monkeypatch)
    states = list(recording.states({"x": b"old!"}))
    assert {state["x"] for _, state in states} == {b"old!", b"new!"}
    assert {state["x"] for done, state in states if done} == {b"new!"}


def test_a_created_file_is_absent_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path)
    recording.run(lambda: local_files.create(tmp_path / "x", lambda file: file.write(b"new!")), monkeypatch)
    states = list(recording.states({}))
    assert {state.get("x") for _, state in states} == {None, b"new!"}
    assert {state.get("x") for done, state in states if done} == {b"new!"}


def test_a_file_in_a_new_folder_is_absent_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path)
    recording.run(lambda: local_files.create(tmp_path / "a/b/x", lambda file: file.write(b"new!")), monkeypatch)
    states = list(recording.states({}))
    # Without its folder a file cannot be reached.
    reached = [(done, state.get("a/b/x") if {"a", "a/b"} <= state.keys() else None) for done, state in states]
    assert {content for _, content in reached} == {None, b"new!"}
    assert {content for done, content in reached if done} == {b"new!"}


def test_a_removed_file_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"old!")
    recording = Recording(tmp_path)
    recording.run(lambda: local_files.remove(tmp_path / "x"), monkeypatch)
    states = list(recording.states({"x": b"old!"}))
    assert {state.get("x") for _, state in states} == {b"old!", None}
    assert [state for done, state in states if done] == [{}]


def test_a_moved_file_is_at_one_of_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"old!")
    recording = Recording(tmp_path)

    def write() -> None:
        local_files.create(tmp_path / "new/x", lambda file: file.write(b"new!"))
        local_files.move(tmp_path / "new/x", tmp_path / "x")

    recording.run(write, monkeypatch)
    states = [(done, (state.get("new/x"), state.get("x"))) for done, state in recording.states({"x": b"old!"})]
    assert {both for _, both in states} == {(None, b"old!"), (b"new!", b"old!"), (None, b"new!")}
    assert {both for done, both in states if done} == {(None, b"new!")}


def test_the_crash_model_detects_a_missing_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model finds the loss in the sequences that many programs use: it is able to fail."""

    def renames_unsynced() -> None:
        temporary = tmp_path / "temporary"
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY))
        temporary.write_bytes(b"new!")
        temporary.replace(tmp_path / "x")

    recording = Recording(tmp_path)
    recording.run(renames_unsynced, monkeypatch)
    contents = {state["x"] for _, state in recording.states({"x": b"old!"})}
    assert {b"", b"ne"} <= contents


def test_a_finished_folder_is_complete_after_any_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the real reader on every state that a crash of the real writer may leave."""
    folder = tmp_path / "written"
    folder.mkdir()
    store = commit.PartStore(location.Location.parse(str(folder)), {"beam_size": 5})

    def write() -> None:
        store.begin()
        for part in ("00000", "00001"):
            file = commit.put_content(store.folder, f"part-{part}", ".txt", f"text of {part}".encode())
            store.commit(part, {"files": [file.to_json()]})
        files = [file for part in ("00000", "00001") for file in (store.committed(part) or {})["files"]]
        store.finish({"files": files})

    recording = Recording(folder)
    recording.run(write, monkeypatch)
    distinct = {(done, tuple(sorted(state.items()))) for done, state in recording.states({})}
    assert len(distinct) > 20
    outcomes = set()
    for number, (done, state) in enumerate(sorted(distinct, key=repr)):
        outcome = _read(tmp_path / str(number), dict(state))
        outcomes.add(outcome)
        assert outcome == "finished" or not done
    assert outcomes == {"unfinished", "finished"}


def _read(folder: Path, state: dict[str, bytes | None]) -> str:
    """Puts a state on disk and reads it as a restarted run does."""
    for name, data in state.items():
        path = folder / name
        (path if data is None else path.parent).mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
    store = commit.PartStore(location.Location.parse(str(folder)), {"beam_size": 5})
    for part in ("00000", "00001"):
        record = store.committed(part)
        if record is not None:
            commit.verify(store.folder, [commit.FileRecord.from_json(file, "") for file in record["files"]])
    manifest = store.manifest()
    if manifest is None:
        return "unfinished"
    commit.verify(store.folder, [commit.FileRecord.from_json(file, "") for file in manifest["files"]])
    return "finished"


def test_work_resumes_after_a_failure_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the first, second, third … sync of a whole stage; what was there stays valid, and a rerun finishes."""
    real = os.fsync
    for failing in itertools.count(1):
        store = commit.PartStore(location.Location.parse(str(tmp_path / str(failing))), {"beam_size": 5})
        countdown = itertools.count(1)

        def fails(descriptor: int, countdown: Iterator[int] = countdown, failing: int = failing) -> None:
            if next(countdown) == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            try:
                _stage(store)
                failed = False
            except errors.StorageError:
                failed = True
        _stage(store)
        manifest = store.manifest()
        assert manifest is not None
        commit.verify(store.folder, [commit.FileRecord.from_json(file, "") for file in manifest["files"]])
        if not failed:
            assert failing > 10
            return


def _stage(store: commit.PartStore) -> None:
    store.begin()
    if store.committed("00000") is None:
        file = commit.put_content(store.folder, "part-00000", ".txt", b"text")
        store.commit("00000", {"files": [file.to_json()]})
    store.finish({"files": (store.committed("00000") or {})["files"]})
