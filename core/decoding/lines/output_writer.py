"""The driver's side of an output: opening it for a plan, merging its parts, replacing an earlier one.

Whatever is removed or replaced here is so under the lock of the folder, which is checked before each such step.

With `overwrite` an earlier output is replaced when the new one is committed. The content of a single file, and the
manifest of a folder, go over from the old to the new one in one step. Several files cannot: the new ones are written
under names of their own, the manifest is replaced, and then each file takes its place. A driver that is killed in
between leaves a list, by which the next one that opens the folder goes on (`core.storage.replacing`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from core import errors
from core.decoding.lines import leftovers, outputs, results
from core.storage import commit, concurrent, contents, control_files, location, replacing, run_lock


@contextlib.contextmanager
def open_output(
    target: outputs.Output, stage: str, plan: Mapping[str, object], overwrite: bool
) -> Iterator["OpenedOutput"]:
    """Opens an output for a plan: a new one, one in which parts of the same plan are committed, or a complete one.

    With `overwrite` the output of another plan stays as it is until the new one is committed, and is then replaced; it
    is replaced, too, if it is complete and of the same plan.

    Raises:
        LockedError: another driver is writing it; or, without `overwrite`, it is of another plan, or a file was not
            written by this plan.
    """
    store = commit.PartStore(target.folder, plan)
    manifest = None if overwrite else _complete_file(target, store)
    if manifest is not None:
        leftovers.remove_behind(target.folder, store, stage)
        yield OpenedOutput(target, store, None, manifest)
        return
    with run_lock.RunLock(target.folder, stage) as lock:
        leftovers.sweep(target.folder, lock.check)
        if target.file is not None and lock.lock_number > 1:
            target.file.abort_uploads()  # it is beside the folder of the lock
        store, is_new = _begin(target, store, overwrite, lock)
        manifest = None if overwrite else _complete_folder(target, store)
        opened = OpenedOutput(target, store, lock, manifest, overwrite, is_new)
        yield opened
        if opened.is_complete and not lock.is_removed:
            # Every call makes them anew: it has to read a compressed input to know it.
            with contextlib.suppress(errors.LockedError):
                leftovers.remove_copies(target.copies, lock.check)


def _complete_file(target: outputs.Output, store: commit.PartStore) -> dict[str, Any] | None:
    """Returns the manifest of a merged file without parts, if it is complete and of the plan of `store`."""
    manifest = target.read_manifest()
    if manifest is None or target.file is None:
        return None
    store.check_plan(manifest.get("plan"), manifest.get("settings"), str(outputs.beside(target.file, outputs.MANIFEST)))
    if not target.file.exists():
        return None  # deleted: it is made again
    _check_merged(target.file, manifest.get("merged"))
    return manifest


def _begin(
    target: outputs.Output, store: commit.PartStore, overwrite: bool, lock: run_lock.RunLock
) -> tuple[commit.PartStore, bool]:
    """Returns the store of the output, its plan written, and whether it was written now."""
    beside = replacing.store_beside(store)
    replacing.settle(target.folder, lock.check, keep=beside.control if overwrite else None)
    if not overwrite:
        # Without a plan beside it a file is not ours: refused before any part is computed.
        if not target.folder.join(commit.PLAN).exists():
            for file in target.files:
                if file.exists():
                    raise _foreign_file_error(file)
        return store, store.begin()
    if target.folder.join(commit.MANIFEST).exists():
        store = beside
    elif not store.is_begun():
        # Nobody reads what is unfinished: it need not be kept. The plan, which names the files, goes after them.
        commit.remove_files(target.folder, target.names_of_stored_plan(), lock.check)
        store.remove(lock.check)
    # A driver that was killed while it replaced goes on here; what is damaged is done again.
    is_new = store.begin()
    if not is_new:
        replacing.drop_damaged(store, lock.check)
    return store, is_new


def _complete_folder(target: outputs.Output, store: commit.PartStore) -> dict[str, Any] | None:
    """Returns the manifest of the folder if it is complete; merges a file again if it was deleted."""
    manifest = store.manifest()
    if manifest is None:
        return None
    for file, entry, records in _entries(target, manifest):
        if file.exists():
            _check_merged(file, entry)
        else:
            _put(contents.Hashed(_merge(target, file, records)), file)
    return manifest


class OpenedOutput:
    """An output that this driver writes, or has found complete.

    Attributes:
        target: where it is.
        store: its parts.
        manifest: of a complete output; None of one that is to be made.
        files: its merged files; none of a folder of shards.
        is_new: whether its plan was just written, so that no part is committed yet.
    """

    def __init__(
        self,
        target: outputs.Output,
        store: commit.PartStore,
        lock: run_lock.RunLock | None,
        manifest: dict[str, Any] | None,
        replaces: bool = False,
        is_new: bool = False,
    ) -> None:
        self.target = target
        self.store = store
        self.manifest = manifest
        self.is_new = is_new
        self.files = [MergedFile(self, file, name) for file, name in zip(target.files, _names(target), strict=True)]
        self.is_complete = manifest is not None
        self._lock = lock
        self._replaces = replaces
        self._moves: dict[str, str] = {}
        for number, (_, entry, records) in enumerate([] if manifest is None else _entries(target, manifest)):
            self.files[number].records = records if "shards" in (manifest or {}) else None
            self.files[number].entry = entry

    def finish(
        self,
        records: Sequence[Mapping[str, Any]],
        summary: Mapping[str, Any],
        write_sidecars: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Merges the parts in the order of their commit records, writes the manifest, and removes what is left over.

        Args:
            records: the commit records.
            summary: further entries of the manifest.
            write_sidecars: writes the sidecar files of `files`, which are merged by then.

        Returns:
            The manifest.

        Raises:
            LockedError: a file that this plan did not write has the name of a merged one; or another driver has
                taken over.
            IntegrityError: a part is damaged.
        """
        assert self._lock is not None, "a complete output is not finished again"
        target = self.target
        files, shards = [], []
        for record in records:
            shards.append(record["shard"]["name"])
            files += [commit.FileRecord.from_json(file, shards[-1]).to_json() for file in record["files"]]
        content = {"format": outputs.FORMAT, "version": outputs.VERSION, "kind": target.kind, **summary}
        groups = outputs.by_file(records, target.names) if target.names else [records]
        for file, own in zip(self.files, groups, strict=False):
            merge = _merge(target, file.path, own)
            file.entry = {"name": file.name, **self.place(merge, file.path, file.name, _foreign_file_error)}
            file.records = own
        if target.names:
            of_files = zip(self.files, groups, strict=True)
            content["merged"] = [
                {**(file.entry or {}), "shards": [record["shard"]["name"] for record in own]} for file, own in of_files
            ]
        elif self.files:
            content["merged"] = self.files[0].entry
        if write_sidecars is not None and self.files:
            write_sidecars()
            content["sidecars"] = [entry for file in self.files for entry in file.sidecars.values()]
        self._commit(content, {"files": files, "shards": shards})
        self.is_complete = True
        return content

    def _commit(self, content: dict[str, Any], lists: dict[str, Any]) -> None:
        """Writes the manifest, and removes what is left over; `lists` are the entries of one with parts."""
        assert self._lock is not None
        target, check = self.target, self._lock.check
        if target.file is not None and self._replaces:
            # Those of the old output would be taken for ours.
            for extension in set(outputs.SIDECARS[target.kind]) - self.files[0].sidecars.keys():
                check()
                outputs.beside(target.file, extension).remove()
        # Last: after a crash before this line the next call merges the committed parts again.
        check()
        if target.file is not None and not target.keeps_parts:
            own = {**content, "plan": self.store.fingerprint, "settings": self.store.plan}
            outputs.beside(target.file, outputs.MANIFEST).replace(control_files.encode(own))
            leftovers.remove_parts(target.folder, self._lock)
            return
        if self.store.control:
            replacing.swap(self.store, {**content, **lists}, self._moves, target.names_of_stored_plan(), check)
        else:
            self.store.finish({**content, **lists})
        if target.file is not None and self._replaces:
            check()
            outputs.beside(target.file, outputs.MANIFEST).remove()  # of an output of before, whose folder was not kept

    def place(
        self,
        write: contents.Write,
        file: location.Location,
        name: str,
        refused: Callable[[location.Location], errors.LockedError],
    ) -> dict[str, Any]:
        """Writes a file in its place, at once or when the output is committed; returns its hash and size.

        Args:
            write: writes its content.
            file: its place.
            name: name of its place in the folder, of several files.
            refused: returns the error if another file has the place, and is not to be replaced.
        """
        if not self._replaces or self._lock is None:
            content = contents.Hashed(write)
            _put(content, file, refused)
        else:
            self._lock.check()
            content = contents.Hashed(write, self._lock.check)  # to write takes a while
            if self.target.names and self.store.control:
                self._moves[replacing.stage(self.store, content, name)] = name
            else:
                file.write_over(content)
        sha256, size_bytes = content.sha256_and_size()
        return {"sha256": sha256, "size_bytes": size_bytes}


