"""One way to finish work: content under names never reused, a record for each part, and a manifest last.

A reader looks at manifests only, never at a listing. Every name is put in place once and whole, so a writer that
was killed, repeated, or believed dead and still runs (a zombie) can add files that nobody names, and nothing else.
"""

import hashlib
import io
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from core import errors
from core.storage import location, lock_owner

MANIFEST = "_MANIFEST.json"
PLAN = "_PLAN.json"
RECORDS = "_commits"
PLAN_FORMAT, PLAN_VERSION = "raycurrent-plan", 1
LOCKS = "_lock"
HEARTBEAT_S, LOCK_TTL_S = 3.0, 60.0
_READ_BYTES = 1 << 22
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_INSTEAD = "use another place, or --overwrite of a verb that has it"
_SHOWN_DIFFERENCES = 5
_log = logging.getLogger(__name__)


def sha256_hex(data: bytes) -> str:
    """Returns the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as a manifest names it: relative to its folder, with what its bytes must be.

    Raises:
        IntegrityError: the name is not one that we write, and could lead out of the folder.
    """

    name: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        for segment in self.name.split("/"):
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise errors.IntegrityError(f"{self.name!r}: is no name of a file of ours; restore the manifest")

    @classmethod
    def from_json(cls, value: object, where: str) -> "FileRecord":
        """Reads what `to_json` wrote.

        Raises:
            IntegrityError: the value is something else.
        """
        match value:
            case {"name": str(name), "sha256": str(sha256), "size_bytes": int(size_bytes)}:
                return cls(name, sha256, size_bytes)
        raise errors.IntegrityError(f"{where}: {str(value)[:80]!r} is no file record; restore the file")

    def to_json(self) -> dict[str, Any]:
        """Returns the record as it stands in a manifest."""
        return {"name": self.name, "sha256": self.sha256, "size_bytes": self.size_bytes}


def put_content(folder: location.Location, stem: str, ending: str, data: bytes) -> FileRecord:
    """Writes a file under a name that holds the hash of its bytes.

    Equal names mean equal bytes, so a write that is repeated, doubled or comes late changes nothing.
    """
    sha256 = sha256_hex(data)
    record = FileRecord(f"{stem}-{sha256[:16]}{ending}", sha256, len(data))
    place = folder.join(record.name)
    if not place.put_if_absent(data) and place.size_bytes() != len(data):
        # Only a crash where the filesystem has no links leaves a part under a final name; nobody can have used it.
        place.replace(data)
    return record


def verify(folder: location.Location, records: Iterable[FileRecord]) -> None:
    """Reads the named files and compares their bytes with the records.

    Raises:
        IntegrityError: one is missing or differs; the message holds both hashes.
    """
    for record in records:
        place = folder.join(record.name)
        try:
            found = _hash(place)
        except errors.NotFoundError as error:
            raise errors.IntegrityError(f"{place}: is missing, but its manifest names it; restore it") from error
        if found != record.sha256:
            raise errors.IntegrityError(
                f"{place}: is damaged: expected sha256 {record.sha256}, found {found}; restore it or make it again"
            )


def write_manifest(folder: location.Location, name: str, content: Mapping[str, Any]) -> None:
    """Writes a manifest, which makes what it names visible; last of all.

    Raises:
        LockedError: another one stands there.
    """
    place = folder.join(name)
    if not place.put_if_absent(_document(content)) and place.read_json() != json.loads(_document(content)):
        raise errors.LockedError(f"{place}: another run has finished here; {_INSTEAD}")


def read_manifest(folder: location.Location, name: str, format_name: str, max_version: int) -> dict[str, Any]:
    """Reads a manifest of a format that the caller knows, up to a version.

    Raises:
        NotFoundError: there is none.
        IntegrityError: it is damaged, of another format, or of a newer version.
    """
    place = folder.join(name)
    content = place.read_json()
    if not isinstance(content, dict) or content.get("format") != format_name:
        raise errors.IntegrityError(f"{place}: is not in the format {format_name}; name another folder")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= max_version:
        raise errors.IntegrityError(
            f"{place}: has version {version!r} of {format_name}, this program reads up to {max_version}; update it"
        )
    return content


