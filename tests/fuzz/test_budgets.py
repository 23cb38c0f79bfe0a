"""The budget of each reader holds for its worst input."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import conftest
from tests.fuzz import budgets

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.e2e
@pytest.mark.parametrize("name", budgets.BUDGETS)
def test_the_worst_input_of_a_reader_takes_no_more_than_its_budget(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.budgets", name],
        cwd=conftest.REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(conftest.REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured, budget = json.loads(done.stdout), budgets.BUDGETS[name]

    assert measured["code"] == budget.code
    assert measured["cpu_s"] <= budget.cpu_s
    assert measured["growth_mib"] <= budget.growth_mib


def test_the_table_of_budgets_is_that_of_the_readme() -> None:
    text = README.read_text()
    assert [row for row in budgets.rows() if row not in text] == []