class MergedFile:
    """A merged file of an output, and its sidecar files.

    Attributes:
        path: its location.
        name: its name, or that in the folder of an output of several inputs.
        entry: what the manifest says of it; None of one that is to be made.
        records: the commit records of its parts; None if they were not kept.
        sidecars: entries of the manifest on the sidecar files that this driver wrote, by extension.
    """

    def __init__(self, output: OpenedOutput, path: location.Location, name: str) -> None:
        self.path = path
        self.name = name
        self.entry: Mapping[str, Any] | None = None
        self.records: Sequence[Mapping[str, Any]] | None = None
        self.sidecars: dict[str, dict[str, Any]] = {}
        self._output = output

    def put_sidecar(self, extension: str, lines: Callable[[], Iterable[str]]) -> None:
        """Writes lines of text to a sidecar file; equal content may exist already.

        Args:
            extension: appended to the name of the merged file.
            lines: returns the lines; may be called again.

        Raises:
            LockedError: the file exists with other content, and is not to be replaced.
        """
        name = f"{self.name}{extension}"

        def write(file: BinaryIO) -> None:
            file.writelines(f"{line}\n".encode() for line in lines())

        placed = self._output.place(write, outputs.beside(self.path, extension), name, _other_content_error)
        self.sidecars[extension] = {"name": name, **placed}

    def has_sidecar(self, extension: str) -> bool:
        """Returns whether a complete output has a sidecar file; False of one that is being made.

        Raises:
            LockedError: there is one with other content than was written.
        """
        path, manifest = outputs.beside(self.path, extension), self._output.manifest
        if manifest is None or not path.exists():
            return False
        written = {entry["name"]: entry["sha256"] for entry in manifest.get("sidecars") or ()}
        expected = written.get(f"{self.name}{extension}")
        if expected is not None and commit.sha256_of_file(path) != expected:
            raise _other_content_error(path)
        return True

    @property
    def has_parts(self) -> bool:
        """True while the parts are there: they are kept, or not yet removed."""
        return self.records is not None

    def tables(self) -> Iterator[Any]:
        """Yields the rows of each part, in order; they must be there."""
        assert self.records is not None
        return _tables(self._output.target, self.records)


