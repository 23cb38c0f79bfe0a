"""What a rank computes, batch by batch, from any place in an epoch on.

The order of data is that of all ranks together, so a place in it is a number that does not depend on how many
ranks there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from core import errors
from core.config import training_settings
from core.data.batching import buckets, lanes, shuffling
from core.data.dataset import shards
from core.data.tokens import bpe_dropout
from core.training import progress, truncation


class TextContent(NamedTuple):
    """A window of some lanes; all targets are valid, row after row. The weights are those of random truncation."""

    inputs_BT: Tensor
    targets_N: Tensor
    weights_T: Sequence[float] = ()


class PairsContent(NamedTuple):
    """Padded pairs; `valid_N` are the places of the valid targets in the rows laid end to end."""

    source_BS: Tensor
    source_lengths_B: Tensor
    inputs_BT: Tensor
    valid_N: Tensor
    targets_N: Tensor


Content = TextContent | PairsContent


class Batch(NamedTuple):
    """A rank's share of a batch.

    `num_targets` counts the valid targets of all ranks. `num_own` are this rank's; with 0 of them the content is a
    row that counts for nothing, so that the rank takes part in what all ranks do. `consumed` is the place in the
    epoch after it, and `fraction` the part of the epoch that is done then. The learning rate of a step is multiplied
    by the mean `rate_scale` of its batches. Of several tasks, `task` is the number of the one that it belongs to;
    `passes` are the passes over its data that are done after it, and `ends_pass` says that it is the last of one.
    """

    content: Content
    num_targets: int
    num_own: int
    consumed: int
    fraction: float
    rate_scale: float = 1.0
    task: int = 0
    passes: int = 0
    ends_pass: bool = False


class Source(Protocol):
    """Gives the batches of a rank."""

    @property
    def carries_state(self) -> bool:
        """Whether the state after a batch is that before the next one."""

    def epoch(self, epoch: int, consumed: int) -> Iterator[Batch]:
        """Yields the batches of an epoch from a place on."""

    def left_out(self, epoch: int) -> int:
        """The targets of all ranks that no batch of an epoch has."""


class SequentialLanes:
    """Windows of lanes in order: the state of one batch is that before the next."""

    carries_state = True

    def __init__(
        self, stream: lanes.Stream, training: training_settings.TrainingConfig, seed: int, rank: int, world_size: int
    ) -> None:
        self._stream, self._training, self._seed = stream, training, seed
        self._lanes = lanes.lanes_of_rank(rank, world_size, training.num_lanes)

    def epoch(self, epoch: int, consumed: int) -> Iterator[Batch]:
        """Yields the windows of an epoch; `consumed` counts the tokens of a lane."""
        training, seed = self._training, self._seed
        offset = lanes.epoch_offset(seed, epoch, training.window)
        length = lanes.lane_length(len(self._stream), training.num_lanes, offset)
        base = truncation.window(training, length)

        def size_at(begin: int) -> int:
            is_variable = training.truncation == "variable"
            return truncation.variable_window(base, seed, epoch, begin) if is_variable else base

        begin = consumed
        for found in lanes.variable_windows(self._stream, training.num_lanes, self._lanes, size_at, offset, consumed):
            batch = text_batch(found, found.stop / length)
            yield _truncated(batch, training, seed, epoch, begin)._replace(rate_scale=size_at(begin) / base)
            begin = found.stop

    def left_out(self, epoch: int) -> int:
        """Those before the offset, and what does not fill all lanes."""
        offset = lanes.epoch_offset(self._seed, epoch, self._training.window)
        return lanes.left_out(len(self._stream), self._training.num_lanes, offset)


class RandomWindows:
    """Windows from all over the stream; each row starts from the zero state."""

    carries_state = False

    def __init__(
        self, stream: lanes.Stream, training: training_settings.TrainingConfig, seed: int, rank: int, world_size: int
    ) -> None:
        self._stream, self._training, self._seed = stream, training, seed
        self._lanes = lanes.lanes_of_rank(rank, world_size, training.num_lanes)

    def epoch(self, epoch: int, consumed: int) -> Iterator[Batch]:
        """Yields the batches of an epoch; `consumed` counts the tokens of a lane."""
        num_lanes, window = self._training.num_lanes, self._training.window
        offset = lanes.epoch_offset(self._seed, epoch, window)
        num_batches = -(-((len(self._stream) - 1 - offset) // window) // num_lanes)
        found_windows = lanes.random_windows(self._stream, num_lanes, self._lanes, window, self._seed, epoch, consumed)
        for found in found_windows:
            batch = text_batch(found, found.stop / (num_batches * window))
            yield _truncated(batch, self._training, self._seed, epoch, found.stop - window)

    def left_out(self, epoch: int) -> int:
        """Those before the offset, and what does not fill a window."""
        offset = lanes.epoch_offset(self._seed, epoch, self._training.window)
        return offset + (len(self._stream) - 1 - offset) % self._training.window


def _truncated(batch: Batch, training: training_settings.TrainingConfig, seed: int, epoch: int, start: int) -> Batch:
    """The batch with the weights of random truncation in its content."""
    content = batch.content
    assert isinstance(content, TextContent)
    weights_T = truncation.weights(training, seed, epoch, start, content.inputs_BT.shape[1])
    return batch._replace(content=content._replace(weights_T=weights_T)) if weights_T else batch


class BucketedPairs:
    """Pairs of like length; `consumed` counts batches. With cutters, words are cut otherwise in each epoch."""

    carries_state = False

    def __init__(
        self,
        split: buckets.Split,
        training: training_settings.TrainingConfig,
        ids: "PairsIds",
        seed: int,
        rank: int,
        world_size: int,
        cutters: Mapping[str, bpe_dropout.Cutter] | None = None,
    ) -> None:
        self._split, self._training, self._ids, self._seed = split, training, ids, seed
        self._rank, self._world_size = rank, world_size
        self._cutters = cutters

    def epoch(self, epoch: int, consumed: int) -> Iterator[Batch]:
        """Yields this rank's share of each planned batch from number `consumed` on."""
        split = bpe_dropout.Recut(self._split, self._cutters, self._seed, epoch) if self._cutters else self._split
        plans = buckets.plan(split, self._seed, epoch, self._training.batch_tokens, self._training.batch_lines)
        for number, plan in enumerate(plans):
            if number < consumed:
                continue
            own = buckets.share(plan, self._rank, self._world_size)
            # Recurrent calls want at least one row: a rank without its own computes one that counts for nothing.
            pairs = buckets.collate(split, own if len(own) else plan.lines[:1], self._ids.pad, self._ids.bos)
            content, num_valid = pairs_content(pairs, is_counted=len(own) > 0)
            yield Batch(content, plan.num_targets, num_valid, number + 1, plan.fraction)

    def left_out(self, epoch: int) -> int:  # noqa: ARG002
        """None: an epoch has every pair."""
        return 0


