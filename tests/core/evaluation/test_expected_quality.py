"""Expected quality: measured values at measured sizes, in between by the logarithm of the size, bounds outside."""

import pathlib
import re

import pytest

from core.evaluation import expected_quality


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_quality, "BLEU", {"made": ((1_000, 5.0), (10_000, 25.0), (100_000, 35.0))})
    monkeypatch.setattr(expected_quality, "BITS_PER_CHARACTER", {"made": ((1_000, 3.0), (100_000, 2.0))})


@pytest.mark.parametrize(
    ("num_pairs", "value", "bound"),
    [
        (1_000, 5.0, "about"),
        (10_000, 25.0, "about"),
        (100_000, 35.0, "about"),
        # The square root of ten times: half of the way.
        (3_162.2776601683795, 15.0, "about"),
        (999, 5.0, "less than"),
        (100_001, 35.0, "more than"),
    ],
)
def test_bleu_grows_with_the_logarithm_of_the_size(num_pairs: int, value: float, bound: str) -> None:
    (expected,) = expected_quality.of_pairs(num_pairs)
    assert (expected.corpus, expected.bound) == ("made", bound)
    assert expected.value == pytest.approx(value)


def test_smaller_texts_have_more_bits_a_character() -> None:
    bounds = [expected_quality.of_text(size)[0] for size in (10, 10_000, 10**6)]
    assert bounds == [
        ("made", 3.0, "more than"),
        ("made", pytest.approx(2.5), "about"),
        ("made", 2.0, "less than"),
    ]


def test_the_measured_sizes_ascend_and_more_data_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tables = [*expected_quality.BLEU.values(), *expected_quality.BITS_PER_CHARACTER.values()]
    for rows in tables:
        assert [size for size, _ in rows] == sorted({size for size, _ in rows})
    for rows in expected_quality.BLEU.values():
        assert [bleu for _, bleu in rows] == sorted(bleu for _, bleu in rows)
    for rows in expected_quality.BITS_PER_CHARACTER.values():
        assert [bits for _, bits in rows] == sorted((bits for _, bits in rows), reverse=True)


def test_the_table_of_the_benchmarks_has_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    text = pathlib.Path("tests/benchmarks/README.md").read_text()
    _, _, table = text.partition("| corpus | pairs or words |")
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| (?:BLEU )?([\d.]+)[ ,]", table.partition("\n\n")[0], re.MULTILINE)
    written = [(int(size.replace(",", "")), float(value)) for size, value in rows]
    tables = (expected_quality.BLEU, expected_quality.BITS_PER_CHARACTER)
    assert written == [row for corpora in tables for measured in corpora.values() for row in measured]
