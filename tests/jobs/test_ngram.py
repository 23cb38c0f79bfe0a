"""N-gram models by the same commands as any other model."""

import json
import math
import pathlib
from typing import Any

import pytest

from core import errors
from core.config import loading, schema
from core.data.builtin import sentences
from core.storage import location
from jobs import generate, inspect, pipeline, score, train
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import conftest, trained

COUNTED = """
name: tiny-counted
root: {folder}/counted
corpus: {{kind: text, train: {{text: [{folder}/english.txt]}}, split: {{valid: 0.1, test: 0.1}}}}
tokenizer: {{kind: word}}
model: {{kind: ngram, order: 3}}
generation: {{num_tokens: 8, temperature: 1.0}}
scoring: {{unit: stream, part_lines: 8}}
cluster: {{address: none}}
"""


def _pipeline(folder: pathlib.Path, *overrides: str) -> tuple[Any, location.Location]:
    sentences.write_english(folder / "english.txt", 1, 0, 200)
    config = conftest.configured(COUNTED, folder, *overrides)
    with trained.session() as session:
        report = pipeline.run(config, session, reporters.SilentReporter())
        assert train.run(config, session, reporters.SilentReporter())["already_done"]
    return report, location.Location.parse(config.root)


def test_the_pipeline_trains_scores_generates_and_reports(tmp_path: pathlib.Path) -> None:
    report, root = _pipeline(tmp_path)
    stages = report["stages"]
    assert stages["train"]["num_runs"][0] > 50
    assert 1 < stages["score"]["perplexity"] < 60
    assert 0.2 < stages["score"]["accuracy"] < 1
    assert "infinite" not in stages["score"]
    assert stages["train"]["validation"]["perplexity"] == pytest.approx(stages["score"]["perplexity"], rel=0.3)
    assert len(stages["generate"]["samples"]) == 3
    assert "n-gram model of order 3" in root.join("report.html").read_bytes().decode()
    inspected = inspect.run(root, reporters.SilentReporter())
    assert [checkpoint["model"] for checkpoint in inspected["checkpoints"].values()] == ["ngram"]


UNIT = {"eos_counted": True, "unknown_words": "scored as <unk>"}
BY_STREAM = COUNTED.replace("unit: stream, ", "")  # names no unit


def _run(config: schema.RunConfig) -> dict[str, Any]:
    with trained.session() as session:
        stages: dict[str, Any] = pipeline.run(config, session, reporters.SilentReporter())["stages"]
    return stages


def test_a_text_is_scored_by_stream_and_lines_from_all_over_it_by_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_BY_LINE", 11)
    sentences.write_english(tmp_path / "english.txt", 1, 0, 200)
    config = conftest.configured(BY_STREAM, tmp_path)
    stages = _run(config)
    assert stages["score"] | {"unit": "stream", "lanes": 1, **UNIT} == stages["score"]
    by_line = stages["score"]["by_line"]
    assert by_line | {"unit": "line", "lines": 11, **UNIT} == by_line
    assert "lanes" not in by_line
    # As the verb scores the same lines alone.
    root = location.Location.parse(config.root)
    lines = root.join("outputs", "test.text.txt").read_bytes().decode().splitlines(keepends=True)
    assert stages["score"]["lines"] == len(lines) > 11
    (tmp_path / "chosen.txt").write_text("".join(lines[:3] + lines[8:12] + lines[16:20]))
    with trained.session() as session:
        paths = str(tmp_path / "chosen.txt"), str(tmp_path / "out.txt")
        request = score.Request(root, *paths, config.scoring, config.compute, config.cluster)
        alone = score.run(request, session, reporters.SilentReporter())
        assert not alone["already_done"]
        assert score.run(request, session, reporters.SilentReporter())["already_done"]
    assert (alone["unit"], alone["tokens"]) == ("line", by_line["tokens"])
    assert alone["nll_nats"] == pytest.approx(by_line["nll_nats"], rel=1e-12)  # summed over other parts
    report = json.loads(root.join("report.json").read_bytes())
    assert report["scores"]["by_line"]["perplexity"] == by_line["perplexity"]
    again = {**stages["score"], "by_line": {**by_line, "already_done": True}, "already_done": True}
    assert _run(config)["score"] == again


def test_a_unit_that_is_named_is_the_only_one(tmp_path: pathlib.Path) -> None:
    sentences.write_english(tmp_path / "english.txt", 1, 0, 200)
    named = _run(conftest.configured(BY_STREAM, tmp_path, "scoring.unit=line"))["score"]
    assert named["unit"] == "line"
    assert "by_line" not in named
    # Release 0.1 scored by line where none was named: what it made is kept.
    assert _run(conftest.configured(BY_STREAM, tmp_path))["score"] == {**named, "already_done": True}


def test_a_model_of_lines_has_one_perplexity_by_line_and_by_stream(tmp_path: pathlib.Path) -> None:
    report, _ = _pipeline(tmp_path, "model.unit=line")
    by_stream = report["stages"]["score"]
    assert by_stream["nll_nats"] == pytest.approx(by_stream["by_line"]["nll_nats"], rel=1e-12)
    assert by_stream["tokens"] == by_stream["by_line"]["tokens"]
    validation = report["stages"]["train"]["validation"]
    assert validation | {"unit": "line", **UNIT} == validation


