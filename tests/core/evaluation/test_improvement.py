"""Improvement over a baseline by length of the reference."""

import pytest

from core import errors
from core.evaluation import error_analysis, improvement, quality

SHORT = [f"{noun} sees {other} now" for noun in ("a", "b", "c", "d", "e", "f", "g", "h") for other in "ijklmno"]
LONG = [
    f"the {noun} of {place} was {colour} today and will be so until the end of the {noun} of all years"
    for noun in ("p", "q", "r")
    for place in "stuvwx"
    for colour in ("red", "green", "blue")
]
MIDDLE = ["one two three four five six seven", "one two three four five six seven eight"]


def _worse(lines: list[str]) -> list[str]:
    return [line.replace("the end of", "some end in") for line in lines]


def test_a_system_that_is_worse_at_long_sentences_alone_differs_in_them_alone() -> None:
    references = [*LONG, *SHORT, *MIDDLE]
    systems = [references, [*_worse(LONG), *SHORT, *MIDDLE]]
    short, middle, long = improvement.by_length(systems, [references])
    assert [(bucket.shortest, bucket.longest, bucket.lines) for bucket in (short, middle, long)] == [
        (0, 5, 56),
        (6, 10, 2),
        (16, 20, 54),
    ]
    for bucket in (short, middle, long):
        assert bucket.systems[0].changes == bucket.systems[0].p_values == {}, "the baseline"
    assert short.systems[1].changes == middle.systems[1].changes == {"bleu": 0.0, "chrf": 0.0}
    assert long.systems[1].changes["bleu"] < -5
    assert long.systems[1].p_values["bleu"] < 0.05
    assert long.to_json()["systems"][1]["significant"] == {"bleu": True, "chrf": True}


def test_only_buckets_with_enough_lines_are_tested() -> None:
    lines = SHORT[: improvement.MIN_LINES]
    worse = [line.replace("now", "then") for line in lines]
    for count in (improvement.MIN_LINES - 1, improvement.MIN_LINES):
        (bucket,) = improvement.by_length([lines[:count], worse[:count]], [lines[:count]])
        assert bool(bucket.systems[1].p_values) == (count == improvement.MIN_LINES)


def test_the_scores_are_those_of_each_system_by_length() -> None:
    references = [*LONG, *MIDDLE]
    systems = [[*_worse(LONG), *MIDDLE], references]
    for number, lines in enumerate(systems):
        metrics = quality.make_metrics()
        analysis = error_analysis.Analysis(metrics)
        analysis.add(lines, references, quality.count(metrics, lines, [references]))
        alone = analysis.by_length()
        together = improvement.by_length(systems, [references])
        for one, bucket in zip(alone, together, strict=True):
            assert bucket.systems[number].scores == pytest.approx({"bleu": one.bleu, "chrf": one.chrf})


def test_systems_of_other_lines_are_refused() -> None:
    with pytest.raises(errors.DataError):
        improvement.by_length([SHORT, SHORT[1:]], [SHORT])
