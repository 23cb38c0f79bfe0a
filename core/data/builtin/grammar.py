"""A small English–French grammar: agreement, elision, contraction, negation and tense of the built-in corpus.

Every English form has one French form: `you` is `vous` (plural), `they` is `ils`, the speaker is a man, the simple
past is the passé composé (of `be`: the imparfait). All words with h that are used here have a mute one.
"""

from typing import Literal, NamedTuple

Tense = Literal["present", "past", "future"]
TENSES: tuple[Tense, ...] = ("present", "past", "future")
_VOWELS = "aàâeéèêiîoôuûœh"
_IRREGULAR_FEMININE = {"blanc": "blanche", "frais": "fraîche", "bon": "bonne", "gentil": "gentille", "long": "longue"}


class Text(NamedTuple):
    """The same in both languages."""

    english: str
    french: str


class Noun(NamedTuple):
    """A noun; each language as (singular, plural)."""

    english: tuple[str, str]
    french: tuple[str, str]
    feminine: bool


class Adjective(NamedTuple):
    """An adjective; French as (masculine, before a vowel, feminine, masculine plural, feminine plural)."""

    english: str
    french: tuple[str, str, str, str, str]
    before: bool


class Verb(NamedTuple):
    """A verb.

    Attributes:
        english: base, third person singular, past.
        present: je, nous, vous, il, ils.
        future: what the endings of the future are put to.
        participle: masculine singular.
        with_etre: its passé composé is made with être.
    """

    english: tuple[str, str, str]
    present: tuple[str, str, str, str, str]
    future: str
    participle: str
    with_etre: bool


class Subject(NamedTuple):
    """Who a verb agrees with; `person` is 0 je, 1 nous, 2 vous, 3 il or elle, 4 ils or elles."""

    english: str
    french: str
    person: int
    feminine: bool

    @property
    def plural(self) -> bool:
        """Whether adjectives and participles take the plural."""
        return self.person in (1, 2, 4)


PRONOUNS = (
    Subject("I", "je", 0, False),
    Subject("we", "nous", 1, False),
    Subject("you", "vous", 2, False),
    Subject("he", "il", 3, False),
    Subject("she", "elle", 3, True),
    Subject("they", "ils", 4, False),
)
AVOIR = ("ai", "avons", "avez", "a", "ont")
ETRE = ("suis", "sommes", "êtes", "est", "sont")
_IMPARFAIT = ("étais", "étions", "étiez", "était", "étaient")
_FUTURE_ENDINGS = ("ai", "ons", "ez", "a", "ont")
_BE_PRESENT = ("am", "are", "are", "is", "are")
_BE_PAST = ("was", "were", "were", "was", "were")


def noun(line: str) -> Noun:
    """Reads `man/men | homme | m`; a plural that is not written adds an s."""
    english, french, gender = (field.strip() for field in line.split("|"))
    return Noun(_plural(english), _plural(french), gender == "f")


def adjective(line: str) -> Adjective:
    """Reads `old | <vieux vieil vieille vieux vieilles`; `<` puts it before its noun, rules fill in forms."""
    english, french = (field.strip() for field in line.split("|"))
    before = french.startswith("<")
    forms = tuple(french.removeprefix("<").split())
    if len(forms) == 1:
        masculine = forms[0]
        feminine = _feminine(masculine)
        plural = masculine if masculine[-1] in "sx" else masculine + "s"
        forms = (masculine, masculine, feminine, plural, feminine + "s")
    return Adjective(english, (forms[0], forms[1], forms[2], forms[3], forms[4]), before)


def verb(line: str) -> Verb:
    """Reads `find finds found | trouver`, or with present, future stem and participle written out.

    In English forms of several words have `_` between them; `+` before the infinitive says that it takes être.
    """
    english, french = (field.strip() for field in line.split("|"))
    base, third, past = (form.replace("_", " ") for form in english.split())
    with_etre = french.startswith("+")
    infinitive, *written = french.removeprefix("+").split()
    forms = tuple(written) if written else _regular(infinitive)
    present = (forms[0], forms[1], forms[2], forms[3], forms[4])
    return Verb((base, third, past), present, forms[5], forms[6], with_etre)


def _plural(written: str) -> tuple[str, str]:
    singular, _, plural = written.partition("/")
    return singular, plural or f"{singular}s"


def _feminine(masculine: str) -> str:
    if masculine in _IRREGULAR_FEMININE:
        return _IRREGULAR_FEMININE[masculine]
    if masculine.endswith("eux"):
        return masculine[:-1] + "se"
    if masculine.endswith("er"):
        return masculine[:-2] + "ère"
    return masculine if masculine.endswith("e") else masculine + "e"


def _regular(infinitive: str) -> tuple[str, ...]:
    """Conjugates -er, second-group -ir and -re verbs: five forms of the present, future stem, participle."""
    stem = infinitive[:-2]
    if infinitive.endswith("er"):
        return (f"{stem}e", f"{stem}ons", f"{stem}ez", f"{stem}e", f"{stem}ent", infinitive, f"{stem}é")
    if infinitive.endswith("ir"):
        forms = (f"{stem}is", f"{stem}issons", f"{stem}issez", f"{stem}it", f"{stem}issent")
        return (*forms, infinitive, f"{stem}i")
    return (f"{stem}s", f"{stem}ons", f"{stem}ez", stem, f"{stem}ent", infinitive[:-1], f"{stem}u")


