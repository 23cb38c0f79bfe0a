"""Laws of `score`: the figures of a corpus are the sums over its lines, for any division into parts and lanes."""

import json
import math
import pathlib
import sys
from typing import Any

import pytest

from core import errors
from core.config import inference_settings, model_settings, schema
from core.decoding.scoring import scorer
from core.storage import location
from jobs import score, translate
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import datasets, trained

LINES = ["the cat sees a dog", "", "a cat", "the the the"]


def _run(
    folder: pathlib.Path,
    output: str = "out.jsonl",
    targets: str | None = None,
    compute: schema.ComputeConfig = samples.FP32,
    **scoring: Any,
) -> dict[str, Any]:
    request = score.Request(
        location.Location.parse(str(folder / "run")),
        str(folder / "in.txt"),
        f"{folder}/{output}",
        inference_settings.ScoringConfig(**{"part_lines": 2, **scoring}),
        compute,
        trained.NONE,
        targets=None if targets is None else str(folder / targets),
    )
    with trained.session() as session:
        return score.run(request, session, reporters.SilentReporter())


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    trained.save(samples.language_model(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def test_the_score_of_a_corpus_is_the_sum_over_its_lines(folder: pathlib.Path) -> None:
    report = _run(folder)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2, 3]
    assert report["nll_nats"] == pytest.approx(math.fsum(row["nll_nats"] for row in rows), rel=1e-12)
    assert report["tokens"] == sum(len(line) + 1 for line in LINES) == report["characters"]
    assert report["perplexity"] == pytest.approx(math.exp(report["nll_nats"] / report["tokens"]))
    assert report["bits_per_character"] == pytest.approx(report["nll_nats"] / math.log(2) / report["characters"])


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path: pathlib.Path) -> None:
    made = samples.silence(samples.language_model())
    trained.save(made, tmp_path / "run")
    (tmp_path / "in.txt").write_text("the cat\na dog\n")
    size = made.codecs["text"].tokenizer.vocabulary_size
    for scoring in ({"unit": "line"}, {"unit": "stream"}, {"unit": "stream", "lanes": 2}):
        report = _run(tmp_path, f"out-{len(scoring)}{scoring['unit']}.txt", **scoring)
        assert report["perplexity"] == pytest.approx(size, rel=1e-6)
        assert report["bits_per_character"] == pytest.approx(math.log2(size), rel=1e-6)


def test_a_stream_of_one_lane_is_scored_as_one_text(folder: pathlib.Path) -> None:
    report = _run(folder, unit="stream")
    made = scorer.Scorer(samples.language_model(), inference_settings.ScoringConfig(), samples.FP32)
    rows, _ = made.score_stream(LINES, made.initial_stream_state())
    assert report["nll_nats"] == pytest.approx(sum(row.nll_nats or 0.0 for row in rows), abs=1e-4)
    assert report["lanes"] == 1


@pytest.mark.parametrize("lanes", [2, 3])
def test_lanes_score_every_line_once(folder: pathlib.Path, lanes: int) -> None:
    report = _run(folder, unit="stream", lanes=lanes)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2, 3]
    assert [row["num_tokens"] for row in rows] == [len(line) + 1 for line in LINES]
    assert report["lanes"] == lanes
    assert _run(folder, unit="stream", lanes=lanes)["nll_nats"] == report["nll_nats"]


def test_scoring_a_translated_file_gives_its_score(tmp_path: pathlib.Path) -> None:
    trained.save(samples.seq2seq(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in samples.sentences(9)))
    with trained.session() as session:
        translated = translate.run(
            translate.Request(
                location.Location.parse(str(tmp_path / "run")),
                str(tmp_path / "in.txt"),
                str(tmp_path / "translated.txt"),
                inference_settings.DecodingConfig(max_length=7, part_lines=4),
                samples.FP32,
                trained.NONE,
            ),
            session,
            reporters.SilentReporter(),
        )
    report = _run(tmp_path, targets="translated.txt")
    assert report["nll_nats"] == pytest.approx(-float(translated["score_nats"]), abs=1e-3)
    assert report["tokens"] == translated["tokens"]


def test_the_scores_of_tokens_are_stored_on_request(folder: pathlib.Path) -> None:
    _run(folder, tokens=True)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [token["text"] for token in rows[2]["tokens"]] == [*"a cat", "<eos>"]
    assert sum(token["nll_nats"] for token in rows[2]["tokens"]) == pytest.approx(rows[2]["nll_nats"])


