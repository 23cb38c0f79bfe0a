"""The size of an epoch is that of the batches that are read."""

from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import training_settings
from core.data.dataset import shards
from core.training import batches, epoch_size
from tests.core.training import builders

TEXT: list[dict[str, Any]] = [
    {"num_lanes": 5, "window": 4},
    {"num_lanes": 3, "window": 7, "sampling": "random"},
    {"num_lanes": 2, "window": 4, "truncation": {"kind": "none"}},
]
PAIRS: list[dict[str, Any]] = [{"batch_tokens": 20}, {"batch_lines": 7}, {"batch_lines": 1000}]


@pytest.mark.parametrize("settings", [*TEXT, *PAIRS], ids=str)
def test_batches_are_counted_as_they_are_read(settings: dict[str, Any], tmp_path: Path) -> None:
    is_text = "num_lanes" in settings
    folder = builders.text_dataset(tmp_path, num_train=217) if is_text else builders.pairs_dataset(tmp_path)
    dataset = shards.Dataset.open(folder)
    training = training_settings.TrainingConfig.model_validate(settings)
    read = list(batches.open_batch_stream(dataset, training, 1, 0, 1).read_epoch(0, 0))
    assert epoch_size.count_batches(dataset, training, [1.0], 1) == len(read)


def test_many_batches_are_estimated_from_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path, num_train=500))
    training = training_settings.TrainingConfig(batch_tokens=20)
    exact = epoch_size.count_batches(dataset, training, [1.0], 1)
    monkeypatch.setattr(epoch_size, "MAX_COUNTED", exact // 2)
    assert epoch_size.count_batches(dataset, training, [1.0], 1) == pytest.approx(exact, rel=0.05)


def test_an_epoch_of_a_remote_dataset_is_estimated_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path, num_train=500))
    exact = epoch_size.count_batches(dataset, training_settings.TrainingConfig(batch_tokens=200), [1.0], 1)
    monkeypatch.setattr(type(dataset.folder), "is_local", property(lambda _: False))
    monkeypatch.setattr(shards.Dataset, "split", lambda *_: pytest.fail("a shard was opened"))
    for settings, expected in (({"batch_tokens": 200}, exact), ({"batch_lines": 100}, 5)):
        training = training_settings.TrainingConfig.model_validate(settings)
        assert epoch_size.count_batches(dataset, training, [1.0], 1) == pytest.approx(expected, rel=0.15)


def test_a_stream_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.text_dataset(tmp_path, num_train=20))
    with pytest.raises(errors.DataError, match="use fewer lanes"):
        epoch_size.count_batches(dataset, training_settings.TrainingConfig(num_lanes=400), [1.0], 1)
