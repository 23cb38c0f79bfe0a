"""Output of batch inference: a folder that is filled part by part, and files merged from it at the end.

Workers write the shards and commit records of parts (`core.storage.commit`); the driver merges them and writes the
manifest last. Further results are written to sidecar files next to a merged one, such as alignments.

One input gives one file beside the folder, or none. Several inputs give one file each, in the folder itself; what other
programs should not take for a result is below names that begin with `_`.
"""

import bisect
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.decoding.lines import inputs, results
from core.storage import commit, location, run_lock

FORMAT = "raycurrent-output"
VERSION = 1
# Extensions of the sidecar files: each is appended to the name of the merged file.
ALIGNMENTS, ATTENTION, PICTURES = ".alignments", ".attention.json", ".html"
_SIDECARS: Mapping[results.Kind, tuple[str, ...]] = {
    "translations": (ALIGNMENTS, ATTENTION),
    "scores": (),
    "rankings": (),
    "forecasts": (PICTURES,),
}


# Folders of an output of several inputs: shards of their parts, and unpacked copies of those that are compressed.
_SHARDS, _COPIES = "_parts", "_inputs"
# Entries of a plan: what each file is made from, by the file's name without the extension; and that extension.
FILES, FORMAT_OF_FILES = "files", "format"


def stem(part: inputs.Part) -> str:
    """Returns the beginning of the names of a part's files, relative to the output folder."""
    return part.name if part.origin is None else f"{_SHARDS}/{part.name}"


