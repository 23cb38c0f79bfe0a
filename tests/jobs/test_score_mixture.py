"""Laws of `score` with several runs: a mixture is scored as a single model is, and its weights are found by EM."""

import json
import logging
import math
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import inference_settings, mixture_settings
from core.models import bundle as bundles
from core.storage import location
from jobs import run_checks, score
from tests import reporters
from tests.core.decoding import samples
from tests.core.models import counted
from tests.jobs import trained

LINES = ["the cat sees a dog", "", "a cat", "the the the", "a dog sees the cat", "t"]
HELD_OUT = ["the dog sees a cat", "the cat", "a dog", "", "sees the the"]
FIGURES = ("lines", "tokens", "unk", "nll_nats", "perplexity", "accuracy")
RUNS = ("lstm", "ngram")


def ngram(direction: str = "forward", **reserved: Any) -> bundles.Bundle:
    """Returns a 3-gram model of the lines to score, with the tokenizer of the networks."""
    codec = samples.language_model(**reserved).codecs["text"]
    eos = codec.tokenizer.eos_id
    stream = [token for ids in codec.encode_lines(LINES) for token in ([*ids] if eos is None else [*ids, eos])]
    order = stream[::-1] if direction == "backward" else stream
    size = codec.tokenizer.vocabulary_size
    model = counted.estimate(order, size, 3, "kneser_ney", direction=direction).model
    return bundles.Bundle(model, model.config, {"text": codec}, reserved.get("line_end", "eos"), "fp32")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    trained.save(samples.language_model(), tmp_path / "lstm")
    trained.save(samples.language_model(cell="gru", num_layers=1), tmp_path / "gru")
    trained.save(samples.language_model(direction="backward"), tmp_path / "backward")
    trained.save(ngram(), tmp_path / "ngram")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    (tmp_path / "held-out.txt").write_text("".join(f"{line}\n" for line in HELD_OUT))
    return tmp_path


def run(
    folder: pathlib.Path,
    runs: tuple[str, ...] = RUNS,
    output: str = "out.jsonl",
    mixture: mixture_settings.MixtureConfig | None = None,
    session: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    options = {
        name: settings.pop(name)
        for name in ("input", "stdout", "overwrite", "targets", "keeps_parts")
        if name in settings
    }
    first, *others = (location.Location.parse(str(folder / name)) for name in runs)
    scoring = inference_settings.ScoringConfig(
        **{"part_lines": 2, "mixture": mixture or mixture_settings.LinearConfig(), **settings}
    )
    request = score.Request(
        run=first,
        output="-" if output == "-" else f"{folder}/{output}",
        scoring=scoring,
        compute=samples.FP32,
        cluster=trained.NONE,
        others=others,
        **{"input": str(folder / "in.txt"), **options},
    )
    with trained.session() as opened:
        return score.run(request, session or opened, reporters.SilentReporter())


def rows(folder: pathlib.Path, output: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / output).read_text().splitlines()]


def figures(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in FIGURES}


def fit_on(folder: pathlib.Path, **settings: Any) -> mixture_settings.LinearConfig:
    return mixture_settings.LinearConfig(fit_on=str(folder / "held-out.txt"), **settings)


UNITS: list[dict[str, Any]] = [{"unit": "line"}, {"unit": "stream"}, {"unit": "stream", "lanes": 2}]


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("lstm", mixture_settings.LinearConfig, UNITS[0]),
        ("ngram", mixture_settings.LogLinearConfig, UNITS[1]),
        ("backward", mixture_settings.LinearConfig, UNITS[2]),
    ],
)
def test_a_mixture_of_a_model_with_itself_scores_as_the_model(
    folder: pathlib.Path, unit: dict[str, Any], kind: Any, name: str
) -> None:
    alone = run(folder, (name,), "alone.jsonl", **unit)
    mixed = run(folder, (name, name), mixture=kind(weights=(0.25, 0.75)), **unit)
    assert figures(mixed) == pytest.approx(figures(alone), rel=1e-6)
    expected = [row["nll_nats"] for row in rows(folder, "alone.jsonl")]
    assert [row["nll_nats"] for row in rows(folder)] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("runs", "unit"), [(RUNS, UNITS[1]), (("ngram", "lstm"), UNITS[0]), (("gru", "lstm"), UNITS[2])]
)
def test_weights_of_one_and_zero_give_the_scores_of_the_first_run(
    folder: pathlib.Path, unit: dict[str, Any], runs: tuple[str, ...]
) -> None:
    alone = run(folder, runs[:1], "alone.jsonl", **unit)
    mixed = run(folder, runs, mixture=mixture_settings.LinearConfig(weights=(1.0, 0.0)), **unit)
    assert figures(mixed) == pytest.approx(figures(alone), rel=1e-6)
    expected = [row["nll_nats"] for row in rows(folder, "alone.jsonl")]
    assert [row["nll_nats"] for row in rows(folder)] == pytest.approx(expected, abs=1e-6)


