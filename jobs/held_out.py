"""Held-out lines of a corpus as plain text, uncleaned, or rows of a series: the inputs of inference in the pipeline."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from core import errors
from core.config import corpus_settings, schema
from core.data.dataset import shards
from core.data.series import dataset as series_dataset
from core.data.text import corpus, scripts, selection, source_files, sources
from core.storage import location, node_cache, private_folders, root_layout

_PART_LINES = 1 << 16
_PROMPT_WORDS, _PROMPT_CHARACTERS = 2, 4  # of a held-out line, as the prompt of a sample


class HeldOut(NamedTuple):
    """The text of one split, with one file for each side.

    Attributes:
        split: `test`, or `valid` if there is no test split; of a series None if there is neither.
        num_lines: number of lines of each file.
        files: keys are `text`, or `source` and `target`; `series` of a series.
    """

    split: str | None
    num_lines: int
    files: dict[str, location.Location]


def write(config: schema.RunConfig, corpus_name: str = "") -> HeldOut | None:
    """Writes the held-out lines of a corpus into `outputs/` unless they are there; None if nothing is held out.

    From a separate source, all lines are taken except bad lines. From a split of the training source, the lines of the
    dataset are taken, so lines that a filter dropped are left out.

    Raises:
        DataError: the corpus does not exist any more, or has fewer lines than when it was prepared.
    """
    root = location.Location.parse(config.root, "root")
    dataset = shards.Dataset.open(
        root.join(root_layout.DATASET), cache=node_cache.NodeCache(config.cluster.cache_size_bytes)
    )
    for split in ("test", "valid"):
        if (
            dataset.split(split, corpus_name) is not None
            or getattr(config.corpora_by_name[corpus_name], split) is not None
        ):
            return _write_split(config, corpus_name, root, dataset, split)
    return None


def write_series(root: location.Location) -> HeldOut:
    """Writes the series whose forecasts are compared into `outputs/` unless it is there.

    Splits of one source are one series, so that the first held-out rows are forecast from the rows before them. A split
    with a source of its own is a series of its own.
    """
    dataset = series_dataset.open_dataset(root.join(root_layout.DATASET))
    split = next((name for name in ("test", "valid") if name in dataset.splits), None)
    source = split if split in dataset.sources else "train"
    file = root.join(root_layout.OUTPUTS, "series.parquet")
    if not file.exists():
        file.put_if_absent(dataset.to_parquet(source))
    num_rows = sum(len(dataset.splits[name]) for name in dataset.splits_of(source))
    return HeldOut(split, num_rows, {"series": file})


def _write_split(
    config: schema.RunConfig, corpus_name: str, root: location.Location, dataset: shards.Dataset, split: str
) -> HeldOut:
    sides = ("text",) if config.corpus_kind == "text" else ("source", "target")
    prefix = f"{corpus_name}." if corpus_name else ""
    files = {side: root.join(root_layout.OUTPUTS, f"{prefix}{split}.{side}.txt") for side in sides}
    # Written once: outputs are bound to the hash of these files.
    if not all(file.exists() for file in files.values()):
        with private_folders.scratch() as scratch:
            lines = _read_held_out(config, corpus_name, dataset, split, scratch)
            _write_sides(lines, list(files.values()), scratch)
    with next(iter(files.values())).open() as file:
        num_lines = sum(1 for _ in file)
    return HeldOut(split, num_lines, files)


def _read_held_out(
    config: schema.RunConfig, corpus_name: str, dataset: shards.Dataset, split: str, scratch: Path
) -> Iterator[corpus.Sides]:
    settings, setting = config.corpora_by_name[corpus_name], source_files.setting_name(corpus_name)
    separate: corpus_settings.SourceConfig | None = getattr(settings, split)
    parts = _parts(separate or settings.train, f"{setting}.{split if separate else 'train'}", settings, scratch)
    if separate is not None:
        lines = itertools.chain.from_iterable(map(corpus.read_lines, parts))
        yield from (sides for _, sides in lines if not isinstance(sides, corpus.BadLine))
        return
    # Both the wanted numbers and the lines of the source ascend, so one pass over the source finds all.
    wanted = _line_numbers(dataset, split, corpus_name)
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
            f"{setting}.train: is shorter than when it was prepared: line {line + 1} is missing; "
            "restore the original file"
        )


def _line_numbers(dataset: shards.Dataset, split: str, corpus_name: str) -> Iterator[int]:
    """Yields the numbers of a split's lines in the training source, in ascending order."""
    held_out = dataset.split(split, corpus_name)
    assert held_out is not None
    for number in range(len(dataset.index.shards(split, corpus_name))):
        yield from held_out.shard(number).lines.tolist()


def _parts(
    source: corpus_settings.SourceConfig, setting: str, settings: corpus_settings.CorpusConfig, scratch: Path
) -> Iterator[corpus.LineRange]:
    """Yields the parts of a source; line numbers continue over all its files."""
    staged = location.Location.parse(str(scratch))
    first_line = 0
    for group in source_files.resolve(source, setting, settings.sha256):
        files = tuple(
            sources.stage(file, staged, source_files.expected_sha256(file, settings.sha256)) for file in group
        )
        indexes = [corpus.index_lines(file, _PART_LINES) for file in files]
        for part in corpus.cut_by_lines(files, indexes, settings.max_line_bytes):
            yield dataclasses.replace(part, first_line=first_line + part.first_line, columns=source.column_indices)
        # Files of a group are aligned, so that the first counts for all.
        first_line += indexes[0].num_lines


def _write_sides(lines: Iterable[corpus.Sides], destinations: list[location.Location], scratch: Path) -> None:
    """Writes each side to its file, atomically; memory does not grow with the number of lines."""
    paths = [scratch / f"side-{number}" for number in range(len(destinations))]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in paths]
        for sides in lines:
            for file, side in zip(opened, sides, strict=True):
                # A carriage return within a line is text here, but ends a line for most other readers of the file.
                file.write(side.replace("\r", " ") + "\n")
    for path, destination in zip(paths, destinations, strict=True):
        destination.put_file_if_absent(path)


def prompts(text: location.Location, count: int, last: bool) -> list[str]:
    """Returns the beginnings, or the ends (`last`), of `count` lines of all lengths that are longer than a prompt.

    A prompt is two words, or four characters where the text has no spaces.
    """
    with text.open() as file:
        has_spaces = scripts.without_spaces(line.decode("utf-8", "replace") for line in file) is None
    split, joint, size = (str.split, " ", _PROMPT_WORDS) if has_spaces else (list, "", _PROMPT_CHARACTERS)
    numbers, lengths = [], []
    for number, units in enumerate(_split_lines(text, split)):
        if len(units) > size:
            numbers.append(number)
            lengths.append(len(units))
    chosen = {numbers[index] for index in selection.draw_by_length(lengths, count)}
    lines = [units for number, units in enumerate(_split_lines(text, split)) if number in chosen]
    return [joint.join(units[-size:] if last else units[:size]) for units in lines]


def _split_lines(text: location.Location, split: Callable[[str], list[str]]) -> Iterator[list[str]]:
    with text.open() as file:
        for line in file:
            yield split(line.decode("utf-8", "replace").strip())
