"""Tokenizers: text to token ids and back, by character, by word, or by subword.

A tokenizer is stored as `tokenizer.json`, the format of the `tokenizers` library. Ids of reserved tokens come first, in
the order of `vocabulary.RESERVED`; text that equals one of their names is ordinary text and never gives the id of
`<pad>`, `<bos>` or `<eos>`. Then come the ids of the symbols that the user adds, each of which is one token wherever it
occurs in a text.

Byte-level `bpe` and `unigram` decode to exactly the encoded text. `word` and `wordpiece` split at single spaces:
`decode` returns a doubled space inside a line, but no spaces at its ends (the cleaning step `strip` removes both), and
of `wordpiece` only words of characters in its vocabulary.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from tokenizers import AddedToken, pre_tokenizers, trainers

from core import errors
from core.data.text import cleaning
from core.data.tokens import tokenizer_file, vocabulary

Kind = tokenizer_file.Kind
BATCH_LINES = 4096
"""Lines that the library encodes at a time; it does so in parallel only within a batch."""


# `__missing__`, so that `map` over `__getitem__` calls no Python function for a known unit.
class _Ids(dict[str, int]):
    """Ids by unit, that of `<unk>` for units without an entry."""

    def __missing__(self, unit: str) -> int:
        return vocabulary.UNK_ID


class Tokenizer:
    """Encodes text as ids and decodes ids; see `from_counts`, `train_subwords`, `load` and `from_json`.

    Attributes:
        kind: `char`, `word`, `bpe`, `unigram`, `wordpiece` or `loaded`.
        vocabulary_size: number of ids, reserved ones included; ids are 0 … `vocabulary_size - 1`.
        fingerprint: SHA-256 of `to_json()`.
        reserved: the reserved tokens.
        symbols: the symbols that the user added.
        unk_id, pad_id, bos_id, eos_id: ids of the reserved tokens; None for those that are not reserved.
    """

    def __init__(self, text: str, content: tokenizer_file.Content) -> None:
        self.kind, names, reserved, self.symbols = content
        self.vocabulary_size = len(names)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.unk_id = vocabulary.UNK_ID
        self.pad_id, self.bos_id, self.eos_id = (
            reserved.index(name) if name in reserved else None for name in vocabulary.RESERVED[1:]
        )
        self._text = text
        self._names = names
        self.reserved = reserved
        # All but <unk>: these are left out of decoded text, and never come from text.
        self._control_ids = frozenset(range(1, len(reserved)))
        # Without the reserved tokens: text that equals one of their names is unknown, not a control token.
        self._ids = _Ids(zip(names[len(reserved) :], range(len(reserved), len(names)), strict=True))
        self._library = None if self.kind in ("char", "word") else tokenizer_file.library(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Callable[[str, str], Self], tuple[str, str]]:
        # Pickled as its file: what a worker gets is validated like what is read from the dataset.
        return type(self).from_json, (self._text, "tokenizer")

    @property
    def target_tokens(self) -> tuple[str, ...]:
        """Reserved tokens that select the target language of a multilingual model."""
        return tuple(name for name in self.reserved if name not in vocabulary.RESERVED)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of one line."""
        return self.encode_lines([text])[0]

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line, of reserved ids only that of `<unk>`."""
        id_of = self._ids.__getitem__
        if self.kind == "char" and not self.symbols:
            # The usual case of characters without the function call for each line.
            return [list(map(id_of, line)) for line in lines]
        if self._library is None:
            return [list(map(id_of, vocabulary.split_units(self.kind, line, self.symbols))) for line in lines]
        encoded: list[list[int]] = []
        for start in range(0, len(lines), BATCH_LINES):
            batch = list(lines[start : start + BATCH_LINES])
            # Fast: without offsets, which nothing here needs. The caller adds <bos> and <eos>, if the corpus has them.
            with tokenizer_file.refusing("tokenizer.json"):
                encodings = self._library.encode_batch_fast(batch, add_special_tokens=False)
            encoded += [encoding.ids for encoding in encodings]
        # The models of these kinds may know the name of a reserved token as a word of the text.
        if self.kind in ("wordpiece", "loaded"):
            encoded = [self._without_reserved(ids) for ids in encoded]
        return encoded

    def _without_reserved(self, ids: list[int]) -> list[int]:
        """Returns ids with `<unk>` in place of reserved ids."""
        if not self._control_ids.intersection(ids):
            return ids
        return [self.unk_id if token in self._control_ids else token for token in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; `<pad>`, `<bos>` and `<eos>` are left out."""
        kept = [token for token in ids if token not in self._control_ids]
        if self._library is not None:
            return str(self._library.decode(kept, skip_special_tokens=False))
        # The inverse of `split_units`: an empty word between two spaces gives the doubled space back.
        return ("" if self.kind == "char" else " ").join([self._names[token] for token in kept])

    def words(self, ids: Iterable[int]) -> list[str]:
        """Returns the words of subword ids as BPE merges see them: bytes, each written as one letter."""
        assert self._library is not None, f"a tokenizer of kind {self.kind} has no subwords"
        return [word for word, _ in self._library.pre_tokenizer.pre_tokenize_str(self.decode(ids))]

    def token(self, token_id: int) -> str:
        """Returns the text of one id; of byte-level subwords, incomplete characters are shown as U+FFFD."""
        if self._library is None or token_id < len(self.reserved):
            return self._names[token_id]
        return str(self._library.decode([token_id], skip_special_tokens=False))

    def to_json(self) -> str:
        """Returns the content of `tokenizer.json`."""
        return self._text

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Returns the tokenizer of a `tokenizer.json`; `where` names the file in error messages.

        Raises:
            IntegrityError: it is damaged, or not a valid tokenizer.
        """
        return cls(text, tokenizer_file.read(text, where))


def from_counts(
    kind: Literal["char", "word"],
    counts: vocabulary.Counts,
    min_freq: int,
    max_size: int | None,
    reserved: Sequence[str],
    symbols: Sequence[str] = (),
) -> Tokenizer:
    """Returns a tokenizer with a vocabulary of the counted units; see `vocabulary.build`."""
    names = vocabulary.build(counts, min_freq, max_size, reserved, symbols)
    model = tokenizer_file.word_level({name: index for index, name in enumerate(names)})
    library = tokenizer_file.skeleton(kind, model)
    # All names are in the vocabulary already: added, they keep those ids.
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
    """Returns a subword tokenizer trained on lines, with at most `size` ids; with fewer if the lines give no more.

    Ids are those of reserved tokens, symbols, bytes or letters, then subwords. Equal lines give an equal `bpe`; the
    library's other two trainers are not deterministic.

    Source: bpe: Sennrich et al. 2016, Neural machine translation of rare words with subword units, on bytes as in GPT-2
    (Radford et al. 2019); unigram: Kudo 2018, Subword regularization, on the same bytes; wordpiece: Schuster and
    Nakajima 2012, Japanese and Korean voice search, split at spaces.

    Raises:
        DataError: reserved tokens, symbols, and bytes or letters alone are more than `size`.
    """
    library = tokenizer_file.skeleton(kind, tokenizer_file.empty_model(kind))
    added = [*reserved, *symbols]
    _check_size(kind, size, smallest_size(kind, len(added)))
    library.train_from_iterator(lines, _trainer(kind, size, added))
    text = library.to_str()
    # The library's trainers have no option for what is changed here.
    if kind == "unigram" or symbols:
        content = json.loads(text)
        # A trainer makes all added tokens special, which text never gives: symbols must be ordinary ones.
        for entry in content["added_tokens"]:
            entry["special"] = entry["content"] not in symbols
        # The trainer gives added tokens a score of 0, the best there is: text would be segmented into them.
        for entry in content["model"]["vocab"][: len(added)] if kind == "unigram" else ():
            entry[1] = tokenizer_file.NEVER
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    trained = Tokenizer.from_json(text, "tokenizer")
    # The library takes the size as a wish: all letters of the text come on top of it.
    _check_size(kind, size, trained.vocabulary_size)
    return trained


def smallest_size(kind: str, num_added: int) -> int:
    """Returns the size of the smallest vocabulary of a kind that has room for a text, whatever its letters are.

    Args:
        kind: of the tokenizer.
        num_added: number of reserved tokens and symbols.
    """
    return num_added + (len(pre_tokenizers.ByteLevel.alphabet()) if kind in ("bpe", "unigram") else 1)


def _check_size(kind: str, size: int, needed: int) -> None:
    if needed > size:
        remedy = "" if kind == "bpe" else ", or kind bpe, which needs no entry for a letter"
        raise errors.DataError(
            f"tokenizer.max_size: {size} is too small for {kind}: special tokens and letters alone take {needed} "
            f"entries; use more than {needed}{remedy}"
        )


def _trainer(kind: str, size: int, added: list[str]) -> Any:
    """Returns the library's trainer of a kind; min_frequency 2 as in subword-nmt: a pair seen once is not merged."""
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": added, "show_progress": False}
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(min_frequency=2, **common)
    # All 256 bytes, so that any text can be encoded, whatever the training lines hold.
    common["initial_alphabet"] = sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        return trainers.UnigramTrainer(unk_token=vocabulary.RESERVED[0], **common)
    return trainers.BpeTrainer(min_frequency=2, **common)


