"""The index of a dataset is believed in nothing that it could not have written."""

from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.data.dataset import dataset_index, shards
from core.storage import control_files, location
from tests.core.training import builders


@pytest.fixture
def folder(tmp_path: Path) -> location.Location:
    return builders.text_dataset(tmp_path)


def open_changed(folder: location.Location, content: dict[str, Any]) -> shards.Dataset:
    """Opens a dataset with another index, whose own hash is right."""
    folder.join(dataset_index.NAME).replace(control_files.encode(content))
    return shards.Dataset.open(folder)


def test_names_of_shards_stay_in_the_folders_of_their_splits(folder: location.Location) -> None:
    content = control_files.read(folder.join(dataset_index.NAME))
    (shard,) = content["splits"]["train"]
    for name in ("../x.arrow", "train/../x.arrow", "/etc/x.arrow", "valid/x.arrow", "train/.x.arrow", "train/x.txt"):
        changed = {**content, "splits": {**content["splits"], "train": [{**shard, "name": name}]}}
        with pytest.raises(errors.IntegrityError, match="is not a shard name of train"):
            open_changed(folder, changed)


def test_a_shard_is_listed_once_and_the_lines_add_up(folder: location.Location) -> None:
    content = control_files.read(folder.join(dataset_index.NAME))
    (shard,) = content["splits"]["train"]
    again = {"name": "train/another.arrow"}
    for second, reason in (({}, "same name"), (again, "same content")):
        splits = {**content["splits"], "train": [shard, {**shard, **second}]}
        changed = {**content, "splits": splits, "lines_read": content["lines_read"] + shard["rows"]}
        with pytest.raises(errors.IntegrityError, match=reason):
            open_changed(folder, changed)
    with pytest.raises(errors.IntegrityError, match="lines were read, but"):
        open_changed(folder, {**content, "lines_read": content["lines_read"] + 1})


def test_a_tokenizer_is_the_one_that_its_dataset_was_made_with(folder: location.Location) -> None:
    content = control_files.read(folder.join(dataset_index.NAME))
    record = content["tokenizers"]["text"]
    for change in ({"fingerprint": "0" * 64}, {"vocabulary_size": record["vocabulary_size"] + 1}):
        changed = {**content, "tokenizers": {"text": {**record, **change}}}
        with pytest.raises(errors.IntegrityError, match="expected fingerprint"):
            open_changed(folder, changed)
    assert open_changed(folder, content).index.lines_read == content["lines_read"]
