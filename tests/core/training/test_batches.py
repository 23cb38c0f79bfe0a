"""Batches of ranks, their order over steps, and scores of held-out data."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import training_settings
from core.data.batching import buckets
from core.data.dataset import shards
from core.models import factory
from core.training import batches, collective, losses, progress, randomness, validation
from tests.core.training import builders


def _config(**settings: object) -> training_settings.TrainingConfig:
    return training_settings.TrainingConfig.model_validate({"num_lanes": 5, "window": 4, **settings})


def _batch_streams(
    dataset: shards.Dataset, config: training_settings.TrainingConfig, world_size: int
) -> list[batches.BatchStream]:
    return [batches.open_batch_stream(dataset, config, 1, rank, world_size) for rank in range(world_size)]


@pytest.mark.parametrize("settings", [{}, {"sampling": "random"}, {"truncation": {"kind": "none"}}])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_batches_of_all_ranks_are_those_of_one_rank(tmp_path: Path, settings: dict[str, str], world_size: int) -> None:
    dataset = shards.Dataset.open(builders.text_dataset(tmp_path, num_train=217))
    alone, *others = (_batch_streams(dataset, _config(**settings), size) for size in (1, world_size))
    for epoch in range(2):
        whole = list(alone[0].read_epoch(epoch, 0))
        shares = [list(batch_stream.read_epoch(epoch, 0)) for batch_stream in others[0]]
        assert {len(share) for share in shares} == {len(whole)}
        for number, batch in enumerate(whole):
            parts = [share[number] for share in shares]
            targets = [part.content.targets_N for part in parts if part.num_own]
            assert torch.equal(torch.cat(targets), batch.content.targets_N)
            assert {part.num_targets for part in parts} == {batch.num_targets} == {batch.content.targets_N.numel()}
            assert sum(part.num_own for part in parts) == batch.num_targets
            assert {(part.consumed, part.fraction) for part in parts} == {(batch.consumed, batch.fraction)}
        assert whole[-1].fraction == 1.0


def test_all_ranks_together_have_every_pair_once(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path))
    config = _config(batch_tokens=20)
    split = dataset.split("train")
    assert split is not None
    seen: list[tuple[int, ...]] = []
    for batch_stream in _batch_streams(dataset, config, 3):
        for batch in batch_stream.read_epoch(4, 0):
            content = batch.content
            assert isinstance(content, batches.PairsContent)
            assert batch.num_own in (0, len(content.targets_N))
            if batch.num_own:
                rows = zip(content.source_BS.tolist(), content.source_lengths_B.tolist(), strict=True)
                seen += [tuple(row[:length]) for row, length in rows]
    everything = [tuple(row.tolist()) for row in split.rows(np.arange(split.num_lines), "source")]
    assert sorted(seen) == sorted(everything)
    assert len(set(everything)) < len(everything), "some sources come twice, and none is lost for that"
    assert batches.open_batch_stream(dataset, config, 1, 0, 1).count_skipped_targets(4) == 0


def test_bpe_dropout_cuts_words_anew_in_each_epoch_and_alike_on_all_ranks(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.subwords_dataset(tmp_path))
    made = dataset.codecs["source"].tokenizer
    config = _config(batch_tokens=60, bpe_dropout=0.2)
    num_targets = []
    for epoch in range(3):
        ranks = [list(batch_stream.read_epoch(epoch, 0)) for batch_stream in _batch_streams(dataset, config, 3)]
        lines = []
        for batch in zip(*ranks, strict=True):
            assert {share.num_targets for share in batch} == {sum(share.num_own for share in batch)}
            for share in batch:
                assert isinstance(share.content, batches.PairsContent)
                rows = share.content.source_BS.tolist() if share.num_own else []
                lines += [made.decode(row) for row in rows]
        num_targets.append(sum(batch.num_targets for batch in ranks[0]))
        split = dataset.split("train")
        assert split is not None
        plain = [row.tolist() for row in split.rows(np.arange(60), "source")]
        assert sorted(lines) == sorted(map(made.decode, plain))
    assert len(set(num_targets)) == 3, "each epoch has pieces of its own"
    assert min(num_targets) > sum(map(len, plain))


@pytest.mark.parametrize(
    "settings", [{}, {"sampling": "random"}, {"truncation": {"kind": "none"}}, {"truncation": {"kind": "variable"}}]
)
def test_skipped_targets_are_those_in_no_batch(tmp_path: Path, settings: dict[str, Any]) -> None:
    dataset = shards.Dataset.open(builders.text_dataset(tmp_path, num_train=130))
    (batch_stream,) = _batch_streams(dataset, _config(**settings), 1)
    for epoch in range(4):
        served = sum(batch.num_targets for batch in batch_stream.read_epoch(epoch, 0))
        assert served + batch_stream.count_skipped_targets(epoch) == 130 - 1


@pytest.mark.parametrize("kind", ["sequential", "random", "variable", "cuts", "pairs", "subwords"])
def test_an_epoch_resumes_from_any_position(tmp_path: Path, kind: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "random": {"sampling": "random"},
        "variable": {"truncation": {"kind": "variable"}, "window": 12},
        "cuts": {"truncation": {"kind": "random", "cut_every": 2, "cut_probability": 0.5}},
    }
    if kind == "pairs":
        dataset, config = builders.pairs_dataset(tmp_path), _config(batch_lines=4)
    elif kind == "subwords":
        dataset, config = builders.subwords_dataset(tmp_path), _config(batch_tokens=60, bpe_dropout=0.2)
    else:
        dataset, config = builders.text_dataset(tmp_path, num_train=130), _config(**settings.get(kind, {}))
    (batch_stream,) = _batch_streams(shards.Dataset.open(dataset), config, 1)
    for epoch in (0, 3):
        whole = list(batch_stream.read_epoch(epoch, 0))
        for done, batch in enumerate(whole, start=1):
            rest = list(batch_stream.read_epoch(epoch, batch.consumed))
            assert len(rest) == len(whole) - done
            for batch, expected in zip(rest, whole[done:], strict=True):
                assert batch[1:] == expected[1:]
                for value, expected_value in zip(batch.content, expected.content, strict=True):
                    if isinstance(value, torch.Tensor) and isinstance(expected_value, torch.Tensor):
                        assert torch.equal(value, expected_value)
                    else:
                        assert value == expected_value


def test_a_resumed_epoch_of_pairs_is_planned_from_its_pool_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "RUN_LINES", 2)
    monkeypatch.setattr(buckets, "SHUFFLE_LINES", 12)
    monkeypatch.setattr(buckets, "POOL_LINES", 5)
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path))
    (batch_stream,) = _batch_streams(dataset, _config(batch_lines=4), 1)
    whole = list(batch_stream.read_epoch(1, 0))
    assert len({batch.pool for batch in whole}) > 3
    assert any(batch.pool.carried for batch in whole)
    for done, batch in enumerate(whole, start=1):
        stored = json.loads(json.dumps(progress.CorpusState(1, batch.consumed, pool=batch.pool).to_json()))
        position = progress.CorpusState.from_json(stored)
        rest = list(batch_stream.read_epoch(position.epoch, position.consumed, position.pool))
        assert [batch[1:] for batch in rest] == [batch[1:] for batch in whole[done:]]
        for resumed, expected in zip(rest, whole[done:], strict=True):
            assert isinstance(resumed.content, batches.PairsContent)
            assert isinstance(expected.content, batches.PairsContent)
            assert all(map(torch.equal, resumed.content, expected.content))


def test_micro_batches_left_at_the_end_of_an_epoch_are_a_step() -> None:
    steps = batches.steps([Batches(5)], [progress.CorpusState(epoch=3, consumed=1)], 2)
    taken = [[(batch.epoch, batch.consumed) for batch in next(steps)] for _ in range(4)]
    assert taken == [[(3, 2), (3, 3)], [(3, 4), (4, 0)], [(4, 1), (4, 2)], [(4, 3), (4, 4)]]
    assert [(batch.epoch, batch.ends_epoch) for batch in next(steps)] == [(5, True)]
    with pytest.raises(errors.DataError, match="gives no batch"):
        next(batches.steps([Batches(0)], [progress.CorpusState()], 1))


def test_each_corpus_repeats_at_its_own_pace() -> None:
    """Three batches and five: after two epochs of the longer the shorter is in its fourth."""
    steps = batches.steps([Batches(3), Batches(5)], [progress.CorpusState(), progress.CorpusState()], 1)
    taken = [next(steps) for _ in range(10)]
    assert all([batch.corpus for batch in step] == [0, 1] for step in taken)
    assert [step[0].consumed for step in taken] == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert [step[1].consumed for step in taken] == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert [batch.epoch for batch in taken[-1]] == [3, 2]
    at = [progress.CorpusState(batch.epoch, batch.consumed) for batch in taken[3]]
    again = batches.steps([Batches(3), Batches(5)], at, 1)
    assert [next(again) for _ in range(6)] == taken[4:]


class Batches:
    """A batch stream with a given number of batches in each epoch."""

    carries_state = False
    content = batches.make_placeholder("text")

    def __init__(self, count: int) -> None:
        self._count = count

    def read_epoch(
        self, epoch: int, consumed: int, pool: buckets.PoolStart = buckets.BEGINNING
    ) -> Iterator[batches.Batch]:
        for number in range(consumed + 1, self._count + 1):
            yield batches.Batch(self.content, epoch, 1, number, number / self._count)

    def count_skipped_targets(self, epoch: int) -> int:
        return 0


def test_a_training_split_without_lines_is_refused(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path, num_train=0))
    with pytest.raises(errors.DataError, match="training split"):
        _batch_streams(dataset, _config(batch_lines=2), 1)


@pytest.mark.parametrize("num_valid", [2, 4, 47, 91])
@pytest.mark.parametrize("world_size", [1, 3])
def test_validation_of_text_scores_every_token_but_the_first(tmp_path: Path, num_valid: int, world_size: int) -> None:
    """Compared with scoring lane by lane: the last lane also holds the remainder that does not fill all lanes."""
    dataset = shards.Dataset.open(builders.text_dataset(tmp_path, num_valid=num_valid))
    split = dataset.split("valid")
    assert split is not None
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, None))
    length = (num_valid - 1) // 5
    tokens = torch.from_numpy(split.stream()[:].astype(np.int64))
    nll = 0.0
    for lane in range(5):
        stop = num_valid if lane == 4 else (lane + 1) * length + 1
        own = tokens[lane * length : stop]
        if len(own) > 1:
            nll += learned.score(batches.TextContent(own[None, :-1], own[1:]), None).nll.item()
    shares = [
        validation.validate(learned, pieces, torch.device("cpu"), "fp32", collective.SingleProcess(), 0)
        for rank in range(world_size)
        if (pieces := validation.held_out_batches(dataset, _config(), rank, world_size))
        and (length or rank == world_size - 1)
    ]
    assert sum(share.num_tokens for share in shares) == num_valid - 1
    assert sum(share.nll_nats * share.num_tokens for share in shares) == pytest.approx(nll, rel=1e-5)


def test_validation_of_pairs_scores_every_target_once(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path))
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(builders.PAIRS, {"source": 13, "target": 13}, 1))

    def score(rank: int, world_size: int, batch_lines: int) -> tuple[float, float, int]:
        config = _config(batch_lines=batch_lines)
        pieces = validation.held_out_batches(dataset, config, rank, world_size)
        result = validation.validate(learned, pieces, torch.device("cpu"), "fp32", collective.SingleProcess(), 0)
        return result.nll_nats * result.num_tokens, result.accuracy * result.num_tokens, result.num_tokens

    split = dataset.split("valid")
    assert split is not None
    whole = score(0, 1, 100)
    assert whole[2] == split.num_tokens("target")
    shares = [score(rank, 2, 3) for rank in range(2)]
    assert [sum(column) for column in zip(*shares, strict=True)] == pytest.approx(list(whole), rel=1e-5)


def test_validation_counts_targets_outside_the_vocabulary() -> None:
    learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, None))
    content = batches.TextContent(torch.tensor([[0, 3, 0, 5]]), torch.tensor([3, 0, 5, 0]))
    pieces = iter([validation.HeldOutBatch(content)])
    result = validation.validate(learned, pieces, torch.device("cpu"), "fp32", collective.SingleProcess(), 0)
    assert (result.num_unk, result.num_tokens) == (2, 4)
    assert progress.Validation.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_validation_split_without_targets_is_refused(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.text_dataset(tmp_path, num_valid=1))
    learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, None))
    pieces = validation.held_out_batches(dataset, _config(), 0, 1)
    with pytest.raises(errors.DataError, match="no token to score"):
        validation.validate(learned, pieces, torch.device("cpu"), "fp32", collective.SingleProcess(), 0)


def test_random_numbers_depend_on_seed_step_and_rank_alone() -> None:
    def draw(seed: int, step: int, rank: int) -> tuple[float, ...]:
        randomness.seed_step(seed, step, rank)
        return tuple(torch.rand(2).tolist())

    asked = list(itertools.product((0, 1, 12), (0, 1, 23), (0, 1, 3)))
    torch.manual_seed(5)
    first = [draw(*arguments) for arguments in asked]
    torch.manual_seed(6)
    assert [draw(*arguments) for arguments in reversed(asked)] == first[::-1]
    assert len(set(first)) == len(asked)
