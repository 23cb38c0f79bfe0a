r"""N-gram models in the ARPA format, which SRILM, KenLM and speech recognizers read and write.

A section for each order lists `log10 p(w | h)`, the n-gram, and the log10 of its back-off weight as a context. There a
line begins with `<s>`, which is never predicted, and ends with `</s>`: in a model of lines both are `<eos>`. A model of
a stream has `<eos>` as a word like others; in its file `<s>` and `</s>` stand alone, impossible, since readers ask for
them. Unknown words are `<unk>`.

Source: Stolcke 2002, SRILM, an extensible language modeling toolkit; manual page ngram-format(5).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core import errors
from core.config import ngram_settings
from core.models.ngram import levels, ngram_model, tables

Floats = npt.NDArray[np.float64]

MAX_LINE_BYTES = 1 << 20
MAX_ORDER = 5
IMPOSSIBLE = -99.0  # SRILM's log10 of 0
UNK, BEGIN, END, EOS = b"<unk>", b"<s>", b"</s>", b"<eos>"
_BEGIN, _END = BEGIN.decode(), END.decode()
# KenLM's log10 of the probability of unknown words, where a file has none.
_UNK_LOG10 = -100.0
_LINES_AT_ONCE = 1 << 16
_COUNT = re.compile(rb"ngram ([0-9]{1,2}) ?= ?([0-9]{1,15})")


def write(model: ngram_model.Ngram, names: Sequence[str], eos: int | None, out: BinaryIO) -> int:
    """Writes a model, and returns its number of n-grams; `names` are those of all tokens, `eos` is the id of `<eos>`.

    Raises:
        UsageError: the format cannot hold it.
    """
    by_line = model.config.unit == "line"
    _check_exportable(model, names, eos if by_line else None)
    order = max(level for level in range(1, model.config.order + 1) if level == 1 or len(model.keys(level)))
    sizes = [len(names) + (1 if by_line else 2), *(len(model.keys(level)) for level in range(2, order + 1))]
    out.write(b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % entry for entry in enumerate(sizes, 1)))
    # The same token begins a line as the first of several, and ends one elsewhere.
    inner = np.array(names, dtype=object)
    first = inner.copy()
    if by_line:
        inner[eos], first[eos] = _END, _BEGIN
    for level in range(1, order + 1):
        out.write(b"\n\\%d-grams:\n" % level)
        if level == 1:
            weight = "" if order == 1 else f"\t{_log10(model.backoff(1, torch.tensor([eos or 0])))[0]:.9g}"
            markers = [f"{IMPOSSIBLE:g}\t{_BEGIN}{weight if by_line else ''}\n"]
            markers += [] if by_line else [f"{IMPOSSIBLE:g}\t{_END}\n"]
            out.write("".join(markers).encode())
        num_rows = len(model.probability(level))
        for start in range(0, num_rows, _LINES_AT_ONCE):
            rows = torch.arange(start, min(start + _LINES_AT_ONCE, num_rows))
            out.write("".join(_lines(model, level, order, rows, inner, first)).encode())
    out.write(b"\n\\end\\\n")
    return sum(sizes)


def _lines(
    model: ngram_model.Ngram,
    level: int,
    order: int,
    rows: Tensor,
    inner: npt.NDArray[np.object_],
    first: npt.NDArray[np.object_],
) -> Iterator[str]:
    """Yields the lines of some n-grams of a level."""
    columns: list[npt.NDArray[np.object_]] = []
    contexts = rows
    for below in range(level, 1, -1):
        keys = model.keys(below)[contexts]
        columns.insert(0, inner[(keys % model.vocabulary_size).numpy()])
        contexts = keys // model.vocabulary_size
    columns.insert(0, (first if level > 1 else inner)[contexts.numpy()])
    ngrams = map(" ".join, zip(*columns, strict=True))
    values = _log10(model.probability(level)[rows]).tolist()
    if level == order:
        yield from (f"{value:.9g}\t{ngram}\n" for value, ngram in zip(values, ngrams, strict=True))
        return
    weights = _log10(model.backoff(level, rows)).tolist()
    for value, ngram, weight in zip(values, ngrams, weights, strict=True):
        # Nothing follows the end of a line.
        yield f"{value:.9g}\t{ngram}\t{weight:.9g}\n" if not ngram.endswith(_END) else f"{value:.9g}\t{ngram}\n"


def _log10(values: Tensor) -> Tensor:
    return values.log10().clamp(min=IMPOSSIBLE, max=None)


def _check_exportable(model: ngram_model.Ngram, names: Sequence[str], eos: int | None) -> None:
    config = model.config
    if config.smoothing == "laplace" and config.order > 2:
        raise errors.UsageError(
            "model.smoothing: laplace falls back to single tokens, which ARPA cannot say of an order above 2; "
            "train with kneser_ney or good_turing"
        )
    if config.direction == "backward":
        raise errors.UsageError("model.direction: ARPA files are read forward; train a model of the other direction")
    for token, name in enumerate(names):
        if token != eos and (name in (_BEGIN, _END) or not name or re.search(r"[\s\0]", name, re.ASCII)):
            raise errors.UsageError(
                f"--run: the token {name!r} cannot be a word of an ARPA file; train with a tokenizer of words"
            )


class Imported(NamedTuple):
    """The content of an ARPA file.

    Attributes:
        config: order and unit.
        words: the words, without `<unk>` and `<eos>`, which have the ids 0 and 1.
        stored: the tables of the model.
    """

    config: ngram_settings.ImportedNgramConfig
    words: tuple[str, ...]
    stored: dict[str, Tensor]


def read(buffers: Iterable[bytes], where: str) -> Imported:
    """Reads a model; of one order at a time all n-grams are in memory, 40 bytes each.

    Args:
        buffers: the file in pieces.
        where: its name, for error messages.

    Raises:
        DataError: it is not a valid ARPA file.
    """
    return _Reader(buffers, where).read()


class _Reader:
    """Reads one file, line by line."""

    def __init__(self, buffers: Iterable[bytes], where: str) -> None:
        self._where = where
        self._lines = _split(buffers)
        # Lines that were taken so far.
        self._number = 0

    def read(self) -> Imported:
        """See the function `read`."""
        counts = self._counts()
        order = len(counts)
        inner, values, weights, end_value = self._unigrams(counts[0], order)
        # Where the end of a line never comes, the text is one stream.
        by_line, eos = end_value > 10.0 ** (IMPOSSIBLE + 0.1), 1
        if by_line and EOS in inner:
            self._fail("the word <eos> is here the end of a line; rename it in the file")
        size = len(values)
        first, last = (inner | {word: eos} for word in (BEGIN, END)) if by_line else (inner, inner)
        made: dict[str, npt.NDArray[Any]] = {tables.probability(1): values}
        for level in range(2, order + 1):
            made[tables.backoff(level - 1)] = weights
            keys, values, weights = self._ngrams(level, counts[level - 1], order, size, (first, inner, last), made)
            made |= {tables.keys(level): keys, tables.probability(level): values}
        if self._next() != b"\\end\\":
            self._fail("expected \\end\\ after the n-grams that the header counts")
        config = ngram_settings.ImportedNgramConfig(
            kind="ngram", order=order, unit="line" if by_line else "stream", smoothing="imported"
        )
        stored = {name: torch.from_numpy(table) for name, table in made.items()}
        if by_line:
            stored[tables.LINE_END] = torch.tensor(eos)
        return Imported(config, tuple(word.decode() for word in inner if word not in (UNK, EOS)), stored)

    def _counts(self) -> list[int]:
        """Reads the header, and returns the number of n-grams of each order."""
        while (line := self._next()) != b"\\data\\":
            if not line:
                self._fail("no \\data\\ before the end: not an ARPA file")
        counts: list[int] = []
        while (match := _COUNT.fullmatch(line := self._next(stops_at_blank=True))) is not None:
            if int(match[1]) != len(counts) + 1:
                self._fail("the orders of the header do not follow each other")
            counts.append(int(match[2]))
        if line or not counts:
            self._fail("the header has no lines `ngram ORDER=NUMBER` and an empty line after them")
        if len(counts) > MAX_ORDER:
            self._fail(f"order {len(counts)}; models of an order up to {MAX_ORDER} can be used")
        return counts

    def _unigrams(self, count: int, order: int) -> tuple[dict[bytes, int], Floats, Floats, float]:
        """Returns the ids of all words, the probability and back-off weight by id, and the probability of `</s>`.

        The probability of `</s>`, and the weight of `<s>`, are those of id 1 unless there is a word `<eos>`.
        """
        vocabulary = {UNK: 0, EOS: 1}
        begin_weight, end_value = 1.0, -1.0
        numbers: list[tuple[int, float, float]] = []
        for fields, values, weights in self._section(1, count, order):
            for (word,), value, weight in zip(fields, values.tolist(), weights.tolist(), strict=True):
                word = UNK if word == b"<UNK>" else word
                if word == BEGIN:
                    begin_weight = weight
                elif word == END:
                    end_value = value
                else:
                    numbers.append((vocabulary.setdefault(word, len(vocabulary)), value, weight))
        if end_value < 0:
            self._fail("the words lack </s>, the end of a line")
        ids = [number[0] for number in numbers]
        if len(set(ids)) != len(ids):
            self._fail("a word occurs twice among the 1-grams")
        size = len(vocabulary)
        values_V, weights_V = np.full(size, 10.0**IMPOSSIBLE), np.ones(size)
        values_V[0] = 10.0**_UNK_LOG10
        values_V[1], weights_V[1] = end_value, begin_weight
        table = np.array(numbers, dtype=np.float64).reshape(-1, 3)
        values_V[ids], weights_V[ids] = table[:, 1], table[:, 2]
        if 1 not in ids:
            del vocabulary[EOS]
        try:
            b" ".join(vocabulary).decode()
        except UnicodeDecodeError as error:
            self._fail(f"a word is not valid UTF-8 ({error.reason})")
        return vocabulary, values_V, weights_V, end_value

    def _ngrams(
        self,
        level: int,
        count: int,
        order: int,
        size: int,
        dictionaries: tuple[Mapping[bytes, int], Mapping[bytes, int], Mapping[bytes, int]],
        made: Mapping[str, npt.NDArray[Any]],
    ) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Returns keys, probabilities and back-off weights of a level, sorted by key."""
        first, inner, last = dictionaries
        columns = [first, *[inner] * (level - 2), last]
        blocks: list[tuple[npt.NDArray[np.int64], Floats, Floats]] = [(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))]
        for fields, values, weights in self._section(level, count, order):
            try:
                ids = [
                    np.fromiter(map(column.__getitem__, words), np.int64, len(fields))
                    for column, words in zip(columns, zip(*fields, strict=True), strict=True)
                ]
            except KeyError as error:
                self._fail(f"{error.args[0][:60]!r} is not among the 1-grams, or cannot be at this place of an n-gram")
            rows = ids[0]
            for below in range(2, level):
                rows = levels.find_rows(made[tables.keys(below)], rows * size + ids[below - 1])
                if (rows < 0).any():
                    self._fail(f"the first {below} words of one of the {level}-grams before are no {below}-gram")
            blocks.append((rows * size + ids[-1], values, weights))
        keys, values, weights = (np.concatenate([block[part] for block in blocks]) for part in range(3))
        sorted_by_key = np.argsort(keys)
        keys = keys[sorted_by_key]
        if (np.diff(keys) == 0).any():
            self._fail(f"one of the {level}-grams before occurs twice")
        return keys, values[sorted_by_key], weights[sorted_by_key]

    def _section(self, level: int, count: int, order: int) -> Iterator[tuple[list[list[bytes]], Floats, Floats]]:
        """Yields the words, probabilities and back-off weights of the n-grams of a section, many at a time."""
        if self._next() != b"\\%d-grams:" % level:
            self._fail(f"expected \\{level}-grams: after as many n-grams as the header counts")
        while count:
            lines = list(itertools.islice(self._lines, min(count, _LINES_AT_ONCE)))
            rows = [line.split() for line in lines]
            # What has a back-off weight has a field more; of the highest order nothing has.
            lengths = (level + 1,) if level == order else (level + 1, level + 2)
            for row in rows:
                self._number += 1
                if len(row) not in lengths:
                    self._fail(f"expected a {level}-gram with its log-probability, of as many as the header counts")
            if not rows:
                self._fail(f"the file ends {count} n-grams before the number in its header")
            count -= len(rows)
            values, weights = (
                self._powers([row[0] for row in rows], "log-probability"),
                self._powers([row[level + 1] if len(row) > level + 1 else b"0" for row in rows], "back-off weight"),
            )
            if (values > 1).any():
                self._fail(f"one of the {len(rows)} lines before has a log-probability above 0")
            yield [row[1 : level + 1] for row in rows], values, weights

    def _powers(self, fields: list[bytes], what: str) -> Floats:
        try:
            exponents = np.array(fields).astype(np.float64)
        except ValueError:
            exponents = np.full(1, np.nan)
        with np.errstate(over="ignore"):
            powers = 10.0**exponents
        if not (np.isfinite(exponents) & np.isfinite(powers)).all():
            self._fail(f"one of the {len(fields)} lines before has a {what} that is not a number")
        return np.asarray(powers)

    def _next(self, stops_at_blank: bool = False) -> bytes:
        """Returns the next line that is not empty; an empty one at the end of the file, or if it `stops_at_blank`."""
        for line in self._lines:
            self._number += 1
            if (line := line.strip()) or stops_at_blank:
                return line
        return b""

    def _fail(self, what: str) -> NoReturn:
        raise errors.DataError(f"{self._where}: line {self._number}: {what}; check the file")


def _split(buffers: Iterable[bytes]) -> Iterator[bytes]:
    """Yields lines; one that is too long is cut, which bounds memory, and then refused as an n-gram."""
    tail = b""
    for buffer in buffers:
        *lines, tail = (tail + buffer).split(b"\n")
        yield from lines
        tail = tail[:MAX_LINE_BYTES]
    if tail:
        yield tail