def test_the_score_of_a_stream_does_not_depend_on_the_size_of_parts(tmp_path: pathlib.Path) -> None:
    report, root = _pipeline(tmp_path)
    config = conftest.configured(COUNTED, tmp_path)
    whole = config.scoring.model_copy(update={"part_lines": 1000})
    with trained.session() as session:
        scored = score.run(
            score.Request(
                root,
                str(root.join("outputs", "test.text.txt")),
                str(tmp_path / "whole.jsonl"),
                whole,
                config.compute,
                config.cluster,
            ),
            session,
            reporters.SilentReporter(),
        )
    assert scored["nll_nats"] == pytest.approx(report["stages"]["score"]["nll_nats"], rel=1e-12)


def test_tokens_of_probability_0_are_counted_and_make_the_sums_infinite(tmp_path: pathlib.Path) -> None:
    report, root = _pipeline(tmp_path, "model.smoothing=laplace", "model.epsilons=[0]")
    assert report["stages"]["score"]["perplexity"] == "inf"
    rows = [json.loads(line) for line in root.join("outputs", "scores.jsonl").read_bytes().splitlines()]
    impossible = report["stages"]["score"]["infinite"]
    assert 0 < impossible < report["stages"]["score"]["tokens"]
    assert any(row["nll_nats"] == "inf" for row in rows)
    assert report["stages"]["train"]["validation"]["perplexity"] == "inf"
    assert math.isinf(float(report["stages"]["score"]["nll_nats"]))


def test_a_bigram_model_of_a_small_corpus_by_hand(tmp_path: pathlib.Path) -> None:
    (tmp_path / "english.txt").write_text("I love you I love coding I love AI\n" * 2)
    config = conftest.configured(
        COUNTED,
        tmp_path,
        "corpus.split={}",
        "corpus.line_end=none",
        "model.order=2",
        "model.smoothing=laplace",
        "model.epsilons=[0]",
        "generation.method=greedy",
        "generation.num_tokens=2",
    )
    with trained.session() as session:
        pipeline.run(config, session, reporters.SilentReporter())
    root = location.Location.parse(config.root)
    generated = generate.run(root, "love", config.generation, config.compute, config.cluster)
    assert generated["text"] in ("love you I", "love coding I", "love AI I")
    assert "ahead" not in generated
    third = pytest.approx(1 / 3)
    expected = {1: {"love": 1}, 2: {"you": third, "coding": third, "AI": third}, 3: {"I": 1}}
    for steps, probabilities in expected.items():
        generation = config.generation.model_copy(update={"steps_ahead": steps})
        assert dict(generate.run(root, "I", generation, config.compute, config.cluster)["ahead"]) == probabilities


def test_steps_ahead_require_a_markov_chain_of_order_1_or_2(tmp_path: pathlib.Path) -> None:
    _, root = _pipeline(tmp_path)
    config = conftest.configured(COUNTED, tmp_path, "generation.steps_ahead=2")
    with pytest.raises(errors.UsageError, match="need order 1 or 2, this model has 3"):
        generate.run(root, "the", config.generation, config.compute, config.cluster)
    (tmp_path / "neural").mkdir()
    trained.save(samples.language_model(line_end="none"), tmp_path / "neural")
    neural_root = location.Location.parse(str(tmp_path / "neural"))
    with pytest.raises(errors.UsageError, match=r"generation\.steps_ahead: needs a model of kind ngram"):
        generate.run(neural_root, "the", config.generation, config.compute, config.cluster)


def test_a_model_of_lines_needs_line_ends(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=r"model\.unit: line needs lines that end in <eos>"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", ["model.unit=line", "corpus.line_end=space"])


def test_a_text_shorter_than_the_order_is_scored(tmp_path: pathlib.Path) -> None:
    (tmp_path / "english.txt").write_text("hello\n")
    (tmp_path / "in.txt").write_text("hello x\n\n")
    config = conftest.configured(COUNTED, tmp_path, "corpus.split={}", "model.order=4")
    root = location.Location.parse(config.root)
    with trained.session() as session:
        pipeline.run(config, session, reporters.SilentReporter())
        paths = str(tmp_path / "in.txt"), str(tmp_path / "out.txt")
        request = score.Request(root, *paths, config.scoring, config.compute, config.cluster)
        scored = score.run(request, session, reporters.SilentReporter())
    # Of two tokens, hello and the line end, one is unknown: all contexts leave their mass to the single tokens.
    assert (scored["lines"], scored["tokens"], scored["unk"]) == (2, 4, 1)
    assert 0 < scored["nll_nats"] < 10


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("model.prune=[]",), "begin with 0"),
        (("model.prune=[1, 1]",), "the first threshold is that of single tokens, which stay; begin with 0"),
        (("model.prune=[0, 2, 1]",), "thresholds do not fall with the order"),
        (("model.prune=[0, 1, 1, 1]",), "has 4 thresholds for 3 orders"),
        (("model.prune=[0, 1]", "model.smoothing=laplace"), "laplace needs all counts"),
    ],
)
def test_thresholds_of_pruning_are_checked(overrides: tuple[str, ...], complaint: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=f"prune: .*{complaint}"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", list(overrides))


def test_a_pruned_model_reports_what_stays(tmp_path: pathlib.Path) -> None:
    whole = _pipeline(tmp_path)[0]["stages"]["train"]
    pruned = _pipeline(tmp_path, "model.prune=[0, 0, 1]", f"root={tmp_path}/pruned")[0]["stages"]["train"]
    assert pruned["num_runs"][:2] == whole["num_runs"][:2]
    assert 0 < pruned["num_runs"][2] < whole["num_runs"][2]
    assert math.isfinite(pruned["validation"]["perplexity"])


def test_settings_of_gradient_training_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="not trained in steps"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", ["training.epochs=3"])
    with pytest.raises(errors.UsageError, match="kneser_ney has none"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", ["model.epsilons=[0.5]"])
