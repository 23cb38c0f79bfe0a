"""Tokenizers and vocabularies: round trips, reserved tokens, validation of files, published vocabularies."""

import json
import pathlib
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from core import errors
from core.data.text import cleaning
from core.data.tokens import tokenizer, vocabulary

TEXT = vocabulary.reserved_for("text", "none")


def count(kind: str, lines: Iterable[str]) -> vocabulary.Counts:
    counts = vocabulary.Counts()
    for line in lines:
        counts.add(vocabulary.split_units(kind, line))
    return counts


def made(
    kind: Literal["char", "word"],
    lines: Iterable[str],
    min_freq: int = 1,
    max_size: int | None = None,
    reserved: Sequence[str] = TEXT,
) -> tokenizer.Tokenizer:
    return tokenizer.from_counts(kind, count(kind, lines), min_freq, max_size, reserved)


def names(made: tokenizer.Tokenizer) -> list[str]:
    return [made.token(token_id) for token_id in range(made.vocabulary_size)]


@pytest.fixture(scope="module")
def bpe() -> tokenizer.Tokenizer:
    lines = ["the time traveller said <eos> to the <pad> of the time machine", "der die das, naïveté"] * 20
    return tokenizer.train_subwords("bpe", iter(lines), 320, vocabulary.RESERVED)


def test_reserved_tokens_are_those_that_the_corpus_needs() -> None:
    assert vocabulary.reserved_for("text", "none") == ("<unk>",)
    assert vocabulary.reserved_for("text", "eos") == ("<unk>", "<eos>")
    assert vocabulary.reserved_for("pairs") == ("<unk>", "<pad>", "<bos>", "<eos>")


def test_words_are_split_at_single_spaces() -> None:
    assert vocabulary.split_units("word", " = Title = ") == ["=", "Title", "="]
    assert vocabulary.split_units("word", "a  b") == ["a", "", "b"]
    assert vocabulary.split_units("word", "  ") == []
    assert vocabulary.split_units("word", "a\u2009b\u2028c") == ["a\u2009b\u2028c"]


def test_vocabulary_is_sorted_by_frequency_then_first_occurrence() -> None:
    assert names(made("word", ["c b b", "a a c d"])) == ["<unk>", "c", "b", "a", "d"]


def test_rare_units_and_those_beyond_max_size_are_unknown() -> None:
    assert names(made("word", ["c b b", "a a c d"], min_freq=2)) == ["<unk>", "c", "b", "a"]
    short = made("word", ["c b b", "a a c d"], max_size=3)
    assert names(short) == ["<unk>", "c", "b"]
    assert short.encode("a b") == [0, 2]


@hypothesis.given(st.lists(st.text("abcd ", max_size=8), max_size=8), st.integers(0, 8))
def test_counts_merged_in_order_equal_those_of_the_whole(lines: list[str], middle: int) -> None:
    merged = count("word", lines[:middle])
    merged.merge(pickle.loads(pickle.dumps(count("word", lines[middle:]))))
    assert list(merged.by_unit.items()) == list(count("word", lines).by_unit.items())
    assert merged.by_unit.total() == sum(len(vocabulary.split_units("word", line)) for line in lines)


@pytest.mark.parametrize("kind", ["char", "word"])
def test_library_encodes_and_decodes_as_we_do(kind: Literal["char", "word"]) -> None:
    lines = ["it's  \u2028 the été, 1895", "éé it's", " x"]
    ours = made(kind, lines)
    library = tokenizers.Tokenizer.from_str(ours.to_json())
    single = [line.replace("  ", " ") for line in lines]
    assert [encoding.ids for encoding in library.encode_batch(single)] == ours.encode_lines(single)
    ids = ours.encode(single[0])
    assert library.decode(ids) == ours.decode(ids) == single[0]


@hypothesis.given(st.lists(st.text(alphabet="ab é\u2028😀", max_size=12), min_size=1, max_size=6))
def test_words_and_characters_round_trip(lines: list[str]) -> None:
    characters, words = made("char", lines), made("word", lines)
    for line in lines:
        assert characters.decode(characters.encode(line)) == line
        assert words.decode(words.encode(line)) == line.strip(" ")


