"""Tokenizers: text to token ids and back, by character, by word or by byte-level BPE.

A tokenizer is kept as the `tokenizers` library's own `tokenizer.json`. Ids of reserved names come first, in the
order of `RESERVED`; text that is equal to one of these names is ordinary text and never gives the id of `<pad>`,
`<bos>` or `<eos>`.

Words are what stands between single spaces, as in the documents: a doubled space inside a line makes an empty
word, which `decode` gives back; spaces at the ends of a line make none. The cleaning step `strip` avoids both.
"""

import collections
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

# How many threads work is decided by whoever starts processes, not by the library (which also warns about forks).
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from core import errors
from core.data import cleaning

Kind = Literal["char", "word", "bpe"]
RESERVED = ("<unk>", "<pad>", "<bos>", "<eos>")
BATCH_LINES = 4096
_KINDS: tuple[Kind, ...] = ("char", "word", "bpe")


def reserved_for(kind: str, line_end: str = "eos") -> tuple[str, ...]:
    """Returns the reserved names that a corpus of this kind (`text` or `pairs`) needs."""
    if kind == "pairs":
        return RESERVED
    return ("<unk>", "<eos>") if line_end == "eos" else ("<unk>",)


def units(kind: str, line: str) -> list[str]:
    """Cuts a cleaned line into the units that a `char` or `word` tokenizer counts and knows."""
    assert kind in ("char", "word"), kind
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
    """Turns text into ids and ids into text; made by `from_counts`, `train_bpe` or `from_json`.

    Attributes:
        kind: `char`, `word` or `bpe`.
        vocabulary_size: number of ids, reserved ones included; ids are 0 … `vocabulary_size - 1`.
        fingerprint: SHA-256 of `to_json()`.
        unk_id, pad_id, bos_id, eos_id: ids of the reserved names; None where a name is not reserved.
    """

    def __init__(self, kind: Kind, text: str, names: list[str], reserved: tuple[str, ...]) -> None:
        self.kind = kind
        self.vocabulary_size = len(names)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.unk_id = 0
        self.pad_id, self.bos_id, self.eos_id = (
            reserved.index(name) if name in reserved else None for name in RESERVED[1:]
        )
        self._text = text
        self._names = names
        self._reserved = reserved
        self._silent = frozenset(range(1, len(reserved)))
        self._ids = _Ids(zip(names[len(reserved) :], range(len(reserved), len(names)), strict=True))
        self._library = _loaded(text) if kind == "bpe" else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Callable[[str, str], Self], tuple[str, str]]:
        return type(self).from_json, (self._text, "tokenizer")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one line."""
        return self.encode_lines([text])[0]

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line; of the reserved ids only that of `<unk>` occurs."""
        id_of = self._ids.__getitem__
        if self.kind == "char":
            return [list(map(id_of, line)) for line in lines]
        if self._library is None:
            return [list(map(id_of, units("word", line))) for line in lines]
        encoded: list[list[int]] = []
        for start in range(0, len(lines), BATCH_LINES):
            batch = list(lines[start : start + BATCH_LINES])
            encoded += [one.ids for one in self._library.encode_batch_fast(batch, add_special_tokens=False)]
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; `<pad>`, `<bos>` and `<eos>` are left out."""
        kept = [one for one in ids if one not in self._silent]
        if self._library is not None:
            return str(self._library.decode(kept, skip_special_tokens=False))
        return ("" if self.kind == "char" else " ").join([self._names[one] for one in kept])

    def token(self, one: int) -> str:
        """Returns the text that one id stands for; of bpe, bytes that are no whole character show as U+FFFD."""
        if self._library is None or one < len(self._reserved):
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
        try:
            content = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
        except (ValueError, RecursionError) as error:
            raise _damaged(where, f"is no valid JSON ({error})") from error
        kind = _kind_of(content, where)
        reserved = _reserved_of(content, where)
        names = _names_of(content["model"].get("vocab"), reserved, where)
        _check_units(kind, names[len(reserved) :], where)
        if kind == "bpe":
            _check_merges(content["model"].get("merges"), set(names), reserved, where)
        return cls(kind, text, names, reserved)


def from_counts(
    kind: Literal["char", "word"], counts: Counts, min_freq: int, max_size: int | None, reserved: Sequence[str]
) -> Tokenizer:
    """Makes a vocabulary: reserved names, then units from the most frequent down, ties in first-seen order.

    A unit that is equal to a reserved name gets no entry of its own. `max_size` includes the reserved names.

    Source: document 000 section 8.2.3.
    """
    frequent = [(unit, count) for unit, count in counts.by_unit.items() if count >= min_freq and unit not in reserved]
    frequent.sort(key=lambda row: row[1], reverse=True)
    names = [*reserved, *(unit for unit, _ in frequent)][:max_size]
    library = _skeleton(kind, _word_level({name: position for position, name in enumerate(names)}))
    library.add_special_tokens(list(reserved))
    return Tokenizer(kind, library.to_str(), names, tuple(reserved))


def train_bpe(lines: Iterator[str], size: int, reserved: Sequence[str]) -> Tokenizer:
    """Learns a byte-level BPE of at most `size` ids: reserved names, 256 bytes, then merges.

    Equal lines give an equal tokenizer; any text comes back from its ids exactly.

    Source: Sennrich et al. 2016, on bytes as in GPT-2 (Radford et al. 2019).
    """
    library = _skeleton("bpe", models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(reserved),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(lines, trainer)
    return Tokenizer.from_json(library.to_str(), "tokenizer")


@dataclass(frozen=True)
class Codec:
    """What turns a line of text into ids: the cleaning steps and the tokenizer of one side.

    Raises:
        IntegrityError: a step is none of `cleaning.STEPS`.
    """

    cleaning: tuple[str, ...]
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        unknown = [step for step in self.cleaning if step not in cleaning.STEPS]
        if unknown:
            raise errors.IntegrityError(
                f"cleaning: {unknown[0]!a} is no step of this version; use the one that wrote it"
            )

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Cleans and encodes lines; no reserved ids are added."""
        if self.cleaning:
            lines = [cleaning.clean(line, self.cleaning) for line in lines]
        return self.tokenizer.encode_lines(lines)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; cleaning is not undone."""
        return self.tokenizer.decode(ids)


def _skeleton(kind: Kind, model: Any) -> tokenizers.Tokenizer:
    """A tokenizer of the library that cuts text as we do, with the given model."""
    library = tokenizers.Tokenizer(model)
    if kind == "bpe":
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
    elif kind == "char":
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        library.decoder = decoders.Fuse()
    else:
        library.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return library


def _word_level(vocabulary: dict[str, int]) -> Any:
    return models.WordLevel(vocabulary, unk_token=RESERVED[0])


def _loaded(text: str) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(text)
    # Reserved names that occur in text are then cut like any other text; the file does not keep this switch.
    library.encode_special_tokens = True
    return library


def _damaged(where: str, what: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{where}: {what}; restore it, or prepare the dataset again")


def _without_repeats(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        repeated = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _damaged(where, f"has two entries {repeated!a}")
    return content


def _kind_of(content: Any, where: str) -> Kind:
    """Finds the kind whose way of cutting text the file states; whatever it states more must be as we write it."""
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        found = _without_vocabulary(content)
        for kind in _KINDS:
            model = models.BPE() if kind == "bpe" else _word_level({"<unk>": 0})
            expected = _without_vocabulary(json.loads(_skeleton(kind, model).to_str()))
            # Settings that a later release of the library adds are absent from older files.
            stated = {"pre_tokenizer", "decoder", "model.type"} <= found.keys() <= expected.keys()
            if stated and all(expected[key] == value for key, value in found.items()):
                return kind
    raise _damaged(where, "is no tokenizer.json of a char, word or byte-level bpe tokenizer as we write them")


def _without_vocabulary(content: dict[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in content.items() if key not in ("model", "added_tokens")}
    model = content["model"].items()
    return flat | {f"model.{key}": value for key, value in model if key not in ("vocab", "merges")}


def _reserved_of(content: dict[str, Any], where: str) -> tuple[str, ...]:
    """Reads the reserved names; their ids are 0, 1, … in the order of `RESERVED`."""
    added = content.get("added_tokens")
    rows = added if isinstance(added, list) and all(isinstance(row, dict) for row in added) else []
    found = tuple(row.get("content") for row in rows)
    right = tuple(name for name in RESERVED if name in found)
    if found != right or found[:1] != ("<unk>",) or [row.get("id") for row in rows] != list(range(len(rows))):
        raise _damaged(where, f"must reserve <unk> first and then of {', '.join(RESERVED[1:])}, with ids from 0")
    return right


def _names_of(vocabulary: Any, reserved: tuple[str, ...], where: str) -> list[str]:
    """Puts the vocabulary in order of its ids, which must be 0, 1, … without a gap."""
    if not isinstance(vocabulary, dict) or not all(type(one) is int for one in vocabulary.values()):
        raise _damaged(where, "has no vocabulary of integer ids")
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    for position, name in enumerate(names):
        if vocabulary[name] != position:
            raise _damaged(where, f"has a gap or a repeated id: {name!a} is {vocabulary[name]}, not {position}")
    if tuple(names[: len(reserved)]) != reserved:
        raise _damaged(where, f"must begin with {' '.join(reserved)} in its vocabulary")
    return names


def _check_units(kind: Kind, names: list[str], where: str) -> None:
    for name in names:
        if "\n" in name or (kind == "word" and " " in name) or (kind == "char" and len(name) != 1):
            raise _damaged(where, f"has the entry {name!a}, which no {kind} is")
    if kind == "bpe" and not set(pre_tokenizers.ByteLevel.alphabet()) <= set(names):
        raise _damaged(where, "lacks some of the 256 bytes")


def _check_merges(merges: Any, names: set[str], reserved: tuple[str, ...], where: str) -> None:
    if not isinstance(merges, list):
        raise _damaged(where, "has no list of merges")
    for number, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) and half for half in pair):
            raise _damaged(where, f"merge {number} is not a pair")
        joined = "".join(pair)
        if not {*pair, joined} <= names or {*pair, joined} & {*reserved}:
            raise _damaged(where, f"merge {number} ({joined!a}) does not make an ordinary entry from two others")
