"""The `tokenizer.json` format: the pre-tokenizer and model of each kind, and validation of files.

Files of our kinds must be exactly as we write them. Any other file of the `tokenizers` library is of the kind `loaded`:
it must reserve our tokens with the first ids, and its ids must have no gap.
"""

import collections
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

# Parallelism is over processes, one for each core: threads of the library would compete with them. It also warns
# when a process with such threads is forked. Must be set before the import.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from core import errors
from core.data.tokens import tokenizer_trial, vocabulary
from core.storage import location

Kind = Literal["char", "word", "bpe", "unigram", "wordpiece", "loaded"]
NEVER = -1e6
"""Log-probability of reserved tokens in a unigram model, so low that text is never segmented into one."""
_KINDS: tuple[Kind, ...] = ("char", "word", "bpe", "unigram", "wordpiece")
_BYTE_LEVEL = ("bpe", "unigram")


class Content(NamedTuple):
    """Validated content of a file: its kind, the text of each id, the reserved tokens (first ids), then the symbols."""

    kind: Kind
    names: list[str]
    reserved: tuple[str, ...]
    symbols: tuple[str, ...] = ()


def skeleton(kind: Kind, model: Any) -> tokenizers.Tokenizer:
    """Returns a tokenizer of the library with the pre-tokenizer and decoder of a kind, and the given model."""
    library = tokenizers.Tokenizer(model)
    if kind in _BYTE_LEVEL:
        # A prefix space would be decoded as one that the line does not have.
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
    elif kind == "char":
        # Not `.`, which leaves line feeds out.
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
        library.decoder = decoders.Fuse()
    else:
        # At single spaces only, as D2L counts words: other white space is part of a word.
        library.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        if kind == "wordpiece":
            library.decoder = decoders.WordPiece("##", cleanup=False)  # cleanup would remove spaces before punctuation
    return library


def empty_model(kind: Kind) -> Any:
    """Returns the library's model of a kind, without a vocabulary."""
    match kind:
        case "bpe":
            return models.BPE()
        case "unigram":
            return models.Unigram([(vocabulary.RESERVED[0], 0.0)], 0, False)
        case "wordpiece":
            return models.WordPiece(unk_token=vocabulary.RESERVED[0])
    return word_level({vocabulary.RESERVED[0]: 0})


def word_level(ids: dict[str, int]) -> Any:
    """Returns the library's model of whole units: characters or words."""
    return models.WordLevel(ids, unk_token=vocabulary.RESERVED[0])


def library(text: str) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer of a validated file."""
    loaded = tokenizers.Tokenizer.from_str(text)
    # Names of reserved tokens in text are then split like any other text; the file does not store this switch.
    loaded.encode_special_tokens = True
    return loaded


def find(pattern: str) -> location.Location:
    """Returns the file that `tokenizer.load` names; a wildcard may replace the hash in a name that `prepare` made.

    Raises:
        DataError: there is none.
        UsageError: there are several.
    """
    files = location.Location.parse(pattern, "tokenizer.load").glob()
    if not files:
        raise errors.DataError(f"tokenizer.load: {pattern!a} matches no file; check the path")
    if len(files) > 1:
        raise errors.UsageError(f"tokenizer.load: {pattern!a} matches {len(files)} files; name one")
    return files[0]


def read(text: str, where: str) -> Content:
    """Returns the validated content of a file; `where` names it in error messages.

    Raises:
        IntegrityError: it is damaged, or not as described above.
    """
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"is not valid JSON ({error})") from error
    # Our own files get exact checks, since a wrong id would go unnoticed: it is a valid id of another unit.
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
    """Builds a JSON object, in which Python would keep the last of equal keys without an error."""
    content = dict(pairs)
    # Two ids of one unit: another program may take the other one.
    if len(content) != len(pairs):
        repeated = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _damaged(where, f"has two entries {repeated!a}")
    return content


def _kind_of(content: Any, where: str) -> Kind:
    """Returns the kind whose pre-tokenizer, decoder and model settings the file has exactly; else `loaded`."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise _damaged(where, "is not a tokenizer.json: it has no model")
    settings = _without_vocabulary(content)
    for kind in _KINDS:
        expected = _without_vocabulary(json.loads(skeleton(kind, empty_model(kind)).to_str()))
        # Settings that a later release of the library added are missing from older files.
        is_subset = {"pre_tokenizer", "decoder", "model.type"} <= settings.keys() <= expected.keys()
        # Any other value, such as a normalizer, changes the ids: such a file is `loaded`, and used as it is.
        if is_subset and all(expected[key] == value for key, value in settings.items()):
            return kind
    return "loaded"


