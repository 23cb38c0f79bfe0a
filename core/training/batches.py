"""Training batches of a rank, from any position in an epoch.

The order of the data is that of all ranks together, so a position in it is a number that does not depend on how many
ranks there are, and a run may be resumed with more or fewer of them.
"""

import functools
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
from core.training import lookback as lookbacks
from core.training import progress, truncation


class TextContent(NamedTuple):
    """A window of some lanes; all targets are valid, row after row.

    `weights_T` are those of random truncation. With `lookback` the inputs begin with tokens before the window.
    """

    inputs_BT: Tensor
    targets_N: Tensor
    weights_T: Sequence[float] = ()
    lookback: lookbacks.Lookback | None = None


class PairsContent(NamedTuple):
    """Padded pairs; `valid_N` are the indices of the valid targets in the rows laid end to end."""

    source_BS: Tensor
    source_lengths_B: Tensor
    inputs_BT: Tensor
    valid_N: Tensor
    targets_N: Tensor


Content = TextContent | PairsContent


class Batch(NamedTuple):
    """A rank's share of a batch.

    Attributes:
        content: the tensors.
        num_targets: valid targets of all ranks.
        num_own: valid targets of this rank; with 0 of them the content is a placeholder that counts for nothing, so
            that the rank takes part in collective operations.
        consumed: the position in the epoch after the batch.
        fraction: the fraction of the epoch that is done after the batch.
        rate_scale: factor of the learning rate; a step uses the mean of its batches.
        corpus: number of the corpus that the batch belongs to.
        epoch: completed epochs of the corpus after the batch.
        ends_epoch: whether the batch is the last of an epoch of the corpus.
        pool: of bucketed pairs, the state of planning before the pool of the batch.
    """

    content: Content
    num_targets: int
    num_own: int
    consumed: int
    fraction: float
    rate_scale: float = 1.0
    corpus: int = 0
    epoch: int = 0
    ends_epoch: bool = False
    pool: buckets.PoolStart = buckets.BEGINNING


class BatchStream(Protocol):
    """Batches of a rank, epoch by epoch."""

    @property
    def carries_state(self) -> bool:
        """True if the hidden state after a batch is the one before the next batch."""

    def read_epoch(self, epoch: int, consumed: int, pool: buckets.PoolStart = buckets.BEGINNING) -> Iterator[Batch]:
        """Yields the batches of an epoch from a position on; the pool of the batch before it saves planning."""

    def count_skipped_targets(self, epoch: int) -> int:
        """Returns the number of targets, of all ranks, that are in no batch of an epoch."""


class SequentialLanes:
    """Windows of lanes in order, for truncated BPTT: the hidden state is carried from batch to batch.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3.4.2 "Sequential Partitioning".
    """

    carries_state = True  # of a lane, the next window continues the text of this one

    def __init__(
        self, stream: lanes.Stream, training: training_settings.TrainingConfig, seed: int, rank: int, world_size: int
    ) -> None:
        self._stream, self._training, self._seed = stream, training, seed
        self._lanes = lanes.lanes_of_rank(rank, world_size, training.num_lanes)

    def read_epoch(self, epoch: int, consumed: int, pool: buckets.PoolStart = buckets.BEGINNING) -> Iterator[Batch]:  # noqa: ARG002
        """Yields the windows of an epoch; `consumed` counts the tokens of a lane."""
        training, seed = self._training, self._seed
        offset = lanes.epoch_offset(seed, epoch, training.window)
        length = lanes.lane_length(len(self._stream), training.num_lanes, offset)
        base = truncation.window_length(training, length)

        def size_at(begin: int) -> int:
            is_variable = training.truncation.kind == "variable"
            return truncation.variable_window(base, seed, epoch, begin) if is_variable else base

        steps = training.truncation.lookback if training.truncation.kind == "sliding" else None
        num_before_at = functools.partial(lookbacks.num_before, steps or 1)
        # Lengths are drawn by position, not in turn: an epoch that is resumed at `consumed` has the same windows.
        begin = consumed
        for window in lanes.variable_windows(
            self._stream, training.num_lanes, self._lanes, size_at, offset, consumed, num_before_at
        ):
            batch = text_batch(window, window.stop / length)
            if steps is not None:
                batch = _with_lookback(batch, steps, begin)
            # The learning rate follows the length of the window (Merity et al. 2018, section 5), as it was drawn: the
            # last window of an epoch is short for lack of text.
            scale = size_at(begin) / base
            yield _with_cut_weights(batch, training, seed, epoch, begin)._replace(rate_scale=scale)
            begin = window.stop

    def count_skipped_targets(self, epoch: int) -> int:
        """Counts the targets before the offset, and those that do not fill all lanes."""
        offset = lanes.epoch_offset(self._seed, epoch, self._training.window)
        return lanes.count_skipped(len(self._stream), self._training.num_lanes, offset)