def _names(target: outputs.Output) -> Sequence[str]:
    return target.names or [file.name for file in target.files]


def _entries(
    target: outputs.Output, manifest: Mapping[str, Any]
) -> list[tuple[location.Location, Mapping[str, Any], list[dict[str, Any]]]]:
    """Returns the merged files with what a manifest says of each, and the commit records of its parts.

    Raises:
        IntegrityError: the manifest does not list them.
    """
    with control_files.parsing(commit.MANIFEST, "run again with --overwrite"):
        by_name = {file["name"]: file for file in manifest.get("files") or ()}
        if not target.names:
            shards = manifest.get("shards") or ()
            return [(file, manifest["merged"], [{"shard": by_name[name]} for name in shards]) for file in target.files]
        entries = {entry["name"]: entry for entry in manifest["merged"]}
        return [
            (file, entries[name], [{"shard": by_name[shard]} for shard in entries[name]["shards"]])
            for file, name in zip(target.files, target.names, strict=True)
        ]


def _merge(
    target: outputs.Output, file: location.Location, records: Sequence[Mapping[str, Any]]
) -> Callable[[BinaryIO], None]:
    """Returns the function that writes the rows of parts in the format of a file, as they are read."""
    extension = results.extension_of(file.name, "--output")
    return lambda opened: results.write_file(target.kind, _tables(target, records), extension, opened)


def _tables(target: outputs.Output, records: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    def read(record: Mapping[str, Any]) -> tuple[location.Location, bytes]:
        shard = target.folder.join(record["shard"]["name"])
        # Hashed when it is read: Arrow files have no checksum, and a flipped bit would be read back silently.
        data = shard.read_bytes()
        if commit.sha256_hex(data) != record["shard"]["sha256"]:
            raise errors.IntegrityError(f"{shard}: is damaged; run again with --overwrite")
        return shard, data

    for shard, data in concurrent.map_in_order(read, records):
        yield results.decode(target.kind, data, str(shard))


def _check_merged(file: location.Location, entry: Mapping[str, Any] | None) -> None:
    # Compared by content: a file that was replaced since is not reported as done.
    if commit.sha256_of_file(file) != (entry or {}).get("sha256"):
        raise _foreign_file_error(file)


def _other_content_error(file: location.Location) -> errors.LockedError:
    return errors.LockedError(f"{file}: exists and has other content; move it away or use --overwrite")


def _foreign_file_error(file: location.Location) -> errors.LockedError:
    return errors.LockedError(f"{file}: exists and was not written by this run; name another file or use --overwrite")


def _put(
    content: contents.Hashed,
    target: location.Location,
    refused: Callable[[location.Location], errors.LockedError] = _foreign_file_error,
) -> None:
    """Writes a file in its place, or finds an equal one there."""
    # An equal file is our own, merged by a call that died before it wrote the manifest.
    if not target.write_if_absent(content) and commit.sha256_of_file(target) != content.sha256_and_size()[0]:
        raise refused(target)