def _without_vocabulary(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a file, those of its model with dotted keys."""
    flat = {key: value for key, value in content.items() if key not in ("model", "added_tokens")}
    model = content["model"].items()
    return flat | {f"model.{key}": value for key, value in model if key not in ("vocab", "merges")}


def _reserved_of(content: dict[str, Any], kind: Kind, where: str) -> tuple[str, ...]:
    """Returns the reserved tokens; their ids are 0, 1, …, those of `vocabulary.RESERVED` first and in its order.

    In our own files target-language tokens may follow.
    """
    added = content.get("added_tokens")
    rows = added if isinstance(added, list) and all(isinstance(row, dict) for row in added) else []
    # Our own symbols are added tokens, too, but not special.
    special = [row for row in rows if row.get("special", True)]
    names = tuple(row.get("content") for row in special)
    expected = tuple(name for name in vocabulary.RESERVED if name in names)
    if kind != "loaded":
        targets = (name for name in dict.fromkeys(names) if name not in vocabulary.RESERVED and isinstance(name, str))
        expected += tuple(targets)
    if names != expected or names[:1] != ("<unk>",) or [row.get("id") for row in special] != list(range(len(special))):
        raise _damaged(
            where, f"must reserve <unk> first and then of {', '.join(vocabulary.RESERVED[1:])}, with ids from 0"
        )
    return expected


def _symbols_of(content: dict[str, Any], num_reserved: int, where: str) -> tuple[str, ...]:
    """Returns the user's symbols in one of our own files: the added tokens that are not special."""
    rows = [row for row in content["added_tokens"] if not row.get("special", True)]
    expected = list(range(num_reserved, num_reserved + len(rows)))
    if [row.get("id") for row in rows] != expected or not all(isinstance(row.get("content"), str) for row in rows):
        raise _damaged(where, "must give its symbols the ids that follow those of the reserved tokens")
    return tuple(row["content"] for row in rows)


def _loaded_vocabulary(content: dict[str, Any], text: str, where: str) -> dict[str, int]:
    """Returns the ids by name of a file of another program."""
    for name in ("truncation", "padding"):
        if content.get(name) is not None:
            raise _damaged(where, f"has {name}, which would change the lines; set it to null")
    problem = tokenizer_trial.problem_of(text)
    if problem is not None:
        raise _damaged(where, f"cannot be read by the tokenizers library ({problem})")
    with refusing(where):
        return tokenizers.Tokenizer.from_str(text).get_vocab(with_added_tokens=True)


@contextlib.contextmanager
def refusing(where: str) -> Iterator[None]:
    """Turns errors and panics of the library into an IntegrityError."""
    try:
        yield
    except BaseException as error:
        # The library raises the base class, which no narrower clause catches; a panic of Rust is not even one of it.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:200]
            raise _damaged(where, f"cannot be used by the tokenizers library ({reason})") from error
        raise


def _vocabulary_of(model: dict[str, Any], where: str) -> Any:
    """Returns ids by name; a unigram model lists names with their scores."""
    listed = model.get("vocab")
    if not isinstance(listed, list):
        return listed
    if not all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in listed):
        raise _damaged(where, "has no list of entries and scores")
    # A repeated name keeps its last position, so that `_names_of` finds a gap.
    return {name: position for position, (name, _) in enumerate(listed)}


def _names_of(ids: Any, reserved: tuple[str, ...], where: str) -> list[str]:
    """Returns the entries in the order of their ids, which must be 0, 1, … without a gap."""
    if not isinstance(ids, dict) or not all(type(token_id) is int for token_id in ids.values()):  # True is an int, too
        raise _damaged(where, "has no vocabulary of integer ids")
    names = sorted(ids, key=ids.__getitem__)
    for index, name in enumerate(names):
        if ids[name] != index:
            raise _damaged(where, f"has a gap or a repeated id: {name!a} is {ids[name]}, not {index}")
    if tuple(names[: len(reserved)]) != reserved:
        raise _damaged(where, f"must begin with {' '.join(reserved)} in its vocabulary")
    return names


def _check_units(kind: Kind, names: list[str], where: str) -> None:
    """Checks that every entry is one that the kind's pre-tokenizer can produce."""
    splits_at_spaces = kind in ("word", "wordpiece")
    for name in names:
        # Such an entry never matches: it would only take an id, and a row of the weights.
        if "\n" in name or (splits_at_spaces and " " in name) or (kind == "char" and len(name) != 1):
            raise _damaged(where, f"has the entry {name!a}, which is not a {kind}")
    if kind in _BYTE_LEVEL and not set(pre_tokenizers.ByteLevel.alphabet()) <= set(names):
        raise _damaged(where, "does not have all of the 256 bytes")


def merges_of(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the merges of a validated BPE file, in the order in which they were learned."""
    return [(left, right) for left, right in map(_pair, content["model"]["merges"])]


def _pair(merge: Any) -> Any:
    """Returns a merge as a list of its two parts; older files have them in one string, separated by a space."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _check_merges(merges: Any, names: set[str], reserved: tuple[str, ...], where: str) -> None:
    """Checks that each merge joins two entries into an entry that is not reserved."""
    if not isinstance(merges, list):
        raise _damaged(where, "has no list of merges")
    for number, merge in enumerate(merges):
        pair = _pair(merge)
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) and half for half in pair):
            raise _damaged(where, f"merge {number} is not a pair")
        joined = "".join(pair)
        if not {*pair, joined} <= names or {*pair, joined} & {*reserved}:
            raise _damaged(where, f"merge {number} ({joined!a}) does not join two ordinary entries into a third")


def _check_scores(model: dict[str, Any], num_reserved: int, where: str) -> None:
    """Checks that a unigram model has a score for each entry, by which no text is segmented into a reserved token."""
    scores = [score for _, score in model["vocab"]]
    if model.get("unk_id") != 0 or not all(isinstance(score, float | int) for score in scores):
        raise _damaged(where, "must have <unk> as id 0, and a score for each entry")
    has_reserved_scores = all(score == NEVER for score in scores[:num_reserved])
    # A path of a hundred ordinary subwords still beats one reserved token.
    if not has_reserved_scores or not all(score > NEVER / 100 for score in scores[num_reserved:]):
        raise _damaged(where, f"must give reserved tokens the score {NEVER:g}, and other entries much higher ones")
