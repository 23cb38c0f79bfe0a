"""The index of a dataset: what `index.json` says, written and read."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core import errors
from core.storage import commit

FORMAT: Final = "raycurrent-dataset"
FORMAT_VERSION: Final = 1
NAME: Final = "index.json"
SPLITS: Final = ("train", "valid", "test")
COLUMNS: Final = {"text": ("text",), "pairs": ("source", "target")}
_SHARD_NAME = re.compile(r"(train|valid|test)/[A-Za-z0-9_-][A-Za-z0-9._-]*\.arrow")


@dataclass(frozen=True)
class ShardRecord:
    """A shard as the index lists it; `tokens` by column; `task` names its corpus where there are several."""

    name: str
    rows: int
    tokens: dict[str, int]
    size_bytes: int
    sha256: str
    task: str = ""


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer of a column; columns that share one have the same record."""

    file: commit.FileRecord
    fingerprint: str
    vocabulary_size: int


@dataclass(frozen=True)
class DatasetIndex:
    """What a dataset holds and where it came from.

    `drops` counts by reason the lines that are in no shard: `lines_read` = rows of all splits + drops. `repairs`
    counts what reading removed: `bom`, byte order marks that begin a file, and `crlf`, carriage returns that end a
    line of one. `settings` are those that decided the content, and `fingerprint` is their hash. `statistics` is the
    file of word statistics, where they were asked for.
    """

    kind: str
    splits: dict[str, tuple[ShardRecord, ...]]
    lines_read: int
    drops: dict[str, int]
    sources: tuple[dict[str, Any], ...]
    tokenizers: dict[str, TokenizerRecord]
    line_end: str
    cleaning: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    statistics: commit.FileRecord | None = None
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its corpora, in their order; of a single one an empty name."""
        records = itertools.chain.from_iterable(self.splits.get(split, ()) for split in SPLITS)
        return tuple(dict.fromkeys(record.task for record in records)) or ("",)

    def shards(self, split: str, task: str | None = None) -> tuple[ShardRecord, ...]:
        """The shards of a split: of one task, or of all."""
        return tuple(record for record in self.splits.get(split, ()) if task in (None, record.task))

    def by_task(self) -> dict[str, dict[str, Any]]:
        """Lines and tokens of each split of each of several corpora; nothing of a single one."""
        return {
            task: {
                split: {"lines": self.rows(split, task), "tokens": self.tokens(split, task)} for split in self.splits
            }
            for task in self.tasks
            if task
        }

    def rows(self, split: str, task: str | None = None) -> int:
        """Counts the rows of a split."""
        return sum(record.rows for record in self.shards(split, task))

    def tokens(self, split: str, task: str | None = None) -> dict[str, int]:
        """Counts the tokens of a split by column, `<eos>` included."""
        records = self.shards(split, task)
        return {column: sum(record.tokens[column] for record in records) for column in COLUMNS[self.kind]}

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `index.json`: the same for the same dataset, whoever made it and when."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        for record in itertools.chain.from_iterable(content["splits"].values()):
            if not record["task"]:
                del record["task"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "DatasetIndex":
        """Reads the content of `index.json`.

        Raises:
            IntegrityError: a field is missing, of another type, or the numbers do not add up.
        """
        try:
            index = _parse(content, where)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise errors.IntegrityError(
                f"{where}: is no index of a dataset ({type(error).__name__}: {error}); prepare again"
            ) from error
        _check_sums(index, where)
        return index


def _parse(content: Mapping[str, Any], where: str) -> DatasetIndex:
    kind = content["kind"]
    splits = {
        split: tuple(_parse_shard(record, split, kind, where) for record in records)
        for split, records in content["splits"].items()
    }
    if set(splits) - set(SPLITS):
        raise ValueError(f"unknown split {sorted(set(splits) - set(SPLITS))[0]!r}")
    tokenizers = {
        column: TokenizerRecord(
            commit.FileRecord.from_json(content["tokenizers"][column]["file"], where),
            _text(content["tokenizers"][column]["fingerprint"]),
            _count(content["tokenizers"][column]["vocabulary_size"]),
        )
        for column in COLUMNS[kind]
    }
    return DatasetIndex(
        kind=kind,
        splits=splits,
        lines_read=_count(content["lines_read"]),
        drops={_text(reason): _count(number) for reason, number in content["drops"].items()},
        sources=tuple(dict(source) for source in content["sources"]),
        tokenizers=tokenizers,
        line_end=_text(content["line_end"]),
        cleaning=tuple(map(_text, content["cleaning"])),
        settings=dict(content["settings"]),
        fingerprint=_text(content["fingerprint"]),
        statistics=commit.FileRecord.from_json(content["statistics"], where) if content.get("statistics") else None,
        repairs={_text(what): _count(number) for what, number in content.get("repairs", {}).items()},
    )


def _parse_shard(record: Mapping[str, Any], split: str, kind: str, where: str) -> ShardRecord:
    name = _text(record["name"])
    if not _SHARD_NAME.fullmatch(name) or not name.startswith(f"{split}/"):
        raise errors.IntegrityError(f"{where}: {name!r} is no name of a shard of {split}; restore the index")
    tokens = {column: _count(record["tokens"][column]) for column in COLUMNS[kind]}
    size_bytes, sha256 = _count(record["size_bytes"]), _text(record["sha256"])
    return ShardRecord(name, _count(record["rows"]), tokens, size_bytes, sha256, _text(record.get("task", "")))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{str(value)[:40]!r} is no count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return value


def _check_sums(index: DatasetIndex, where: str) -> None:
    for split, records in index.splits.items():
        for what, values in (("name", [r.name for r in records]), ("content", [(r.task, r.sha256) for r in records])):
            if len(set(values)) < len(values):
                raise errors.IntegrityError(f"{where}: {split} lists a shard twice (same {what}); restore the index")
    kept, dropped = sum(map(index.rows, index.splits)), sum(index.drops.values())
    if index.lines_read != kept + dropped:
        raise errors.IntegrityError(
            f"{where}: {index.lines_read} lines read are not {kept} kept and {dropped} dropped; prepare again"
        )
