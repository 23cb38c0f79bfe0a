"""Scoring with averaged checkpoints: the figures are those of a model with the mean weights."""

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
from jobs import score, translate
from tests import reporters
from tests.core.decoding import samples
from tests.core.models import counted
from tests.jobs import trained

LINES = ["the cat sees a dog", "", "a cat", "the the the"]
FIGURES = ("lines", "tokens", "unk", "nll_nats", "perplexity", "accuracy")


def _moved(made: bundles.Bundle, seed: int) -> bundles.Bundle:
    """Returns the model with changed weights, as further training would change them."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random))
    return made


def _mean(first: bundles.Bundle, second: bundles.Bundle) -> bundles.Bundle:
    """Returns the first model with the mean of the weights of both."""
    with torch.no_grad():
        for parameter, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
            parameter.copy_((parameter.double() + other.double()) / 2)
    return first


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run of a language model with two checkpoints, and another run with the mean of both."""
    for step in (4, 5):
        trained.save(_moved(samples.language_model(), step), tmp_path / "run", step)
    mean = _mean(_moved(samples.language_model(), 5), _moved(samples.language_model(), 4))
    trained.save(mean, tmp_path / "mean")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def _run(folder: pathlib.Path, run: str = "run", output: str = "out.jsonl", **options: Any) -> dict[str, Any]:
    settings = {
        name: options.pop(name) for name in list(options) if name in inference_settings.ScoringConfig.model_fields
    }
    files = {
        "input": str(folder / "in.txt"),
        "output": "-" if output == "-" else f"{folder}/{output}",
        **options,
    }
    request = score.Request(
        run=location.Location.parse(str(folder / run)),
        scoring=inference_settings.ScoringConfig(**{"part_lines": 2, **settings}),
        compute=samples.FP32,
        cluster=trained.NONE,
        **files,
    )
    with trained.session() as session:
        return score.run(request, session, reporters.SilentReporter())


@pytest.mark.parametrize(
    "scoring",
    [
        {"unit": "line"},
        {"unit": "stream"},
        {"unit": "stream", "lanes": 2},
        {"unit": "stream", "dynamic": inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1)},
    ],
)
def test_averaged_checkpoints_score_as_a_model_of_their_mean_weights(
    folder: pathlib.Path, scoring: dict[str, Any]
) -> None:
    report = _run(folder, average_checkpoints=2, **scoring)
    expected = _run(folder, "mean", "expected.jsonl", **scoring)
    assert {name: report[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}
    assert (folder / "out.jsonl").read_bytes() == (folder / "expected.jsonl").read_bytes()
    alone = _run(folder, output="alone.jsonl", **scoring)
    assert alone["perplexity"] != pytest.approx(report["perplexity"], rel=0.01)


def test_the_report_names_the_checkpoints(folder: pathlib.Path) -> None:
    report = _run(folder, average_checkpoints=2)
    (member,) = report["members"]
    assert member["run"] == str(folder / "run")
    assert [pathlib.Path(path).name for path in member["checkpoints"]] == ["step-00000005-e1", "step-00000004-e1"]
    assert report["checkpoint"] == member["checkpoints"][0]
    assert "members" not in _run(folder, output="alone.jsonl")


def test_standard_input_is_scored_with_averaged_checkpoints(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    expected = _run(folder, "mean", "expected.jsonl")
    with (folder / "in.txt").open() as lines, (tmp_path / "stdout").open("w") as real:
        monkeypatch.setattr(sys, "stdin", lines)
        report = _run(folder, output="-", input="-", stdout=real.fileno(), average_checkpoints=2)
    assert {name: report[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}


def test_forced_decoding_with_averaged_checkpoints_gives_the_score_of_the_translation(tmp_path: pathlib.Path) -> None:
    for step in (4, 5):
        trained.save(_moved(samples.seq2seq(), step), tmp_path / "run", step)
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in samples.sentences(9)))
    with trained.session() as session:
        translate.run(
            translate.Request(
                location.Location.parse(str(tmp_path / "run")),
                str(tmp_path / "in.txt"),
                str(tmp_path / "translated.jsonl"),
                inference_settings.DecodingConfig(max_length=7, part_lines=4, average_checkpoints=2),
                samples.FP32,
                trained.NONE,
            ),
            session,
            reporters.SilentReporter(),
        )
    rows = [json.loads(line) for line in (tmp_path / "translated.jsonl").read_text().splitlines()]
    (tmp_path / "texts.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    _run(tmp_path, targets=str(tmp_path / "texts.txt"), average_checkpoints=2)
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [-row["nll_nats"] for row in scored] == pytest.approx([row["score_nats"] for row in rows], abs=1e-4)
    assert [row["num_tokens"] for row in scored] == [row["num_tokens"] for row in rows]
    alone = _run(tmp_path, output="alone.jsonl", targets=str(tmp_path / "texts.txt"))
    assert -alone["nll_nats"] != pytest.approx(sum(row["score_nats"] for row in rows), rel=0.01)


def test_parts_of_other_weights_are_not_resumed(folder: pathlib.Path) -> None:
    first = _run(folder, average_checkpoints=2, keeps_parts=True)
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(folder, average_checkpoints=1)
    (folder / "out.jsonl.parts" / "_MANIFEST.json").unlink()  # as if it had been interrupted
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(folder, average_checkpoints=1)
    again = _run(folder, average_checkpoints=2, keeps_parts=True)
    assert again["nll_nats"] == first["nll_nats"]
    assert again["lines_per_s"] == 0


def test_the_plan_contains_the_weights_and_not_average_checkpoints(folder: pathlib.Path) -> None:
    _run(folder)  # so that outputs of versions without this setting stay valid
    plan = json.loads((folder / "out.jsonl.manifest.json").read_text())["settings"]
    assert plan["bundle"] == bundles.load(bundles.find_folder(location.Location.parse(str(folder / "run")))).fingerprint
    assert "average_checkpoints" not in plan["scoring"]


def test_averaging_more_checkpoints_than_exist_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="has 2 intact checkpoints, 3 are needed"):
        _run(folder, average_checkpoints=3)
    with pytest.raises(errors.UsageError, match="is a single checkpoint, 2 are needed"):
        _run(folder, "run/checkpoints/step-00000005-e1", average_checkpoints=2)
    assert not (folder / "out.jsonl.parts").exists()


def test_averaging_n_gram_models_is_refused(tmp_path: pathlib.Path) -> None:
    codec = samples.language_model("word").codecs["text"]
    model = counted.estimate([0, 1, 0, 1], codec.tokenizer.vocabulary_size, 2, "laplace").model
    made = bundles.Bundle(model, model.config, {"text": codec}, "eos", "fp32")
    for step in (4, 5):
        trained.save(made, tmp_path / "run", step)
    (tmp_path / "in.txt").write_text("the cat\n")
    with pytest.raises(errors.UsageError, match="holds a ngram, which has no weights to average"):
        _run(tmp_path, average_checkpoints=2)
