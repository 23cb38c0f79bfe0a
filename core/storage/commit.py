"""Commit protocol: content files, one commit record for each part, and a manifest last.

Content is written under names that are never reused, by put-if-absent. Readers follow manifests, never a directory
listing, so an incomplete output is invisible. A writer that was killed, that repeats its work, or that was believed
dead and still runs (a zombie) can therefore only add files to which no manifest refers.
"""

import collections
import contextlib
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from core import errors
from core.storage import concurrent, contents, control_files, location, plan_differences

MANIFEST = "_MANIFEST.json"
PLAN = "_PLAN.json"
RECORDS = "_commits"
PLAN_FORMAT, PLAN_VERSION = "raycurrent-plan", 1
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
# What to do about a folder that belongs to another plan.
REMEDY_OF_OUTPUT = "use another folder, or --overwrite"
REMEDY_OF_DATASET = "use another root, or delete this folder to prepare it anew"
_log = logging.getLogger(__name__)
_Read = TypeVar("_Read", str, bytes)


def sha256_hex(data: bytes) -> str:
    """Returns the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: location.Location) -> str:
    """Returns the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    for block in path.read_blocks():
        digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as listed in a manifest: its name relative to the folder, its SHA-256 and its size.

    Raises:
        IntegrityError: the name could lead out of the folder, or has characters that we never write.
    """

    name: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        # A manifest may be forged: verifying, reading and removing follow its names, which must stay below its folder.
        for segment in self.name.split("/"):
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise errors.IntegrityError(f"{self.name!r}: is not a valid file name here; restore the manifest")

    @classmethod
    def from_json(cls, value: object, where: str) -> "FileRecord":
        """Parses what `to_json` returned.

        Raises:
            IntegrityError: the value has another form.
        """
        match value:
            case {"name": str(name), "sha256": str(sha256), "size_bytes": int(size_bytes)}:
                return cls(name, sha256, size_bytes)
        raise errors.IntegrityError(f"{where}: {str(value)[:80]!r} is not a file record; restore the file")

    def to_json(self) -> dict[str, Any]:
        """Returns the record as written to a manifest."""
        return {"name": self.name, "sha256": self.sha256, "size_bytes": self.size_bytes}


def put_content(folder: location.Location, stem: str, ending: str, data: contents.Content) -> FileRecord:
    """Writes a content-addressed file: its name ends in the hash of its bytes.

    Equal names mean equal bytes, so repeated, concurrent and late writes are harmless.
    """
    sha256, size_bytes = contents.sha256_and_size(data)
    # 64 bits of the hash keep names apart; the whole hash is in the record, for verification.
    record = FileRecord(f"{stem}-{sha256[:16]}{ending}", sha256, size_bytes)
    path = folder.join(record.name)
    if not contents.put_if_absent(path, data) and sha256_of_file(path) != sha256:
        # A crash on a filesystem without hard links can leave a truncated file, and a disk a flipped bit.
        contents.replace(path, data)
    return record


def read_content(folder: location.Location, name: str) -> bytes:
    """Reads a file that `put_content` wrote, and verifies the very bytes that it returns by its name.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is damaged.
    """
    data, expected = folder.join(name).read_bytes(), name.rpartition(".")[0][-16:]
    if (sha256 := sha256_hex(data))[:16] != expected:
        raise _damaged_error(folder.join(name), f"{expected}…", sha256)
    return data


def verify(folder: location.Location, records: Iterable[FileRecord]) -> None:
    """Verifies files against their records, by SHA-256.

    Raises:
        IntegrityError: a file is missing, a pipe, a device or a link out of the folder, or its hash differs; the
            message holds both hashes.
    """
    for record in records:
        verify_file(folder, record.name, record.sha256)


def verify_file(folder: location.Location, name: str, expected: str) -> None:
    """Verifies a file that a manifest lists by its SHA-256; see `verify`."""
    _verified(folder, name, expected, sha256_of_file)


def read_file(folder: location.Location, record: FileRecord, max_bytes: int | None = None) -> bytes:
    """Reads a file that a manifest lists, of `max_bytes` at most, and verifies the very bytes that it returns.

    Raises:
        IntegrityError: it is missing, larger, damaged, a link out of the folder, or no regular file.
    """

    def read(path: location.Location) -> bytes:
        return path.read_bytes() if max_bytes is None else control_files.read_bounded(path, max_bytes)

    return _verified(folder, record.name, record.sha256, read)


def _verified(folder: location.Location, name: str, expected: str, read: Callable[[location.Location], _Read]) -> _Read:
    """Returns what `read` returns of a file: its hash, or its content, of which the hash is taken here."""
    path = folder.join(name)
    # Before anything is read: what came from elsewhere could name any file of this machine by a link.
    if path.is_local and not path.path.resolve().is_relative_to(folder.path.resolve()):
        raise errors.IntegrityError(f"{path}: is a link out of its folder; replace it by the file itself")
    try:
        result = read(path)
    except errors.NotFoundError as error:
        raise errors.IntegrityError(f"{path}: is missing, but its manifest lists it; restore it") from error
    except errors.UsageError as error:  # a folder, a pipe or a device
        raise errors.IntegrityError(f"{error}; restore it") from error
    if (sha256 := sha256_hex(result) if isinstance(result, bytes) else result) != expected:
        raise _damaged_error(path, expected, sha256)
    return result


def _damaged_error(path: location.Location, expected: str, actual: str) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{path}: is damaged: expected sha256 {expected}, found {actual}; restore it or make it again"
    )


def write_manifest(folder: location.Location, name: str, content: Mapping[str, Any]) -> None:
    """Writes a manifest. This comes last: it makes the files that it lists visible.

    Raises:
        LockedError: another manifest exists.
    """
    path = folder.join(name)
    data = control_files.encode(content)
    # An equal manifest is our own, from a request whose reply was lost or from the same command run before.
    if not path.put_if_absent(data) and _read_manifest(path) != control_files.parse(data, str(path)):
        raise errors.LockedError(f"{path}: another run has finished here; use another folder")


def read_manifest(folder: location.Location, name: str, format_name: str, max_version: int) -> dict[str, Any]:
    """Reads a manifest, checking its format name and version.

    Raises:
        NotFoundError: the manifest does not exist.
        IntegrityError: it is damaged, has another format, or a version newer than `max_version`.
    """
    path = folder.join(name)
    content = _read_manifest(path)
    if content.get("format") != format_name:
        raise errors.IntegrityError(f"{path}: is not in the format {format_name}; name another folder")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= max_version:  # True is an int, too
        raise errors.IntegrityError(
            f"{path}: has version {version!r} of {format_name}, this program reads up to {max_version}; update it"
        )
    return content


def _read_manifest(path: location.Location) -> dict[str, Any]:
    return control_files.read(path, control_files.MAX_MANIFEST_BYTES)


class PartStore:
    """An output folder that any number of workers fill part by part, according to one plan.

    The plan holds everything that the content depends on; its fingerprint is in every commit record. A commit record
    may list the shards of its part under `files`, as file records in JSON; `remove` deletes those.

    Attributes:
        folder: the folder of the shards and the manifest.
        control: name of the folder below it that the plan and the commit records are in; empty: itself. A second
            output in one folder, which is to take the place of the first, has its own (`core.storage.replacing`).
    """

    def __init__(
        self,
        folder: location.Location,
        plan: Mapping[str, object],
        remedy: str = REMEDY_OF_OUTPUT,
        control: str = "",
    ) -> None:
        self.folder = folder
        self.control = control
        self._control = folder.join(control) if control else folder
        self._remedy = remedy
        # Through JSON tuples become lists, as in the stored plan with which this one is compared.
        self.plan: dict[str, Any] = json.loads(control_files.encode_plain(plan))
        self.fingerprint = sha256_hex(control_files.encode_plain(self.plan))

    def begin(self) -> bool:
        """Writes the plan, unless the same plan is there already.

        Returns:
            Whether this call wrote it: then no part is committed yet, and `committed_names` need not be asked.

        Raises:
            LockedError: the folder has another plan; the message lists the differences.
        """
        content = {"format": PLAN_FORMAT, "version": PLAN_VERSION, "fingerprint": self.fingerprint, "plan": self.plan}
        if self._control.join(PLAN).put_if_absent(control_files.encode(content)):
            return True
        self._check_plan()
        return False

    def committed_names(self) -> frozenset[str]:
        """Returns the names of the parts that have a commit record: by a listing, 1,000 names a request.

        A hint: `committed` says whether a part is done, and `commit` of one that a listing missed finds its record.
        """
        return frozenset(path.name.removesuffix(".json") for path in record_paths(self._control))

    def committed(self, part: str) -> dict[str, Any] | None:
        """Returns the commit record of a part, or None if the part is not committed.

        Raises:
            LockedError: it was committed for another plan.
        """
        return self._read_record(self._record_path(part))

    def commit(self, part: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Commits a part, unless it is committed already; of several concurrent attempts exactly one succeeds.

        Returns:
            The commit record that counts: this one, or that of the attempt that came first.
        """
        # The attempt makes equal records differ: after a lost reply only the writer itself takes the file for its own.
        content = {"plan": self.fingerprint, "part": part, "attempt": uuid.uuid4().hex, "record": dict(record)}
        path = self._record_path(part)
        if path.put_if_absent(control_files.encode(content)):
            # Through JSON, so that a first attempt and one that reads the winner's record return equal values.
            return dict(json.loads(control_files.encode_plain(record)))
        # The existing record may still be ours, written by a request whose reply was lost: read who won.
        winner = self._read_record(path)
        if winner is None:
            raise errors.StorageError(f"{path}: disappeared while it was read; let nothing else change this folder")
        return winner

    def is_begun(self) -> bool:
        """Returns whether the folder has this very plan; False, too, where its plan is damaged."""
        with contextlib.suppress(errors.IntegrityError):
            stored = control_files.read_if_there(self._control.join(PLAN)) or {}
            return bool(stored.get("fingerprint") == self.fingerprint)
        return False

    def finish(self, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
        """Writes the manifest with the plan's fingerprint, which completes the folder.

        Raises:
            LockedError: another manifest exists.
        """
        write_manifest(self.folder, name, {**manifest, "plan": self.fingerprint})

    def manifest(self, name: str = MANIFEST) -> dict[str, Any] | None:
        """Returns the manifest if the folder is complete, else None.

        Raises:
            LockedError: it was completed for another plan.
            IntegrityError: it is damaged.
        """
        content = control_files.read_if_there(self.folder.join(name), control_files.MAX_MANIFEST_BYTES)
        # If the plans differ, the message lists the differences; else the file itself is wrong.
        if content is not None and content.get("plan") != self.fingerprint:
            self._check_plan()
            raise errors.IntegrityError(f"{self.folder.join(name)}: does not belong to the plan beside it; restore it")
        return content

    def remove(self, check: Callable[[], object], name: str = MANIFEST) -> None:
        """Deletes the manifest, the commit records, the plan and then the shards that they list, and nothing else.

        In this order no reader ever sees a complete folder with a missing shard. The folder's plan is not compared.

        Args:
            check: raises an error if this driver is not the one that may remove; called before each step.
            name: name of the manifest.
        """
        shards = {*listed(self.folder.join(name)), *shards_of_records(self._control)}
        check()
        self.folder.join(name).remove()
        remove_control(self._control, check)
        remove_files(self.folder, shards, check)

    def _record_path(self, part: str) -> location.Location:
        assert _SEGMENT.fullmatch(part), f"the name of a part must be one path segment, not {part!r}"
        return self._control.join(RECORDS, f"{part}.json")

    def _read_record(self, path: location.Location) -> dict[str, Any] | None:
        content = control_files.read_if_there(path)
        if content is None:
            return None
        if content.get("plan") != self.fingerprint:
            self._check_plan()
            raise errors.IntegrityError(f"{path}: does not belong to the plan beside it; remove it")
        record = content.get("record")
        if not isinstance(record, dict):
            raise errors.IntegrityError(f"{path}: is not a commit record; remove it, and its part is done again")
        return record

    def _check_plan(self) -> None:
        stored = read_manifest(self._control, PLAN, PLAN_FORMAT, PLAN_VERSION)
        self.check_plan(stored.get("fingerprint"), stored.get("plan"), str(self.folder))

    def check_plan(self, fingerprint: object, plan: object, where: str) -> None:
        """Checks that a stored plan is this one.

        Raises:
            LockedError: it is another one; the message lists the differences.
        """
        if fingerprint == self.fingerprint:
            return
        differences = plan_differences.describe(plan, self.plan)
        raise errors.LockedError(f"{where}: was begun with other settings ({differences}); {self._remedy}")


def listed(path: location.Location) -> list[str]:
    """Returns the names of the files that a manifest or a commit record lists; none where it is not there or damaged.

    For removal alone: what a damaged one lists stays, and is of no harm.
    """
    try:
        content = control_files.read_if_there(path, control_files.MAX_MANIFEST_BYTES) or {}
        inner = content.get("record")
        # A manifest has `files` at its top, a commit record inside `record`.
        holders = (content, inner if isinstance(inner, dict) else {})
        files = [value for holder in holders for value in holder.get("files") or ()]
        return [FileRecord.from_json(value, str(path)).name for value in files]
    except (errors.IntegrityError, TypeError) as error:
        _log.warning("%s: cannot be read, so that the files that it lists are left: %s", path, error)
        return []


def record_paths(control: location.Location) -> list[location.Location]:
    """Returns the commit records that are there, of whatever plan."""
    # Listed, because an unfinished folder has no manifest.
    folder = control.join(RECORDS)
    return [folder.join(name) for name in folder.list_names() if name.endswith(".json")]


def shards_of_records(control: location.Location) -> set[str]:
    """Returns the names of the files that the commit records list."""
    return {name for names in concurrent.map_in_order(listed, record_paths(control)) for name in names}


def remove_control(control: location.Location, check: Callable[[], object]) -> None:
    """Deletes the commit records and then the plan, with `check` before each."""
    remove_paths(record_paths(control), check)
    remove_paths([control.join(PLAN)], check)
    control.join(RECORDS).remove_folder_if_empty()


def remove_files(folder: location.Location, names: Collection[str], check: Callable[[], object]) -> None:
    """Deletes files of a folder, with `check` before each."""
    remove_paths([folder.join(name) for name in sorted(names)], check)
    for enclosing in sorted({name.rpartition("/")[0] for name in names} - {""}):
        folder.join(enclosing).remove_folder_if_empty()


def remove_paths(paths: Sequence[location.Location], check: Callable[[], object]) -> None:
    """Deletes files, several at a time in an object store, with `check` before each; returns when all are gone."""

    def remove(path: location.Location) -> None:
        check()
        path.remove()

    run = map if paths and paths[0].is_local else concurrent.map_in_order  # a local filesystem answers at once
    collections.deque(run(remove, paths), maxlen=0)