def elided(word: str, following: str) -> str:
    """Joins two words; `je`, `ne`, `de`, `que`, `le`, `la` lose their vowel before another: `ne` `a` → `n'a`."""
    if following[0] in _VOWELS and word.lower() in ("je", "ne", "de", "que", "le", "la", "parce que"):
        return f"{word[:-1]}'{following}"
    return f"{word} {following}"


def contracted(preposition: str, phrase: str) -> str:
    """Puts a preposition before a noun phrase; `à` and `de` melt with `le` and `les`."""
    melted = {"à": ("au ", "aux "), "de": ("du ", "des ")}
    last = preposition.rpartition(" ")[2]
    if last in melted:
        for article, contraction in zip(("le ", "les "), melted[last], strict=True):
            if phrase.startswith(article):
                return preposition[: -len(last)] + contraction + phrase.removeprefix(article)
    return preposition[: -len(last)] + elided(last, phrase)


def agreeing(adjective: Adjective, feminine: bool, plural: bool) -> str:
    """Returns the form of an adjective that stands after its noun or after a verb."""
    masculine, _, feminine_one, masculine_many, feminine_many = adjective.french
    if plural:
        return feminine_many if feminine else masculine_many
    return feminine_one if feminine else masculine


def noun_phrase(determiner: str, adjective: Adjective | None, noun: Noun, plural: bool, negated: bool = False) -> Text:
    """Builds `this old tree` and `ce vieil arbre`.

    Args:
        determiner: `the`, `my`, `our`, `this` (`these`) or `a` (`some`).
        adjective: its adjective, if it has one.
        noun: its noun.
        plural: its number.
        negated: it is the object of a negated verb, before which `un`, `une` and `des` become `de`.
    """
    french = noun.french[plural]
    before = adjective is not None and adjective.before
    if adjective is not None:
        form = agreeing(adjective, noun.feminine, plural)
        if before and not plural and not noun.feminine and french[0] in _VOWELS:
            form = adjective.french[1]
        french = f"{form} {french}" if before else f"{french} {form}"
    english = f"{adjective.english} {noun.english[plural]}" if adjective else noun.english[plural]
    return Text(
        f"{_english_determiner(determiner, english, plural, negated)} {english}",
        _with_determiner(determiner, french, noun.feminine, plural, negated, before),
    )


def _english_determiner(determiner: str, following: str, plural: bool, negated: bool) -> str:
    if determiner == "a":
        return ("any" if negated else "some") if plural else "an" if following[0] in "aeiou" else "a"
    return "these" if determiner == "this" and plural else determiner


def _with_determiner(determiner: str, following: str, feminine: bool, plural: bool, negated: bool, before: bool) -> str:
    if determiner == "a" and (negated or (plural and before)):
        return elided("de", following)
    vowel = following[0] in _VOWELS
    if determiner == "the" and not plural:
        return elided("la" if feminine else "le", following)
    masculine, before_vowel, feminine_one, many = {
        "the": ("le", "l'", "la", "les"),
        "my": ("mon", "mon", "ma", "mes"),
        "our": ("notre", "notre", "notre", "nos"),
        "this": ("ce", "cet" if not feminine else "cette", "cette", "ces"),
        "a": ("un", "une" if feminine else "un", "une", "des"),
    }[determiner]
    one = before_vowel if vowel else feminine_one if feminine else masculine
    return f"{many if plural else one} {following}"


def participle(verb: Verb, feminine: bool, plural: bool) -> str:
    """Returns the past participle in agreement."""
    form = verb.participle + ("e" if feminine else "")
    return form + "s" if plural and form[-1] != "s" else form


def predicate(
    verb: Verb, tense: Tense, negative: bool, subject: Subject, antecedent: tuple[bool, bool] | None = None
) -> Text:
    """Conjugates a verb, with its negation and without its subject.

    Args:
        verb: the verb.
        tense: its tense.
        negative: with `not` and `ne … pas`.
        subject: what it agrees with.
        antecedent: gender (feminine) and number (plural) of an object that stands before the verb, with which the
            participle of a verb with avoir agrees.
    """
    base, third, past = verb.english
    if tense == "future":
        english = f"will not {base}" if negative else f"will {base}"
        return Text(english, _negated(verb.future + _FUTURE_ENDINGS[subject.person], "", negative))
    if tense == "past":
        english = f"did not {base}" if negative else past
        agreement = (subject.feminine, subject.plural) if verb.with_etre else antecedent or (False, False)
        auxiliary = (ETRE if verb.with_etre else AVOIR)[subject.person]
        return Text(english, _negated(auxiliary, participle(verb, *agreement), negative))
    does = "does not" if subject.person == 3 else "do not"
    english = f"{does} {base}" if negative else third if subject.person == 3 else base
    return Text(english, _negated(verb.present[subject.person], "", negative))


def copula(tense: Tense, negative: bool, subject: Subject) -> Text:
    """Conjugates `be` and être, without the subject."""
    person = subject.person
    if tense == "future":
        return Text("will not be" if negative else "will be", _negated(f"ser{_FUTURE_ENDINGS[person]}", "", negative))
    form, french = (_BE_PRESENT, ETRE) if tense == "present" else (_BE_PAST, _IMPARFAIT)
    return Text(form[person] + (" not" if negative else ""), _negated(french[person], "", negative))


def _negated(conjugated: str, rest: str, negative: bool) -> str:
    words = elided("ne", conjugated) + " pas" if negative else conjugated
    return f"{words} {rest}" if rest else words


def clause(subject: Subject, predicate: Text) -> Text:
    """Joins a subject and its predicate: `je` and `ai` make `j'ai`."""
    return Text(f"{subject.english} {predicate.english}", elided(subject.french, predicate.french))
