"""The built-in corpus: size, distinct pairs, and one French side for each English side."""

import collections
import itertools
import pathlib
import random
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from core import errors
from core.data.builtin import lexicon, sentences

VOWEL = "[aàâeéèêiîoôuûœh]"


def test_there_are_more_than_twenty_million_pairs() -> None:
    assert sentences.NUM_PAIRS > 20_000_000
    slots = collections.Counter(sentences._slots())
    for pattern, count in slots.items():
        assert pattern.num_sentences >= count * sentences.NUM_PAIRS / len(sentences._slots())


def test_scrambling_is_a_bijection() -> None:
    # All of a shorter word, on which every step is the same.
    keys = [(added & 0xFFF, factor & 0xFFF) for added, factor in sentences._keys(7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences, "_MASK", 0xFFF)
        assert sorted(sentences._scramble(number, keys) for number in range(1 << 12)) == list(range(1 << 12))


@pytest.mark.parametrize("pattern", dict.fromkeys(sentences._slots()), ids=lambda pattern: pattern.make.__qualname__)
def test_every_choice_changes_the_english_side(pattern: sentences.Pattern) -> None:
    """Changing one choice, or two, never gives the same English: all values of each position."""
    picker = random.Random(3)
    for _ in range(3):
        base = [picker.randrange(size) for size in pattern.sizes]
        for position, size in enumerate(pattern.sizes):
            seen = {pattern.make(*base[:position], value, *base[position + 1 :])[0] for value in range(size)}
            assert len(seen) == size
        for first, second in itertools.combinations(range(len(pattern.sizes)), 2):
            seen = set()
            sizes = [min(pattern.sizes[position], 25) for position in (first, second)]
            for values in itertools.product(*map(range, sizes)):
                choices = list(base)
                choices[first], choices[second] = values
                seen.add(pattern.make(*choices)[0])
            assert len(seen) == sizes[0] * sizes[1]


def test_many_english_sides_are_distinct() -> None:
    assert len({english for english, _ in sentences.pairs(1, 0, 40_000)}) == 40_000


def test_an_english_side_has_one_french_side_under_every_seed() -> None:
    french_of: dict[str, str] = {}
    for seed in range(3):
        for english, written in sentences.pairs(seed, 5_000_000, 8_000):
            assert french_of.setdefault(english, written) == written


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.integers(0, 9), st.integers(0, sentences.NUM_PAIRS - 40), st.integers(0, 40), st.integers(0, 40))
def test_a_range_is_a_slice_of_the_corpus(seed: int, start: int, border: int, other: int) -> None:
    first, last = min(border, other), max(border, other)
    whole = list(sentences.pairs(seed, start, 40))
    assert list(sentences.pairs(seed, start + first, last - first)) == whole[first:last]


def test_corpora_of_different_seeds_differ() -> None:
    assert list(sentences.pairs(1, 0, 5)) != list(sentences.pairs(2, 0, 5))


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, sentences.NUM_PAIRS + 1), (sentences.NUM_PAIRS, 1)])
def test_pairs_that_do_not_exist_are_refused(start: int, count: int) -> None:
    with pytest.raises(errors.UsageError, match="ask for fewer"):
        list(sentences.pairs(1, start, count))


def test_sentences_have_elision_contraction_and_usual_lengths() -> None:
    lengths: collections.Counter[int] = collections.Counter()
    for english, written in sentences.pairs(1, 0, 3000):
        for side in (english, written):
            assert re.fullmatch(r"[A-ZÉ][A-Za-zàâçéèêëîïôûùœ']*( [A-Za-zàâçéèêëîïôûùœ']+)+\.", side), side
        lengths[len(english.split())] += 1
        # Elision and contraction are complete.
        assert not re.search(rf"\b(je|ne|de|le|la|que) {VOWEL}", written, re.IGNORECASE), written
        assert not re.search(r"\b(de|à) (le|les)\b", written), written
        assert not re.search(rf"\bce {VOWEL}|\bma {VOWEL}", written, re.IGNORECASE), written
    assert min(lengths) >= 4
    assert max(lengths) <= 14


def test_vocabulary_has_a_few_hundred_words() -> None:
    english = {word for side, _ in sentences.pairs(1, 0, 20_000) for word in side.lower().rstrip(".").split()}
    assert 300 < len(english) < 600


def test_relative_clauses_with_qui_and_que_checked_by_hand() -> None:
    goods = [(verb, noun) for kind in lexicon.GOODS[1:] for verb in kind.verbs for noun in kind.nouns]
    bought = next(
        number for number, (verb, noun) in enumerate(goods) if (verb.english[2], noun.english[0]) == ("bought", "car")
    )
    heavy = next(number for number, entry in enumerate(lexicon.GOODS[3].adjectives) if entry.english == "heavy")
    fixed = {"determiner": 0, "tense": 1, "adjective": heavy, "good": bought}
    pattern = sentences._that_clause()
    assert pattern.make(**fixed, plural=1, actor=3, form=2) == (
        "the cars that he bought were heavy",
        "les voitures qu'il a achetées étaient lourdes",
    )
    assert pattern.make(**fixed, plural=0, actor=1, form=5) == (
        "the car that we bought will not be heavy",
        "la voiture que nous avons achetée ne sera pas lourde",
    )
    aunts = next(number for number, head in enumerate(sentences._subjects()) if head.subject.english == "my aunts")
    activities = [verb.english[0] for verb in lexicon.ACTIVITIES]
    market = next(
        number for number, text in enumerate(sentences._positions(False)) if text.english == "near the market"
    )
    happy = next(number for number, entry in enumerate(lexicon.PERSON_ADJECTIVES) if entry.english == "happy")
    pair = sentences._who_clause().make(
        subject=aunts,
        verb=activities.index("arrive"),
        past=1,
        position=market,
        form=1,
        adjective=happy,
    )
    assert pair == (
        "my aunts who arrived near the market are not happy",
        "mes tantes qui sont arrivées près du marché ne sont pas heureuses",
    )


def test_written_files_equal_the_pairs(tmp_path: pathlib.Path) -> None:
    sentences.write_pairs(tmp_path / "pairs.tsv", 1, 10, 30)
    sentences.write_english(tmp_path / "a.en", 1, 10, 30)
    rows = (tmp_path / "pairs.tsv").read_text().removesuffix("\n").split("\n")
    assert [tuple(row.split("\t")) for row in rows] == list(sentences.pairs(1, 10, 30))
    assert (tmp_path / "a.en").read_text() == "".join(f"{english}\n" for english, _ in sentences.pairs(1, 10, 30))
