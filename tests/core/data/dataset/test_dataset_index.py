"""The index of a dataset is believed in nothing that it could not have written."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
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


def test_values_of_other_kinds_are_refused(folder: location.Location) -> None:
    content = read(folder)
    old = version_1(folder, content)
    (entry,) = old["splits"]["train"]
    changes = ({"rows": True}, {"rows": -1}, {"size_bytes": "3"}, {"sha256": 3}, {"sha256": "0" * 63}, {"task": None})
    for change in changes:
        splits = {**old["splits"], "train": [{**entry, **change}]}
        with pytest.raises(
            errors.IntegrityError, match=r"not complete or not valid .* is not (a count|text|a SHA-256)"
        ):
            open_changed(folder, {**old, "splits": splits})
    with pytest.raises(errors.IntegrityError, match="unknown split 'dev'"):
        open_changed(folder, {**content, "splits": {**content["splits"], "dev": []}})


def test_counts_of_a_table_are_not_negative_and_its_corpora_are_listed(folder: location.Location) -> None:
    content = read(folder)
    (shard,) = shards.Dataset.open(folder).index.splits["train"]
    for change in ({"rows": -1}, {"size_bytes": -1}, {"tokens": {"text": -1}}):
        folder.join(dataset_index.NAME).replace(control_files.encode(content))
        changed = with_table(folder, content, [dataclasses.replace(shard, **change)])
        with pytest.raises(errors.IntegrityError, match="train has a negative count"):
            open_changed(folder, changed)
    for number in (-1, 1):
        batch = shard_table.ShardTable.of([shard], ("text",)).batch
        batch = batch.set_column(batch.num_columns - 1, batch.schema.field("corpus"), pa.array([number], pa.int32()))
        with pytest.raises(errors.IntegrityError, match="train has a shard of an unknown corpus"):
            shard_table.ShardTable(batch, ("text",), ("",)).check("train", "index.json")


def test_a_folder_without_an_index_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="has no finished dataset; run prepare first"):
        shards.Dataset.open(location.Location.parse(str(tmp_path)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "is missing; restore it"),
        ("link", "is a link out of the dataset"),
        ("cut", r"expected \d+ bytes, found \d+"),
        ("folder in its place", "is missing; restore it"),
        ("no folder", "is missing; restore it"),
    ],
)
def test_a_shard_that_is_not_as_listed_is_found_as_the_dataset_is_opened(
    folder: location.Location, tmp_path: Path, damage: str, message: str
) -> None:
    dataset = shards.Dataset.open(folder)
    dataset.verify()
    path = folder.join(dataset.index.splits["train"].name(0)).path
    elsewhere = path.rename(tmp_path.parent / f"{tmp_path.name}-elsewhere.arrow")
    if damage == "link":
        path.symlink_to(elsewhere)
    if damage == "cut":
        path.write_bytes(elsewhere.read_bytes()[:-1])
    if damage == "folder in its place":
        path.mkdir()
    if damage == "no folder":
        path.parent.rmdir()
    with pytest.raises(errors.IntegrityError, match=message):
        shards.Dataset.open(folder)


def test_a_flipped_bit_is_found_as_the_whole_dataset_is_verified(folder: location.Location) -> None:
    path = folder.join(shards.Dataset.open(folder).index.splits["train"].name(0)).path
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(errors.IntegrityError, match="expected SHA-256"):
        shards.Dataset.open(folder).verify()


def test_lines_and_tokens_are_counted_by_corpus_and_stored_by_the_former_name(tmp_path: Path) -> None:
    def record(name: str, corpus: str, rows: int) -> shard_table.ShardRecord:
        return shard_table.ShardRecord(name, rows, {"text": 10 * rows}, 8, "0" * 64, corpus)

    splits = {
        "train": [record("train/a.arrow", "news", 3), record("train/b.arrow", "talks", 4)],
        "valid": [record("valid/a.arrow", "talks", 1)],
    }
    tables = {split: shard_table.ShardTable.of(records, ("text",)) for split, records in splits.items()}
    index = dataset_index.DatasetIndex("text", tables, 8, {}, (), {}, "eos", (), {}, "0")
    assert index.corpora == ("news", "talks")
    assert index.by_corpus() == {
        "news": {"train": {"lines": 3, "tokens": {"text": 30}}, "valid": {"lines": 0, "tokens": {"text": 0}}},
        "talks": {"train": {"lines": 4, "tokens": {"text": 40}}, "valid": {"lines": 1, "tokens": {"text": 10}}},
    }
    stored = index.write_table(location.Location.parse(str(tmp_path)))["splits"]["valid"]
    assert stored == [{"shards": 1, "rows": 1, "tokens": {"text": 10}, "task": "talks"}]


def test_a_dataset_in_an_object_store_is_the_same_and_is_verified_there(folder: location.Location) -> None:
    store = location.Location.parse("memory://same/dataset")
    for path in folder.path.rglob("*"):
        if path.is_file():
            store.join(str(path.relative_to(folder.path))).put_if_absent(path.read_bytes())
    local, remote = shards.Dataset.open(folder), shards.Dataset.open(store)
    assert remote.index == local.index
    remote.verify()
    # A view would keep the copy of the shard on this disk.
    split = remote.split("train")
    assert split is not None
    assert all(
        row.flags.owndata for row in split.rows(np.arange(split.num_lines), dataset_index.COLUMNS[remote.kind][0])
    )
    shard = store.join(remote.index.splits["train"].name(0))
    shard.replace(shard.read_bytes()[::-1])
    with pytest.raises(errors.IntegrityError, match="expected SHA-256"):
        shards.Dataset.open(store).verify()


def test_a_table_of_shards_that_is_a_link_out_of_the_dataset_is_refused(
    folder: location.Location, tmp_path: Path
) -> None:
    table = folder.join(read(folder)["shards"]["name"]).path
    table.symlink_to(table.rename(tmp_path.parent / f"{tmp_path.name}-table.arrow"))
    with pytest.raises(errors.IntegrityError, match=r"shards-.*\.arrow: is a link out of the dataset"):
        shards.Dataset.open(folder)


def test_there_is_a_length_for_each_row(folder: location.Location) -> None:
    index = shards.Dataset.open(folder).index
    file = commit.put_content(folder, "train/lengths-00000", ".arrow", b"not read here")
    rows = index.rows("train")
    record = dataset_index.LengthsRecord(file, rows + 1)
    changed = dataclasses.replace(index, lengths={"train": (record,)}).write_table(folder)
    with pytest.raises(errors.IntegrityError, match=f"train has {rows} rows, but {rows + 1} lengths"):
        open_changed(folder, changed)


def test_the_index_of_a_dataset_that_is_prepared_again_has_a_known_version(folder: location.Location) -> None:
    with pytest.raises(errors.IntegrityError, match="version 3 is not one that this program reads"):
        dataset_index.DatasetIndex.from_json({**read(folder), "version": 3}, folder)


def test_a_target_token_belongs_to_its_corpus(folder: location.Location) -> None:
    settings = {"corpora": {"news": {"target_token": "<de>"}, "talks": {}}}
    dataset = open_changed(folder, {**read(folder), "settings": settings})
    assert [dataset.target_token(corpus) for corpus in ("news", "talks", "")] == ["<de>", None, None]