class PartStore:
    """A folder that is filled part by part, by any number of workers, according to one plan.

    The plan is everything that the content depends on. A record may name its shards under `files`, a list of
    file records as JSON; `remove` removes those.
    """

    def __init__(self, folder: location.Location, plan: Mapping[str, object]) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = json.loads(_document(plan))
        self.fingerprint = sha256_hex(_document(self.plan))

    def begin(self) -> None:
        """Writes the plan, or finds it written.

        Raises:
            LockedError: the folder was begun with another plan; the message names what differs.
        """
        content = {"format": PLAN_FORMAT, "version": PLAN_VERSION, "fingerprint": self.fingerprint, "plan": self.plan}
        if not self.folder.join(PLAN).put_if_absent(_document(content)):
            self._check_plan()

    def committed(self, part: str) -> dict[str, Any] | None:
        """Returns the record of a part that is done, or None.

        Raises:
            LockedError: it was done for another plan.
        """
        return self._read_record(self._place(part))

    def commit(self, part: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Declares a part done, unless it is done already; of many who try, one succeeds.

        Returns:
            The record that counts: this one, or that of whoever came first.
        """
        content = {"plan": self.fingerprint, "part": part, "attempt": uuid.uuid4().hex, "record": dict(record)}
        place = self._place(part)
        if place.put_if_absent(_document(content)):
            return dict(json.loads(_document(record)))
        # What stands there may still be ours, written by a request whose reply was lost: the winner is who is read.
        won = self._read_record(place)
        if won is None:
            raise errors.StorageError(f"{place}: was there and is gone; let nothing else change this folder")
        return won

    def finish(self, manifest: Mapping[str, Any], name: str = MANIFEST) -> None:
        """Writes the manifest, with the plan's fingerprint; from then on the folder is complete.

        Raises:
            LockedError: another manifest stands there.
        """
        write_manifest(self.folder, name, {**manifest, "plan": self.fingerprint})

    def manifest(self, name: str = MANIFEST) -> dict[str, Any] | None:
        """Returns the manifest if the folder is complete, else None.

        Raises:
            LockedError: it was completed for another plan.
            IntegrityError: it is damaged.
        """
        content = _read_object(self.folder.join(name))
        if content is not None and content.get("plan") != self.fingerprint:
            self._check_plan()
            raise errors.IntegrityError(f"{self.folder.join(name)}: does not belong to the plan beside it; restore it")
        return content

    def remove(self, name: str = MANIFEST) -> None:
        """Removes the manifest, the records, the plan and then the shards that they list, and nothing else.

        In this order no reader ever sees a complete folder with a part missing. The plan may be any.
        """
        manifest = self.folder.join(name)
        records = [self.folder.join(RECORDS, found) for found in self.folder.join(RECORDS).list_names()]
        records = [record for record in records if record.name.endswith(".json")]
        contents = [_read_object(place) for place in (manifest, *records)]
        shards = {shard for content in contents if content for shard in _shards(content, str(self.folder))}
        for place in (manifest, *records, self.folder.join(PLAN)):
            place.remove()
        for shard in sorted(shards):
            self.folder.join(shard).remove()

    def _place(self, part: str) -> location.Location:
        assert _SEGMENT.fullmatch(part), f"a part's name is one plain segment, not {part!r}"
        return self.folder.join(RECORDS, f"{part}.json")

    def _read_record(self, place: location.Location) -> dict[str, Any] | None:
        content = _read_object(place)
        if content is None:
            return None
        if content.get("plan") != self.fingerprint:
            self._check_plan()
            raise errors.IntegrityError(f"{place}: does not belong to the plan beside it; remove it")
        record = content.get("record")
        if not isinstance(record, dict):
            raise errors.IntegrityError(f"{place}: is no commit record; remove it, its part is then done again")
        return record

    def _check_plan(self) -> None:
        place = self.folder.join(PLAN)
        found = read_manifest(self.folder, PLAN, PLAN_FORMAT, PLAN_VERSION)
        if found.get("fingerprint") == self.fingerprint:
            return
        differences = list(_differences(found.get("plan"), self.plan, ""))
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES]) or "another plan"
        more = f"; and {len(differences) - _SHOWN_DIFFERENCES} more" if len(differences) > _SHOWN_DIFFERENCES else ""
        raise errors.LockedError(f"{place.parent}: was begun with other settings ({shown}{more}); {_INSTEAD}")


class RunLock:
    """Held by the one driver that works on a root: `with RunLock(root, "train"): …`.

    Each holder takes the next epoch, by put-if-absent of a file that is never reused, and then changes its
    heartbeat file again and again. Another driver takes over if the heartbeat does not change for `ttl_s` of its
    own monotonic clock, so no two clocks are compared; at once if the holder left properly, or ran on this
    machine and is dead. The lock keeps honest drivers apart; what a zombie writes is harmless by the names it uses.

    Raises:
        LockedError: another driver holds the root; the message names it.
        StorageError: the root cannot be written, or its store has no conditional writes.
    """

    def __init__(
        self, root: location.Location, stage: str, ttl_s: float = LOCK_TTL_S, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self.root = root
        self.epoch = 0
        self._ttl_s = ttl_s
        self._heartbeat_s = heartbeat_s
        self._me = lock_owner.this_process(stage)
        self._lost = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_left, name="lock-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._thread.join()
        if not self._lost.is_set():
            try:
                self._beat(0, left=True)
            except errors.StorageError as failure:
                _log.warning("%s: the lock could not be given back, it expires by itself: %s", self.root, failure)

    def check(self) -> None:
        """Makes sure that nobody has taken over, for example before a manifest is written.

        Raises:
            LockedError: somebody has: this process was believed dead.
        """
        if self._lost.is_set() or self._file("epoch", self.epoch + 1).exists():
            self._lost.set()
            raise errors.LockedError(f"{self.root}: another driver has taken over; this one was believed dead")

    def _take(self) -> None:
        while True:
            newest = max((int(name[6:12]) for name in self._names()), default=0)
            if newest:
                self._wait_until_free(newest)
            mine = self._file("epoch", newest + 1)
            if mine.put_if_absent(_document(self._me)):
                break
        if mine.put_if_absent(b"{}"):
            raise errors.StorageError(f"{self.root}: its store overwrites in spite of a condition; use another store")
        self.epoch = newest + 1
        self._beat(0)

    def _wait_until_free(self, epoch: int) -> None:
        """Returns once the holder of an epoch has left or is dead."""
        holder = _read_object(self._file("epoch", epoch)) or {}
        first, since_s = self._heartbeat(epoch), time.monotonic()
        while True:
            silent_s = time.monotonic() - since_s
            now = self._heartbeat(epoch)
            if (now or {}).get("left") or (lock_owner.is_here(holder) and lock_owner.is_dead(holder)):
                return
            if lock_owner.is_here(holder) or now != first:
                raise errors.LockedError(
                    f"{self.root}: is in use by {lock_owner.describe(holder)}; wait for it, end it, or use another root"
                )
            if silent_s > self._ttl_s:
                _log.warning("%s: %s is silent, taking over", self.root, lock_owner.describe(holder))
                return
            time.sleep(self._heartbeat_s / 2)

    def _beat_until_left(self) -> None:
        beat = 0
        while not self._leaving.wait(self._heartbeat_s):
            beat += 1
            try:
                self._beat(beat)
                self.check()
            except errors.LockedError:
                return
            except errors.StorageError as error:
                _log.warning("the heartbeat of the lock could not be written: %s", error)

    def _beat(self, beat: int, left: bool = False) -> None:
        content = {"nonce": self._me["nonce"], "beat": beat, "left": left}
        self._file("heartbeat", self.epoch).replace(_document(content))

    def _heartbeat(self, epoch: int) -> dict[str, Any] | None:
        return _read_object(self._file("heartbeat", epoch))

    def _names(self) -> list[str]:
        return [name for name in self.root.join(LOCKS).list_names() if re.fullmatch(r"epoch-[0-9]{6}\.json", name)]

    def _file(self, kind: str, epoch: int) -> location.Location:
        return self.root.join(LOCKS, f"{kind}-{epoch:06d}.json")


def _document(content: Mapping[str, Any]) -> bytes:
    # Piece by piece: a manifest of many parts would be in memory several times.
    encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    text = io.BytesIO()
    text.writelines(piece.encode() for piece in encoder.iterencode(content))
    return text.getvalue() + b"\n"


def _read_object(place: location.Location) -> dict[str, Any] | None:
    try:
        content = place.read_json()
    except errors.NotFoundError:
        return None
    if not isinstance(content, dict):
        raise errors.IntegrityError(f"{place}: is no JSON object; restore or remove it")
    return content


def _shards(content: Mapping[str, Any], where: str) -> Iterator[str]:
    inner = content.get("record")
    for holder in (content, inner if isinstance(inner, dict) else {}):
        files = holder.get("files")
        for value in files if isinstance(files, list) else []:
            yield FileRecord.from_json(value, where).name


def _differences(old: object, new: object, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield f"{name}: was {_short(old)}, now {_short(new)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hash(place: location.Location) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