TRAINING_LINES = ["the time traveller said <eos> to the <pad> of the time machine", "der die das, naïveté"] * 20


@pytest.fixture(scope="module")
def trained() -> dict[str, tokenizer.Tokenizer]:
    kinds: tuple[Literal["bpe", "unigram", "wordpiece"], ...] = ("bpe", "unigram", "wordpiece")
    return {kind: tokenizer.train_subwords(kind, iter(TRAINING_LINES), 320, vocabulary.RESERVED) for kind in kinds}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@hypothesis.given(text=st.text())
@hypothesis.example(text="<unk><pad> <eos>\0\u2581Ġ")
def test_byte_level_subwords_round_trip_any_text(trained: dict[str, tokenizer.Tokenizer], kind: str, text: str) -> None:
    made = trained[kind]
    ids = made.encode(text)
    assert made.decode(ids) == text
    assert not set(ids) & {0, made.pad_id, made.bos_id, made.eos_id}


@hypothesis.given(st.lists(st.text("thedri", min_size=1, max_size=9), max_size=5))
def test_wordpieces_round_trip_words_of_known_letters(
    trained: dict[str, tokenizer.Tokenizer], words: list[str]
) -> None:
    """The 20 occurrences of each letter inside a word, and at its beginning, make each a piece of its own."""
    text = " ".join(words)
    made = trained["wordpiece"]
    ids = made.encode(text)
    assert made.decode(ids) == text or made.unk_id in ids
    assert made.decode(made.encode("the  die ☃ der")) == "the die <unk> der"


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_trained_subwords_round_trip_json_without_reserved_ids(
    trained: dict[str, tokenizer.Tokenizer], kind: str
) -> None:
    made = trained[kind]
    assert made.vocabulary_size <= 320
    assert tokenizer.Tokenizer.from_json(made.to_json(), "file") == made == pickle.loads(pickle.dumps(made))
    ids = made.encode("the <eos> <pad>")
    assert not set(ids) & {made.pad_id, made.bos_id, made.eos_id}
    assert len(made.encode("the time")) < len("the time")


SYMBOLS = ("<num>", "<url>")


@pytest.mark.parametrize("kind", ["char", "word"])
def test_symbols_follow_reserved_tokens_even_if_unseen(kind: Literal["char", "word"]) -> None:
    counts = vocabulary.Counts()
    counts.add(vocabulary.split_units(kind, "b b a <num>", SYMBOLS))
    made = tokenizer.from_counts(kind, counts, 2, None, ("<unk>", "<eos>"), SYMBOLS)
    assert names(made)[:5] == ["<unk>", "<eos>", "<num>", "<url>", "b" if kind == "word" else " "]
    assert "<" not in names(made), "no character of a symbol was counted"
    assert made.symbols == SYMBOLS
    assert made.reserved == ("<unk>", "<eos>")
    line = "b <url> b"
    ids = made.encode(line)
    assert ids == ([4, 3, 4] if kind == "word" else [5, 4, 3, 4, 5])
    assert made.decode(ids) == line
    assert tokenizers.Tokenizer.from_str(made.to_json()).encode(line).ids == ids
    assert tokenizer.Tokenizer.from_json(made.to_json(), "file").encode(line) == ids


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_subwords_do_not_split_symbols(kind: Literal["bpe", "unigram", "wordpiece"]) -> None:
    lines = ["the <num> time <num> the time", "a time of<num> the"] * 20
    made = tokenizer.train_subwords(kind, iter(lines), 320, vocabulary.RESERVED, SYMBOLS)
    assert names(made)[:6] == [*vocabulary.RESERVED, *SYMBOLS]
    for text in ("the <num> time", "the <url> <eos> <num>"):
        ids = made.encode(text)
        assert [made.token(token_id) for token_id in ids if token_id in (4, 5)] == [
            word for word in text.split() if word in SYMBOLS
        ]
        assert not set(ids) & {made.pad_id, made.bos_id, made.eos_id}
        assert made.decode(ids) == (text.replace("<eos>", "<unk>") if kind == "wordpiece" else text)
    assert tokenizer.Tokenizer.from_json(made.to_json(), "file") == made == pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize(
    ("kind", "size", "needed"),
    [
        ("wordpiece", 100, 4 + 2 * 60),  # each of 60 letters at the beginning of a word and inside one
        ("bpe", 300, 4 + 60 + 256),
        ("unigram", 300, 4 + 60 + 256),
    ],
)
def test_a_vocabulary_larger_than_asked_for_is_refused(
    kind: Literal["bpe", "unigram", "wordpiece"], size: int, needed: int
) -> None:
    """The library takes the size as a wish: letters, bytes and special tokens come on top of it."""
    letters = [chr(0x4E00 + number) for number in range(60)]
    lines = ["".join(letters), "".join(reversed(letters)), *letters]
    symbols = () if kind == "wordpiece" else tuple(f"<s{number}>" for number in range(60))
    with pytest.raises(errors.DataError, match=rf"tokenizer\.max_size: {size} is too small.*take {needed} ") as refused:
        tokenizer.train_subwords(kind, iter(lines), size, vocabulary.RESERVED, symbols)
    assert ("or kind bpe" in str(refused.value)) == (kind != "bpe")
    made = tokenizer.train_subwords(kind, iter(lines), needed + 300, vocabulary.RESERVED, symbols)
    assert made.vocabulary_size <= needed + 300


