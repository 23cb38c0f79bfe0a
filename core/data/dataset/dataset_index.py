"""The index of a dataset: content, reader and writer of `index.json`, and of the table of shards beside it.

Version 1, of releases before 0.2, has an entry of JSON for each shard; version 2 has the totals of each split and
corpus, and the hash of a table (`shard_table`). Both are read into the same tables.
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from core import errors
from core.config import corpus_settings
from core.data.dataset import arrow_file, shard_table
from core.storage import commit, control_files, location, root_layout

FORMAT: Final = "raycurrent-dataset"
FORMAT_VERSION: Final = 2
NAME: Final = root_layout.DATASET_INDEX
TABLE: Final = "shards"
SPLITS: Final = corpus_settings.SPLITS
COLUMNS: Final = {"text": ("text",), "pairs": ("source", "target")}


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer of a column; columns that share one have the same record."""

    file: commit.FileRecord
    fingerprint: str
    vocabulary_size: int


@dataclass(frozen=True)
class LengthsRecord:
    """A file with the lengths of the next rows of a split, of one corpus; see `lengths_file`."""

    file: commit.FileRecord
    rows: int
    corpus: str = ""


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
        lengths: by split, the files with the lengths of all its rows, in order; empty: they are read from the shards.
    """

    kind: str
    splits: dict[str, shard_table.ShardTable]
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
    lengths: dict[str, tuple[LengthsRecord, ...]] = dataclasses.field(default_factory=dict)

    @property
    def corpora(self) -> tuple[str, ...]:
        """The names of its corpora, in order; a single corpus has the empty name."""
        # In order of the training shards, which is that of the settings; a corpus may have lines in some splits only.
        tables = (self.splits[split] for split in SPLITS if split in self.splits)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(table.named_corpora for table in tables))) or ("",)

    def shards(self, split: str, corpus: str | None = None) -> shard_table.ShardTable:
        """Returns the shards of a split, of one corpus or of all."""
        table = self.splits.get(split)
        return shard_table.ShardTable.of([], COLUMNS[self.kind]) if table is None else table.of_corpus(corpus)

    def lengths_of(self, split: str, corpus: str | None = None) -> tuple[LengthsRecord, ...]:
        """Returns the files with the lengths of a split's rows, of one corpus or of all."""
        return tuple(record for record in self.lengths.get(split, ()) if corpus in (None, record.corpus))

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
        return self.shards(split, corpus).num_rows()

    def tokens(self, split: str, corpus: str | None = None) -> dict[str, int]:
        """Returns the number of tokens of a split by column, `<eos>` included."""
        return self.shards(split, corpus).num_tokens()

    def write_table(self, folder: location.Location) -> dict[str, Any]:
        """Writes the table of the shards into the folder of the dataset.

        Returns:
            The content of `index.json`, which names the table; it depends on the dataset alone, not on time or workers.
        """
        names = [split for split in SPLITS if split in self.splits]
        data = shard_table.write([self.splits[split] for split in names], self.corpora)
        # Not of the tables: `asdict` would copy each shard.
        content = dataclasses.asdict(dataclasses.replace(self, splits={}))
        for record in itertools.chain.from_iterable(content["lengths"].values()):
            record |= record.pop("file")
            _rename_corpus(record)
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            **content,
            "splits": {split: self._totals(split) for split in names},
            "shards": commit.put_content(folder, TABLE, ".arrow", data).to_json(),
        }

    def _totals(self, split: str) -> list[dict[str, Any]]:
        """Returns the numbers of shards, rows and tokens of each corpus of a split."""
        totals = []
        for corpus in self.splits[split].named_corpora:
            table = self.shards(split, corpus)
            total = {"shards": len(table), "rows": table.num_rows(), "tokens": table.num_tokens(), "corpus": corpus}
            totals.append(_rename_corpus(total))
        return totals

    @classmethod
    def from_json(cls, content: Mapping[str, Any], folder: location.Location) -> "DatasetIndex":
        """Returns the index of a dataset from the content of `index.json`; reads the table that it names.

        Raises:
            IntegrityError: a field is missing or of another type, the counts are inconsistent, or the table is damaged.
        """
        where = str(folder.join(NAME))
        with control_files.parsing(where, "restore it, or prepare again"):
            index = _parse(content, folder, where)
        for split, table in index.splits.items():
            table.check(split, where)
        _check_sums(index, content, where)
        return index


def _rename_corpus(record: dict[str, Any]) -> dict[str, Any]:
    # Stored as "task", the former name of one of several corpora.
    if corpus := record.pop("corpus"):
        record["task"] = corpus
    return record


