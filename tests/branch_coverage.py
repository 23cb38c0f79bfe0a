"""Branch coverage by package, each with its bound: `make coverage`.

`python -m tests.branch_coverage` reads what `coverage run -m pytest` and `coverage combine` have left, and
ends with 1 if a package is below its bound.
"""

import fnmatch
import io
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


class Package(NamedTuple):
    """Source files with a bound.

    Attributes:
        name: what they are, in the table.
        patterns: their paths, relative to the repository.
        bound: the least percentage of lines and branches.
    """

    name: str
    patterns: tuple[str, ...]
    bound: int


# A file belongs to the first of them that has it. What is written once and read for years has the higher bound.
PACKAGES = (
    Package("storage", ("core/storage/*",), 98),
    Package("datasets and indices", ("core/data/dataset/*",), 98),
    Package("tokenizers", ("core/data/tokens/*",), 98),
    Package("weights and bundles", ("core/models/weights.py", "core/models/bundle.py"), 98),
    Package("checkpoints", ("core/training/checkpoint.py", "core/training/retention.py"), 98),
    Package("outputs", ("core/decoding/lines/*",), 98),
    Package("the rest of core", ("core/*",), 90),
    Package("workers", ("workers/*",), 90),
    Package("jobs", ("jobs/*",), 90),
)


def owner_of(path: str) -> Package:
    """Returns the package of a source file."""
    return next(each for each in PACKAGES if any(fnmatch.fnmatch(path, pattern) for pattern in each.patterns))


def sources() -> list[str]:
    """Returns the paths of all source files, relative to the repository."""
    paths = (path for folder in ("core", "workers", "jobs") for path in (REPOSITORY / folder).rglob("*.py"))
    return sorted(str(path.relative_to(REPOSITORY)) for path in paths)


def rows(measured: Iterable[tuple[Package, float]]) -> tuple[list[str], bool]:
    """Returns the lines of the table, and whether no package is below its bound."""
    lines = ["| package | bound | measured |", "| --- | --- | --- |"]
    are_kept = True
    for package, percent in measured:
        is_kept = percent >= package.bound
        are_kept &= is_kept
        lines.append(
            f"| {package.name} | {package.bound} % | {percent:.1f} %{'' if is_kept else ' (below the bound)'} |"
        )
    return lines, are_kept


def main(arguments: Sequence[str]) -> int:
    """Prints the table, with `--missing` the lines and branches that were not reached, too; returns the exit code."""
    import coverage  # of the development tools, and no other test needs it

    measurement = coverage.Coverage()
    measurement.load()
    measured = []
    for package in PACKAGES:
        files = [str(REPOSITORY / path) for path in sources() if owner_of(path) is package]
        text = io.StringIO()
        measured.append((package, measurement.report(files, show_missing=True, skip_covered=True, file=text)))
        if "--missing" in arguments:
            print(text.getvalue())
    lines, are_kept = rows(measured)
    print("\n".join(lines))
    return 0 if are_kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
