"""N-gram models by the same commands as any other model."""

import json
import math
import pathlib
from typing import Any

import pytest

from core import errors
from core.config import loading
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


def test_settings_of_gradient_training_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="not trained in steps"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", ["training.epochs=3"])
    with pytest.raises(errors.UsageError, match="kneser_ney has none"):
        loading.parse(COUNTED.format(folder=tmp_path), "tiny.yaml", ["model.epsilons=[0.5]"])
