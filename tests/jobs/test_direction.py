"""Verbs with a language model that reads backward."""

import json
import pathlib
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.decoding.scoring import scorer
from core.storage import location
from jobs import generate, pipeline, score
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import conftest, trained
from tests.jobs.test_ngram import COUNTED

LINES = ["the cat sees a dog", "", "a cat", "the the the"]
SETTINGS = inference_settings.GenerationConfig(method="greedy", num_tokens=10)


def _backward(line_end: str = "eos") -> Any:
    return samples.language_model(line_end=line_end, direction="backward")


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_stream_is_scored_backward_part_by_part(tmp_path: pathlib.Path, lanes: int) -> None:
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
            reporters.SilentReporter(),
        )
    local_scorer = scorer.Scorer(_backward(), scoring, samples.FP32)
    cuts = {1: [], 2: [1]}[lanes]  # two lanes of 19 tokens each
    expected = []
    for start, stop in zip([0, *cuts], [*cuts, 4], strict=True):
        expected += local_scorer.score_stream(LINES[start:stop], local_scorer.initial_stream_state())[0]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2, 3]
    assert [row["nll_nats"] for row in rows] == [pytest.approx(line.nll_nats, abs=1e-4) for line in expected]
    assert report["lanes"] == lanes


def _generate(root: pathlib.Path, prefix: str | None = None, ending: str | None = None) -> dict[str, Any]:
    run = location.Location.parse(str(root))
    return generate.run(run, prefix, SETTINGS, samples.FP32, trained.NONE, 1, ending)


def test_forward_models_need_a_prefix_and_backward_models_an_ending(tmp_path: pathlib.Path) -> None:
    trained.save(_backward("none"), tmp_path / "backward")
    trained.save(samples.language_model(line_end="none"), tmp_path / "forward")
    report = _generate(tmp_path / "backward", ending="a dog")
    assert report["text"].endswith("a dog")
    assert (report["ending"], report["num_tokens"], len(report["text"])) == ("a dog", 10, 15)
    with pytest.raises(errors.UsageError, match="--prefix: this run's model reads backward; give it a --ending"):
        _generate(tmp_path / "backward", prefix="the")
    with pytest.raises(errors.UsageError, match="--ending: this run's model reads forward; give it a --prefix"):
        _generate(tmp_path / "forward", ending="the")
    for options in ({}, {"prefix": "the", "ending": "dog"}):
        with pytest.raises(errors.UsageError, match="give exactly one"):
            _generate(tmp_path / "forward", **options)


def test_bigram_models_of_both_directions_have_equal_perplexity(tmp_path: pathlib.Path) -> None:
    """Bigram probabilities without smoothing, on their training text, which begins and ends with the same word.

    Both directions count the same bigrams, and divide by the same unigram counts (of all words but the last, or but the
    first). So the perplexities are equal.
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
            pipeline.run(config, session, reporters.SilentReporter())
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
                reporters.SilentReporter(),
            )
    assert reports["forward"]["tokens"] == reports["backward"]["tokens"] == 14
    assert reports["forward"]["perplexity"] == pytest.approx(reports["backward"]["perplexity"], rel=1e-12)
    assert reports["forward"]["perplexity"] > 1.2
    one_token = SETTINGS.model_copy(update={"num_tokens": 1})
    report = generate.run(roots["backward"], None, one_token, samples.FP32, trained.NONE, 1, "of")
    assert report["text"] == "all of"
