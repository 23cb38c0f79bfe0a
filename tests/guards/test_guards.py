"""The list of guards is true of the code, and its proof can fail."""

import ast
import pathlib

import pytest

from tests.guards import __main__ as proving
from tests.guards import catalog

GUARDS = catalog.load()


def test_every_guard_is_in_its_file_once_and_leaves_python_without_it() -> None:
    wrong = []
    for guard in GUARDS:
        try:
            ast.parse(guard.remove_from((proving.REPOSITORY / guard.file).read_text()))
        except (ValueError, SyntaxError) as error:
            wrong.append(f"{guard.what}: {error}")
    assert wrong == []


def test_every_guard_differs_from_the_others_and_names_an_existing_test() -> None:
    assert len({(guard.file, guard.old, guard.new) for guard in GUARDS}) == len(GUARDS) > 30
    assert len({guard.what for guard in GUARDS}) == len(GUARDS)
    named: dict[str, set[str]] = {}
    for guard in GUARDS:
        path, _, name = guard.test.partition("::")
        if path not in named:
            tree = ast.parse((proving.REPOSITORY / path).read_text())
            named[path] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in named[path], guard.test


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A tree with a guard and a test that fails without it."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "door.py").write_text("def is_open(key):\n    return key == 'right'\n")
    (tmp_path / "test_door.py").write_text("import door\n\n\ndef test_door():\n    assert not door.is_open('wrong')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("key == 'right'", "True", "red"),
        ("key == 'right'", "key == 'left'", "SURVIVED"),
        ("key == 'right'", "undefined(", "NOT RUN"),
        ("key == 'other'", "True", "NOT FOUND"),
    ],
)
def test_a_guard_is_proved_by_a_failed_test_alone(tree: pathlib.Path, old: str, new: str, outcome: str) -> None:
    before = (tree / "door.py").read_text()
    guard = catalog.Guard("the door opens for the right key", "door.py", old, new, "test_door.py::test_door")
    assert proving.prove(tree, guard).partition(":")[0] == outcome
    assert (tree / "door.py").read_text() == before
