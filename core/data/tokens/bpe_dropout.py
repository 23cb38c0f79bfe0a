"""BPE-dropout: training words are segmented anew in every epoch, with some merges left out at random.

A model that sees `travellers` as `travell ers` and as `travel l ers` learns what the subwords of rare words have in
common. Validation and translation use the tokenizer's own segmentation.

Source: Provilkov, Emelianenko and Voita 2020, BPE-dropout: simple and effective subword regularization, section 3.
"""

import functools
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core import errors
from core.data.batching import buckets, shuffling
from core.data.tokens import tokenizer as tokenizers
from core.data.tokens import tokenizer_file

NUM_SEGMENTATIONS = 16
"""Segmentations drawn for each distinct word; each occurrence gets one of them, so that they can be cached."""
_CACHE_SIZE = 1 << 18


def check(tokenizer: tokenizers.Tokenizer) -> None:
    """Checks that a tokenizer has merges that can be left out.

    Raises:
        UsageError: it is not a byte-level BPE as `tokenizer.kind: bpe` trains.
    """
    if tokenizer.kind != "bpe":
        raise errors.UsageError(
            f"training.bpe_dropout: this tokenizer ({tokenizer.kind}) is not a byte-level BPE as tokenizer.kind: bpe "
            "trains; train one, or remove bpe_dropout"
        )


class Segmenter:
    """Segments the words of a `bpe` tokenizer at random: each possible merge is skipped with some probability.

    Raises:
        UsageError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, probability: float) -> None:
        check(tokenizer)
        content = json.loads(tokenizer.to_json())
        self._tokenizer = tokenizer
        self._probability = probability
        self._ids: dict[str, int] = content["model"]["vocab"]
        self._ranks = {pair: rank for rank, pair in enumerate(tokenizer_file.merges_of(content))}
        self._num_added = len(tokenizer.reserved) + len(tokenizer.symbols)
        self._cached = functools.lru_cache(_CACHE_SIZE)(self.segment)

    def resegment(self, ids: Iterable[int], seed: int) -> list[int]:
        """Returns ids of the same text with words segmented anew; reserved tokens and symbols stay as they are."""
        # Reserved tokens and symbols come first in the vocabulary, and divide the text into runs of ordinary subwords.
        chance, new_ids = random.Random(seed), list[int]()  # noqa: S311
        for is_added, run in itertools.groupby(ids, key=lambda token: token < self._num_added):
            if is_added:
                new_ids += run
            else:
                for word in self._tokenizer.words(run):
                    new_ids += self._cached(word, chance.randrange(NUM_SEGMENTATIONS))
        return new_ids

    def segment(self, word: str, number: int) -> tuple[int, ...]:
        """Returns one of the segmentations of a word, as ids; the same in every process."""
        # By a hash of our own: that of Python's strings differs between processes, and so would the ranks' batches.
        chance, subwords = random.Random(shuffling.key("cut", word, number)), list(word)  # noqa: S311
        while True:
            # Each merge is drawn again after every other one, as in Algorithm 1 of the paper.
            merges = [
                (self._ranks[pair], index)
                for index, pair in enumerate(itertools.pairwise(subwords))
                if pair in self._ranks and chance.random() >= self._probability
            ]
            if not merges:
                return tuple(self._ids[subword] for subword in subwords)
            _, index = min(merges)  # of the merge learned first, the leftmost occurrence
            subwords[index : index + 2] = [subwords[index] + subwords[index + 1]]


class ResegmentedSplit:
    """A split as segmented in one epoch, by which its batches are planned; see `buckets.Split`.

    The segmentation of a line depends on (seed, epoch, line) alone.
    """

    def __init__(self, split: buckets.Split, segmenters: Mapping[str, Segmenter], seed: int, epoch: int) -> None:
        self._split, self._segmenters, self._seed, self._epoch = split, segmenters, seed, epoch
        # A line is needed twice: its length when batches are planned, its ids when its batch is made.
        self._row = functools.lru_cache(len(segmenters) * buckets.SHUFFLE_LINES)(self._resegment)

    @property
    def num_lines(self) -> int:
        """Number of lines."""
        return self._split.num_lines

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        """Returns the number of tokens of each line in a range, by column; see `buckets.Lengths`."""
        return {
            column: np.array([len(self._row(line, column)) for line in range(start, stop)], dtype=np.int32)
            for column in self._segmenters
        }

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> Sequence[npt.NDArray[Any]]:
        """Returns the token ids of each line; see `buckets.Rows`."""
        return [self._row(line, column) for line in indices.tolist()]

    def _resegment(self, line: int, column: str) -> npt.NDArray[Any]:
        (row,) = self._split.rows(np.array([line]), column)
        seed = shuffling.key("cuts", self._seed, self._epoch, column, line)
        return np.array(self._segmenters[column].resegment(row.tolist(), seed), dtype=row.dtype)
