"""A small English–French grammar for the built-in corpus: agreement, elision, contraction, negation and tense.

Every English form has one French form: `you` is `vous` (plural), `they` is `ils`, the speaker is a man, the simple past
is the passé composé (of `be` the imparfait). The h of all words used here is mute.
"""

from typing import Literal, NamedTuple

Tense = Literal["present", "past", "future"]
TENSES: tuple[Tense, ...] = ("present", "past", "future")
# With h, since the h of all words here is mute.
_VOWELS = "aàâeéèêiîoôuûœh"
_IRREGULAR_FEMININE = {"blanc": "blanche", "frais": "fraîche", "bon": "bonne", "gentil": "gentille", "long": "longue"}


class Text(NamedTuple):
    """A text in both languages."""

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
        english: base form, third person singular, past.
        present: forms of je, nous, vous, il, ils.
        future: stem of the future tense.
        participle: past participle, masculine singular.
        with_etre: the passé composé is formed with être.
    """

    english: tuple[str, str, str]
    present: tuple[str, str, str, str, str]
    future: str
    participle: str
    with_etre: bool


class Subject(NamedTuple):
    """Subject of a verb; `person` is 0 je, 1 nous, 2 vous, 3 il or elle, 4 ils or elles."""

    english: str
    french: str
    person: int
    feminine: bool

    @property
    def plural(self) -> bool:
        """True if adjectives and participles are in the plural."""
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
    """Parses `man/men | homme | m`; a plural that is not given adds an s."""
    english, french, gender = (field.strip() for field in line.split("|"))
    return Noun(_plural(english), _plural(french), gender == "f")


def adjective(line: str) -> Adjective:
    """Parses `old | <vieux vieil vieille vieux vieilles`; `<`: before its noun; a single form is inflected by rules."""
    english, french = (field.strip() for field in line.split("|"))
    before = french.startswith("<")
    forms = tuple(french.removeprefix("<").split())
    if len(forms) == 1:
        masculine = forms[0]
        feminine = _feminine(masculine)
        # heureux and frais have one masculine form for both numbers.
        plural = masculine if masculine[-1] in "sx" else masculine + "s"
        forms = (masculine, masculine, feminine, plural, feminine + "s")
    return Adjective(english, (forms[0], forms[1], forms[2], forms[3], forms[4]), before)


def verb(line: str) -> Verb:
    """Parses `find finds found | trouver`; irregular verbs also list the present, future stem and participle.

    English forms of several words are joined by `_`; `+` before the infinitive means that it takes être.
    """
    english, french = (field.strip() for field in line.split("|"))
    base, third, past = (form.replace("_", " ") for form in english.split())
    with_etre = french.startswith("+")
    infinitive, *written = french.removeprefix("+").split()
    forms = tuple(written) if written else _regular(infinitive)
    present = (forms[0], forms[1], forms[2], forms[3], forms[4])
    return Verb((base, third, past), present, forms[5], forms[6], with_etre)


def _plural(written: str) -> tuple[str, str]:
    """Returns (singular, plural) of `man/men` or `book`."""
    singular, _, plural = written.partition("/")
    return singular, plural or f"{singular}s"


def _feminine(masculine: str) -> str:
    """Returns the feminine form of an adjective."""
    if masculine in _IRREGULAR_FEMININE:
        return _IRREGULAR_FEMININE[masculine]
    if masculine.endswith("eux"):
        return masculine[:-1] + "se"
    # cher, chère; before the general rule, since it also changes the stem.
    if masculine.endswith("er"):
        return masculine[:-2] + "ère"
    return masculine if masculine.endswith("e") else masculine + "e"


def _regular(infinitive: str) -> tuple[str, ...]:
    """Conjugates -er, second-group -ir and -re verbs: five forms of the present, future stem, participle."""
    stem = infinitive[:-2]
    if infinitive.endswith("er"):
        return (f"{stem}e", f"{stem}ons", f"{stem}ez", f"{stem}e", f"{stem}ent", infinitive, f"{stem}é")
    # Of the second group (finir), with -iss- in the plural; others, such as dormir, are written out.
    if infinitive.endswith("ir"):
        forms = (f"{stem}is", f"{stem}issons", f"{stem}issez", f"{stem}it", f"{stem}issent")
        return (*forms, infinitive, f"{stem}i")
    # The future stem of -re verbs drops the e: attendre, j'attendrai.
    return (f"{stem}s", f"{stem}ons", f"{stem}ez", stem, f"{stem}ent", infinitive[:-1], f"{stem}u")


def elided(word: str, following: str) -> str:
    """Returns two words joined, with elision: `ne` `a` → `n'a`, for `je`, `ne`, `de`, `que`, `le` and `la`."""
    if following[0] in _VOWELS and word.lower() in ("je", "ne", "de", "que", "le", "la", "parce que"):
        return f"{word[:-1]}'{following}"
    return f"{word} {following}"


def contracted(preposition: str, phrase: str) -> str:
    """Returns a preposition with a noun phrase, `à` and `de` contracted with `le` and `les`: `au parc`."""
    contractions = {"à": ("au ", "aux "), "de": ("du ", "des ")}
    last = preposition.rpartition(" ")[2]
    # Before elision: `de` contracts with le, but elides before l'. An article that begins with l' matches neither.
    if last in contractions:
        for article, contraction in zip(("le ", "les "), contractions[last], strict=True):
            if phrase.startswith(article):
                return preposition[: -len(last)] + contraction + phrase.removeprefix(article)
    return preposition[: -len(last)] + elided(last, phrase)


def agreeing(adjective: Adjective, feminine: bool, plural: bool) -> str:
    """Returns the form of an adjective after its noun or a verb."""
    masculine, _, feminine_singular, masculine_plural, feminine_plural = adjective.french
    if plural:
        return feminine_plural if feminine else masculine_plural
    return feminine_singular if feminine else masculine


def noun_phrase(determiner: str, adjective: Adjective | None, noun: Noun, plural: bool, negated: bool = False) -> Text:
    """Returns a noun phrase such as `this old tree`, `ce vieil arbre`.

    Args:
        determiner: `the`, `my`, `our`, `this` (`these`) or `a` (`some`).
        adjective: the adjective, if any.
        noun: the noun.
        plural: plural or singular.
        negated: it is the object of a negated verb, after which `un`, `une` and `des` become `de`.
    """
    french = noun.french[plural]
    before = adjective is not None and adjective.before
    if adjective is not None:
        form = agreeing(adjective, noun.feminine, plural)
        # un vieil arbre: the form before a vowel exists in the masculine singular only.
        if before and not plural and not noun.feminine and french[0] in _VOWELS:
            form = adjective.french[1]
        french = f"{form} {french}" if before else f"{french} {form}"
    english = f"{adjective.english} {noun.english[plural]}" if adjective else noun.english[plural]
    return Text(
        f"{_english_determiner(determiner, english, plural, negated)} {english}",
        _with_determiner(determiner, french, noun.feminine, plural, negated, before),
    )


def _english_determiner(determiner: str, following: str, plural: bool, negated: bool) -> str:
    """Returns the form of an English determiner before a word."""
    if determiner == "a":
        return ("any" if negated else "some") if plural else "an" if following[0] in "aeiou" else "a"
    return "these" if determiner == "this" and plural else determiner


def _with_determiner(determiner: str, following: str, feminine: bool, plural: bool, negated: bool, before: bool) -> str:
    """Returns French words with their determiner; `before`: the first of them is an adjective before its noun."""
    # des becomes de after a negation, and before an adjective.
    if determiner == "a" and (negated or (plural and before)):
        return elided("de", following)
    # Of the word that follows the determiner, which is the adjective if that comes first.
    vowel = following[0] in _VOWELS
    if determiner == "the" and not plural:
        return elided("la" if feminine else "le", following)
    masculine, before_vowel, feminine_singular, plural_form = {
        "the": ("le", "l'", "la", "les"),
        # mon also before a feminine word with a vowel: mon amie.
        "my": ("mon", "mon", "ma", "mes"),
        "our": ("notre", "notre", "notre", "nos"),
        "this": ("ce", "cet" if not feminine else "cette", "cette", "ces"),
        "a": ("un", "une" if feminine else "un", "une", "des"),
    }[determiner]
    singular_form = before_vowel if vowel else feminine_singular if feminine else masculine
    return f"{plural_form if plural else singular_form} {following}"


def participle(verb: Verb, feminine: bool, plural: bool) -> str:
    """Returns the past participle in agreement with a gender and number."""
    form = verb.participle + ("e" if feminine else "")
    # mis, pris: the plural has no second s.
    return form + "s" if plural and form[-1] != "s" else form


def predicate(
    verb: Verb, tense: Tense, negative: bool, subject: Subject, antecedent: tuple[bool, bool] | None = None
) -> Text:
    """Returns a conjugated verb with its negation, without its subject.

    Args:
        verb: the verb.
        tense: the tense.
        negative: with `not` and `ne … pas`.
        subject: the subject, with which it agrees.
        antecedent: gender (feminine) and number (plural) of a preceding object, with which the participle of a verb
            with avoir agrees.
    """
    base, third, past = verb.english
    if tense == "future":
        english = f"will not {base}" if negative else f"will {base}"
        return Text(english, _negated(verb.future + _FUTURE_ENDINGS[subject.person], "", negative))
    if tense == "past":
        english = f"did not {base}" if negative else past
        # With avoir the participle agrees with an object before it: les voitures qu'il a vendues.
        agreement = (subject.feminine, subject.plural) if verb.with_etre else antecedent or (False, False)
        auxiliary = (ETRE if verb.with_etre else AVOIR)[subject.person]
        return Text(english, _negated(auxiliary, participle(verb, *agreement), negative))
    does = "does not" if subject.person == 3 else "do not"
    english = f"{does} {base}" if negative else third if subject.person == 3 else base
    return Text(english, _negated(verb.present[subject.person], "", negative))


def copula(tense: Tense, negative: bool, subject: Subject) -> Text:
    """Returns `be` and être conjugated, without the subject."""
    person = subject.person
    if tense == "future":
        return Text("will not be" if negative else "will be", _negated(f"ser{_FUTURE_ENDINGS[person]}", "", negative))
    form, french = (_BE_PRESENT, ETRE) if tense == "present" else (_BE_PAST, _IMPARFAIT)
    return Text(form[person] + (" not" if negative else ""), _negated(french[person], "", negative))


def _negated(conjugated: str, rest: str, negative: bool) -> str:
    """Returns a conjugated verb in `ne … pas` if negative, then the rest of the predicate."""
    words = elided("ne", conjugated) + " pas" if negative else conjugated
    return f"{words} {rest}" if rest else words


def clause(subject: Subject, predicate: Text) -> Text:
    """Returns a subject and its predicate joined: `je` `ai` → `j'ai`."""
    return Text(f"{subject.english} {predicate.english}", elided(subject.french, predicate.french))
