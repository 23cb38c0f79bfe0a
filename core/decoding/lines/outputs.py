"""Output of batch inference: a folder that is filled part by part, and files merged from it at the end.

Workers write the shards and commit records of parts (`core.storage.commit`); the driver merges them and writes the
manifest last (`output_writer`). Further results are written to sidecar files next to a merged one, such as alignments.

One input gives one file beside the folder, or none. Of a single file `out.txt` the folder `out.txt.parts/` is removed
when `out.txt.manifest.json` is written, unless it is to be kept. Several inputs give one file each, in the folder
itself; what other programs should not take for a result is below names that begin with `_`.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.decoding.lines import inputs, results
from core.storage import commit, control_files, location, root_layout

FORMAT = "raycurrent-output"
VERSION = 1
PARTS, MANIFEST = root_layout.FILE_PARTS, root_layout.FILE_MANIFEST
"""Appended to the name of the merged file: the folder of its parts, and its manifest."""
# Extensions of the sidecar files: each is appended to the name of the merged file.
ALIGNMENTS, ATTENTION, PICTURES = ".alignments", ".attention.json", ".html"
SIDECARS: Mapping[results.Kind, tuple[str, ...]] = {
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
    """Returns the commit records of each of several files, in the order of the names; `records` are in that order.

    Raises:
        IntegrityError: a record names no file, or another one.
    """
    # By bisection: each access parses a record.
    rank = {name: number for number, name in enumerate(names)}
    with control_files.parsing("commit records", "run again with --overwrite"):
        ends = [
            bisect.bisect_right(records, number, key=lambda record: rank[record["file"]])
            for number in range(len(names))
        ]
    return [records[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Output:
    """The place where results are written: a folder of parts and the files merged from them.

    Attributes:
        kind: the kind of its rows.
        folder: folder of the parts; with a file, a folder next to it.
        file: the merged file; None if a folder was asked for, or if there are several inputs.
        names: of several inputs: the file of each, in the folder; sorted.
        keeps_parts: whether the folder stays beside the merged file.
    """

    kind: results.Kind
    folder: location.Location
    file: location.Location | None
    names: tuple[str, ...] = ()
    keeps_parts: bool = True

    @classmethod
    def at(
        cls, kind: results.Kind, path: location.Location, is_folder: bool, where: str, keeps_parts: bool = False
    ) -> "Output":
        """Returns the output at a path: a folder, or a file whose extension gives its format.

        Raises:
            UsageError: the extension is not that of a known format.
        """
        if is_folder:
            return cls(kind, path, None)
        # Called for its error: a wrong extension is refused before any work.
        results.extension_of(path.name, where)
        return cls(kind, location.Location(f"{path.url}{PARTS}"), path, keeps_parts=keeps_parts)

    @property
    def copies(self) -> location.Location:
        """The folder of unpacked copies of inputs."""
        return self.folder.join(_COPIES) if self.names else self.folder

    @property
    def files(self) -> list[location.Location]:
        """The merged files; none of a folder of shards."""
        return [self.folder.join(name) for name in self.names] if self.file is None else [self.file]

    def refuse_inputs(self, inputs: Sequence[location.Location]) -> None:
        """Checks that no input would be overwritten.

        Raises:
            UsageError: an input is the output file, or in the output folder.
        """
        for path in inputs:
            # With a slash at the end: `a.parts2` is not in the folder `a.parts`.
            if path == self.file or path.url.startswith(f"{self.folder.url.rstrip('/')}/"):
                raise errors.UsageError(f"--output: {path} is also an input; write to another path")

    def row_version(self, overwrite: bool) -> int:
        """Returns the version of the rows to write: that of a plan that is there, which is finished in its own form."""
        if overwrite:
            return results.ROW_VERSION
        own = self.read_manifest()
        if own is not None:
            return _version_of(own.get("settings"))
        plan = control_files.read_if_there(self.folder.join(commit.PLAN))
        return results.ROW_VERSION if plan is None else _version_of(plan.get("plan"))

    def read_manifest(self) -> dict[str, Any] | None:
        """Returns the manifest beside a merged file without parts; None if there is none.

        Raises:
            LockedError: there is another file of this name.
            IntegrityError: it is damaged.
        """
        if self.file is None:
            return None
        path = beside(self.file, MANIFEST)
        content = control_files.read_if_there(path)
        if content is not None and content.get("format") != FORMAT:
            raise errors.LockedError(
                f"{path}: exists and is not a manifest of Raycurrent; name another output or use --overwrite"
            )
        return content

    def names_of_stored_plan(self) -> list[str]:
        """Returns the names of the files, and of their sidecars, that the plan in the folder makes of several inputs.

        There are none if it is of a single input, or damaged: what a damaged one names stays.
        """
        try:
            plan = (control_files.read_if_there(self.folder.join(commit.PLAN)) or {}).get("plan") or {}
            names = [f"{name}.{plan[FORMAT_OF_FILES]}" for name in plan.get(FILES) or ()]
            for name in names:
                self.folder.join(name)  # for its error: a forged plan may name any file of this machine
        except (errors.IntegrityError, errors.UsageError, LookupError, TypeError, AttributeError):
            return []
        return [f"{name}{extension}" for name in names for extension in ("", *SIDECARS[self.kind])]


def beside(file: location.Location, extension: str) -> location.Location:
    """Returns the location of the file beside a merged one, with this extension appended to its name."""
    return location.Location(f"{file.url}{extension}")


def _version_of(plan: object) -> int:
    version = plan.get("row_version", 1) if isinstance(plan, dict) else 1
    return version if type(version) is int else 1
