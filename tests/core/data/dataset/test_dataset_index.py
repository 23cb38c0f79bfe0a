"""The index of a dataset is believed in nothing that it could not have written."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from core import errors
from core.data.dataset import dataset_index, shard_table, shards
from core.storage import commit, control_files, location
from tests.core.training import builders


@pytest.fixture
def folder(tmp_path: Path) -> location.Location:
    return builders.text_dataset(tmp_path)


def read(folder: location.Location) -> dict[str, Any]:
    return control_files.read(folder.join(dataset_index.NAME))


def open_changed(folder: location.Location, content: dict[str, Any]) -> shards.Dataset:
    """Opens a dataset with another index, whose own hash is right."""
    folder.join(dataset_index.NAME).replace(control_files.encode(content))
    return shards.Dataset.open(folder)


def with_table(folder: location.Location, content: dict[str, Any], train: list[shard_table.ShardRecord]) -> Any:
    """Returns the index with another table of training shards, whose hash is right, and with its totals."""
    index = shards.Dataset.open(folder).index
    table = shard_table.ShardTable.of(train, ("text",))
    lines_read = content["lines_read"] - index.rows("train") + table.num_rows()
    changed = dataclasses.replace(index, splits={**index.splits, "train": table}, lines_read=lines_read)
    return changed.write_table(folder)


def version_1(folder: location.Location, content: dict[str, Any]) -> dict[str, Any]:
    """Returns the index in the form of releases before 0.2: with an entry for each shard."""
    index = shards.Dataset.open(folder).index
    splits = {}
    for split, table in index.splits.items():
        entries = [dataclasses.asdict(record) for record in table]
        splits[split] = [{**entry, "task": name} if (name := entry.pop("corpus")) else entry for entry in entries]
    kept = {name: value for name, value in content.items() if name not in ("shards", "lengths")}
    return {**kept, "version": 1, "splits": splits}


BAD_NAMES = (
    *("../x.arrow", "train/../x.arrow", "/etc/x.arrow", "valid/x.arrow", "train/.x.arrow", "train/x.txt"),
    *("train/x.arrow\n", "x\ntrain/x.arrow"),
)


@pytest.mark.parametrize("version", [1, 2])
def test_names_of_shards_stay_in_the_folders_of_their_splits(folder: location.Location, version: int) -> None:
    content = read(folder)
    old = version_1(folder, content)
    (shard,) = shards.Dataset.open(folder).index.splits["train"]
    for name in BAD_NAMES:
        if version == 1:
            (entry,) = old["splits"]["train"]
            changed = {**old, "splits": {**old["splits"], "train": [{**entry, "name": name}]}}
        else:
            folder.join(dataset_index.NAME).replace(control_files.encode(content))
            changed = with_table(folder, content, [dataclasses.replace(shard, name=name)])
        with pytest.raises(errors.IntegrityError, match="is not a shard name of train"):
            open_changed(folder, changed)


@pytest.mark.parametrize("version", [1, 2])
def test_a_shard_is_listed_once_and_the_lines_add_up(folder: location.Location, version: int) -> None:
    content = read(folder)
    old = version_1(folder, content)
    (shard,) = shards.Dataset.open(folder).index.splits["train"]
    again = {"name": "train/another.arrow"}
    for second, reason in (({}, "same name"), (again, "same content")):
        if version == 1:
            (entry,) = old["splits"]["train"]
            splits = {**old["splits"], "train": [entry, {**entry, **second}]}
            changed = {**old, "splits": splits, "lines_read": old["lines_read"] + shard.rows}
        else:
            folder.join(dataset_index.NAME).replace(control_files.encode(content))
            changed = with_table(
                folder, content, [shard, dataclasses.replace(shard, name=second.get("name", shard.name))]
            )
        with pytest.raises(errors.IntegrityError, match=reason):
            open_changed(folder, changed)
    with pytest.raises(errors.IntegrityError, match="lines were read, but"):
        open_changed(folder, {**content, "lines_read": content["lines_read"] + 1})


def test_a_tokenizer_is_the_one_that_its_dataset_was_made_with(folder: location.Location) -> None:
    content = read(folder)
    record = content["tokenizers"]["text"]
    for change in ({"fingerprint": "0" * 64}, {"vocabulary_size": record["vocabulary_size"] + 1}):
        changed = {**content, "tokenizers": {"text": {**record, **change}}}
        with pytest.raises(errors.IntegrityError, match="expected fingerprint"):
            open_changed(folder, changed)
    assert open_changed(folder, content).index.lines_read == content["lines_read"]


def test_an_index_of_version_1_is_read_as_the_same_tables(tmp_path: Path) -> None:
    joined = builders.several(
        tmp_path / "joined",
        first=builders.text_dataset(tmp_path / "first"),
        second=builders.text_dataset(tmp_path / "second", num_train=77),
    )
    for folder in (joined, builders.pairs_dataset(tmp_path / "pairs")):
        new = shards.Dataset.open(folder).index
        old = open_changed(folder, version_1(folder, read(folder))).index
        assert old.splits == new.splits
        assert old.corpora == new.corpora
        assert old.by_corpus() == new.by_corpus()
        assert [old.tokens(split) for split in old.splits] == [new.tokens(split) for split in old.splits]


def test_the_table_is_verified_before_it_is_read(folder: location.Location) -> None:
    content = read(folder)
    file = folder.join(content["shards"]["name"]).path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(errors.IntegrityError, match=r"shards-.*\.arrow: expected SHA-256"):
        shards.Dataset.open(folder)
    file.unlink()
    with pytest.raises(errors.IntegrityError, match=r"shards-.*\.arrow: is missing"):
        shards.Dataset.open(folder)


def test_a_table_with_a_right_hash_is_refused_if_it_is_another_one(folder: location.Location) -> None:
    content = read(folder)
    for number in ("shards", "rows"):
        total = content["splits"]["train"][0]
        changed = {**content, "splits": {**content["splits"], "train": [{**total, number: total[number] + 1}]}}
        with pytest.raises(errors.IntegrityError, match=r"expected 3 shards, found 2|totals of train"):
            open_changed(folder, changed)
    sink = pa.BufferOutputStream()
    table = pa.table({"name": ["train/x.arrow"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    record = commit.put_content(folder, dataset_index.TABLE, ".arrow", bytes(sink.getvalue()))
    with pytest.raises(errors.IntegrityError, match="expected columns"):
        open_changed(folder, {**content, "shards": record.to_json()})


def test_an_index_of_a_later_version_is_refused(folder: location.Location) -> None:
    with pytest.raises(errors.IntegrityError, match="has version 3 of raycurrent-dataset"):
        open_changed(folder, {**read(folder), "version": 3})
