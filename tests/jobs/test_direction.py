"""A language model that reads backward, by the commands of any other."""

import json
import pathlib
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.decoding.scoring import scorer
from core.storage import location
from jobs import console, generate, pipeline, score
from tests.core.decoding import samples
from tests.jobs import conftest, trained
from tests.jobs.test_ngram import COUNTED

LINES = ["the cat sees a dog", "", "a cat", "the the the"]
SETTINGS = inference_settings.GenerationConfig(method="greedy", num_tokens=10)


def _backward(line_end: str = "eos") -> Any:
    return samples.language_model(line_end=line_end, direction="backward")


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_stream_in_parts_is_scored_from_its_end(tmp_path: pathlib.Path, lanes: int) -> None:
    trained.save(_backward(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    scoring = inference_settings.ScoringConfig(unit="stream", lanes=lanes, part_lines=1)
    with trained.session() as session:
        report = score.run(
            score.Request(
                location.Location.parse(str(tmp_path / "run")),
                str(tmp_path / "in.txt"),
                str(tmp_path / "out.jsonl"),
                scoring,
                samples.FP32,
                trained.NONE,
            ),
            session,
            console.SilentReporter(),
        )
    ready = scorer.Scorer(_backward(), scoring, samples.FP32)
    cut = {1: [], 2: [1]}[lanes]  # 19 and 19 tokens
    expected = []
    for start, stop in zip([0, *cut], [*cut, 4], strict=True):
        expected += ready.score_stream(LINES[start:stop], ready.initial_stream_state())[0]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2, 3]
    assert [row["nll_nats"] for row in rows] == [pytest.approx(one.nll_nats, abs=1e-4) for one in expected]
    assert report["lanes"] == lanes


def _generate(root: pathlib.Path, **given: Any) -> dict[str, Any]:
    place = location.Location.parse(str(root))
    return generate.run(place, given.get("prefix"), SETTINGS, samples.FP32, trained.NONE, 1, given.get("ending"))


def test_each_direction_is_given_what_it_reads_first(tmp_path: pathlib.Path) -> None:
    trained.save(_backward("none"), tmp_path / "backward")
    trained.save(samples.language_model(line_end="none"), tmp_path / "forward")
    made = _generate(tmp_path / "backward", ending="a dog")
    assert made["text"].endswith("a dog")
    assert (made["ending"], made["num_tokens"], len(made["text"])) == ("a dog", 10, 15)
    with pytest.raises(errors.UsageError, match="--prefix: this run's model reads backward; give it a --ending"):
        _generate(tmp_path / "backward", prefix="the")
    with pytest.raises(errors.UsageError, match="--ending: this run's model reads forward; give it a --prefix"):
        _generate(tmp_path / "forward", ending="the")
    for given in ({}, {"prefix": "the", "ending": "dog"}):
        with pytest.raises(errors.UsageError, match="give exactly one"):
            _generate(tmp_path / "forward", **given)


def test_pairs_of_words_are_as_likely_in_both_directions(tmp_path: pathlib.Path) -> None:
    """Relative frequencies of pairs, on their own text, which ends with the word that it begins with.

    Forward and backward, the pairs are the same; so is what they are divided by: how often each word but the last, or
    each but the first, occurs. So the perplexities of the text are equal.
    """
    (tmp_path / "english.txt").write_text("I love you and you love I and all of you love all but I\n")
    overrides = ["corpus.split={}", "corpus.line_end=none", "model.order=2", "model.smoothing=laplace"]
    reports, roots = {}, {}
    for direction in ("forward", "backward"):
        config = conftest.configured(
            COUNTED,
            tmp_path,
            *overrides,
            "model.epsilons=[0]",
            f"model.direction={direction}",
            "generation.method=greedy",
        )
        config = config.model_copy(update={"root": f"{config.root}-{direction}"})
        roots[direction] = location.Location.parse(config.root)
        with trained.session() as session:
            pipeline.run(config, session, console.SilentReporter())
            reports[direction] = score.run(
                score.Request(
                    roots[direction],
                    str(tmp_path / "english.txt"),
                    str(tmp_path / f"{direction}.jsonl"),
                    config.scoring,
                    config.compute,
                    config.cluster,
                ),
                session,
                console.SilentReporter(),
            )
    assert reports["forward"]["tokens"] == reports["backward"]["tokens"] == 14
    assert reports["forward"]["perplexity"] == pytest.approx(reports["backward"]["perplexity"], rel=1e-12)
    assert reports["forward"]["perplexity"] > 1.2
    two = SETTINGS.model_copy(update={"num_tokens": 1})
    made = generate.run(roots["backward"], None, two, samples.FP32, trained.NONE, 1, "of")
    assert made["text"] == "all of"