def test_a_linear_mixture_of_two_uniform_models_has_the_perplexity_of_the_vocabulary(tmp_path: pathlib.Path) -> None:
    made = samples.silence(samples.language_model())
    trained.save(made, tmp_path / "lstm")
    trained.save(samples.silence(samples.language_model(cell="gru")), tmp_path / "gru")
    (tmp_path / "in.txt").write_text("the cat\na dog\n")
    report = run(tmp_path, ("lstm", "gru"))
    assert report["perplexity"] == pytest.approx(made.codecs["text"].tokenizer.vocabulary_size, rel=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_the_score_of_a_token_is_the_weighted_mean_of_its_probabilities(
    folder: pathlib.Path, unit: dict[str, Any]
) -> None:
    mixed = run(folder, mixture=mixture_settings.LinearConfig(weights=(0.3, 0.7)), tokens=True, **unit)
    for name in RUNS:
        run(folder, (name,), f"{name}.jsonl", tokens=True, **unit)
    for row, *members in zip(rows(folder), *(rows(folder, f"{name}.jsonl") for name in RUNS), strict=True):
        for token, first, second in zip(row["tokens"], *(member["tokens"] for member in members), strict=True):
            expected = 0.3 * math.exp(-first["nll_nats"]) + 0.7 * math.exp(-second["nll_nats"])
            assert math.exp(-token["nll_nats"]) == pytest.approx(expected, rel=1e-5)
    assert mixed["mixture_kind"] == "linear"
    assert mixed["mixture_weights"] == [0.3, 0.7]
    assert [pathlib.Path(member["run"]).name for member in mixed["members"]] == list(RUNS)
    assert mixed["unit"] == unit["unit"]


@pytest.mark.parametrize(
    ("runs", "unit"), [(RUNS, UNITS[0]), (("backward", "backward-ngram"), UNITS[1]), (RUNS, UNITS[2])]
)
def test_fitted_weights_are_better_than_others_on_the_held_out_text(
    folder: pathlib.Path, unit: dict[str, Any], runs: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    trained.save(ngram("backward"), folder / "backward-ngram")
    with caplog.at_level(logging.INFO):
        report = run(folder, runs, mixture=fit_on(folder), **unit)
    fit, weights = report["mixture_fit"], report["mixture_weights"]
    assert "weights 0." in caplog.text
    held_out: dict[str, Any] = {"input": str(folder / "held-out.txt"), **unit}
    held_out["lanes"] = 1
    # The perplexity of the fit is that of the held-out text, scored with the weights.
    given = run(folder, runs, "given.jsonl", mixture_settings.LinearConfig(weights=tuple(weights)), **held_out)
    assert fit["perplexity"] == pytest.approx(given["perplexity"], rel=1e-5)
    assert (fit["tokens"], fit["lines"]) == (given["tokens"], len(HELD_OUT))
    others = [
        run(folder, runs, f"{share}.jsonl", mixture_settings.LinearConfig(weights=(share, 1 - share)), **held_out)
        for share in (0.25, 0.5, 0.75)
    ]
    assert all(fit["perplexity"] <= other["perplexity"] * (1 + 1e-6) for other in others)
    assert fit["perplexity_of_equal_weights"] == pytest.approx(others[1]["perplexity"], rel=1e-5)


def test_fitted_weights_are_committed_and_used_again_by_a_resume(folder: pathlib.Path) -> None:
    first = run(folder, mixture=fit_on(folder), keeps_parts=True)
    parts = folder / "out.jsonl.parts"
    record = json.loads((parts / "_commits" / "mixture-weights.json").read_text())
    assert record["record"]["weights"] == first["mixture_weights"]
    # Interrupted before the end: the weights of the record count, which here are others than a fit would find.
    for name in ("_MANIFEST.json", "_commits/part-000001.json"):
        (parts / name).unlink(missing_ok=True)
    committed = sorted(path.name for path in (parts / "_commits").iterdir())
    again = run(folder, mixture=fit_on(folder), keeps_parts=True)
    assert again["mixture_weights"] == first["mixture_weights"]
    assert figures(again) == figures(first)
    assert len(committed) >= 2
    # A held-out file that was moved is the same; one with other lines is another plan.
    (folder / "held-out.txt").rename(folder / "moved.txt")
    moved = mixture_settings.LinearConfig(fit_on=str(folder / "moved.txt"))
    assert run(folder, mixture=moved)["already_done"]
    (folder / "moved.txt").write_text("a dog\n")
    with pytest.raises(errors.LockedError, match=r"scoring\.mixture\.fit_on"):
        run(folder, mixture=moved)


def test_a_mixture_that_is_done_is_not_scored_again_and_its_plan_holds_all_bundles(folder: pathlib.Path) -> None:
    first = run(folder)
    again = run(folder)
    assert again["already_done"]
    of_call = {"already_done": None, "lines_per_s": None, "elapsed_s": None}
    assert {**again, **of_call} == {**first, **of_call}
    plan = json.loads((folder / "out.jsonl.manifest.json").read_text())["settings"]
    assert plan["bundle"] == [
        bundles.load(bundles.find_folder(location.Location.parse(str(folder / name)))).fingerprint for name in RUNS
    ]
    with pytest.raises(errors.LockedError, match="bundle"):
        run(folder, ("lstm", "gru"))
    with pytest.raises(errors.LockedError, match=r"scoring\.mixture\.weights"):
        run(folder, mixture=mixture_settings.LinearConfig(weights=(0.4, 0.6)))
    assert run(folder, overwrite=True, mixture=fit_on(folder))["mixture_fit"]["iterations"] >= 1
    assert run(folder, overwrite=True)["mixture_weights"] == [0.5, 0.5]
    assert not (folder / "out.jsonl.parts").exists()


def test_the_plan_of_a_single_run_says_nothing_of_mixtures(folder: pathlib.Path) -> None:
    report = run(folder, ("lstm",))
    plan = json.loads((folder / "out.jsonl.manifest.json").read_text())["settings"]
    assert "mixture" not in plan["scoring"]
    assert isinstance(plan["bundle"], str)
    assert not {"members", "mixture_kind", "mixture_weights"} & report.keys()


@pytest.mark.parametrize("part_lines", [1, 100])
def test_the_score_of_a_mixed_stream_does_not_depend_on_the_size_of_parts(
    folder: pathlib.Path, part_lines: int
) -> None:
    expected = run(folder, ("gru", "ngram", "lstm"), unit="stream")
    report = run(folder, ("gru", "ngram", "lstm"), f"{part_lines}.jsonl", unit="stream", part_lines=part_lines)
    assert figures(report) == pytest.approx(figures(expected), rel=1e-6)


def test_a_ranking_is_the_weighted_sum_of_both_directions_and_has_no_perplexity(
    folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    ranking = mixture_settings.RankingConfig(weights=(1.0, 0.5))
    with caplog.at_level(logging.INFO):
        report = run(folder, ("lstm", "backward"), mixture=ranking)
    assert "no perplexity" in caplog.text
    assert not {"perplexity", "nll_nats", "nll_nats_per_token", "bits_per_character", "accuracy"} & report.keys()
    for name in ("lstm", "backward"):
        run(folder, (name,), f"{name}.jsonl")
    members = [[row["nll_nats"] for row in rows(folder, f"{name}.jsonl")] for name in ("lstm", "backward")]
    expected = [-forward - 0.5 * backward for forward, backward in zip(*members, strict=True)]
    assert [row["ranking_score"] for row in rows(folder)] == pytest.approx(expected, rel=1e-6)
    assert [row["member_nll_nats"] for row in rows(folder)] == [list(pair) for pair in zip(*members, strict=True)]
    assert report["ranking_score"] == pytest.approx(sum(expected), rel=1e-6)
    assert report["tokens"] == sum(len(line) + 1 for line in LINES)
    again = run(folder, ("lstm", "backward"), mixture=ranking)
    assert (again["already_done"], again["ranking_score"]) == (True, report["ranking_score"])
    run(folder, ("lstm", "backward"), "out.txt", ranking)
    lines = (folder / "out.txt").read_text().splitlines()
    assert [float(line) for line in lines] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [mixture_settings.LinearConfig, mixture_settings.RankingConfig])
def test_standard_input_is_scored_by_the_mixture(
    folder: pathlib.Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(folder, output="expected.txt", mixture=kind())
    with (folder / "in.txt").open() as lines, (folder / "stdout").open("w") as real:
        monkeypatch.setattr(sys, "stdin", lines)
        report = run(folder, output="-", input="-", stdout=real.fileno(), mixture=kind())
    assert (folder / "stdout").read_text() == (folder / "expected.txt").read_text()
    name = "ranking_score" if kind is mixture_settings.RankingConfig else "perplexity"
    assert (report[name], report["mixture_weights"]) == (expected[name], [0.5, 0.5])
    with pytest.raises(errors.UsageError, match=r"fit_on: weights are fitted for an output file"):
        run(folder, output="-", input="-", mixture=fit_on(folder))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"kind": "word"}, r"another tokenizer \(word, \d+ entries, not \d+\)"),
        ({"line_end": "space"}, "another tokenizer"),
        ({"text": "the cat sees a dog x"}, r"another tokenizer \(char, 13 entries, not 12\)"),
        ({"direction": "backward"}, "another reading direction .* scoring.mixture: ranking"),
    ],
)
def test_runs_that_do_not_fit_together_are_refused_with_the_difference(
    folder: pathlib.Path, other: dict[str, Any], message: str
) -> None:
    trained.save(samples.language_model(**other), folder / "other")
    with pytest.raises(errors.UsageError, match=f"other has {message}"):
        run(folder, ("lstm", "other"))
    assert not (folder / "out.jsonl.parts").exists()


