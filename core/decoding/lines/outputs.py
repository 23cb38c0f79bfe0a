"""Where results go: a folder that is filled part by part, and one file that is merged from it at the end."""

import hashlib
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.decoding.lines import results
from core.storage import commit, location, run_lock

FORMAT = "raycurrent-output"
VERSION = 1
ALIGNMENTS, ATTENTION, PICTURES = ".alignments", ".attention.json", ".html"
_BESIDE: Mapping[results.Kind, tuple[str, ...]] = {
    "translations": (ALIGNMENTS, ATTENTION),
    "scores": (),
    "forecasts": (PICTURES,),
}
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Output:
    """A folder of parts; where a file was asked for, the folder beside it and the file."""

    kind: results.Kind
    folder: location.Location
    file: location.Location | None

    @classmethod
    def at(cls, kind: results.Kind, place: location.Location, is_folder: bool, where: str) -> "Output":
        """Says where results go: into a folder, or into a file whose ending is its format.

        Raises:
            UsageError: the ending is none that we write.
        """
        if is_folder:
            return cls(kind, place, None)
        results.ending_of(place.name, where)
        return cls(kind, location.Location(f"{place.url}.parts"), place)

    def refuse_inputs(self, inputs: Sequence[location.Location]) -> None:
        """Makes sure that nothing is read from where it is written.

        Raises:
            UsageError: an input is the output, or lies in its folder.
        """
        for place in inputs:
            if place == self.file or place.url.startswith(f"{self.folder.url.rstrip('/')}/"):
                raise errors.UsageError(f"--output: {place} is also an input; write to another place")

    def lock(self, stage: str) -> run_lock.RunLock:
        """Keeps other drivers away while this one works here; a context manager."""
        return run_lock.RunLock(self.folder, stage)

    def begin(self, plan: Mapping[str, object], overwrite: bool) -> commit.PartStore:
        """Takes the folder for this plan: anew, or to go on with what is there.

        Raises:
            LockedError: what is there was made by another plan, or the file is not ours; `overwrite` removes both.
        """
        store = commit.PartStore(self.folder, plan)
        if overwrite:
            store.remove()
            if self.file is not None:
                for place in (self.file, *map(self.beside, _BESIDE[self.kind])):
                    place.remove()
        begun = self.folder.join(commit.PLAN).exists()
        if self.file is not None and not begun and self.file.exists():
            raise self._not_ours()
        store.begin()
        return store

    def finished(self, store: commit.PartStore) -> dict[str, Any] | None:
        """Returns the manifest of an output that is complete, its merged file included.

        Raises:
            LockedError: another file has taken the place of the merged one.
        """
        manifest = store.manifest()
        if manifest is not None and self.file is not None:
            merged = manifest.get("merged") or {}
            if not self.file.exists():
                self._merge(_records_of(manifest))
            elif _sha256(self.file) != merged.get("sha256"):
                raise self._not_ours()
        return manifest

    def finish(
        self, store: commit.PartStore, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merges the parts, in the order given, puts the file in place, then writes the manifest.

        Raises:
            LockedError: somebody else's file is in the place.
            IntegrityError: a part is damaged.
        """
        files, shards = [], []
        for record in records:
            shards.append(record["shard"]["name"])
            files += [commit.FileRecord.from_json(file, shards[-1]).to_json() for file in record["files"]]
        content = {"format": FORMAT, "version": VERSION, "kind": self.kind, "files": files, "shards": shards, **summary}
        if self.file is not None:
            content["merged"] = self._merge(records)
        store.finish(content)
        return content

    def beside(self, ending: str) -> location.Location:
        """Returns the place beside the file whose name has this ending more."""
        assert self.file is not None
        return location.Location(f"{self.file.url}{ending}")

    def put_beside(self, ending: str, lines: Iterable[str]) -> None:
        """Writes lines of text to a file beside the merged one; equal content may be there already.

        Raises:
            LockedError: something else is in the place.
        """
        place = self.beside(ending)
        with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
            path = pathlib.Path(scratch, "beside")
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
            with path.open("rb") as written:
                sha256 = hashlib.file_digest(written, "sha256").hexdigest()
            if not place.put_file_if_absent(path) and _sha256(place) != sha256:
                raise errors.LockedError(f"{place}: exists and has other content; move it away or use --overwrite")

    def tables(self, manifest: Mapping[str, Any]) -> Iterator[Any]:
        """Yields the rows of each part of a finished output, in order."""
        return self._tables(_records_of(manifest))

    def _merge(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        assert self.file is not None
        ending = results.ending_of(self.file.name, "--output")
        with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
            path = pathlib.Path(scratch, f"merged{ending}")
            results.write_file(self.kind, self._tables(records), ending, path)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if not self.file.put_file_if_absent(path) and _sha256(self.file) != sha256:
                raise self._not_ours()
            return {"name": self.file.name, "sha256": sha256, "size_bytes": path.stat().st_size}

    def _tables(self, records: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        for record in records:
            place = self.folder.join(record["shard"]["name"])
            data = place.read_bytes()
            if commit.sha256_hex(data) != record["shard"]["sha256"]:
                raise errors.IntegrityError(f"{place}: is damaged; run again with --overwrite")
            yield results.decode(self.kind, data, str(place))

    def _not_ours(self) -> errors.LockedError:
        return errors.LockedError(f"{self.file}: exists and is not of this run; name another file or use --overwrite")


def _records_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    by_name = {file["name"]: file for file in manifest["files"]}
    return [{"shard": by_name[name]} for name in manifest["shards"]]


def _sha256(place: location.Location) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
