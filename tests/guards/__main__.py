"""Proof of the guards: `python -m tests.guards`, or `make guards`; words select guards by their file or description.

In a copy of the tree the tests of all guards must pass. Then each guard is taken away, one at a time, and its test must
fail. Only a failed test counts: one that cannot be run, or is skipped, proves nothing.
"""

import argparse
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent import futures

from tests.guards import catalog

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Without the guard a test may wait for ever. Far above what any of them takes, so that a busy machine proves nothing.
TIMEOUT_S = 120
_LEFT_OUT = (".*", "__pycache__", "*.egg-info", "runs", "reports")
_FAILED = 1  # pytest's exit code of failed tests; the others are of tests that could not be run


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the tree without what is made by tools."""
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))


def run_tests(tree: pathlib.Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs tests of a copy of the tree until the first one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
    command += [f"--timeout={TIMEOUT_S}", *tests]
    # Hundreds of starts: without the plugins that the tests do not need each takes half the time.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def prove(tree: pathlib.Path, guard: catalog.Guard) -> str:
    """Takes a guard away, runs its test, and puts it back; returns `red …`, or what is wrong with one of them."""
    path = tree / guard.file
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(guard.remove_from(text), encoding="utf-8")
        done = run_tests(tree, [guard.test])
    except ValueError as error:
        return f"NOT FOUND: {error}"
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode == _FAILED:
        return "red" if "from pytest-timeout" not in done.stdout else "red by its time limit"
    if done.returncode == 0:
        return f"SURVIVED: {guard.test} passes without the guard"
    return f"NOT RUN: {guard.test} (exit code {done.returncode}): {' '.join(done.stdout.split()[-40:])}"


def prove_all(tree: pathlib.Path, guards: Sequence[catalog.Guard], num_jobs: int) -> int:
    """Proves guards, several at a time, each in a copy of its own; returns the number of those that are not proved."""
    before = run_tests(tree, sorted({guard.test for guard in guards}))
    if before.returncode:
        print(before.stdout)
        print("guards: a test fails with all guards in place; mend it first")
        return len(guards)
    trees: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
    trees.put(tree)
    for number in range(1, num_jobs):
        copy_tree(tree, tree.with_name(f"{tree.name}-{number}"))
        trees.put(tree.with_name(f"{tree.name}-{number}"))

    def take(guard: catalog.Guard) -> str:
        own, started_s = trees.get(), time.monotonic()
        outcome = prove(own, guard)
        trees.put(own)
        print(f"{outcome}: {guard.file}: {guard.what} ({time.monotonic() - started_s:.1f} s)", flush=True)
        return outcome

    with futures.ThreadPoolExecutor(num_jobs) as pool:
        outcomes = list(pool.map(take, guards))
    num_red = sum(outcome.startswith("red") for outcome in outcomes)
    print(f"guards: {num_red} of {len(guards)} turn their test red")
    return len(guards) - num_red


def main(arguments: Sequence[str]) -> int:
    """Proves the selected guards; returns 1 if one is not proved."""
    parser = argparse.ArgumentParser(prog="python -m tests.guards")
    parser.add_argument("words", nargs="*", help="guards whose file or description has one of these; all if none")
    parser.add_argument("--jobs", type=int, default=1, help="guards at a time, each in a copy of the tree")
    options = parser.parse_args(arguments)
    guards = [
        guard
        for guard in catalog.load()
        if not options.words or any(word in f"{guard.file} {guard.what}" for word in options.words)
    ]
    if not guards:
        print(f"guards: none has {options.words}")
        return 1
    with tempfile.TemporaryDirectory(prefix="raycurrent-guards-") as scratch:
        tree = pathlib.Path(scratch, "tree")
        copy_tree(REPOSITORY, tree)
        return 1 if prove_all(tree, guards, options.jobs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
