"""Scoring with the mean of a run's checkpoints: the figures are those of that mean, and of nothing else."""

import json
import pathlib
import sys
from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.models import bundle as bundles
from core.storage import location
from jobs import console, score, translate
from tests.core.decoding import samples
from tests.core.models import counted
from tests.jobs import trained

LINES = ["the cat sees a dog", "", "a cat", "the the the"]
FIGURES = ("lines", "tokens", "unk", "nll_nats", "perplexity", "accuracy")


def _moved(made: bundles.Bundle, seed: int) -> bundles.Bundle:
    """The same model with other weights, as a training goes on."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random))
    return made


def _mean(first: bundles.Bundle, second: bundles.Bundle) -> bundles.Bundle:
    """Half of each, by hand, in the first."""
    with torch.no_grad():
        for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
            one.copy_((one.double() + other.double()) / 2)
    return first


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """A language model's run with two checkpoints, and beside it a run of their mean."""
    for step in (4, 5):
        trained.save(_moved(samples.language_model(), step), tmp_path / "run", step)
    mean = _mean(_moved(samples.language_model(), 5), _moved(samples.language_model(), 4))
    trained.save(mean, tmp_path / "mean")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def _run(place: pathlib.Path, run: str = "run", output: str = "out.jsonl", **options: Any) -> dict[str, Any]:
    settings = {
        name: options.pop(name) for name in list(options) if name in inference_settings.ScoringConfig.model_fields
    }
    target = "-" if output == "-" else f"{place}/{output}"
    ends = {"input": str(place / "in.txt"), "output": target, "targets": None, **options}
    with trained.session() as session:
        return score.run(
            run=location.Location.parse(str(place / run)),
            column=None,
            scoring=inference_settings.ScoringConfig(**{"part_lines": 2, **settings}),
            compute=samples.FP32,
            cluster=trained.NONE,
            session=session,
            reporter=console.SilentReporter(),
            **ends,
        )


@pytest.mark.parametrize(
    "scoring",
    [
        {"unit": "line"},
        {"unit": "stream"},
        {"unit": "stream", "lanes": 2},
        {"unit": "stream", "dynamic": inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1)},
    ],
)
def test_the_mean_of_checkpoints_has_the_figures_of_the_mean_by_hand(
    place: pathlib.Path, scoring: dict[str, Any]
) -> None:
    report = _run(place, average_checkpoints=2, **scoring)
    expected = _run(place, "mean", "expected.jsonl", **scoring)
    assert {name: report[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}
    assert (place / "out.jsonl").read_bytes() == (place / "expected.jsonl").read_bytes()
    alone = _run(place, output="alone.jsonl", **scoring)
    assert alone["perplexity"] != pytest.approx(report["perplexity"], rel=0.01)


def test_the_report_names_the_checkpoints(place: pathlib.Path) -> None:
    report = _run(place, average_checkpoints=2)
    (member,) = report["members"]
    assert member["run"] == str(place / "run")
    assert [pathlib.Path(one).name for one in member["checkpoints"]] == ["step-00000005-e1", "step-00000004-e1"]
    assert report["checkpoint"] == member["checkpoints"][0]
    assert "members" not in _run(place, output="alone.jsonl")


def test_standard_input_is_scored_by_the_mean_too(
    place: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    expected = _run(place, "mean", "expected.jsonl")
    with (place / "in.txt").open() as lines, (tmp_path / "stdout").open("w") as real:
        monkeypatch.setattr(sys, "stdin", lines)
        report = _run(place, output="-", input="-", stdout=real.fileno(), average_checkpoints=2)
    assert {name: report[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}


def test_forced_decoding_of_an_averaged_translation_gives_its_score(tmp_path: pathlib.Path) -> None:
    for step in (4, 5):
        trained.save(_moved(samples.seq2seq(), step), tmp_path / "run", step)
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in samples.sentences(9)))
    with trained.session() as session:
        translate.run(
            location.Location.parse(str(tmp_path / "run")),
            str(tmp_path / "in.txt"),
            str(tmp_path / "translated.jsonl"),
            None,
            inference_settings.DecodingConfig(max_length=7, part_lines=4, average_checkpoints=2),
            samples.FP32,
            trained.NONE,
            session,
            console.SilentReporter(),
        )
    rows = [json.loads(line) for line in (tmp_path / "translated.jsonl").read_text().splitlines()]
    (tmp_path / "texts.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    _run(tmp_path, targets=str(tmp_path / "texts.txt"), average_checkpoints=2)
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [-row["nll_nats"] for row in scored] == pytest.approx([row["score_nats"] for row in rows], abs=1e-4)
    assert [row["num_tokens"] for row in scored] == [row["num_tokens"] for row in rows]
    alone = _run(tmp_path, output="alone.jsonl", targets=str(tmp_path / "texts.txt"))
    assert -alone["nll_nats"] != pytest.approx(sum(row["score_nats"] for row in rows), rel=0.01)


def test_parts_of_other_weights_are_not_gone_on_with(place: pathlib.Path) -> None:
    begun = _run(place, average_checkpoints=2)
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(place, average_checkpoints=1)
    (place / "out.jsonl.parts" / "_MANIFEST.json").unlink()  # as if it had been stopped before its end
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(place, average_checkpoints=1)
    again = _run(place, average_checkpoints=2)
    assert again["nll_nats"] == begun["nll_nats"]
    assert again["lines_per_s"] == 0


def test_the_plan_names_the_weights_and_not_the_setting(place: pathlib.Path) -> None:
    _run(place)  # so what was scored before there was such a setting is still done
    plan = json.loads((place / "out.jsonl.parts" / "_PLAN.json").read_text())["plan"]
    assert plan["bundle"] == bundles.load(bundles.locate(location.Location.parse(str(place / "run")))).fingerprint
    assert "average_checkpoints" not in plan["scoring"]


def test_more_checkpoints_than_there_are_are_refused(place: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="has 2 checkpoints that verify, 3 are asked for"):
        _run(place, average_checkpoints=3)
    with pytest.raises(errors.UsageError, match="is one checkpoint, 2 are asked for"):
        _run(place, "run/checkpoints/step-00000005-e1", average_checkpoints=2)
    assert not (place / "out.jsonl.parts").exists()


def test_a_model_that_counts_has_no_weights_to_average(tmp_path: pathlib.Path) -> None:
    codec = samples.language_model("word").codecs["text"]
    model = counted.estimate([0, 1, 0, 1], codec.tokenizer.vocabulary_size, 2, "laplace").model
    made = bundles.Bundle(model, model.config, {"text": codec}, "eos", "fp32")
    for step in (4, 5):
        trained.save(made, tmp_path / "run", step)
    (tmp_path / "in.txt").write_text("the cat\n")
    with pytest.raises(errors.UsageError, match="holds a ngram, which has no weights to average"):
        _run(tmp_path, average_checkpoints=2)
