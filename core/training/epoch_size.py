"""Size of an epoch in batches, from lengths alone: no batch is read."""

import itertools
from collections.abc import Sequence

from core import errors
from core.config import training_settings
from core.data.batching import buckets, lanes
from core.data.dataset import dataset_index, shards
from core.training import truncation

# Planning a million pairs takes seconds: of more batches than these the number is estimated.
MAX_COUNTED = 20_000


def count_batches(
    dataset: shards.Dataset, training: training_settings.TrainingConfig, weights: Sequence[float], seed: int
) -> int:
    """Returns the number of batches of the first epoch: of several corpora that of the one with the most.

    An epoch of the run ends when every corpus has been read once.

    Args:
        dataset: that of the run.
        training: settings of the run.
        weights: of the dataset's corpora.
        seed: of the run.

    Raises:
        DataError: a corpus has no training lines, or too few for the settings.
    """
    num_batches = []
    for corpus, settings in zip(dataset.corpora, training.split_by_weight(weights), strict=True):
        if dataset.kind == "pairs" and not dataset.folder.is_local:
            # The lengths of all pairs would be fetched.
            num_batches.append(_estimate_batches_of_pairs(dataset.index, corpus, settings))
            continue
        split = dataset.split("train", corpus)
        if split is None or not split.num_lines:
            raise errors.DataError(f"{dataset.folder}: the training split has no lines; use another source or filters")
        if dataset.kind == "pairs":
            num_batches.append(count_batches_of_pairs(split, settings, seed))
        else:
            num_batches.append(count_batches_of_text(len(split.stream()), settings, seed))
    return max(num_batches)


def count_batches_of_text(
    num_tokens: int, training: training_settings.TrainingConfig, seed: int, epoch: int = 0
) -> int:
    """Returns the number of batches of a stream; where windows vary in length, about as many as of the base length."""
    offset = lanes.epoch_offset(seed, epoch, training.window)
    if training.sampling == "random":
        # Less one, because the last token of the stream is a target only.
        return -(-((num_tokens - 1 - offset) // training.window) // training.num_lanes)
    length = lanes.lane_length(num_tokens, training.num_lanes, offset)
    return -(-length // truncation.window_length(training, length))


def count_batches_of_pairs(
    split: buckets.Lengths, training: training_settings.TrainingConfig, seed: int, epoch: int = 0
) -> int:
    """Returns the number of planned batches; of more than `MAX_COUNTED` an estimate, by their share of the epoch."""
    plans = buckets.plan(split, seed, epoch, training.batch_tokens, training.batch_lines)
    fractions = [plan.fraction for plan in itertools.islice(plans, MAX_COUNTED)]
    return round(len(fractions) / fractions[-1]) if fractions else 0


def _estimate_batches_of_pairs(
    index: dataset_index.DatasetIndex, corpus: str, training: training_settings.TrainingConfig
) -> int:
    if training.batch_lines is not None:
        return -(-index.rows("train", corpus) // training.batch_lines)
    assert training.batch_tokens is not None, "the schema asks for one of the two"
    # A pair counts by its longer side, which is not always the same one: a little more than either sum.
    return -(-max(index.tokens("train", corpus).values()) // training.batch_tokens)
