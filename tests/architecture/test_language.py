"""The cheap part of our language rules: how docstrings begin, phrases and names that explain nothing.

`core/README.md` lists the words that we use. These tests hold only what a program can see.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture import source

QUESTIONS = {"What", "How", "Where", "When", "Which", "Whether", "Who", "Why"}
# Phrases that no paper or tool of the field uses, or that send a reader to a text that is not here.
PHRASES = [
    r"\bso many\b",
    r"\b(is|are|was|were|be) told\b",
    r"\bstands? for\b",
    r"\b(goes?|going|gone|went) on (from|with)\b",
    r"(?<!here )\bis no (?!longer\b|such\b|more\b)\w+",
    r"\bwhat is there\b",
    r"\bhas a say\b",
    r"\bcomes? to nothing\b",
    r"\bdocuments? 00\d\b",
    r"\b[Tt]he documents\b",
]
# Names that say nothing about what they hold.
NAMES = {"found", "place", "places", "one", "held", "wish", "wishes", "drawn", "judged", "joints", "told", "of_what"}
# Characters that are not seen, or change the order in which others are: a line could do what nobody reads in it.
# Source: Boucher and Anderson, Trojan Source: Invisible Vulnerabilities (2021).
CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
COMMANDS = ("jobs.__main__", "jobs.submission_commands", "jobs.arpa_commands")
TEXTS = sorted(
    path
    for pattern in ("*.md", "jobs/configs/*.yaml", "k8s/**/*.md", "core/**/*.md", "workers/**/*.md", "jobs/*.md")
    for path in source.REPOSITORY.glob(pattern)
)
by_module = pytest.mark.parametrize("module", source.modules(), ids=lambda module: module.name)


def docstrings(module: source.Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def is_property(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("property") for decorator in node.decorator_list)


def bound_names(module: source.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


@by_module
def test_docstrings_begin_with_a_statement(module: source.Module) -> None:
    for node, text in docstrings(module):
        first = text.split(maxsplit=1)[0].strip(",.:;")
        assert first not in QUESTIONS, f"{module.path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"


@by_module
def test_functions_are_described_by_a_verb(module: source.Module) -> None:
    """In the third person ("Returns the …"); commands of the command line are written as help, in the imperative."""
    for node, text in docstrings(module):
        if isinstance(node, ast.FunctionDef) and not is_property(node) and module.name not in COMMANDS:
            first = text.split(maxsplit=1)[0].strip(",.:;")
            is_verb = first in ("See", "Has") or (first.endswith("s") and first[0].isupper() and first != "Its")
            assert is_verb, f"{module.path}:{node.lineno}: {text.splitlines()[0]}"


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases_that_explain_nothing_do_not_occur(phrase: str) -> None:
    paths = [module.path for module in source.modules()] + TEXTS
    lines = [
        f"{path}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(phrase, line)
    ]
    assert lines == []


@by_module
def test_names_say_what_they_hold(module: source.Module) -> None:
    vague = sorted({(line, name) for line, name in bound_names(module) if name.lstrip("_") in NAMES})
    assert vague == [], f"{module.path}: {vague}"


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The text of every source file and document."""
    endings = {".py", ".md", ".yaml", ".toml", ".json", ".txt", ".ini"}
    folders = (*source.PACKAGES, "tests", "k8s")
    paths = [path for folder in folders for path in (source.REPOSITORY / folder).rglob("*") if path.suffix in endings]
    paths += [path for path in source.REPOSITORY.glob("*") if path.suffix in endings or path.name == "Makefile"]
    assert len(paths) > 700, "this is not the whole repository"
    return {str(path): path.read_text(encoding="utf-8", errors="replace") for path in paths}


def test_no_character_hides_what_a_line_says(texts: dict[str, str]) -> None:
    """Tests that need such characters write their escapes."""
    assert [path for path, text in texts.items() if HIDDEN.search(text)] == []


def test_no_merge_left_its_marks(texts: dict[str, str]) -> None:
    assert [path for path, text in texts.items() if CONFLICT.search(text)] == []
