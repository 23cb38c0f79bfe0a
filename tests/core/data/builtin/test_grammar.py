"""The built-in grammar: agreement, elision, contraction, negation and tense, checked by hand."""

import pytest

from core.data.builtin import grammar

MAN = grammar.noun("man/men | homme | m")
WOMAN = grammar.noun("woman/women | femme | f")
FRIEND = grammar.noun("friend | ami | m")
STORY = grammar.noun("story/stories | histoire | f")
BOOK = grammar.noun("book | livre | m")
CAR = grammar.noun("car | voiture | f")
NEWSPAPER = grammar.noun("newspaper | journal/journaux | m")
OLD = grammar.adjective("old | <vieux vieil vieille vieux vieilles")
RED = grammar.adjective("red | rouge")
HAPPY = grammar.adjective("happy | heureux")
EXPENSIVE = grammar.adjective("expensive | cher")
EAT = grammar.verb("eat eats ate | manger mange mangeons mangez mange mangent manger mangé")
LOVE = grammar.verb("love loves loved | aimer")
FINISH = grammar.verb("finish finishes finished | finir")
SELL = grammar.verb("sell sells sold | vendre")
TAKE = grammar.verb("take takes took | prendre prends prenons prenez prend prennent prendr pris")
GO = grammar.verb("go_to goes_to went_to | +aller vais allons allez va vont ir allé")
JE, NOUS, VOUS, IL, ELLE, ILS = grammar.PRONOUNS


@pytest.mark.parametrize(
    ("determiner", "adjective", "noun", "plural", "english", "written"),
    [
        ("the", None, BOOK, False, "the book", "le livre"),
        ("the", None, CAR, False, "the car", "la voiture"),
        ("the", None, MAN, False, "the man", "l'homme"),
        ("the", None, STORY, False, "the story", "l'histoire"),
        ("the", None, NEWSPAPER, True, "the newspapers", "les journaux"),
        ("the", OLD, MAN, False, "the old man", "le vieil homme"),
        ("the", OLD, STORY, False, "the old story", "la vieille histoire"),
        ("the", OLD, MAN, True, "the old men", "les vieux hommes"),
        ("the", OLD, WOMAN, True, "the old women", "les vieilles femmes"),
        ("the", RED, CAR, True, "the red cars", "les voitures rouges"),
        ("the", HAPPY, WOMAN, False, "the happy woman", "la femme heureuse"),
        ("the", HAPPY, MAN, True, "the happy men", "les hommes heureux"),
        ("my", None, CAR, False, "my car", "ma voiture"),
        ("my", None, STORY, False, "my story", "mon histoire"),
        ("my", OLD, STORY, False, "my old story", "ma vieille histoire"),
        ("my", None, BOOK, True, "my books", "mes livres"),
        ("our", None, FRIEND, False, "our friend", "notre ami"),
        ("our", None, FRIEND, True, "our friends", "nos amis"),
        ("this", None, BOOK, False, "this book", "ce livre"),
        ("this", None, FRIEND, False, "this friend", "cet ami"),
        ("this", OLD, FRIEND, False, "this old friend", "ce vieil ami"),
        ("this", None, STORY, False, "this story", "cette histoire"),
        ("this", None, STORY, True, "these stories", "ces histoires"),
        ("a", EXPENSIVE, CAR, False, "an expensive car", "une voiture chère"),
        ("a", RED, BOOK, False, "a red book", "un livre rouge"),
        ("a", RED, BOOK, True, "some red books", "des livres rouges"),
        ("a", OLD, BOOK, True, "some old books", "de vieux livres"),
    ],
)
def test_noun_phrases(
    determiner: str, adjective: grammar.Adjective | None, noun: grammar.Noun, plural: bool, english: str, written: str
) -> None:
    assert grammar.noun_phrase(determiner, adjective, noun, plural) == (english, written)


@pytest.mark.parametrize(
    ("noun", "plural", "english", "written"),
    [
        (CAR, False, "a car", "de voiture"),
        (CAR, True, "any cars", "de voitures"),
        (STORY, True, "any stories", "d'histoires"),
    ],
)
def test_indefinite_objects_of_negated_verbs_take_de(
    noun: grammar.Noun, plural: bool, english: str, written: str
) -> None:
    assert grammar.noun_phrase("a", None, noun, plural, negated=True) == (english, written)
    assert grammar.noun_phrase("the", None, noun, plural, negated=True) == grammar.noun_phrase(
        "the", None, noun, plural
    )


