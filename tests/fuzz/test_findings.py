"""Any bytes give a value or an error of ours, of the right exit code, in bounded time: what once did not, and others.

`python -m tests.fuzz` searches for more.
"""

import pathlib
import resource
import time

import pytest

from tests.fuzz import findings, targets

MOST_S, MOST_GROWTH_KIB = 10.0, 300 << 10
INPUTS = sorted(path for path in findings.FOLDER.glob("*/*") if path.parent.name in targets.TARGETS)


def check_within_bounds(name: str, data: bytes) -> None:
    """Checks a reader's law, the time of this process, and the growth of the most memory that it ever had."""
    before_s, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    targets.check(name, data)
    assert time.process_time() - before_s < MOST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MOST_GROWTH_KIB


@pytest.mark.parametrize("name", targets.TARGETS)
def test_what_a_writer_of_ours_or_a_user_writes_is_read(name: str) -> None:
    """Some of the first inputs give a value: else a target would be fuzzed behind a closed door."""
    target = targets.TARGETS[name]
    assert any(targets.is_read(name, data) for data in target.seeds())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_that_once_broke_a_reader_gives_a_value_or_an_error_of_ours(path: pathlib.Path) -> None:
    check_within_bounds(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_mutations_of_valid_files_give_a_value_or_an_error_of_ours(name: str) -> None:
    for data in targets.mutants(name, 20, seed=1):
        check_within_bounds(name, data)
