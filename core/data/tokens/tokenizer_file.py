"""What may stand in a `tokenizer.json`: how each kind cuts text, and what a file is checked for before it is used.

Files of our kinds are exactly as we write them. Any other file of the `tokenizers` library is of the kind `loaded`;
it must reserve our names with the first ids, and its ids must have no gap.
"""

import collections
import json
import os
from typing import Any, Literal, NamedTuple

# How many threads work is decided by whoever starts processes, not by the library (which also warns about forks).
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from core import errors

Kind = Literal["char", "word", "bpe", "unigram", "wordpiece", "loaded"]
RESERVED = ("<unk>", "<pad>", "<bos>", "<eos>")
NEVER = -1e6
"""Score of a reserved name in a unigram model: text that looks like one is cut otherwise."""
_KINDS: tuple[Kind, ...] = ("char", "word", "bpe", "unigram", "wordpiece")
_BYTE_LEVEL = ("bpe", "unigram")


class Content(NamedTuple):
    """What a file says: its kind, the text of each id, the reserved names, which are the first, then the symbols."""

    kind: Kind
    names: list[str]
    reserved: tuple[str, ...]
    symbols: tuple[str, ...] = ()


def skeleton(kind: Kind, model: Any) -> tokenizers.Tokenizer:
    """A tokenizer of the library that cuts text as we do, with the given model."""
    library = tokenizers.Tokenizer(model)
    if kind in _BYTE_LEVEL:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
    elif kind == "char":
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        library.decoder = decoders.Fuse()
    else:
        library.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        if kind == "wordpiece":
            library.decoder = decoders.WordPiece("##", cleanup=False)
    return library


def empty_model(kind: Kind) -> Any:
    """The library's model of a kind, without a vocabulary."""
    match kind:
        case "bpe":
            return models.BPE()
        case "unigram":
            return models.Unigram([(RESERVED[0], 0.0)], 0, False)
        case "wordpiece":
            return models.WordPiece(unk_token=RESERVED[0])
    return word_level({RESERVED[0]: 0})


def word_level(vocabulary: dict[str, int]) -> Any:
    """The library's model of whole units."""
    return models.WordLevel(vocabulary, unk_token=RESERVED[0])


def library(text: str) -> tokenizers.Tokenizer:
    """Loads a checked file into the library."""
    made = tokenizers.Tokenizer.from_str(text)
    # Reserved names that occur in text are then cut like any other text; the file does not keep this switch.
    made.encode_special_tokens = True
    return made


def read(text: str, where: str) -> Content:
    """Reads and checks a file; `where` names it in errors.

    Raises:
        IntegrityError: it is damaged, or breaks the contract above.
    """
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"is no valid JSON ({error})") from error
    kind = _kind_of(content, where)
    reserved = _reserved_of(content, kind, where)
    if kind == "loaded":
        return Content(kind, _names_of(_loaded_vocabulary(content, text, where), reserved, where), reserved)
    symbols = _symbols_of(content, len(reserved), where)
    added = (*reserved, *symbols)
    names = _names_of(_vocabulary_of(content["model"], where), added, where)
    _check_units(kind, names[len(added) :], where)
    if kind == "bpe":
        _check_merges(content["model"].get("merges"), set(names), added, where)
    if kind == "unigram":
        _check_scores(content["model"], len(added), where)
    return Content(kind, names, reserved, symbols)


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
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise _damaged(where, "is no tokenizer.json: it has no model")
    found = _without_vocabulary(content)
    for kind in _KINDS:
        expected = _without_vocabulary(json.loads(skeleton(kind, empty_model(kind)).to_str()))
        # Settings that a later release of the library adds are absent from older files.
        stated = {"pre_tokenizer", "decoder", "model.type"} <= found.keys() <= expected.keys()
        if stated and all(expected[key] == value for key, value in found.items()):
            return kind
    return "loaded"