def steps(sources: Sequence[Source], at: Sequence[progress.Task], accumulate: int) -> Iterator[list[Batch]]:
    """Yields the micro-batches of each step, from where each task stands on, without an end.

    A step has `accumulate` batches of every task, or fewer where an epoch ends with it. Each task goes round its own
    data at its own pace; an epoch ends when the one that has gone round least often has gone round once more.

    Raises:
        DataError: there is no batch in the data of a task.
    """
    found = [
        _round_and_round(source, number, where) for number, (source, where) in enumerate(zip(sources, at, strict=True))
    ]
    passes = [where.passes for where in at]
    while True:
        epoch, step = min(passes), list[Batch]()
        while min(passes) == epoch and len(step) < accumulate * len(found):
            step += [next(one) for one in found]
            passes = [batch.passes for batch in step[-len(found) :]]
        yield step


def _round_and_round(source: Source, task: int, where: progress.Task) -> Iterator[Batch]:
    passes, consumed = where.passes, where.consumed
    while True:
        found = source.epoch(passes, consumed)
        batch = next(found, None)
        if batch is None:
            raise errors.DataError("the training split gives no batch; use more data")
        for following in found:
            yield batch._replace(task=task, passes=passes)
            batch = following
        passes, consumed = passes + 1, 0
        yield batch._replace(consumed=0, fraction=0.0, task=task, passes=passes, ends_pass=True)


class PairsIds(NamedTuple):
    """The reserved ids that batches of pairs are made with."""

    pad: int
    bos: int


