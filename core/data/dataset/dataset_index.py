"""The index of a dataset: content, reader and writer of `index.json`."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core import errors
from core.storage import commit, control_files

FORMAT: Final = "raycurrent-dataset"
FORMAT_VERSION: Final = 1
NAME: Final = "index.json"
SPLITS: Final = ("train", "valid", "test")
COLUMNS: Final = {"text": ("text",), "pairs": ("source", "target")}
# No dot at the beginning of the file name: neither `..` nor a hidden file.
_SHARD_NAME = re.compile(r"(train|valid|test)/[A-Za-z0-9_-][A-Za-z0-9._-]*\.arrow")


@dataclass(frozen=True)
class ShardRecord:
    """A shard as the index lists it; `tokens` by column; `corpus` is its name if the dataset has several."""

    name: str
    rows: int
    tokens: dict[str, int]
    size_bytes: int
    sha256: str
    corpus: str = ""

    @classmethod
    def from_commit(cls, record: Mapping[str, Any]) -> "ShardRecord":
        """Returns the record of a shard in the commit record of a part, in which the corpus is stored as `task`."""
        return cls(**{"corpus" if name == "task" else name: value for name, value in record.items()})


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer of a column; columns that share one have the same record."""

    file: commit.FileRecord
    fingerprint: str
    vocabulary_size: int


@dataclass(frozen=True)
class DatasetIndex:
    """Content and origin of a dataset.

    Attributes:
        kind: `text` or `pairs`.
        splits: the shards of each split.
        lines_read: number of lines read: the rows of all splits plus all `drops`.
        drops: by reason, the number of lines that are in no shard.
        sources: the source files and their hashes.
        tokenizers: by column.
        line_end: separator of the lines of a text.
        cleaning: the cleaning steps.
        settings: those that determined the content.
        fingerprint: hash of the settings and sources.
        statistics: file of the word statistics, if they were requested.
        repairs: counts of what reading removed: `bom`, byte order marks at the beginning of a file, and `crlf`,
            carriage returns at the end of a line.
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
    def corpora(self) -> tuple[str, ...]:
        """The names of its corpora, in order; a single corpus has the empty name."""
        # In order of the training shards, which is that of the settings; a corpus may have lines in some splits only.
        records = itertools.chain.from_iterable(self.splits.get(split, ()) for split in SPLITS)
        return tuple(dict.fromkeys(record.corpus for record in records)) or ("",)

    def shards(self, split: str, corpus: str | None = None) -> tuple[ShardRecord, ...]:
        """Returns the shards of a split, of one corpus or of all."""
        return tuple(record for record in self.splits.get(split, ()) if corpus in (None, record.corpus))

    def by_corpus(self) -> dict[str, dict[str, Any]]:
        """Returns lines and tokens by corpus and split; nothing for a single corpus."""
        return {
            corpus: {
                split: {"lines": self.rows(split, corpus), "tokens": self.tokens(split, corpus)}
                for split in self.splits
            }
            for corpus in self.corpora
            if corpus
        }

    def rows(self, split: str, corpus: str | None = None) -> int:
        """Returns the number of rows of a split, of one corpus or of all."""
        return sum(record.rows for record in self.shards(split, corpus))

    def tokens(self, split: str, corpus: str | None = None) -> dict[str, int]:
        """Returns the number of tokens of a split by column, `<eos>` included."""
        records = self.shards(split, corpus)
        return {column: sum(record.tokens[column] for record in records) for column in COLUMNS[self.kind]}

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `index.json`; it depends on the dataset alone, not on time or workers."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        for record in itertools.chain.from_iterable(content["splits"].values()):
            # Stored as "task", the former name of one of several corpora.
            if corpus := record.pop("corpus"):
                record["task"] = corpus
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "DatasetIndex":
        """Returns the index of a dataset from the content of `index.json`.

        Raises:
            IntegrityError: a field is missing or of another type, or the counts are inconsistent.
        """
        with control_files.parsing(where, "restore it, or prepare again"):
            index = _parse(content, where)
        _check_sums(index, where)
        return index


def _parse(content: Mapping[str, Any], where: str) -> DatasetIndex:
    """Returns an index whose fields have the right types; raises the errors that `from_json` translates."""
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
    # Names are restricted, so that a forged index cannot lead out of the dataset's folder.
    if not _SHARD_NAME.fullmatch(name) or not name.startswith(f"{split}/"):
        raise errors.IntegrityError(f"{where}: {name!r} is not a shard name of {split}; restore the index")
    tokens = {column: _count(record["tokens"][column]) for column in COLUMNS[kind]}
    size_bytes, sha256 = _count(record["size_bytes"]), _text(record["sha256"])
    return ShardRecord(name, _count(record["rows"]), tokens, size_bytes, sha256, _text(record.get("task", "")))


def _count(value: object) -> int:
    # True is an int, too, and JSON has it.
    if type(value) is not int or value < 0:
        raise TypeError(f"{str(value)[:40]!r} is not a count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _check_sums(index: DatasetIndex, where: str) -> None:
    """Checks that no shard is listed twice, and that all lines read are kept or dropped."""
    for split, records in index.splits.items():
        # Shards hold line numbers, so no two of a corpus are equal: a copy of one would count its lines twice.
        names, contents = [r.name for r in records], [(r.corpus, r.sha256) for r in records]
        for same, values in (("name", names), ("content", contents)):
            if len(set(values)) < len(values):
                raise errors.IntegrityError(f"{where}: {split} lists a shard twice (same {same}); restore the index")
    kept, dropped = sum(map(index.rows, index.splits)), sum(index.drops.values())
    if index.lines_read != kept + dropped:
        raise errors.IntegrityError(
            f"{where}: {index.lines_read} lines were read, but {kept} kept and {dropped} dropped; prepare again"
        )