@pytest.fixture(scope="module")
def with_symbols() -> dict[str, tokenizer.Tokenizer]:
    kinds: tuple[Literal["bpe", "unigram"], ...] = ("bpe", "unigram")
    return {
        kind: tokenizer.train_subwords(kind, iter(TRAINING_LINES), 320, vocabulary.RESERVED, SYMBOLS) for kind in kinds
    }


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@hypothesis.given(pieces=st.lists(st.sampled_from((*SYMBOLS, "<eos>", "<nu", "m>", " ", "time", "é\u0301", "☃"))))
def test_byte_level_subwords_round_trip_text_with_symbols(
    with_symbols: dict[str, tokenizer.Tokenizer], kind: str, pieces: list[str]
) -> None:
    made, text = with_symbols[kind], "".join(pieces)
    ids = made.encode(text)
    assert made.decode(ids) == text
    assert [ids.count(4), ids.count(5)] == [text.count(name) for name in SYMBOLS]


def foreign(names: Sequence[str] = ("<unk>", "<eos>"), **changes: Any) -> str:
    """A file as another program might make it: lower-cased, cut at white space and punctuation."""
    library = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=list(names), show_progress=False)
    library.train_from_iterator(["It's a rose, a rose"], trainer)
    return json.dumps(json.loads(library.to_str()) | changes)


def test_pretrained_tokenizer_is_used_unchanged() -> None:
    made = tokenizer.load(foreign(), "rose.json", ("<unk>", "<eos>"))
    library = tokenizers.Tokenizer.from_str(foreign())
    assert made.encode("A Rose, IT's <tulip>") == library.encode("A Rose, IT's <tulip>").ids
    assert (made.kind, made.eos_id, made.vocabulary_size) == ("loaded", 1, library.get_vocab_size())
    assert made.eos_id not in made.encode("a <eos> rose")
    assert tokenizer.Tokenizer.from_json(made.to_json(), "bundle") == made


def test_own_tokenizer_file_keeps_its_kind() -> None:
    assert tokenizer.load(made("word", ["a b"]).to_json(), "words.json", ("<unk>",)) == made("word", ["a b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (foreign(("<unk>", "<pad>")), "does not reserve <eos>; give it the special tokens <unk> <eos>"),
        (foreign(("[UNK]", "[SEP]")), "must reserve <unk> first"),
        (foreign(("<unk>", "<eos>", "<s>")), "must reserve <unk> first"),
        (foreign(truncation={"max_length": 3}), "has truncation"),
        (foreign(model={"type": "none"}), "cannot be read"),
        ("", "not valid JSON"),
    ],
)
def test_pretrained_tokenizer_without_reserved_tokens_is_refused(text: str, message: str) -> None:
    with pytest.raises(errors.DataError, match=rf"^tokenizer\.load: rose\.json: .*{message}"):
        tokenizer.load(text, "rose.json", ("<unk>", "<eos>"))


def test_ten_thousand_combining_marks_round_trip(bpe: tokenizer.Tokenizer) -> None:
    text = "a" + "\u0301" * 10_000
    assert bpe.decode(bpe.encode(text)) == text