def sources(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    weights: Sequence[float],
    seed: int,
    rank: int,
    world_size: int,
) -> list[Source]:
    """The training batches of a rank, for each task of the dataset: of every batch its share by weight.

    Raises:
        DataError: there is no training data.
        UsageError: there are more ranks than lanes of a task.
    """
    # Tasks may have the same lines, which are not to come in the same order; the first has the order of a single one.
    seeds = [shuffling.key("task", seed, number) if number else seed for number in range(len(weights))]
    cutters = _cutters(dataset, training)
    return [
        source(dataset, settings, own_seed, rank, world_size, task, cutters)
        for task, settings, own_seed in zip(dataset.tasks, training.shared_out(weights), seeds, strict=True)
    ]


def source(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    seed: int,
    rank: int,
    world_size: int,
    task: str | None = None,
    cutters: Mapping[str, bpe_dropout.Cutter] | None = None,
) -> Source:
    """The training batches of a rank, of one task or of all data together; see `sources`.

    `cutters`, of each side, serve several tasks; without them a task has its own.
    """
    split = dataset.split("train", task)
    if split is None or not split.num_lines:
        raise errors.DataError(f"{dataset.folder}: the training split has no lines; use another source or filters")
    if dataset.kind == "pairs":
        cutters = cutters or _cutters(dataset, training)
        return BucketedPairs(split, training, pairs_ids(dataset), seed, rank, world_size, cutters)
    kind = RandomWindows if training.sampling == "random" else SequentialLanes
    return kind(split.stream(), training, seed, rank, world_size)


def _cutters(
    dataset: shards.Dataset, training: training_settings.TrainingConfig
) -> dict[str, bpe_dropout.Cutter] | None:
    if not training.bpe_dropout:
        return None
    used = {side: codec.tokenizer for side, codec in dataset.codecs.items()}
    # Sides that share a tokenizer share what it has cut.
    made = {one: bpe_dropout.Cutter(one, training.bpe_dropout) for one in dict.fromkeys(used.values())}
    return {side: made[one] for side, one in used.items()}


def pairs_ids(dataset: shards.Dataset) -> PairsIds:
    """The reserved ids of a dataset of pairs, which both sides have at the same places."""
    target = dataset.codecs["target"].tokenizer
    assert target.pad_id is not None
    assert target.bos_id is not None
    return PairsIds(target.pad_id, target.bos_id)


def blank(kind: str) -> Content:
    """The smallest batch, for calls whose numbers do not matter."""
    zeros_BT = torch.zeros((1, 2), dtype=torch.int64)
    if kind == "text":
        return TextContent(zeros_BT, zeros_BT.flatten())
    lengths_B = torch.full((1,), 2, dtype=torch.int64)
    return PairsContent(zeros_BT, lengths_B, zeros_BT, torch.arange(2), zeros_BT.flatten())


def to_device(content: Content, device: torch.device) -> Content:
    """Copies a batch to the device; on a GPU the copy runs beside the computation.

    Lengths and weights stay on the CPU, where they are read.
    """
    if device.type == "cpu":
        return content
    stay = ("source_lengths_B", "weights_T")
    moved = {
        name: value if name in stay else value.pin_memory().to(device, non_blocking=True)
        for name, value in content._asdict().items()
    }
    return content._replace(**moved)


def text_batch(found: lanes.Window, fraction: float) -> Batch:
    """The tensors of a window."""
    num_own = found.inputs_BT.size
    if not num_own:
        return Batch(blank("text"), found.num_targets, 0, found.stop, fraction)
    content = TextContent(
        torch.from_numpy(np.ascontiguousarray(found.inputs_BT)),
        torch.from_numpy(np.ascontiguousarray(found.targets_BT).reshape(-1)),
    )
    return Batch(content, found.num_targets, num_own, found.stop, fraction)


def pairs_content(pairs: buckets.PairBatch, is_counted: bool) -> tuple[PairsContent, int]:
    """The tensors of padded pairs, and how many valid targets count."""
    is_valid_BT = np.arange(pairs.targets_BT.shape[1]) < pairs.target_lengths_B[:, None]
    valid_N = np.flatnonzero(is_valid_BT)
    targets_N = pairs.targets_BT.reshape(-1)[valid_N]
    arrays = (pairs.source_BS, pairs.source_lengths_B, pairs.inputs_BT, valid_N, targets_N)
    content = PairsContent(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
    return content, len(valid_N) if is_counted else 0