def test_accuracy_is_the_share_of_tokens_ranked_first(folder: pathlib.Path) -> None:
    made = scorer.Scorer(samples.language_model(), inference_settings.ScoringConfig(), samples.FP32)
    rows = made.score_lines(LINES)
    num_correct = sum(row.num_correct or 0 for row in rows)
    assert _run(folder)["accuracy"] == pytest.approx(num_correct / sum(row.num_tokens for row in rows))


def test_standard_input_has_the_figures_of_a_file(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    expected = _run(folder)
    monkeypatch.setattr(sys, "stdin", (folder / "in.txt").open())
    with trained.session() as session, (tmp_path / "stdout").open("w") as real:
        request = score.Request(
            location.Location.parse(str(folder / "run")),
            "-",
            "-",
            inference_settings.ScoringConfig(part_lines=2),
            samples.FP32,
            trained.NONE,
            stdout=real.fileno(),
        )
        report = score.run(request, session, reporters.SilentReporter())
    for figure in ("lines", "tokens", "unk", "perplexity", "bits_per_character", "accuracy"):
        assert report[figure] == pytest.approx(expected[figure])


def test_dynamic_evaluation_reads_training_text_from_the_run(tmp_path: pathlib.Path) -> None:
    corpus = {"kind": "text", "train": {"text": [datasets.write(tmp_path / "train.txt", LINES * 20)]}}
    prepared = datasets.config(tmp_path / "run", corpus, {"kind": "char"})
    datasets.run(prepared)
    config = model_settings.LanguageModelConfig(kind="language_model", hidden_size=12, embedding_size=8)
    trained.save(samples.build(config, datasets.open_dataset(prepared).codecs), tmp_path / "run")
    (tmp_path / "in.txt").write_text("the cat sees a dog\n" * 4)
    plain = _run(tmp_path, "plain.txt", unit="stream")
    dynamic = inference_settings.DynamicConfig(learning_rate=0.01, statistics_windows=5)
    learning = _run(tmp_path, "learning.txt", unit="stream", dynamic=dynamic)
    assert learning["perplexity"] < plain["perplexity"]
    still = inference_settings.DynamicConfig(learning_rate=0.0, statistics_windows=5)
    assert _run(tmp_path, "still.txt", unit="stream", dynamic=still)["perplexity"] == pytest.approx(plain["perplexity"])


def test_dynamic_evaluation_without_training_text_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="rule: sgd"):
        _run(folder, unit="stream", dynamic=inference_settings.DynamicConfig())


def test_incompatible_settings_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="leave it out"):
        _run(folder, targets="in.txt")
    with pytest.raises(errors.UsageError, match="unit: stream"):
        _run(folder, lanes=2)
    other = tmp_path / "other"
    trained.save(samples.seq2seq(), other / "run")
    (other / "in.txt").write_text("the cat\n")
    with pytest.raises(errors.UsageError, match="name their file"):
        _run(other)
    (other / "targets.txt").write_text("un\ndeux\n")
    with pytest.raises(errors.DataError, match=r"has 2 lines, but .* has 1;"):
        _run(other, targets="targets.txt")
    with pytest.raises(errors.UsageError, match="use line"):
        _run(other, targets="targets.txt", unit="stream")


def test_dynamic_evaluation_of_quantized_weights_is_refused(folder: pathlib.Path) -> None:
    settings = inference_settings.DynamicConfig(rule="sgd")
    with pytest.raises(errors.UsageError, match=r"scoring\.dynamic: quantized weights cannot be updated"):
        _run(folder, compute=schema.ComputeConfig(precision="int8"), unit="stream", dynamic=settings)
    assert not (folder / "out.jsonl.parts").exists(), "refused before anything is written"


def test_the_column_option_applies_to_the_file_that_has_columns(tmp_path: pathlib.Path) -> None:
    trained.save(samples.seq2seq(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("the cat\n")
    (tmp_path / "targets.jsonl").write_text('{"text": "tac eht"}\n')
    request = score.Request(
        location.Location.parse(str(tmp_path / "run")),
        str(tmp_path / "in.txt"),
        str(tmp_path / "out.txt"),
        inference_settings.ScoringConfig(),
        samples.FP32,
        trained.NONE,
        targets=str(tmp_path / "targets.jsonl"),
        column="text",
    )
    with trained.session() as session:
        report = score.run(request, session, reporters.SilentReporter())
    assert report["tokens"] == 3