class RandomWindows:
    """Windows from all over the stream, in random order; each row starts from the zero state.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3.4.1 "Random Sampling".
    """

    carries_state = False

    def __init__(
        self, stream: lanes.Stream, training: training_settings.TrainingConfig, seed: int, rank: int, world_size: int
    ) -> None:
        self._stream, self._training, self._seed = stream, training, seed
        self._lanes = lanes.lanes_of_rank(rank, world_size, training.num_lanes)

    def read_epoch(self, epoch: int, consumed: int, pool: buckets.PoolStart = buckets.BEGINNING) -> Iterator[Batch]:  # noqa: ARG002
        """Yields the batches of an epoch; `consumed` counts the tokens of a lane."""
        num_lanes, length = self._training.num_lanes, self._training.window
        offset = lanes.epoch_offset(self._seed, epoch, length)
        num_batches = -(-((len(self._stream) - 1 - offset) // length) // num_lanes)  # the last may be short of rows
        windows = lanes.random_windows(self._stream, num_lanes, self._lanes, length, self._seed, epoch, consumed)
        for window in windows:
            batch = text_batch(window, window.stop / (num_batches * length))
            # Every window here has the full length, so that it starts that far before its stop.
            yield _with_cut_weights(batch, self._training, self._seed, epoch, window.stop - length)

    def count_skipped_targets(self, epoch: int) -> int:
        """Counts the targets before the offset, and those that do not fill a window."""
        offset = lanes.epoch_offset(self._seed, epoch, self._training.window)
        # Less one, because the last token of the stream is a target only.
        return offset + (len(self._stream) - 1 - offset) % self._training.window


def _with_cut_weights(
    batch: Batch, training: training_settings.TrainingConfig, seed: int, epoch: int, start: int
) -> Batch:
    """Returns the batch with the weights of random truncation in its content."""
    content = batch.content
    assert isinstance(content, TextContent)
    weights_T = truncation.cut_weights(training, seed, epoch, start, content.inputs_BT.shape[1])
    return batch._replace(content=content._replace(weights_T=weights_T)) if weights_T else batch


def _with_lookback(batch: Batch, steps: int, begin: int) -> Batch:
    """Returns the batch, whose inputs begin with the tokens that its losses look back to, with their number."""
    content, num_before = batch.content, lookbacks.num_before(steps, begin)
    assert isinstance(content, TextContent)
    looked = lookbacks.Lookback(steps, num_before, begins_lane=num_before == begin)
    return batch._replace(content=content._replace(lookback=looked))


class BucketedPairs:
    """Pairs bucketed by length; `consumed` counts batches.

    With `segmenters` (BPE-dropout) words are segmented anew in each epoch.
    """

    carries_state = False

    def __init__(
        self,
        split: buckets.Split,
        training: training_settings.TrainingConfig,
        ids: "PairsIds",
        seed: int,
        rank: int,
        world_size: int,
        segmenters: Mapping[str, bpe_dropout.Segmenter] | None = None,
    ) -> None:
        self._split, self._training, self._ids, self._seed = split, training, ids, seed
        self._rank, self._world_size = rank, world_size
        self._segmenters = segmenters

    def read_epoch(self, epoch: int, consumed: int, pool: buckets.PoolStart = buckets.BEGINNING) -> Iterator[Batch]:
        """Yields this rank's share of each planned batch from number `consumed` on."""
        split = (
            bpe_dropout.ResegmentedSplit(self._split, self._segmenters, self._seed, epoch)
            if self._segmenters
            else self._split
        )
        training = self._training
        plans = buckets.plan(split, self._seed, epoch, training.batch_tokens, training.batch_lines, pool)
        for number, plan in enumerate(plans, pool.num_batches):
            # Plans are cheap (numbers of lines); the text of a batch is read only if it is served.
            if number < consumed:
                continue
            own = buckets.share(plan, self._rank, self._world_size)
            # Recurrent calls need at least one row: a rank without its own computes one that counts for nothing.
            pairs = buckets.collate(split, own if len(own) else plan.lines[:1], self._ids.pad, self._ids.bos)
            content, num_valid = pairs_content(pairs, is_counted=len(own) > 0)
            yield Batch(content, plan.num_targets, num_valid, number + 1, plan.fraction, pool=plan.start)

    def count_skipped_targets(self, epoch: int) -> int:  # noqa: ARG002
        """Returns 0: an epoch has every pair."""
        return 0


def steps(
    batch_streams: Sequence[BatchStream], start: Sequence[progress.CorpusState], accumulate: int
) -> Iterator[list[Batch]]:
    """Yields the micro-batches of each step, from the given position in each corpus, endlessly.

    A step has `accumulate` batches of every corpus, or fewer where an epoch ends with it. Each corpus repeats at its
    own pace; an epoch of the run ends when the corpus with the fewest completed epochs has completed one more.

    Raises:
        DataError: there is no batch in the data of a corpus.
    """
    endless = [
        _repeat(batch_stream, corpus, position)
        for corpus, (batch_stream, position) in enumerate(zip(batch_streams, start, strict=True))
    ]
    epochs = [position.epoch for position in start]
    while True:
        # A step never spans two epochs: a validation at the end of an epoch has seen all of it.
        epoch, step = min(epochs), list[Batch]()
        while min(epochs) == epoch and len(step) < accumulate * len(endless):
            step += [next(batches) for batches in endless]
            epochs = [batch.epoch for batch in step[-len(endless) :]]  # after the newest batch of each corpus
        yield step


def _repeat(batch_stream: BatchStream, corpus: int, start: progress.CorpusState) -> Iterator[Batch]:
    epoch, consumed, pool = start.epoch, start.consumed, start.pool
    while True:
        epoch_batches = batch_stream.read_epoch(epoch, consumed, pool)
        batch = next(epoch_batches, None)
        if batch is None:
            raise errors.DataError("the training split gives no batch; use more data")
        # One batch behind, to know which one is the last: a position after it is the start of the next epoch.
        for following in epoch_batches:
            yield batch._replace(corpus=corpus, epoch=epoch)
            batch = following
        epoch, consumed, pool = epoch + 1, 0, buckets.BEGINNING
        yield batch._replace(consumed=0, fraction=0.0, pool=pool, corpus=corpus, epoch=epoch, ends_epoch=True)


class PairsIds(NamedTuple):
    """The reserved ids that batches of pairs need."""

    pad: int
    bos: int


def open_batch_streams(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    weights: Sequence[float],
    seed: int,
    rank: int,
    world_size: int,
) -> list[BatchStream]:
    """Returns the training batches of a rank, for each corpus of the dataset: its share of every batch, by weight.

    Raises:
        DataError: there is no training data.
        UsageError: there are more ranks than lanes of a corpus.
    """
    # Corpora may have the same lines, which must not come in the same order; the first has the order of a single one.
    # "task" is part of the seed, so it keeps the former word for corpora.
    seeds = [shuffling.key("task", seed, number) if number else seed for number in range(len(weights))]
    segmenters = _segmenters(dataset, training)
    return [
        open_batch_stream(dataset, settings, corpus_seed, rank, world_size, corpus, segmenters)
        for corpus, settings, corpus_seed in zip(dataset.corpora, training.split_by_weight(weights), seeds, strict=True)
    ]


def open_batch_stream(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    seed: int,
    rank: int,
    world_size: int,
    corpus: str | None = None,
    segmenters: Mapping[str, bpe_dropout.Segmenter] | None = None,
) -> BatchStream:
    """Returns the training batches of a rank, of one corpus or of all data together; see `open_batch_streams`.

    `segmenters`, of each side, may be shared by several corpora; without them a corpus has its own.
    """
    split = dataset.split("train", corpus)
    if split is None or not split.num_lines:
        raise errors.DataError(f"{dataset.folder}: the training split has no lines; use another source or filters")
    if dataset.kind == "pairs":
        # Made here only for a caller that opens a single corpus.
        segmenters = segmenters or _segmenters(dataset, training)
        return BucketedPairs(split, training, pairs_ids(dataset), seed, rank, world_size, segmenters)
    kind = RandomWindows if training.sampling == "random" else SequentialLanes
    return kind(split.stream(), training, seed, rank, world_size)


def _segmenters(
    dataset: shards.Dataset, training: training_settings.TrainingConfig
) -> dict[str, bpe_dropout.Segmenter] | None:
    if not training.bpe_dropout:
        return None
    tokenizers = {side: codec.tokenizer for side, codec in dataset.codecs.items()}
    # Sides that share a tokenizer share a segmenter, and so its cache.
    segmenters = {
        each: bpe_dropout.Segmenter(each, training.bpe_dropout) for each in dict.fromkeys(tokenizers.values())
    }
    return {side: segmenters[each] for side, each in tokenizers.items()}


def pairs_ids(dataset: shards.Dataset) -> PairsIds:
    """Returns the reserved ids of a dataset of pairs, which are the same on both sides."""
    target = dataset.codecs["target"].tokenizer
    assert target.pad_id is not None
    assert target.bos_id is not None
    return PairsIds(target.pad_id, target.bos_id)


def make_placeholder(kind: str) -> Content:
    """Returns the smallest batch, for calls whose numbers do not matter."""
    zeros_BT = torch.zeros((1, 2), dtype=torch.int64)
    if kind == "text":
        return TextContent(zeros_BT, zeros_BT.flatten())
    lengths_B = torch.full((1,), 2, dtype=torch.int64)
    return PairsContent(zeros_BT, lengths_B, zeros_BT, torch.arange(2), zeros_BT.flatten())


def to_device(content: Content, device: torch.device) -> Content:
    """Copies a batch to the device; on a GPU the copy overlaps with computation.

    Lengths, weights and look-backs stay on the CPU, where they are read.
    """
    if device.type == "cpu":
        return content
    # Python code reads them: on a GPU each read would wait for all work before it.
    stay = ("source_lengths_B", "weights_T", "lookback")
    moved = {name: value for name, value in content._asdict().items() if name not in stay}
    if device.type == "cuda":
        moved = {name: value.pin_memory() for name, value in moved.items()}  # pinned memory is copied beside it
    return content._replace(**{name: value.to(device, non_blocking=True) for name, value in moved.items()})


def text_batch(window: lanes.Window, fraction: float) -> Batch:
    """Returns the tensors of a window; a placeholder for a rank without lanes of its own in it."""
    num_own = window.targets_BT.size
    if not num_own:
        return Batch(make_placeholder("text"), window.num_targets, 0, window.stop, fraction)
    content = TextContent(
        # Inputs and targets are views of one array, a token apart.
        torch.from_numpy(np.ascontiguousarray(window.inputs_BT)),
        torch.from_numpy(np.ascontiguousarray(window.targets_BT).reshape(-1)),
    )
    return Batch(content, window.num_targets, num_own, window.stop, fraction)


def pairs_content(pairs: buckets.PairBatch, is_counted: bool) -> tuple[PairsContent, int]:
    """Returns the tensors of padded pairs, and the number of valid targets that count."""
    # Padding is left out by index, not by an `ignore_index` of the loss: its logits are never computed.
    is_valid_BT = np.arange(pairs.targets_BT.shape[1]) < pairs.target_lengths_B[:, None]
    valid_N = np.flatnonzero(is_valid_BT)
    targets_N = pairs.targets_BT.reshape(-1)[valid_N]
    arrays = (pairs.source_BS, pairs.source_lengths_B, pairs.inputs_BT, valid_N, targets_N)
    content = PairsContent(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
    return content, len(valid_N) if is_counted else 0