def test_ids_do_not_depend_on_the_batch(bpe: tokenizer.Tokenizer) -> None:
    lines = [f"the time {number}" for number in range(2 * tokenizer.BATCH_LINES + 3)]
    assert bpe.encode_lines(lines) == [bpe.encode(line) for line in lines]
    assert bpe.encode_lines([]) == []


def test_bpe_training_is_deterministic() -> None:
    lines = ["a rose is a rose is a rose", "what is a rose"] * 3
    first, second = (tokenizer.train_subwords("bpe", iter(lines), 300, vocabulary.RESERVED) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.vocabulary_size <= 300


@pytest.mark.parametrize("text", ["<eos>", "<pad> <bos> <eos>", "a<eos>b", "<unk>", "<eos"])
def test_names_of_reserved_tokens_in_text_are_ordinary_text(bpe: tokenizer.Tokenizer, text: str) -> None:
    words = made("word", [text] * 3, reserved=vocabulary.RESERVED)
    characters = made("char", [text], reserved=vocabulary.RESERVED)
    for each in (words, characters, bpe):
        assert not {each.pad_id, each.bos_id, each.eos_id} & set(each.encode(text))
    assert bpe.decode(bpe.encode(text)) == characters.decode(characters.encode(text)) == text


def test_unk_in_the_text_is_the_unknown_token() -> None:
    """WikiText writes `<unk>` for its rare words: each entry, the first, and never spent a second time."""
    words = made("word", ["the <unk> of the <unk> <unk> , <eos>"], reserved=("<unk>", "<eos>"))
    assert names(words) == ["<unk>", "<eos>", "the", "of", ","]
    assert words.encode("<unk> of <eos> zebra") == [words.unk_id, 3, words.unk_id, words.unk_id]
    assert names(made("word", ["a <unk> <unk> b a"], max_size=3)) == ["<unk>", "a", "b"]
    assert tokenizer.Tokenizer.from_json(words.to_json(), "words.json").encode("<unk>") == [words.unk_id]


def test_bpe_never_merges_into_a_reserved_token() -> None:
    greedy = tokenizer.train_subwords("bpe", iter(["<eos><eos> <eos>"] * 100), 400, vocabulary.RESERVED)
    assert greedy.eos_id not in greedy.encode("<eos><eos> <eos>")


def test_decode_omits_control_tokens_and_shows_unk() -> None:
    words = made("word", ["a b"], reserved=vocabulary.RESERVED)
    assert (words.unk_id, words.pad_id, words.bos_id, words.eos_id) == (0, 1, 2, 3)
    assert words.decode([2, 4, 0, 5, 3, 1]) == "a <unk> b"
    assert made("word", ["a"]).eos_id is None


def test_token_returns_the_text_of_an_id(bpe: tokenizer.Tokenizer) -> None:
    assert "".join(bpe.token(token_id) for token_id in bpe.encode("the time machine")) == "the time machine"
    assert bpe.token(3) == "<eos>"


def test_tokenizers_round_trip_json_and_pickle(bpe: tokenizer.Tokenizer) -> None:
    for each in (bpe, made("word", ["a  b"]), made("char", ["a b"], reserved=vocabulary.RESERVED)):
        again = tokenizer.Tokenizer.from_json(each.to_json(), "tokenizer.json")
        assert again == each == pickle.loads(pickle.dumps(each))
        assert (again.kind, again.vocabulary_size) == (each.kind, each.vocabulary_size)
        assert again.encode("a b") == each.encode("a b")
    assert made("word", ["a"]) != made("word", ["b"])


def broken(change: Any, kind: Literal["char", "word"] = "word") -> str:
    content = json.loads(made(kind, ["a b c"], reserved=vocabulary.RESERVED).to_json())
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        ("[]", "not a tokenizer.json"),
        ('{"model": 1}', "not a tokenizer.json"),
        ('{"model": {"vocab": {"a": 1, "a": 2}}}', "two entries 'a'"),
        (broken(lambda content: content.update(surprise=1)), "cannot be read"),
        (broken(lambda content: content.update(padding={})), "has padding"),
        (broken(lambda content: content["added_tokens"].pop(1)), "reserve"),
        (broken(lambda content: content["added_tokens"].reverse()), "reserve"),
        (broken(lambda content: content.update(added_tokens=None)), "reserve"),
        (broken(lambda content: content["added_tokens"].append({"id": 9, "special": False})), "symbols"),
        (broken(lambda content: content["model"]["vocab"].update(d=9)), "gap"),
        (broken(lambda content: content["model"]["vocab"].update(d=-1)), "gap"),
        (broken(lambda content: content["model"]["vocab"].update(d=4)), "gap or a repeated"),
        (broken(lambda content: content["model"]["vocab"].update(d="7")), "integer ids"),
        (broken(lambda content: content["model"]["vocab"].update({"<eos>": 4, "a": 3})), "begin with"),
        (broken(lambda content: content["model"]["vocab"].update({"x y": 7})), "not a word"),
        (broken(lambda content: content["model"]["vocab"].update({"xy": 8}), "char"), "not a char"),
        (broken(lambda content: content["model"].update(vocab=[["a", 0.0], ["b"]])), "list of entries and scores"),
    ],
)
def test_damaged_tokenizer_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(errors.IntegrityError, match=rf"^words\.json: .*{message}"):
        tokenizer.Tokenizer.from_json(text, "words.json")


