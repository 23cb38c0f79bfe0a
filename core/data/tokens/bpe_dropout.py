"""Words of training text cut into other pieces in every epoch: BPE-dropout.

A model that sees `travellers` now as `travell ers` and now as `travel l ers` learns what the pieces of rare words
have in common. Validation and translation cut as the tokenizer does.

Source: Provilkov, Emelianenko and Voita, BPE-Dropout: Simple and Effective Subword Regularization, 2020, §3.
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
from core.data.tokens import tokenizer, tokenizer_file

NUM_CUTS = 16
"""Ways that are drawn of cutting one word, of which each place that it stands at gets one."""
_CACHED_CUTS = 1 << 18


def check(made: tokenizer.Tokenizer) -> None:
    """Refuses a tokenizer whose merges cannot be left out.

    Raises:
        UsageError: it is no byte-level BPE as `tokenizer.kind: bpe` learns one.
    """
    if made.kind != "bpe":
        raise errors.UsageError(
            f"training.bpe_dropout: this tokenizer ({made.kind}) is no byte-level BPE like those that "
            "tokenizer.kind: bpe learns; learn one, or leave out bpe_dropout"
        )


class Cutter:
    """Cuts the words of a `bpe` tokenizer at random: each merge is left out with some probability.

    Raises:
        UsageError: the tokenizer is of another kind.
    """

    def __init__(self, made: tokenizer.Tokenizer, probability: float) -> None:
        check(made)
        content = json.loads(made.to_json())
        self._tokenizer = made
        self._probability = probability
        self._ids: dict[str, int] = content["model"]["vocab"]
        self._ranks = {pair: rank for rank, pair in enumerate(tokenizer_file.merges_of(content))}
        self._num_added = len(made.reserved) + len(made.symbols)
        self._cached = functools.lru_cache(_CACHED_CUTS)(self.cut)

    def recut(self, ids: Iterable[int], seed: int) -> list[int]:
        """Returns the ids of the same text, its words cut otherwise; reserved names and symbols stay as they are."""
        drawn, recut = random.Random(seed), list[int]()  # noqa: S311
        for is_added, stretch in itertools.groupby(ids, key=lambda one: one < self._num_added):
            if is_added:
                recut += stretch
            else:
                for word in self._tokenizer.words(stretch):
                    recut += self._cached(word, drawn.randrange(NUM_CUTS))
        return recut

    def cut(self, word: str, number: int) -> tuple[int, ...]:
        """Returns one of the ways to cut a word, as ids; the same in every process."""
        drawn, pieces = random.Random(shuffling.key("cut", word, number)), list(word)  # noqa: S311
        while True:
            possible = [
                (self._ranks[pair], place)
                for place, pair in enumerate(itertools.pairwise(pieces))
                if pair in self._ranks and drawn.random() >= self._probability
            ]
            if not possible:
                return tuple(self._ids[piece] for piece in pieces)
            _, place = min(possible)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


class Recut:
    """A split in one epoch: batches are planned by what its lines are then.

    What a line is like depends on (seed, epoch, line) alone.
    """

    def __init__(self, split: buckets.Split, cutters: Mapping[str, Cutter], seed: int, epoch: int) -> None:
        self._split, self._cutters, self._seed, self._epoch = split, cutters, seed, epoch
        # A line is asked for its length when batches are planned, and for its ids when its batch is made.
        self._row = functools.lru_cache(len(cutters) * buckets.SHUFFLE_LINES)(self._recut)

    @property
    def num_lines(self) -> int:
        """How many lines there are."""
        return self._split.num_lines

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        """Returns the tokens of the lines in a range, by column; see `buckets.Lengths`."""
        return {
            column: np.array([len(self._row(line, column)) for line in range(start, stop)], dtype=np.int32)
            for column in self._cutters
        }

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> Sequence[npt.NDArray[Any]]:
        """Returns the token ids of each line; see `buckets.Rows`."""
        return [self._row(line, column) for line in indices.tolist()]

    def _recut(self, line: int, column: str) -> npt.NDArray[Any]:
        (row,) = self._split.rows(np.array([line]), column)
        seed = shuffling.key("cuts", self._seed, self._epoch, column, line)
        return np.array(self._cutters[column].recut(row.tolist(), seed), dtype=row.dtype)
