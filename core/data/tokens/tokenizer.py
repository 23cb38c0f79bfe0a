"""Tokenizers: text to token ids and back, by character, by word, or by pieces of words.

A tokenizer is kept as the `tokenizers` library's own `tokenizer.json`. Ids of reserved names come first, in the
order of `RESERVED`; text that is equal to one of these names is ordinary text and never gives the id of `<pad>`,
`<bos>` or `<eos>`. The ids after them are those of the symbols that a user adds, each of which is one token wherever
it stands in a text.

Words are what stands between single spaces, as in the documents: a doubled space inside a line makes an empty
word, which `decode` gives back; spaces at the ends of a line make none. The cleaning step `strip` avoids both.

Byte-level `bpe` and `unigram` give any text back exactly; `wordpiece` gives words back that it has the letters of.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from tokenizers import AddedToken, pre_tokenizers, trainers

from core import errors
from core.data.text import cleaning
from core.data.tokens import tokenizer_file

Kind = tokenizer_file.Kind
RESERVED = tokenizer_file.RESERVED
UNK_ID = RESERVED.index("<unk>")
BATCH_LINES = 4096


def reserved_for(kind: str, line_end: str = "eos") -> tuple[str, ...]:
    """Returns the reserved names that a corpus of this kind (`text` or `pairs`) needs."""
    if kind == "pairs":
        return RESERVED
    return ("<unk>", "<eos>") if line_end == "eos" else ("<unk>",)


def units(kind: str, line: str, symbols: Sequence[str] = ()) -> list[str]:
    """Cuts a cleaned line into the units that a `char` or `word` tokenizer counts and knows; a symbol is one."""
    assert kind in ("char", "word"), kind
    if symbols:
        pieces = re.split(f"({'|'.join(map(re.escape, symbols))})", line)
        found = (units(kind, text) if number % 2 == 0 else [text] for number, text in enumerate(pieces))
        return list(itertools.chain.from_iterable(found))
    if kind == "char":
        return list(line)
    stripped = line.strip(" ")
    return stripped.split(" ") if stripped else []


@dataclass
class Counts:
    """How often each unit occurs; units stand in the order in which they were first seen."""

    by_unit: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, seen: Iterable[str]) -> None:
        """Counts the units of one more line."""
        self.by_unit.update(seen)

    def merge(self, later: "Counts") -> None:
        """Adds the counts of a part of the corpus that comes after all of what was counted here."""
        self.by_unit.update(later.by_unit)

    @property
    def total(self) -> int:
        """Number of units counted."""
        return self.by_unit.total()


class _Ids(dict[str, int]):
    """Ids by unit; a unit that is not here is `<unk>`."""

    def __missing__(self, unit: str) -> int:
        return 0


class Tokenizer:
    """Turns text into ids and ids into text; made by `from_counts`, `train_subwords`, `load` or `from_json`.

    Attributes:
        kind: `char`, `word`, `bpe`, `unigram`, `wordpiece` or `loaded`.
        vocabulary_size: number of ids, reserved ones included; ids are 0 … `vocabulary_size - 1`.
        fingerprint: SHA-256 of `to_json()`.
        reserved: the reserved names.
        symbols: the names that a user added.
        unk_id, pad_id, bos_id, eos_id: ids of the reserved names; None where a name is not reserved.
    """

    def __init__(self, text: str, content: tokenizer_file.Content) -> None:
        self.kind, names, reserved, self.symbols = content
        self.vocabulary_size = len(names)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.unk_id = UNK_ID
        self.pad_id, self.bos_id, self.eos_id = (
            reserved.index(name) if name in reserved else None for name in RESERVED[1:]
        )
        self._text = text
        self._names = names
        self.reserved = reserved
        self._silent = frozenset(range(1, len(reserved)))
        self._ids = _Ids(zip(names[len(reserved) :], range(len(reserved), len(names)), strict=True))
        self._library = None if self.kind in ("char", "word") else tokenizer_file.library(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Callable[[str, str], Self], tuple[str, str]]:
        return type(self).from_json, (self._text, "tokenizer")

    @property
    def target_tokens(self) -> tuple[str, ...]:
        """The reserved names that tell a model of several directions into which language it is to translate."""
        return tuple(name for name in self.reserved if name not in RESERVED)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one line."""
        return self.encode_lines([text])[0]

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line; of the reserved ids only that of `<unk>` occurs."""
        id_of = self._ids.__getitem__
        if self.kind == "char" and not self.symbols:
            return [list(map(id_of, line)) for line in lines]
        if self._library is None:
            return [list(map(id_of, units(self.kind, line, self.symbols))) for line in lines]
        encoded: list[list[int]] = []
        for start in range(0, len(lines), BATCH_LINES):
            batch = list(lines[start : start + BATCH_LINES])
            encoded += [one.ids for one in self._library.encode_batch_fast(batch, add_special_tokens=False)]
        if self.kind in ("wordpiece", "loaded"):  # whose models may know a reserved name as a word of the text
            encoded = [self._without_reserved(ids) for ids in encoded]
        return encoded

    def _without_reserved(self, ids: list[int]) -> list[int]:
        return [self.unk_id if one in self._silent else one for one in ids] if self._silent.intersection(ids) else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; `<pad>`, `<bos>` and `<eos>` are left out."""
        kept = [one for one in ids if one not in self._silent]
        if self._library is not None:
            return str(self._library.decode(kept, skip_special_tokens=False))
        return ("" if self.kind == "char" else " ").join([self._names[one] for one in kept])

    def words(self, ids: Iterable[int]) -> list[str]:
        """Returns the words that pieces make, as merges see them: of bytes, each written as one letter."""
        assert self._library is not None, f"a tokenizer of kind {self.kind} has no pieces of words"
        return [word for word, _ in self._library.pre_tokenizer.pre_tokenize_str(self.decode(ids))]

    def token(self, one: int) -> str:
        """Returns the text that one id stands for; of subwords, bytes that are no whole character show as U+FFFD."""
        if self._library is None or one < len(self.reserved):
            return self._names[one]
        return str(self._library.decode([one], skip_special_tokens=False))

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`."""
        return self._text

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Reads what `to_json` wrote; `where` names the file in errors.

        Raises:
            IntegrityError: it is damaged, or not a tokenizer of ours.
        """
        return cls(text, tokenizer_file.read(text, where))


def from_counts(
    kind: Literal["char", "word"],
    counts: Counts,
    min_freq: int,
    max_size: int | None,
    reserved: Sequence[str],
    symbols: Sequence[str] = (),
) -> Tokenizer:
    """Makes a vocabulary: reserved names, symbols, then units from the most frequent down, ties in first-seen order.

    A unit that is equal to a reserved name or symbol gets no entry of its own. `max_size` includes both.

    Source: document 000 section 8.2.3.
    """
    added = (*reserved, *symbols)
    frequent = [(unit, count) for unit, count in counts.by_unit.items() if count >= min_freq and unit not in added]
    frequent.sort(key=lambda row: row[1], reverse=True)
    names = [*added, *(unit for unit, _ in frequent)][:max_size]
    model = tokenizer_file.word_level({name: position for position, name in enumerate(names)})
    library = tokenizer_file.skeleton(kind, model)
    library.add_special_tokens(list(reserved))
    library.add_tokens([AddedToken(name, normalized=False) for name in symbols])
    return Tokenizer(library.to_str(), tokenizer_file.Content(kind, names, tuple(reserved), tuple(symbols)))


def train_subwords(
    kind: Literal["bpe", "unigram", "wordpiece"],
    lines: Iterator[str],
    size: int,
    reserved: Sequence[str],
    symbols: Sequence[str] = (),
) -> Tokenizer:
    """Learns at most `size` ids from lines: reserved names, symbols, then bytes or letters, then pieces of words.

    Equal lines give an equal `bpe`; the library's other two trainers may differ from run to run.

    Source: bpe: Sennrich et al. 2016, on bytes as in GPT-2 (Radford et al. 2019); unigram: Kudo 2018, on the same
    bytes; wordpiece: Schuster and Nakajima 2012, cut at spaces.
    """
    library = tokenizer_file.skeleton(kind, tokenizer_file.empty_model(kind))
    added = [*reserved, *symbols]
    library.train_from_iterator(lines, _trainer(kind, size, added))
    text = library.to_str()
    if kind == "unigram" or symbols:
        content = json.loads(text)
        for row in content["added_tokens"]:  # a trainer knows special ones only, which text never gives
            row["special"] = row["content"] not in symbols
        for row in content["model"]["vocab"][: len(added)] if kind == "unigram" else ():
            row[1] = tokenizer_file.NEVER
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Tokenizer.from_json(text, "tokenizer")


def _trainer(kind: str, size: int, reserved: list[str]) -> Any:
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": reserved, "show_progress": False}
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(min_frequency=2, **common)
    common["initial_alphabet"] = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        return trainers.UnigramTrainer(unk_token=RESERVED[0], **common)
    return trainers.BpeTrainer(min_frequency=2, **common)


def load(text: str, where: str, needed: Sequence[str]) -> Tokenizer:
    """Reads a ready `tokenizer.json`; `where` names it in errors.

    It must reserve the names that the corpus needs, as the first ids in the order of `RESERVED`.

    Raises:
        DataError: it does not, or is no such file.
    """
    try:
        made = Tokenizer.from_json(text, where)
    except errors.IntegrityError as error:
        raise errors.DataError(f"tokenizer.load: {str(error).partition(';')[0]}; name another file") from error
    missing = [name for name in needed if name not in made.reserved]
    if missing:
        raise errors.DataError(
            f"tokenizer.load: {where}: does not reserve {', '.join(missing)}; "
            f"give it the special tokens {' '.join(needed)} with ids from 0"
        )
    return made


@dataclass(frozen=True)
class Codec:
    """What turns a line of text into ids: the cleaning steps and the tokenizer of one side.

    `begin` are reserved ids that stand before each line, but for an empty one.

    Raises:
        IntegrityError: a step is none of `cleaning.STEPS`.
    """

    cleaning: tuple[str, ...]
    tokenizer: Tokenizer
    begin: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [step for step in self.cleaning if step not in cleaning.STEPS]
        if unknown:
            raise errors.IntegrityError(
                f"cleaning: {unknown[0]!a} is no step of this version; use the one that wrote it"
            )

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Cleans and encodes lines; no reserved ids are added but those of `begin`."""
        if self.cleaning:
            lines = cleaning.clean_lines(lines, self.cleaning)
        encoded = self.tokenizer.encode_lines(lines)
        return [[*self.begin, *ids] if ids else ids for ids in encoded] if self.begin else encoded

    def with_target_token(self, target_token: str) -> "Codec":
        """The codec that begins lines with a target token."""
        return dataclasses.replace(self, begin=(self.tokenizer.reserved.index(target_token),))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; cleaning is not undone."""
        return self.tokenizer.decode(ids)