def by_file(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Sequence[Mapping[str, Any]]]:
    """Returns the commit records of each of several files, in the order of the names; `records` are in that order."""
    # By bisection: each access parses a record.
    rank = {name: number for number, name in enumerate(names)}
    ends = [
        bisect.bisect_right(records, number, key=lambda record: rank[record["file"]]) for number in range(len(names))
    ]
    return [records[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Output:
    """A folder of parts and the files merged from them.

    Attributes:
        kind: the kind of its rows.
        folder: folder of the parts; with a file, a folder next to it.
        file: the merged file; None if a folder was asked for, or if there are several inputs.
        names: of several inputs: the file of each, in the folder; sorted.
    """

    kind: results.Kind
    folder: location.Location
    file: location.Location | None
    names: tuple[str, ...] = ()

    @classmethod
    def at(cls, kind: results.Kind, path: location.Location, is_folder: bool, where: str) -> "Output":
        """Returns the output at a path: a folder, or a file whose extension gives its format.

        Raises:
            UsageError: the extension is not that of a known format.
        """
        if is_folder:
            return cls(kind, path, None)
        # Called for its error: a wrong extension is refused before any work.
        results.extension_of(path.name, where)
        return cls(kind, location.Location(f"{path.url}.parts"), path)

    @property
    def copies(self) -> location.Location:
        """The folder of unpacked copies of inputs."""
        return self.folder.join(_COPIES) if self.names else self.folder

    @property
    def files(self) -> list["Output"]:
        """The output of each merged file alone, itself if there is but one."""
        if self.file is not None:
            return [self]
        return [Output(self.kind, self.folder, self.folder.join(name)) for name in self.names]

    def refuse_inputs(self, inputs: Sequence[location.Location]) -> None:
        """Checks that no input would be overwritten.

        Raises:
            UsageError: an input is the output file, or in the output folder.
        """
        for path in inputs:
            # With a slash at the end: `a.parts2` is not in the folder `a.parts`.
            if path == self.file or path.url.startswith(f"{self.folder.url.rstrip('/')}/"):
                raise errors.UsageError(f"--output: {path} is also an input; write to another path")

    def lock(self, stage: str) -> run_lock.RunLock:
        """Returns the lock that keeps other drivers from writing here; a context manager."""
        return run_lock.RunLock(self.folder, stage)

    def row_version(self, overwrite: bool) -> int:
        """Returns the version of the rows to write: that of a plan that is there, which is finished in its own form."""
        plan = commit.read_json_object(self.folder.join(commit.PLAN))
        if plan is None or overwrite:
            return results.ROW_VERSION
        return int((plan.get("plan") or {}).get("row_version", 1))

    def begin(self, plan: Mapping[str, object], overwrite: bool) -> commit.PartStore:
        """Opens the folder for a plan: a new folder, or one in which parts of the same plan are committed.

        With `overwrite`, first removes what the folder has, of whatever plan.

        Raises:
            LockedError: the folder has another plan, or the file was not written by this plan.
        """
        store = commit.PartStore(self.folder, plan)
        if overwrite:
            stored = self._files_of_stored_plan()
            if stored:
                # First: as long as a manifest declares the output complete, its files exist. The plan, which has their
                # names, goes after them.
                self.folder.join(commit.MANIFEST).remove()
                for each in stored:
                    each.remove()
            store.remove()
            for each in self.files:
                each.remove()
        has_plan = self.folder.join(commit.PLAN).exists()
        # Without a plan beside it a file is not ours: refused before any part is computed.
        for each in [] if has_plan else self.files:
            if each.file is not None and each.file.exists():
                raise each._foreign_file_error()
        store.begin()
        return store

    def remove(self) -> None:
        """Deletes the merged file and its sidecar files."""
        assert self.file is not None
        for path in (self.file, *map(self.sidecar, _SIDECARS[self.kind])):
            path.remove()

    def _files_of_stored_plan(self) -> list["Output"]:
        """Returns the outputs of the files that an earlier call made of several inputs; there may be others now."""
        plan = (commit.read_json_object(self.folder.join(commit.PLAN)) or {}).get("plan") or {}
        names = tuple(f"{name}.{plan[FORMAT_OF_FILES]}" for name in plan.get(FILES) or ())
        return Output(self.kind, self.folder, None, names).files

    def finished(self, store: commit.PartStore) -> dict[str, Any] | None:
        """Returns the manifest if the output is complete, else None; merges a file again if it was deleted.

        Raises:
            LockedError: a file has other content than the merged one.
        """
        manifest = store.manifest()
        for each, part_of_manifest in [] if manifest is None else self.each(manifest):
            assert each.file is not None
            merged = part_of_manifest.get("merged") or {}
            if not each.file.exists():
                each._merge(_records_of(part_of_manifest))
            # Compared by content: a file that was replaced since is not reported as done.
            elif commit.sha256_of_file(each.file) != merged.get("sha256"):
                raise each._foreign_file_error()
        return manifest

    def each(self, manifest: Mapping[str, Any]) -> list[tuple["Output", Mapping[str, Any]]]:
        """Returns the output of each merged file alone, with the manifest that it would have alone."""
        if not self.names:
            return [(each, manifest) for each in self.files]
        entries = {entry["name"]: entry for entry in manifest["merged"]}
        return [
            (each, {"files": manifest["files"], "shards": entries[name]["shards"], "merged": entries[name]})
            for name, each in zip(self.names, self.files, strict=True)
        ]

    def finish(
        self, store: commit.PartStore, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merges the parts in the order of their commit records, then writes and returns the manifest.

        Raises:
            LockedError: a file that this plan did not write has the name of the merged one.
            IntegrityError: a part is damaged.
        """
        files, shards = [], []
        for record in records:
            shards.append(record["shard"]["name"])
            files += [commit.FileRecord.from_json(file, shards[-1]).to_json() for file in record["files"]]
        content = {"format": FORMAT, "version": VERSION, "kind": self.kind, "files": files, "shards": shards, **summary}
        if self.file is not None:
            content["merged"] = self._merge(records)
        elif self.names:
            content["merged"] = [
                {**each._merge(own), "name": name, "shards": [record["shard"]["name"] for record in own]}
                for name, each, own in zip(self.names, self.files, by_file(records, self.names), strict=True)
            ]
        # Last: after a crash before this line the next call merges the committed parts again.
        store.finish(content)
        return content

    def sidecar(self, extension: str) -> location.Location:
        """Returns the location of the sidecar file with this extension."""
        assert self.file is not None
        return location.Location(f"{self.file.url}{extension}")

    def put_sidecar(self, extension: str, lines: Iterable[str]) -> None:
        """Writes lines of text to a sidecar file; equal content may exist already.

        Raises:
            LockedError: the file exists with other content.
        """
        file = self.sidecar(extension)
        with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
            path = pathlib.Path(scratch, "sidecar")
            with path.open("w", encoding="utf-8", newline="\n") as text:
                text.writelines(f"{line}\n" for line in lines)
            if _put_file(path, file) is None:
                raise errors.LockedError(f"{file}: exists and has other content; move it away or use --overwrite")

    def tables(self, manifest: Mapping[str, Any]) -> Iterator[Any]:
        """Yields the rows of each part of a complete output, in order."""
        return self._tables(_records_of(manifest))

    def _merge(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        assert self.file is not None
        extension = results.extension_of(self.file.name, "--output")
        # Written to a local folder and put in place whole: no reader sees a part of it.
        with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
            path = pathlib.Path(scratch, f"merged{extension}")
            results.write_file(self.kind, self._tables(records), extension, path)
            sha256 = _put_file(path, self.file)
            if sha256 is None:
                raise self._foreign_file_error()
            return {"name": self.file.name, "sha256": sha256, "size_bytes": path.stat().st_size}

    def _tables(self, records: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        for record in records:
            shard = self.folder.join(record["shard"]["name"])
            # Hashed when it is read: Arrow files have no checksum, and a flipped bit would be read back silently.
            data = shard.read_bytes()
            if commit.sha256_hex(data) != record["shard"]["sha256"]:
                raise errors.IntegrityError(f"{shard}: is damaged; run again with --overwrite")
            yield results.decode(self.kind, data, str(shard))

    def _foreign_file_error(self) -> errors.LockedError:
        return errors.LockedError(
            f"{self.file}: exists and was not written by this run; name another file or use --overwrite"
        )


def _put_file(path: pathlib.Path, target: location.Location) -> str | None:
    """Puts a local file in place, or finds an equal one there; returns its SHA-256, or None if another file exists."""
    sha256 = commit.sha256_of_file(location.Location.parse(str(path)))
    # An equal file is our own, merged by a call that died before it wrote the manifest.
    is_in_place = target.put_file_if_absent(path) or commit.sha256_of_file(target) == sha256
    return sha256 if is_in_place else None


def _records_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    by_name = {file["name"]: file for file in manifest["files"]}
    return [{"shard": by_name[name]} for name in manifest["shards"]]
