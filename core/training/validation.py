"""The loss on held-out data: one number that does not depend on how many ranks compute it; and who looks further."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from core import errors
from core.config import training_settings
from core.data.batching import buckets, lanes
from core.data.dataset import shards
from core.data.tokens import tokenizer
from core.models import bundle, compute
from core.models import state as states
from core.training import batches, collective, losses, progress


class Piece(NamedTuple):
    """What is scored together, from the state after the piece before: of all its rows, or of the last alone."""

    content: batches.Content
    follows_last_row: bool = False


class Sample(NamedTuple):
    """What a model makes of a line of the validation split: a translation, or how it goes on."""

    source: str
    output: str
    reference: str


class Examination(NamedTuple):
    """BLEU in percent, if lines were translated, and some samples."""

    bleu: float | None = None
    samples: tuple[Sample, ...] = ()


class Validator(Protocol):
    """Looks at what a model says, not only at its loss; training is handed one, for it knows no decoding."""

    def examine(
        self,
        trained: bundle.Bundle,
        dataset: shards.Dataset,
        task: str,
        group: collective.Collective,
        device: torch.device,
    ) -> Examination:
        """What the model says to a task's lines of the validation split; all ranks together, and all get the same."""


class LossOnly:
    """Looks no further than the loss."""

    def examine(self, *_: object) -> Examination:
        """Nothing."""
        return Examination()


def validate(
    learned: losses.Objective,
    pieces: Iterator[Piece],
    device: torch.device,
    precision: compute.Precision,
    group: collective.Collective,
    step: int,
) -> progress.Validation:
    """Scores this rank's pieces and adds up those of all ranks; draws no random numbers.

    Raises:
        DataError: there is no token to score.
    """
    sums_4 = torch.zeros(4, dtype=torch.float64, device=device)
    state: states.State | None = None
    learned.eval()
    with torch.inference_mode(), compute.autocast(str(device), precision):
        for piece in pieces:
            if piece.follows_last_row and state is not None:
                state = states.select(state, torch.tensor([state[0][0].shape[0] - 1], device=device))
            scores = learned.score(batches.to_device(piece.content, device), state)
            state = scores.state
            sums_4[0] += scores.nll
            sums_4[1] += scores.num_right
            sums_4[2] += (piece.content.targets_N == tokenizer.UNK_ID).sum().item()
            sums_4[3] += piece.content.targets_N.numel()
    learned.train()
    group.sum_(sums_4, "the validation loss")
    nll, num_right, num_unk, count = sums_4.tolist()
    if not count:
        raise errors.DataError("corpus.valid: has no token to score; use more validation text, or none")
    return progress.Validation(step, nll / count, num_right / count, int(count), num_unk=int(num_unk))


def pieces(
    dataset: shards.Dataset,
    training: training_settings.TrainingConfig,
    rank: int,
    world_size: int,
    task: str | None = None,
) -> Iterator[Piece]:
    """The share of the validation split, of one task or of all, that a rank scores; nothing where there is none."""
    split = dataset.split("valid", task)
    if split is None:
        return iter(())
    if dataset.kind == "text":
        return of_text(split.stream(), training, rank, world_size)
    return of_pairs(split, training, batches.pairs_ids(dataset), rank, world_size)


def of_text(
    stream: lanes.Stream, training: training_settings.TrainingConfig, rank: int, world_size: int
) -> Iterator[Piece]:
    """Every token but the first, once: lanes with their state carried; the last one goes on through the remainder."""
    own = lanes.lanes_of_rank(rank, world_size, training.num_lanes)
    num_targets = len(stream) - 1
    done = num_targets // training.num_lanes * training.num_lanes
    if done:
        for found in lanes.windows(stream, training.num_lanes, own, training.window, offset=0):
            yield Piece(batches.text_batch(found, 0.0).content)
    if own.stop == training.num_lanes:
        for start in range(done, num_targets, training.window):
            tokens_T = stream[start : min(start + training.window, num_targets) + 1].astype(np.int64)[None, :]
            found = lanes.Window(tokens_T[:, :-1], tokens_T[:, 1:], tokens_T.shape[1] - 1, 0)
            yield Piece(batches.text_batch(found, 0.0).content, follows_last_row=True)


def of_pairs(
    split: buckets.Split,
    training: training_settings.TrainingConfig,
    ids: batches.PairsIds,
    rank: int,
    world_size: int,
) -> Iterator[Piece]:
    """Every pair once, in batches like those of training."""
    for plan in buckets.plan(split, 0, 0, training.batch_tokens, training.batch_lines):
        own = buckets.share(plan, rank, world_size)
        if len(own):
            yield Piece(batches.pairs_content(buckets.collate(split, own, ids.pad, ids.bos), is_counted=True)[0])
