"""The built-in corpus: English–French sentence pairs from a small grammar, each made from its number alone.

There are `NUM_PAIRS` pairs for each seed, all English sides distinct, and an English side has one French side
under every seed. The pair of a number is found without making the others, so any range can be made anywhere.

How: a seeded bijection scatters the numbers; the low digits of what comes out choose a sentence pattern, and the
rest, spread over all sentences of this pattern by a step that has no divisor in common with their number, is
read as digits of a mixed base: subject, verb, object, tense, and so on.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from core import errors
from core.data.builtin import grammar, lexicon

_BITS = 25
_MASK = (1 << _BITS) - 1
NUM_PAIRS = 1 << _BITS
_ROUNDS = 3

Pair = tuple[str, str]


class Pattern(NamedTuple):
    """A sentence pattern: how many choices each of its places has, and how choices become a pair of sentences."""

    sizes: tuple[int, ...]
    make: Callable[..., tuple[str, str]]

    @property
    def num_sentences(self) -> int:
        """Number of sentences of this pattern."""
        return math.prod(self.sizes)


class _Head(NamedTuple):
    """A noun phrase as a subject, or as what a relative clause hangs on."""

    subject: grammar.Subject
    adjective: int | None


class _Object(NamedTuple):
    """A noun phrase as an object of an affirmed and of a negated verb."""

    affirmed: grammar.Text
    negated: grammar.Text


_WAYS = tuple(itertools.product(grammar.TENSES, (False, True)))


def pairs(seed: int, start: int, count: int) -> Iterator[Pair]:
    """Yields the pairs number `start` … `start + count - 1` as (English, French).

    Raises:
        UsageError: there are not so many.
    """
    if not 0 <= start <= start + count <= NUM_PAIRS:
        raise errors.UsageError(
            f"synthetic corpus: pairs {start} to {start + count} are not among its {NUM_PAIRS}; ask for fewer"
        )
    patterns, steps = _slots(), _steps()
    keys = _keys(seed)
    num_slots = len(patterns)
    for index in range(start, start + count):
        number, slot = divmod(_scattered(index, keys), num_slots)
        step, offset, size = steps[slot]
        rank = (number * step + offset + keys[0][0]) % size
        choices = []
        pattern = patterns[slot]
        for choice in pattern.sizes:
            rank, chosen = divmod(rank, choice)
            choices.append(chosen)
        english, french_side = pattern.make(*choices)
        yield english[0].upper() + english[1:] + ".", french_side[0].upper() + french_side[1:] + "."


def write_pairs(path: Path, seed: int, start: int, count: int) -> None:
    """Writes pairs as lines `English<TAB>French`."""
    _write(path, (f"{english}\t{french_side}\n" for english, french_side in pairs(seed, start, count)))


def write_english(path: Path, seed: int, start: int, count: int) -> None:
    """Writes the English sides of pairs, a line each."""
    _write(path, (f"{english}\n" for english, _ in pairs(seed, start, count)))


def write_french(path: Path, seed: int, start: int, count: int) -> None:
    """Writes the French sides of pairs, a line each."""
    _write(path, (f"{french_side}\n" for _, french_side in pairs(seed, start, count)))


def _write(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _keys(seed: int) -> list[tuple[int, int]]:
    digest = hashlib.sha256(f"raycurrent synthetic {seed}".encode()).digest()
    words = [int.from_bytes(digest[start : start + 4], "big") & _MASK for start in range(0, 8 * _ROUNDS, 4)]
    return [(words[2 * number], words[2 * number + 1] | 1) for number in range(_ROUNDS)]


def _scattered(index: int, keys: Sequence[tuple[int, int]]) -> int:
    """A bijection of 0 … `NUM_PAIRS - 1`: additions, odd factors and right shifts can all be undone."""
    for added, factor in keys:
        index = (index + added) * factor & _MASK
        index ^= index >> 11
    return index


@functools.cache
def _steps() -> list[tuple[int, int, int]]:
    """For each slot (step, offset, number of sentences of its pattern).

    A pattern with several slots takes each of its sentences in one of them only, because step · number + offset
    runs through different residues: the n-th of its k slots starts n · `NUM_PAIRS / slots` steps further on.
    """
    seen: dict[int, int] = {}
    steps = []
    for pattern in _slots():
        size = pattern.num_sentences
        step = int(size * 0.6180339887)
        while math.gcd(step, size) != 1:
            step += 1
        occurrence = seen.get(id(pattern), 0)
        seen[id(pattern)] = occurrence + 1
        steps.append((step, occurrence * (NUM_PAIRS // len(_slots())) * step, size))
    return steps


@functools.cache
def _slots() -> tuple[Pattern, ...]:
    """The patterns by slot; one that stands here twice is twice as frequent."""
    transitive, transitive_adjective, transitive_pronoun = _transitive_patterns()
    return (
        *(transitive, transitive, transitive_adjective, transitive_adjective, *[transitive_pronoun] * 3),
        *(_located(_subjects()), _located(_pronouns())),
        *(_moving(_subjects()), _moving(_pronouns())),
        *(_described(), _because(), _who_clause(), _that_clause(), _giving()),
    )


@functools.cache
def _pronouns() -> tuple[_Head, ...]:
    return tuple(_Head(pronoun, None) for pronoun in grammar.PRONOUNS)


@functools.cache
def _subjects(with_adjective: bool = False) -> tuple[_Head, ...]:
    """All noun phrases about persons, bare or with an adjective."""
    adjectives = range(len(lexicon.PERSON_ADJECTIVES)) if with_adjective else [None]
    choices = itertools.product(lexicon.PERSONS, (False, True), ("the", "my", "our", "this"), adjectives)
    return tuple(_head(determiner, number, noun, plural) for noun, plural, determiner, number in choices)


def _head(determiner: str, number: int | None, noun: grammar.Noun, plural: bool) -> _Head:
    adjective = None if number is None else lexicon.PERSON_ADJECTIVES[number]
    text = grammar.noun_phrase(determiner, adjective, noun, plural)
    return _Head(grammar.Subject(*text, 4 if plural else 3, noun.feminine), number)


@functools.cache
def _objects(with_adjective: bool) -> list[list[_Object]]:
    """For each thing that can be an object: its noun phrases, as many for each."""
    tables = []
    for goods in lexicon.GOODS:
        adjectives = (None, *goods.adjectives) if with_adjective else (None,)
        for noun in goods.nouns:
            choices = list(itertools.product((False, True), ("the", "my", "our", "this", "a"), adjectives))
            tables.append(
                [
                    _Object(
                        grammar.noun_phrase(determiner, adjective, noun, plural),
                        grammar.noun_phrase(determiner, adjective, noun, plural, negated=True),
                    )
                    for plural, determiner, adjective in choices
                ]
            )
    return tables


@functools.cache
def _verbs_with_objects() -> list[tuple[grammar.Verb, int]]:
    """Every verb with every noun that it goes with, as (verb, number of the noun in `_objects`)."""
    found = []
    first = 0
    for goods in lexicon.GOODS:
        numbers = range(first, first + len(goods.nouns))
        found += [(verb, number) for verb in goods.verbs for number in numbers]
        first += len(goods.nouns)
    return found


@functools.cache
def _table(verb: grammar.Verb | None) -> tuple[grammar.Text, ...]:
    """All predicates of a verb (None: of `be`), by way, person and gender as `_clause` looks them up."""
    table = []
    for (tense, negative), person, feminine in itertools.product(_WAYS, range(5), (False, True)):
        subject = grammar.Subject("", "", person, feminine)
        table.append(
            grammar.predicate(verb, tense, negative, subject) if verb else grammar.copula(tense, negative, subject)
        )
    return tuple(table)


def _clause(table: tuple[grammar.Text, ...], way: int, subject: grammar.Subject) -> grammar.Text:
    return grammar.clause(subject, table[10 * way + 2 * subject.person + subject.feminine])


def _timed(way: int, time: int, english: str, french_side: str) -> Pair:
    added = lexicon.TIMES[_WAYS[way][0]][time]
    return english + added.english, french_side + added.french


_NUM_TIMES = len(lexicon.TIMES["present"])


def _transitive_patterns() -> tuple[Pattern, Pattern, Pattern]:
    """Makes sentences like `My sister does not buy the old lamp.`: one adjective, or a pronoun as subject."""
    verbs = [(_table(verb), number) for verb, number in _verbs_with_objects()]

    def pattern(subjects: tuple[_Head, ...], objects: list[list[_Object]]) -> Pattern:
        def make(subject: int, verb: int, thing: int, way: int, time: int) -> Pair:
            table, noun = verbs[verb]
            english, french_side = _clause(table, way, subjects[subject].subject)
            found = objects[noun][thing][way & 1]
            return _timed(way, time, f"{english} {found.english}", f"{french_side} {found.french}")

        return Pattern((len(subjects), len(verbs), len(objects[0]), len(_WAYS), _NUM_TIMES), make)

    return (
        pattern(_subjects(), _objects(True)),
        pattern(_subjects(with_adjective=True), _objects(False)),
        pattern(_pronouns(), _objects(True)),
    )


@functools.cache
def _places(adjectives: bool) -> tuple[grammar.Text, ...]:
    choices = itertools.product(
        lexicon.PLACES,
        (False, True),
        ("the", "our", "this"),
        (None, *lexicon.PLACE_ADJECTIVES) if adjectives else (None,),
    )
    return tuple(
        grammar.noun_phrase(determiner, adjective, noun, plural) for noun, plural, determiner, adjective in choices
    )


@functools.cache
def _positions(adjectives: bool) -> tuple[grammar.Text, ...]:
    return tuple(_at(preposition, place) for preposition in lexicon.PREPOSITIONS for place in _places(adjectives))


def _at(preposition: grammar.Text, place: grammar.Text) -> grammar.Text:
    return grammar.Text(f"{preposition.english} {place.english}", grammar.contracted(preposition.french, place.french))


def _located(subjects: tuple[_Head, ...]) -> Pattern:
    """Makes sentences like `The girls worked near the old bridge yesterday.`."""
    positions, tables = _positions(True), [_table(verb) for verb in lexicon.ACTIVITIES]

    def make(subject: int, verb: int, position: int, way: int, time: int) -> Pair:
        english, french_side = _clause(tables[verb], way, subjects[subject].subject)
        where = positions[position]
        return _timed(way, time, f"{english} {where.english}", f"{french_side} {where.french}")

    return Pattern((len(subjects), len(lexicon.ACTIVITIES), len(positions), len(_WAYS), _NUM_TIMES), make)


def _moving(subjects: tuple[_Head, ...]) -> Pattern:
    """Makes sentences like `We will go to the market tomorrow.`."""
    movements = [
        (_table(verb), tuple(_at(grammar.Text("", preposition), place) for place in _places(True)))
        for verb, preposition in lexicon.MOVEMENTS
    ]

    def make(subject: int, movement: int, place: int, way: int, time: int) -> Pair:
        table, places = movements[movement]
        english, french_side = _clause(table, way, subjects[subject].subject)
        return _timed(way, time, english + places[place].english, f"{french_side} {places[place].french}")

    return Pattern((len(subjects), len(movements), len(_places(True)), len(_WAYS), _NUM_TIMES), make)


def _described() -> Pattern:
    """Makes sentences like `Our old neighbors were not very happy this morning.`; the two adjectives differ."""
    subjects = _subjects(with_adjective=True)
    adjectives, being = lexicon.PERSON_ADJECTIVES, _table(None)

    def make(subject: int, other: int, degree: int, way: int, time: int) -> Pair:
        who, own = subjects[subject]
        assert own is not None
        adjective = adjectives[other + (other >= own)]
        english, french_side = _clause(being, way, who)
        very = lexicon.DEGREES[degree]
        agreeing = grammar.agreeing(adjective, who.feminine, who.plural)
        return _timed(
            way, time, f"{english} {very.english}{adjective.english}", f"{french_side} {very.french}{agreeing}"
        )

    return Pattern((len(subjects), len(adjectives) - 1, len(lexicon.DEGREES), len(_WAYS), _NUM_TIMES), make)


def _because() -> Pattern:
    """Makes sentences like `She was happy because we found the keys.`."""
    verbs = [(_table(verb), number) for verb, number in _verbs_with_objects()]
    being, objects = _table(None), _objects(False)
    pronouns, adjectives = grammar.PRONOUNS, lexicon.PERSON_ADJECTIVES

    def make(who: int, way: int, adjective: int, actor: int, verb: int, thing: int, done: int) -> Pair:
        english, french_side = _clause(being, way, pronouns[who])
        agreeing = grammar.agreeing(adjectives[adjective], pronouns[who].feminine, pronouns[who].plural)
        table, noun = verbs[verb]
        reason = _clause(table, done, pronouns[actor])
        found = objects[noun][thing][done & 1]
        return (
            f"{english} {adjectives[adjective].english} because {reason.english} {found.english}",
            f"{french_side} {agreeing} {grammar.elided('parce que', reason.french)} {found.french}",
        )

    sizes = (len(pronouns), len(_WAYS), len(adjectives), len(pronouns), len(verbs), len(objects[0]), len(_WAYS))
    return Pattern(sizes, make)


def _who_clause() -> Pattern:
    """Makes sentences like `The boys who sang near the river will be famous.`."""
    subjects, positions, adjectives = _subjects(), _positions(False), lexicon.PERSON_ADJECTIVES

    def make(subject: int, verb: int, past: int, position: int, way: int, adjective: int) -> Pair:
        who = subjects[subject].subject
        tense, negative = _WAYS[way]
        does = grammar.predicate(lexicon.ACTIVITIES[verb], "past" if past else "present", False, who)
        being = grammar.copula(tense, negative, who)
        where = positions[position]
        agreeing = grammar.agreeing(adjectives[adjective], who.feminine, who.plural)
        return (
            f"{who.english} who {does.english} {where.english} {being.english} {adjectives[adjective].english}",
            f"{who.french} qui {does.french} {where.french} {being.french} {agreeing}",
        )

    return Pattern((len(subjects), len(lexicon.ACTIVITIES), 2, len(positions), len(_WAYS), len(adjectives)), make)


def _that_clause() -> Pattern:
    """Makes sentences like `The cars that he sold were not heavy.`: in French the participle agrees with the cars."""
    goods = [(verb, noun, kind.adjectives) for kind in lexicon.GOODS[1:] for verb in kind.verbs for noun in kind.nouns]
    actors = (*grammar.PRONOUNS, *(head.subject for head in _subjects() if head.subject.english.startswith("the ")))
    determiners = ("the", "this")

    def make(good: int, plural: int, determiner: int, actor: int, tense: int, way: int, adjective: int) -> Pair:
        verb, noun, adjectives = goods[good]
        head = grammar.noun_phrase(determiners[determiner], None, noun, bool(plural))
        what = grammar.Subject(*head, 4 if plural else 3, noun.feminine)
        antecedent = (noun.feminine, bool(plural))
        who = actors[actor]
        done = grammar.clause(who, grammar.predicate(verb, grammar.TENSES[tense], False, who, antecedent))
        being = grammar.copula(*_WAYS[way], what)
        agreeing = grammar.agreeing(adjectives[adjective], *antecedent)
        return (
            f"{head.english} that {done.english} {being.english} {adjectives[adjective].english}",
            f"{head.french} {grammar.elided('que', done.french)} {being.french} {agreeing}",
        )

    num_adjectives = min(len(kind.adjectives) for kind in lexicon.GOODS)
    return Pattern((len(goods), 2, 2, len(actors), len(grammar.TENSES), len(_WAYS), num_adjectives), make)


def _giving() -> Pattern:
    """Makes sentences like `The queen did not give any flowers to the soldiers.`."""
    subjects, tables = (*_pronouns(), *_subjects()), [_table(verb) for verb in lexicon.GIVING]
    things = _objects(False)[len(lexicon.PERSONS) :]
    receivers = [grammar.contracted("à", head.subject.french) for head in _subjects()]

    def make(subject: int, verb: int, noun: int, thing: int, receiver: int, way: int) -> Pair:
        english, french_side = _clause(tables[verb], way, subjects[subject].subject)
        found = things[noun][thing][way & 1]
        to = _subjects()[receiver].subject.english
        return f"{english} {found.english} to {to}", f"{french_side} {found.french} {receivers[receiver]}"

    return Pattern((len(subjects), len(tables), len(things), len(things[0]), len(receivers), len(_WAYS)), make)