@pytest.mark.parametrize(
    ("verb", "tense", "negative", "subject", "english", "written"),
    [
        (EAT, "present", False, NOUS, "we eat", "nous mangeons"),
        (EAT, "present", True, IL, "he does not eat", "il ne mange pas"),
        (LOVE, "present", False, JE, "I love", "j'aime"),
        (LOVE, "present", True, JE, "I do not love", "je n'aime pas"),
        (EAT, "past", False, JE, "I ate", "j'ai mangé"),
        (EAT, "past", True, JE, "I did not eat", "je n'ai pas mangé"),
        (EAT, "past", False, ELLE, "she ate", "elle a mangé"),
        (EAT, "future", False, ILS, "they will eat", "ils mangeront"),
        (LOVE, "future", True, VOUS, "you will not love", "vous n'aimerez pas"),
        (FINISH, "present", False, ILS, "they finish", "ils finissent"),
        (FINISH, "past", False, IL, "he finished", "il a fini"),
        (SELL, "present", False, ELLE, "she sells", "elle vend"),
        (SELL, "future", False, JE, "I will sell", "je vendrai"),
        (SELL, "past", True, NOUS, "we did not sell", "nous n'avons pas vendu"),
        (GO, "present", False, ILS, "they go to", "ils vont"),
        (GO, "past", False, ELLE, "she went to", "elle est allée"),
        (GO, "past", True, ILS, "they did not go to", "ils ne sont pas allés"),
        (GO, "past", False, JE, "I went to", "je suis allé"),
        (GO, "future", True, IL, "he will not go to", "il n'ira pas"),
    ],
)
def test_verbs(
    verb: grammar.Verb, tense: grammar.Tense, negative: bool, subject: grammar.Subject, english: str, written: str
) -> None:
    assert grammar.clause(subject, grammar.predicate(verb, tense, negative, subject)) == (english, written)


@pytest.mark.parametrize(
    ("tense", "negative", "subject", "english", "written"),
    [
        ("present", False, JE, "I am", "je suis"),
        ("present", True, ELLE, "she is not", "elle n'est pas"),
        ("past", False, JE, "I was", "j'étais"),
        ("past", True, ILS, "they were not", "ils n'étaient pas"),
        ("future", True, NOUS, "we will not be", "nous ne serons pas"),
    ],
)
def test_being(tense: grammar.Tense, negative: bool, subject: grammar.Subject, english: str, written: str) -> None:
    assert grammar.clause(subject, grammar.copula(tense, negative, subject)) == (english, written)


def test_participle_agrees_with_a_preceding_object_or_the_subject_of_etre() -> None:
    women = grammar.Subject("the women", "les femmes", 4, feminine=True)
    assert grammar.predicate(GO, "past", False, women).french == "sont allées"
    assert grammar.predicate(EAT, "past", False, women).french == "ont mangé"
    assert grammar.predicate(EAT, "past", False, IL, antecedent=(True, True)).french == "a mangées"
    assert grammar.predicate(TAKE, "past", False, IL, antecedent=(False, True)).french == "a pris"
    assert grammar.predicate(TAKE, "past", False, IL, antecedent=(True, True)).french == "a prises"


@pytest.mark.parametrize(
    ("preposition", "phrase", "written"),
    [
        ("à", "le marché", "au marché"),
        ("à", "les marchés", "aux marchés"),
        ("à", "la gare", "à la gare"),
        ("à", "l'école", "à l'école"),
        ("à", "ce marché", "à ce marché"),
        ("près de", "le pont", "près du pont"),
        ("loin de", "les ponts", "loin des ponts"),
        ("de", "l'église", "de l'église"),
        ("devant", "le parc", "devant le parc"),
    ],
)
def test_prepositions_contract_with_articles(preposition: str, phrase: str, written: str) -> None:
    assert grammar.contracted(preposition, phrase) == written


def test_que_is_elided_before_a_vowel() -> None:
    assert grammar.elided("que", "il mange") == "qu'il mange"
    assert grammar.elided("parce que", "elle part") == "parce qu'elle part"
    assert grammar.elided("que", "nous mangeons") == "que nous mangeons"
    assert grammar.elided("si", "elle") == "si elle"
