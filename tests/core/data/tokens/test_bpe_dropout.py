"""Laws of BPE-dropout."""

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
    """A split of one column."""

    def __init__(self, made: tokenizer.Tokenizer, lines: list[str]) -> None:
        self._rows = [np.array([*ids, made.eos_id], dtype=np.uint16) for ids in made.encode_lines(lines)]

    @property
    def num_lines(self) -> int:
        return len(self._rows)

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        return {"source": np.array([len(row) for row in self._rows[start:stop]], dtype=np.int32)}

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> list[npt.NDArray[np.uint16]]:
        assert column == "source"
        return [self._rows[index] for index in indices]


@pytest.fixture(scope="module")
def made() -> tokenizer.Tokenizer:
    return tokenizer.train_subwords("bpe", iter(LINES), 340, (*vocabulary.RESERVED, "<2de>"), ("<x>",))


@hypothesis.given(text=st.text() | st.sampled_from(LINES) | st.text("ther <x>avl\n"), number=st.integers(0, 99))
def test_with_all_merges_words_are_cut_as_the_library_does(made: tokenizer.Tokenizer, text: str, number: int) -> None:
    ids = made.encode(text)
    assert bpe_dropout.Cutter(made, 0.0).recut(ids, number) == ids


def test_merges_may_be_written_as_older_files_have_them(made: tokenizer.Tokenizer) -> None:
    content = json.loads(made.to_json())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    older = tokenizer.load(json.dumps(content), "older.json", made.reserved)
    ids = older.encode(LINES[0])
    assert len(ids) < len(LINES[0]), "some letters are joined"
    assert bpe_dropout.Cutter(older, 0.0).recut(ids, 1) == ids


@hypothesis.given(text=st.text() | st.sampled_from(LINES), number=st.integers(0, 99))
def test_the_text_stays_and_so_do_reserved_names_and_symbols(made: tokenizer.Tokenizer, text: str, number: int) -> None:
    ids = [made.reserved.index("<2de>"), *made.encode(text), 3]
    recut = bpe_dropout.Cutter(made, 0.4).recut(ids, number)
    assert made.decode(recut) == made.decode(ids)
    added = len(made.reserved) + len(made.symbols)
    assert [one for one in recut if one < added] == [one for one in ids if one < added]
    assert (recut[0], recut[-1]) == (ids[0], ids[-1])


def test_each_merge_is_left_out_with_its_probability_and_tried_again_after_another() -> None:
    # Merges: a b, then ab c, then d e. Of `abcde`, a b and d e are possible at first, and each draw looks at both.
    lines = ["ab"] * 50 + ["abc"] * 30 + ["de"] * 10
    made = tokenizer.train_subwords("bpe", iter(lines), 260 + 3, vocabulary.RESERVED)
    assert [made.token(one) for one in (260, 261, 262)] == ["ab", "abc", "de"]
    share = 0.25
    cutter = bpe_dropout.Cutter(made, share)
    found = collections.Counter(tuple(map(made.token, cutter.cut("abc", number))) for number in range(DRAWS))
    kept = 1 - share
    expected = {("a", "b", "c"): share, ("ab", "c"): kept * share, ("abc",): kept * kept}
    assert found.keys() == expected.keys()
    for cut, probability in expected.items():
        assert found[cut] / DRAWS == pytest.approx(probability, abs=4 * (probability / DRAWS) ** 0.5)
    # `abde`: with the first merge done, the second is drawn again, so it is left out less often than once.
    whole = collections.Counter(tuple(map(made.token, cutter.cut("abde", number))) for number in range(DRAWS))
    both = kept * kept + share * kept * kept  # ab then de, or de first because ab was left out, then ab
    assert whole["ab", "de"] / DRAWS == pytest.approx(both, abs=0.02)


def test_a_line_is_cut_by_seed_epoch_and_its_number_alone(made: tokenizer.Tokenizer) -> None:
    split, cutters = Lines(made, LINES), {"source": bpe_dropout.Cutter(made, 0.3)}

    def rows(seed: int, epoch: int, order: list[int]) -> dict[int, list[int]]:
        recut = bpe_dropout.Recut(split, cutters, seed, epoch)
        return {line: row.tolist() for line, row in zip(order, recut.rows(np.array(order), "source"), strict=True)}

    everything = rows(1, 0, list(range(40)))
    assert rows(1, 0, [7, 3, 39]) == {line: everything[line] for line in (7, 3, 39)}
    others = [rows(2, 0, list(range(40))), rows(1, 1, list(range(40)))]
    assert all(sum(other[line] != everything[line] for line in range(40)) > 30 for other in others)
    assert len({tuple(everything[line]) for line in range(0, 40, 2)}) > 10, "equal lines are cut otherwise, too"


def test_lengths_are_those_of_the_rows(made: tokenizer.Tokenizer) -> None:
    recut = bpe_dropout.Recut(Lines(made, LINES), {"source": bpe_dropout.Cutter(made, 0.3)}, 1, 5)
    lengths = recut.lengths(10, 30)["source"]
    assert lengths.tolist() == [len(row) for row in recut.rows(np.arange(10, 30), "source")]
    assert recut.num_lines == 40


def test_only_merges_can_be_left_out() -> None:
    counts = vocabulary.Counts()
    counts.add("abc")
    chars = tokenizer.from_counts("char", counts, 1, None, vocabulary.RESERVED)
    with pytest.raises(errors.UsageError, match=r"this tokenizer \(char\) is no byte-level BPE"):
        bpe_dropout.Cutter(chars, 0.1)