def load(text: str, where: str, needed: Sequence[str]) -> Tokenizer:
    """Returns the pretrained tokenizer of a `tokenizer.json`; `where` names the file in error messages.

    It must reserve the tokens that the corpus needs, with the first ids in the order of `vocabulary.RESERVED`.

    Raises:
        DataError: it does not, or is not a valid file.
    """
    try:
        loaded = Tokenizer.from_json(text, where)
    except errors.IntegrityError as error:
        # The file is the user's, not one that we wrote: restoring it cannot help.
        raise errors.DataError(f"tokenizer.load: {str(error).partition(';')[0]}; name another file") from error
    missing = [name for name in needed if name not in loaded.reserved]
    if missing:
        raise errors.DataError(
            f"tokenizer.load: {where}: does not reserve {', '.join(missing)}; "
            f"give it the special tokens {' '.join(needed)} with ids from 0"
        )
    return loaded


@dataclass(frozen=True)
class Codec:
    """Cleaning steps and tokenizer of one side of a corpus: encodes lines of text as they are in the dataset.

    `begin` are reserved ids that are put before each line that is not empty.

    Raises:
        IntegrityError: a step is unknown.
    """

    cleaning: tuple[str, ...]
    tokenizer: Tokenizer
    begin: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [step for step in self.cleaning if step not in cleaning.STEPS]
        if unknown:
            raise errors.IntegrityError(
                f"cleaning: this version has no step {unknown[0]!a}; use the version that wrote it"
            )

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of cleaned lines, with `begin` but no other reserved ids added."""
        if self.cleaning:
            lines = cleaning.clean_lines(lines, self.cleaning)
        encoded = self.tokenizer.encode_lines(lines)
        return [[*self.begin, *ids] if ids else ids for ids in encoded] if self.begin else encoded

    def with_target_token(self, target_token: str) -> "Codec":
        """Returns a codec that puts a target-language token before each line."""
        return dataclasses.replace(self, begin=(self.tokenizer.reserved.index(target_token),))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, as cleaned."""
        return self.tokenizer.decode(ids)