def test_only_language_models_are_mixed(folder: pathlib.Path) -> None:
    trained.save(samples.seq2seq(), folder / "pairs")
    for runs in (("lstm", "pairs"), ("pairs", "lstm")):
        with pytest.raises(errors.UsageError, match="pairs is a seq2seq, and only language models are mixed"):
            run(folder, runs)
    with pytest.raises(errors.UsageError, match="--targets: a language_model scores single lines"):
        run(folder, targets=str(folder / "in.txt"))


def test_a_fit_has_at_most_as_many_iterations_as_set(folder: pathlib.Path) -> None:
    once = run(folder, output="once.jsonl", mixture=fit_on(folder, iterations=1))
    twice = run(folder, output="twice.jsonl", mixture=fit_on(folder, iterations=2))
    assert (once["mixture_fit"]["iterations"], twice["mixture_fit"]["iterations"]) == (1, 2)
    assert twice["mixture_fit"]["perplexity"] < once["mixture_fit"]["perplexity"]


def test_a_held_out_file_that_does_not_exist_is_refused_before_models_are_loaded(folder: pathlib.Path) -> None:
    scoring = inference_settings.ScoringConfig(mixture=fit_on(folder))
    runs = [location.Location.parse(str(folder / name)) for name in ("a", "b")]
    run_checks.check_mixture(scoring, runs, str(folder / "in.txt"))
    (folder / "held-out.txt").unlink()
    with pytest.raises(errors.UsageError, match=r"scoring\.mixture\.fit_on: .*held-out.txt does not exist"):
        run_checks.check_mixture(scoring, runs, str(folder / "in.txt"))


def test_a_held_out_file_without_tokens_is_refused(folder: pathlib.Path) -> None:
    (folder / "held-out.txt").write_text("")
    with pytest.raises(errors.DataError, match=r"scoring\.mixture\.fit_on: has no token"):
        run(folder, mixture=fit_on(folder))


def test_int8_mixes_quantized_models(folder: pathlib.Path) -> None:
    with torch.inference_mode():
        expected = run(folder)
    compute = samples.FP32.model_copy(update={"precision": "int8"})
    first, *others = (location.Location.parse(str(folder / name)) for name in RUNS)
    request = score.Request(
        first,
        str(folder / "in.txt"),
        str(folder / "int8.jsonl"),
        inference_settings.ScoringConfig(),
        compute,
        trained.NONE,
        others=others,
    )
    with trained.session() as session:
        report = score.run(request, session, reporters.SilentReporter())
    assert report["perplexity"] == pytest.approx(expected["perplexity"], rel=0.05)
    assert not np.isclose(report["perplexity"], expected["perplexity"], rtol=1e-9)