def _without_vocabulary(content: dict[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in content.items() if key not in ("model", "added_tokens")}
    model = content["model"].items()
    return flat | {f"model.{key}": value for key, value in model if key not in ("vocab", "merges")}


def _reserved_of(content: dict[str, Any], kind: Kind, where: str) -> tuple[str, ...]:
    """Reads the reserved names; their ids are 0, 1, …, those of `RESERVED` first and in its order.

    In our own files tokens may follow them that tell a model the direction of a translation.
    """
    added = content.get("added_tokens")
    rows = added if isinstance(added, list) and all(isinstance(row, dict) for row in added) else []
    special = [row for row in rows if row.get("special", True)]
    found = tuple(row.get("content") for row in special)
    right = tuple(name for name in RESERVED if name in found)
    if kind != "loaded":
        right += tuple(name for name in dict.fromkeys(found) if name not in RESERVED and isinstance(name, str))
    if found != right or found[:1] != ("<unk>",) or [row.get("id") for row in special] != list(range(len(special))):
        raise _damaged(where, f"must reserve <unk> first and then of {', '.join(RESERVED[1:])}, with ids from 0")
    return right


def _symbols_of(content: dict[str, Any], num_reserved: int, where: str) -> tuple[str, ...]:
    """Reads the symbols of a user from one of our own files: added tokens that are not special, behind those."""
    rows = [row for row in content["added_tokens"] if not row.get("special", True)]
    expected = list(range(num_reserved, num_reserved + len(rows)))
    if [row.get("id") for row in rows] != expected or not all(isinstance(row.get("content"), str) for row in rows):
        raise _damaged(where, "must give its symbols the ids that follow those of the reserved names")
    return tuple(row["content"] for row in rows)


def _loaded_vocabulary(content: dict[str, Any], text: str, where: str) -> dict[str, int]:
    for name in ("truncation", "padding"):
        if content.get(name) is not None:
            raise _damaged(where, f"has {name}, which would change lines; set it to null")
    try:
        return tokenizers.Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
    except Exception as error:
        if type(error) is Exception:  # the library raises a bare one, which nothing narrower catches
            raise _damaged(where, f"cannot be read by the tokenizers library ({error})") from error
        raise


def _vocabulary_of(model: dict[str, Any], where: str) -> Any:
    """Returns ids by name; a unigram model lists names with their scores."""
    listed = model.get("vocab")
    if not isinstance(listed, list):
        return listed
    if not all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in listed):
        raise _damaged(where, "has no list of names and scores")
    return {name: position for position, (name, _) in enumerate(listed)}


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
    cut_at_spaces = kind in ("word", "wordpiece")
    for name in names:
        if "\n" in name or (cut_at_spaces and " " in name) or (kind == "char" and len(name) != 1):
            raise _damaged(where, f"has the entry {name!a}, which no {kind} is")
    if kind in _BYTE_LEVEL and not set(pre_tokenizers.ByteLevel.alphabet()) <= set(names):
        raise _damaged(where, "lacks some of the 256 bytes")


def merges_of(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the merges of a checked BPE file, first learnt first, whichever way they are written."""
    return [(left, right) for left, right in map(_pair, content["model"]["merges"])]


def _pair(merge: Any) -> Any:
    """A merge as a list of its halves; older files have them in one string, a space between."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _check_merges(merges: Any, names: set[str], reserved: tuple[str, ...], where: str) -> None:
    if not isinstance(merges, list):
        raise _damaged(where, "has no list of merges")
    for number, merge in enumerate(merges):
        pair = _pair(merge)
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) and half for half in pair):
            raise _damaged(where, f"merge {number} is not a pair")
        joined = "".join(pair)
        if not {*pair, joined} <= names or {*pair, joined} & {*reserved}:
            raise _damaged(where, f"merge {number} ({joined!a}) does not make an ordinary entry from two others")


def _check_scores(model: dict[str, Any], num_reserved: int, where: str) -> None:
    scores = [score for _, score in model["vocab"]]
    if model.get("unk_id") != 0 or not all(isinstance(score, float | int) for score in scores):
        raise _damaged(where, "must have <unk> as id 0, and a score for each entry")
    if any(score != NEVER for score in scores[:num_reserved]) or not all(
        s > NEVER / 100 for s in scores[num_reserved:]
    ):
        raise _damaged(where, f"must give reserved names the score {NEVER:g}, and no other entry one so low")
