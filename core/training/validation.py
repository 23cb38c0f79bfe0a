"""Validation: the loss on held-out data, and the interface for decoding it.

The loss does not depend on how many ranks compute it.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from core import errors
from core.config import training_settings
from core.data import score_unit
from core.data.batching import buckets, lanes
from core.data.dataset import shards
from core.data.tokens import vocabulary
from core.models import bundle, compute
from core.models import state as states
from core.training import batches, collective, losses, progress


class HeldOutBatch(NamedTuple):
    """Held-out batch, and whether it starts from the states of all rows of the batch before or of its last row."""

    content: batches.Content
    follows_last_row: bool = False


class Sample(NamedTuple):
    """A line of the validation split, the model's output (a translation, or a continuation), and the reference."""

    source: str
    output: str
    reference: str


class DecodingResult(NamedTuple):
    """BLEU in percent with its sacreBLEU signature, if lines were translated, and some samples."""

    bleu: float | None = None
    samples: tuple[Sample, ...] = ()
    bleu_signature: str | None = None


class Validator(Protocol):
    """Decodes held-out lines, besides the loss; it is handed in, because training does not import decoding."""

    def decode(
        self,
        trained: bundle.Bundle,
        dataset: shards.Dataset,
        corpus: str,
        group: collective.Collective,
        device: torch.device,
    ) -> DecodingResult:
        """Decodes lines of a corpus's validation split; all ranks together, and all return the same."""


class LossOnly:
    """A validator that decodes nothing."""

    def decode(self, *_: object) -> DecodingResult:
        """Returns an empty result."""
        return DecodingResult()


def validate(
    objective: losses.Objective,
    held_out: Iterator[HeldOutBatch],
    device: torch.device,
    precision: compute.Precision,
    group: collective.Collective,
    step: int,
) -> progress.Validation:
    """Scores this rank's batches and adds up the sums of all ranks; draws no random numbers.

    Raises:
        DataError: there is no token to score.
    """
    # Four sums in one tensor, for one all-reduce; read from the device once.
    sums_4 = torch.zeros(4, dtype=torch.float64, device=device)
    state: states.State | None = None
    objective.eval()
    with torch.inference_mode(), compute.autocast(str(device), precision):
        for batch in held_out:
            # The remainder of the stream continues the last lane.
            if batch.follows_last_row and state is not None:
                state = states.select(state, torch.tensor([state[0][0].shape[0] - 1], device=device))
            scores = objective.score(batches.to_device(batch.content, device), state)
            state = scores.state
            sums_4[0] += scores.nll
            sums_4[1] += scores.num_right
            sums_4[2] += (batch.content.targets_N == vocabulary.UNK_ID).sum().item()
            sums_4[3] += batch.content.targets_N.numel()
    objective.train()
    group.sum_(sums_4, "the validation loss")
    nll, num_right, num_unk, count = sums_4.tolist()
    if not count:
        raise errors.DataError("corpus.valid: has no token to score; use more validation text, or none")
    return progress.Validation(step, nll / count, num_right / count, int(count), num_unk=int(num_unk))


def unit_of(dataset: shards.Dataset, training: training_settings.TrainingConfig) -> score_unit.ScoreUnit:
    """Returns the unit of the validation loss: text in lanes with their state carried, pairs one by one."""
    if dataset.kind == "text":
        eos_counted = dataset.codecs["text"].tokenizer.eos_id is not None
        return score_unit.ScoreUnit("stream", training.num_lanes, eos_counted)
    return score_unit.ScoreUnit("line", None, eos_counted=True)


def held_out_batches(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    rank: int,
    world_size: int,
    corpus: str | None = None,
) -> Iterator[HeldOutBatch]:
    """Yields a rank's share of the validation split, of one corpus or of all; nothing where there is none."""
    split = dataset.split("valid", corpus)
    if split is None:
        return iter(())
    if dataset.kind == "text":
        return text_batches(split.stream(), training, rank, world_size)
    return pairs_batches(split, training, batches.pairs_ids(dataset), rank, world_size)


def text_batches(
    stream: lanes.Stream, training: training_settings.TrainingConfig, rank: int, world_size: int
) -> Iterator[HeldOutBatch]:
    """Yields every token but the first, once: lanes with their state carried; the last lane continues to the end."""
    own = lanes.lanes_of_rank(rank, world_size, training.num_lanes)
    num_targets = len(stream) - 1
    done = num_targets // training.num_lanes * training.num_lanes
    if done:
        for window in lanes.windows(stream, training.num_lanes, own, training.window, offset=0):
            yield HeldOutBatch(batches.text_batch(window, 0.0).content)
    # What does not fill all lanes would be left out in training; a validation scores it after the last lane.
    if own.stop == training.num_lanes:  # this rank holds the state of the last lane
        for start in range(done, num_targets, training.window):
            tokens_1T = stream[start : min(start + training.window, num_targets) + 1].astype(np.int64)[None, :]
            window = lanes.Window(tokens_1T[:, :-1], tokens_1T[:, 1:], tokens_1T.shape[1] - 1, 0)
            yield HeldOutBatch(batches.text_batch(window, 0.0).content, follows_last_row=True)


def pairs_batches(
    split: buckets.Split,
    training: training_settings.TrainingConfig,
    ids: batches.PairsIds,
    rank: int,
    world_size: int,
) -> Iterator[HeldOutBatch]:
    """Yields every pair once, in batches like those of training."""
    # Seed and epoch are constants: a validation has the same batches each time.
    for plan in buckets.plan(split, 0, 0, training.batch_tokens, training.batch_lines):
        own = buckets.share(plan, rank, world_size)
        # There is no collective operation in this loop: a rank may leave out batches in which it has no lines.
        if len(own):
            content, _ = batches.pairs_content(buckets.collate(split, own, ids.pad, ids.bos), is_counted=True)
            yield HeldOutBatch(content)
