"""BPE-dropout."""

import collections
import json

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from core import errors
from core.data.tokens import bpe_dropout, tokenizer, vocabulary

DRAWS = 8_000
LINES = ["the <x> time traveller travelled to the time machine", "die Zeitreisende, naïveté, 日本 reist"] * 20


class Lines:
    """A split of token column."""

    def __init__(self, bpe: tokenizer.Tokenizer, lines: list[str]) -> None:
        self._rows = [np.array([*ids, bpe.eos_id], dtype=np.uint16) for ids in bpe.encode_lines(lines)]

    @property
    def num_lines(self) -> int:
        return len(self._rows)

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        return {"source": np.array([len(row) for row in self._rows[start:stop]], dtype=np.int32)}

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> list[npt.NDArray[np.uint16]]:
        assert column == "source"
        return [self._rows[index] for index in indices]


@pytest.fixture(scope="module")
def bpe() -> tokenizer.Tokenizer:
    return tokenizer.train_subwords("bpe", iter(LINES), 340, (*vocabulary.RESERVED, "<2de>"), ("<x>",))


@hypothesis.given(text=st.text() | st.sampled_from(LINES) | st.text("ther <x>avl\n"), number=st.integers(0, 99))
def test_without_dropout_the_segmentation_is_the_librarys(bpe: tokenizer.Tokenizer, text: str, number: int) -> None:
    ids = bpe.encode(text)
    assert bpe_dropout.Segmenter(bpe, 0.0).resegment(ids, number) == ids


def test_merges_in_the_format_of_older_files(bpe: tokenizer.Tokenizer) -> None:
    content = json.loads(bpe.to_json())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    older = tokenizer.load(json.dumps(content), "older.json", bpe.reserved)
    ids = older.encode(LINES[0])
    assert len(ids) < len(LINES[0]), "some letters are joined"
    assert bpe_dropout.Segmenter(older, 0.0).resegment(ids, 1) == ids


@hypothesis.given(text=st.text() | st.sampled_from(LINES), number=st.integers(0, 99))
def test_resegmentation_keeps_text_reserved_tokens_and_symbols(
    bpe: tokenizer.Tokenizer, text: str, number: int
) -> None:
    ids = [bpe.reserved.index("<2de>"), *bpe.encode(text), 3]
    resegmented = bpe_dropout.Segmenter(bpe, 0.4).resegment(ids, number)
    assert bpe.decode(resegmented) == bpe.decode(ids)
    added = len(bpe.reserved) + len(bpe.symbols)
    assert [token for token in resegmented if token < added] == [token for token in ids if token < added]
    assert (resegmented[0], resegmented[-1]) == (ids[0], ids[-1])


def test_merges_are_skipped_with_the_given_probability() -> None:
    # Merges: a b, then ab c, then d e. Of `abcde`, a b and d e are possible at first, and each draw looks at both.
    lines = ["ab"] * 50 + ["abc"] * 30 + ["de"] * 10
    bpe = tokenizer.train_subwords("bpe", iter(lines), 260 + 3, vocabulary.RESERVED)
    assert [bpe.token(token) for token in (260, 261, 262)] == ["ab", "abc", "de"]
    share = 0.25
    segmenter = bpe_dropout.Segmenter(bpe, share)
    observed = collections.Counter(tuple(map(bpe.token, segmenter.segment("abc", number))) for number in range(DRAWS))
    kept = 1 - share
    expected = {("a", "b", "c"): share, ("ab", "c"): kept * share, ("abc",): kept * kept}
    assert observed.keys() == expected.keys()
    for subwords, probability in expected.items():
        assert observed[subwords] / DRAWS == pytest.approx(probability, abs=4 * (probability / DRAWS) ** 0.5)
    # `abde`: with the first merge done, the second is drawn again, so it is left out less often than once.
    whole = collections.Counter(tuple(map(bpe.token, segmenter.segment("abde", number))) for number in range(DRAWS))
    both = kept * kept + share * kept * kept  # ab then de, or de first because ab was left out, then ab
    assert whole["ab", "de"] / DRAWS == pytest.approx(both, abs=0.02)


def test_segmentation_depends_on_seed_epoch_and_line_alone(bpe: tokenizer.Tokenizer) -> None:
    split, segmenters = Lines(bpe, LINES), {"source": bpe_dropout.Segmenter(bpe, 0.3)}

    def rows(seed: int, epoch: int, order: list[int]) -> dict[int, list[int]]:
        resegmented = bpe_dropout.ResegmentedSplit(split, segmenters, seed, epoch)
        return {
            line: row.tolist() for line, row in zip(order, resegmented.rows(np.array(order), "source"), strict=True)
        }

    everything = rows(1, 0, list(range(40)))
    assert rows(1, 0, [7, 3, 39]) == {line: everything[line] for line in (7, 3, 39)}
    others = [rows(2, 0, list(range(40))), rows(1, 1, list(range(40)))]
    assert all(sum(other[line] != everything[line] for line in range(40)) > 30 for other in others)
    assert len({tuple(everything[line]) for line in range(0, 40, 2)}) > 10, "equal lines are cut otherwise, too"


def test_lengths_equal_those_of_the_rows(bpe: tokenizer.Tokenizer) -> None:
    resegmented = bpe_dropout.ResegmentedSplit(Lines(bpe, LINES), {"source": bpe_dropout.Segmenter(bpe, 0.3)}, 1, 5)
    lengths = resegmented.lengths(10, 30)["source"]
    assert lengths.tolist() == [len(row) for row in resegmented.rows(np.arange(10, 30), "source")]
    assert resegmented.num_lines == 40


def test_bpe_dropout_needs_a_bpe_tokenizer() -> None:
    counts = vocabulary.Counts()
    counts.add("abc")
    chars = tokenizer.from_counts("char", counts, 1, None, vocabulary.RESERVED)
    with pytest.raises(errors.UsageError, match=r"this tokenizer \(char\) is not a byte-level BPE"):
        bpe_dropout.Segmenter(chars, 0.1)