@pytest.mark.parametrize(
    "merges", [None, [["a"]], [["a", "b", "c"]], [["a", "\u0141\u0141"]], ["<eo s>"], [["<eos", ">"]]]
)
def test_damaged_merges_are_refused(bpe: tokenizer.Tokenizer, merges: object) -> None:
    content = json.loads(bpe.to_json())
    content["model"]["merges"] = merges
    with pytest.raises(errors.IntegrityError, match="merge"):
        tokenizer.Tokenizer.from_json(json.dumps(content), "bpe.json")


def test_damaged_scores_are_refused(trained: dict[str, tokenizer.Tokenizer]) -> None:
    """With another score a text that has the name of a reserved token could be segmented into that token."""
    text = trained["unigram"].to_json()
    for position, score in ((0, None), (9, "high"), (1, 0.0), (9, -1e9)):
        content = json.loads(text)
        if score is None:
            del content["model"]["unk_id"]
        else:
            content["model"]["vocab"][position][1] = score
        with pytest.raises(errors.IntegrityError, match=r"u\.json: must (have <unk> as id 0|give reserved tokens)"):
            tokenizer.Tokenizer.from_json(json.dumps(content), "u.json")


def test_byte_level_files_without_all_bytes_are_refused(bpe: tokenizer.Tokenizer) -> None:
    content = json.loads(bpe.to_json())
    content["model"]["vocab"]["zzzz"] = content["model"]["vocab"].pop("z")
    content["model"]["merges"] = []
    with pytest.raises(errors.IntegrityError, match="does not have all of the 256 bytes"):
        tokenizer.Tokenizer.from_json(json.dumps(content), "bpe.json")


def test_codec_cleans_then_encodes() -> None:
    codec = tokenizer.Codec(("lower", "punctuation"), made("word", ["go ."]))
    assert codec.encode_lines(["GO.", ""]) == [[1, 2], []]
    assert codec.decode([1, 2]) == "go ."
    assert pickle.loads(pickle.dumps(codec)) == codec
    with pytest.raises(errors.IntegrityError, match="'shout'"):
        tokenizer.Codec(("shout",), codec.tokenizer)


@pytest.mark.data
def test_time_machine_has_the_ids_of_d2l(corpora: pathlib.Path) -> None:
    text = (corpora / "timemachine" / "timemachine.txt").read_text()
    lines = [cleaning.clean(line, ["letters", "lower"]) for line in text.removesuffix("\n").split("\n")]
    words, characters = made("word", lines), made("char", lines)
    assert words.vocabulary_size == 4580
    assert names(words)[:10] == ["<unk>", "the", "i", "and", "of", "a", "to", "was", "in", "that"]
    assert words.encode(lines[0]) == [1, 19, 50, 40, 2183, 2184, 400]
    assert words.encode(lines[10]) == [2186, 3, 25, 1044, 362, 113, 7, 1421, 3, 1045, 1]
    assert characters.vocabulary_size == 28
    assert names(characters)[:4] == ["<unk>", " ", "e", "t"]
