"""Reads our own source as syntax trees: modules, what they import, how long they are."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("core", "workers", "jobs")


class Module(NamedTuple):
    """One parsed file; `name` is dotted, as it is imported."""

    name: str
    path: pathlib.Path
    tree: ast.Module
    num_lines: int


@functools.cache
def modules() -> tuple[Module, ...]:
    """All modules of the three packages, in order of their paths."""
    parsed = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text()
            parsed.append(Module(name, path, ast.parse(text), len(text.splitlines())))
    return tuple(parsed)


def imports(module: Module, *, at_import_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `from core.data.batching import lanes` is `core.data.batching.lanes`.

    With `at_import_only`, those alone that run when the module is imported, not inside a function.
    """
    pending: list[ast.AST] = [module.tree]
    while pending:
        node = pending.pop()
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if _is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}: relative import; write the whole path"
            yield from (_target(node.module or "", alias.name) for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _target(module: str, name: str) -> str:
    path = REPOSITORY.joinpath(*module.split("."), name)
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    return f"{module}.{name}" if is_module else module
