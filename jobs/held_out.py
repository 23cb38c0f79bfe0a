"""The held-out lines of a corpus as plain text again, as they were before cleaning: what is translated and scored."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from core import errors
from core.config import corpus_settings, schema
from core.data.dataset import shards
from core.data.text import corpus, sources
from core.storage import location

_EVERY_LINES = 1 << 16


class HeldOut(NamedTuple):
    """The text of one split, a file for each side.

    Attributes:
        split: `test`, or `valid` where there is no test split.
        num_lines: lines of each file.
        files: by `text`, or by `source` and `target`.
    """

    split: str
    num_lines: int
    files: dict[str, location.Location]


def write(config: schema.RunConfig, task: str = "") -> HeldOut | None:
    """Writes the held-out lines of a corpus below `outputs/`, or finds them written; None if nothing is held out.

    A split with a source of its own is taken whole, but for lines that are no text. Of a split that was set aside
    from the training source, the lines of the dataset are taken, so what a filter dropped is not among them.

    Raises:
        DataError: the corpus is gone, or has fewer lines than it was prepared with.
    """
    root = location.Location.parse(config.root, "root")
    dataset = shards.Dataset.open(root.join("dataset"))
    for split in ("test", "valid"):
        if dataset.split(split, task) is not None or getattr(config.tasks[task], split) is not None:
            return _write_split(config, task, root, dataset, split)
    return None


def _write_split(
    config: schema.RunConfig, task: str, root: location.Location, dataset: shards.Dataset, split: str
) -> HeldOut:
    sides = ("text",) if config.corpus_kind == "text" else ("source", "target")
    prefix = f"{task}." if task else ""
    files = {side: root.join("outputs", f"{prefix}{split}.{side}.txt") for side in sides}
    if not all(file.exists() for file in files.values()):
        with tempfile.TemporaryDirectory(prefix="rc-held-out-") as scratch:
            lines = _lines_of(config, task, dataset, split, Path(scratch))
            _write_sides(lines, list(files.values()), Path(scratch))
    with next(iter(files.values())).open() as file:
        num_lines = sum(1 for _ in file)
    return HeldOut(split, num_lines, files)


def _lines_of(
    config: schema.RunConfig, task: str, dataset: shards.Dataset, split: str, scratch: Path
) -> Iterator[corpus.Sides]:
    settings, where = config.tasks[task], f"corpora.{task}" if task else "corpus"
    own: corpus_settings.SourceConfig | None = getattr(settings, split)
    parts = _parts(own or settings.train, f"{where}.{split if own else 'train'}", settings, scratch)
    if own is not None:
        lines = itertools.chain.from_iterable(map(corpus.read_lines, parts))
        yield from (sides for _, sides in lines if not isinstance(sides, corpus.BadLine))
        return
    wanted = _numbers(dataset, split, task)
    line = next(wanted, None)
    for part in parts:
        if line is None or line >= part.first_line + part.num_lines:
            continue
        for number, sides in corpus.read_lines(part):
            if number == line:
                line = next(wanted, None)
                if not isinstance(sides, corpus.BadLine):
                    yield sides
    if line is not None:
        raise errors.DataError(
            f"{where}.train: has no line {line + 1}, which the dataset holds out; name the text that was prepared"
        )


def _numbers(dataset: shards.Dataset, split: str, task: str) -> Iterator[int]:
    """Yields the numbers of the lines that a split has in the training source, smallest first."""
    found = dataset.split(split, task)
    assert found is not None
    for number in range(len(dataset.index.shards(split, task))):
        yield from found.shard(number).lines.tolist()


def _parts(
    source: corpus_settings.SourceConfig, where: str, settings: corpus_settings.CorpusConfig, scratch: Path
) -> Iterator[corpus.Part]:
    """Yields the parts of a source, with line numbers over all its files."""
    staged = location.Location.parse(str(scratch))
    first_line = 0
    for group in sources.resolve(source, where, settings.sha256):
        files = tuple(sources.stage(file, staged, sources.expected_sha256(file, settings.sha256)) for file in group)
        indexes = [corpus.index_lines(file, _EVERY_LINES) for file in files]
        for part in corpus.cut_by_lines(files, indexes, settings.max_line_bytes):
            yield dataclasses.replace(part, first_line=first_line + part.first_line, columns=source.places)
        first_line += indexes[0].num_lines


def _write_sides(lines: Iterable[corpus.Sides], places: list[location.Location], scratch: Path) -> None:
    """Writes each side to its place, whole or not at all; memory does not grow with the lines."""
    paths = [scratch / f"side-{number}" for number in range(len(places))]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in paths]
        for sides in lines:
            for file, side in zip(opened, sides, strict=True):
                # A carriage return is part of a line for us; it must not end one for whoever reads the file.
                file.write(side.replace("\r", " ") + "\n")
    for path, place in zip(paths, places, strict=True):
        place.put_file_if_absent(path)
