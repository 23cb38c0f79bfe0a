"""The built-in corpus: large enough, every pair from its number alone, one French side for an English one."""

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


def test_scattering_is_a_bijection() -> None:
    # All of a shorter word, on which every step is the same.
    keys = [(added & 0xFFF, factor & 0xFFF) for added, factor in sentences._keys(7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences, "_MASK", 0xFFF)
        assert sorted(sentences._scattered(number, keys) for number in range(1 << 12)) == list(range(1 << 12))


@pytest.mark.parametrize("pattern", dict.fromkeys(sentences._slots()), ids=lambda pattern: pattern.make.__qualname__)
def test_every_choice_shows_in_the_english_side(pattern: sentences.Pattern) -> None:
    """Changing one choice, or two, never gives the same English: of each place all values, around random sentences."""
    picker = random.Random(3)
    for _ in range(3):
        base = [picker.randrange(size) for size in pattern.sizes]
        for place, size in enumerate(pattern.sizes):
            seen = {pattern.make(*base[:place], value, *base[place + 1 :])[0] for value in range(size)}
            assert len(seen) == size
        for one, two in itertools.combinations(range(len(pattern.sizes)), 2):
            seen = set()
            sizes = [min(pattern.sizes[place], 25) for place in (one, two)]
            for values in itertools.product(*map(range, sizes)):
                choices = list(base)
                choices[one], choices[two] = values
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
def test_a_range_is_a_slice_of_the_corpus(seed: int, start: int, one: int, two: int) -> None:
    first, last = min(one, two), max(one, two)
    whole = list(sentences.pairs(seed, start, 40))
    assert list(sentences.pairs(seed, start + first, last - first)) == whole[first:last]


def test_seeds_give_other_corpora() -> None:
    assert list(sentences.pairs(1, 0, 5)) != list(sentences.pairs(2, 0, 5))


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, sentences.NUM_PAIRS + 1), (sentences.NUM_PAIRS, 1)])
def test_pairs_that_do_not_exist_are_refused(start: int, count: int) -> None:
    with pytest.raises(errors.UsageError, match="ask for fewer"):
        list(sentences.pairs(1, start, count))


def test_sentences_look_like_sentences() -> None:
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


def test_the_vocabulary_is_a_few_hundred_words() -> None:
    english = {word for side, _ in sentences.pairs(1, 0, 20_000) for word in side.lower().rstrip(".").split()}
    assert 300 < len(english) < 600


def test_relative_clauses_with_qui_and_que_by_hand() -> None:
    goods = [(verb, one) for kind in lexicon.GOODS[1:] for verb in kind.verbs for one in kind.nouns]
    bought = next(
        number for number, (verb, one) in enumerate(goods) if (verb.english[2], one.english[0]) == ("bought", "car")
    )
    heavy = next(number for number, one in enumerate(lexicon.GOODS[3].adjectives) if one.english == "heavy")
    places = {"determiner": 0, "tense": 1, "adjective": heavy, "good": bought}
    pattern = sentences._that_clause()
    assert pattern.make(**places, plural=1, actor=3, way=2) == (
        "the cars that he bought were heavy",
        "les voitures qu'il a achetées étaient lourdes",
    )
    assert pattern.make(**places, plural=0, actor=1, way=5) == (
        "the car that we bought will not be heavy",
        "la voiture que nous avons achetée ne sera pas lourde",
    )
    aunts = next(number for number, head in enumerate(sentences._subjects()) if head.subject.english == "my aunts")
    activities = [verb.english[0] for verb in lexicon.ACTIVITIES]
    market = next(
        number for number, text in enumerate(sentences._positions(False)) if text.english == "near the market"
    )
    happy = next(number for number, one in enumerate(lexicon.PERSON_ADJECTIVES) if one.english == "happy")
    found = sentences._who_clause().make(
        subject=aunts,
        verb=activities.index("arrive"),
        past=1,
        position=market,
        way=1,
        adjective=happy,
    )
    assert found == (
        "my aunts who arrived near the market are not happy",
        "mes tantes qui sont arrivées près du marché ne sont pas heureuses",
    )


def test_files_hold_the_pairs(tmp_path: pathlib.Path) -> None:
    sentences.write_pairs(tmp_path / "pairs.tsv", 1, 10, 30)
    sentences.write_english(tmp_path / "a.en", 1, 10, 30)
    sentences.write_french(tmp_path / "a.fr", 1, 10, 30)
    rows = (tmp_path / "pairs.tsv").read_text().removesuffix("\n").split("\n")
    assert [tuple(row.split("\t")) for row in rows] == list(sentences.pairs(1, 10, 30))
    sides = zip((tmp_path / "a.en").read_text().split("\n"), (tmp_path / "a.fr").read_text().split("\n"), strict=True)
    assert list(sides)[:-1] == list(sentences.pairs(1, 10, 30))