def _parse(content: Mapping[str, Any], folder: location.Location, where: str) -> DatasetIndex:
    """Returns an index whose fields have the right types; raises the errors that `from_json` translates."""
    kind, version = content["kind"], content["version"]
    if set(content["splits"]) - set(SPLITS):
        raise ValueError(f"unknown split {sorted(set(content['splits']) - set(SPLITS))[0]!r}")
    columns = COLUMNS[kind]
    if version == FORMAT_VERSION:
        splits = _read_tables(content, columns, folder, where)
    elif version == 1:
        splits = {
            split: shard_table.ShardTable.of((_parse_shard(record, columns) for record in records), columns)
            for split, records in content["splits"].items()
        }
    else:
        raise ValueError(f"version {version!r} is not one that this program reads")
    tokenizers = {
        column: TokenizerRecord(
            commit.FileRecord.from_json(content["tokenizers"][column]["file"], where),
            _text(content["tokenizers"][column]["fingerprint"]),
            _count(content["tokenizers"][column]["vocabulary_size"]),
        )
        for column in columns
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
        lengths={
            split: tuple(
                LengthsRecord(
                    commit.FileRecord.from_json(record, where), _count(record["rows"]), _text(record.get("task", ""))
                )
                for record in records
            )
            for split, records in content.get("lengths", {}).items()
        },
    )


def _read_tables(
    content: Mapping[str, Any], columns: Sequence[str], folder: location.Location, where: str
) -> dict[str, shard_table.ShardTable]:
    """Returns the tables of the splits from the file that an index of version 2 names."""
    totals = {split: content["splits"][split] for split in SPLITS if split in content["splits"]}
    num_shards = {split: sum(_count(total["shards"]) for total in totals[split]) for split in totals}
    corpora = list(dict.fromkeys(_text(each.get("task", "")) for split in totals for each in totals[split]))
    record = commit.FileRecord.from_json(content["shards"], where)
    data = _read_verified(folder, record)
    return shard_table.read(data, num_shards, columns, corpora, str(folder.join(record.name)))


def _read_verified(folder: location.Location, record: commit.FileRecord) -> pa.Buffer:
    """Returns the bytes of a file of the index, verified; those of a local one are shared by all that map it."""
    path = folder.join(record.name)
    if not path.is_local:
        # By one request, since its size is known.
        data = commit.read_file(folder, record, min(record.size_bytes, control_files.MAX_MANIFEST_BYTES))
        return pa.py_buffer(data)
    if not Path(os.path.realpath(path.path)).is_relative_to(os.path.realpath(folder.path)):
        raise errors.IntegrityError(f"{path}: is a link out of the dataset; replace it by the file itself")
    return arrow_file.map_file(path, str(path), record.sha256, record.size_bytes, verify=True)


def _parse_shard(record: Mapping[str, Any], columns: Sequence[str]) -> shard_table.ShardRecord:
    """Returns a shard as an index of version 1 lists it."""
    name, sha256 = _text(record["name"]), _text(record["sha256"])
    if not shard_table.is_sha256(sha256):
        raise ValueError(f"{sha256[:80]!r} is not a SHA-256")
    tokens = {column: _count(record["tokens"][column]) for column in columns}
    size_bytes, corpus = _count(record["size_bytes"]), _text(record.get("task", ""))
    return shard_table.ShardRecord(name, _count(record["rows"]), tokens, size_bytes, sha256, corpus)


def _count(value: object) -> int:
    # True is an int, too, and JSON has it.
    if type(value) is not int or value < 0:
        raise TypeError(f"{str(value)[:40]!r} is not a count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _check_sums(index: DatasetIndex, content: Mapping[str, Any], where: str) -> None:
    """Checks that all lines read are kept or dropped, and that the totals are those of the table."""
    kept, dropped = sum(map(index.rows, index.splits)), sum(index.drops.values())
    if index.lines_read != kept + dropped:
        raise errors.IntegrityError(
            f"{where}: {index.lines_read} lines were read, but {kept} kept and {dropped} dropped; prepare again"
        )
    for split in index.splits:
        # What a page of the report shows without the table.
        if content["version"] != 1 and content["splits"][split] != index._totals(split):
            raise errors.IntegrityError(f"{where}: the totals of {split} are not those of its shards; prepare again")
        for corpus in {record.corpus for record in index.lengths.get(split, ())}:
            num_lengths = sum(record.rows for record in index.lengths_of(split, corpus))
            if num_lengths != index.rows(split, corpus):
                raise errors.IntegrityError(
                    f"{where}: {split} has {index.rows(split, corpus)} rows, but {num_lengths} lengths; prepare again"
                )
