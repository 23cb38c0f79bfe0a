"""Tests of a model of both translation directions, made by the whole pipeline."""

import json
import pathlib

import pytest

from core import errors
from core.config import inference_settings
from core.reporting import content
from core.storage import location
from core.telemetry import catalog, metrics
from jobs import pipeline, score, translate
from tests import reporters
from tests.jobs import conftest, trained
from workers.cluster import session as sessions

BOTH_WAYS = """
name: both-ways
root: {folder}/run
corpora:
  en_fr:
    kind: pairs
    train: {{tsv: [{folder}/pairs.tsv]}}
    split: {{valid: 0.1, test: 0.1, by: line}}
    target_token: "<2fr>"
  fr_en:
    kind: pairs
    train: {{tsv: [{folder}/pairs.tsv], columns: [1, 0]}}
    split: {{valid: 0.1, test: 0.1, by: line}}
    target_token: "<2en>"
tokenizer: {{kind: bpe, max_size: 320, shared: true}}
sharding: {{part_size_bytes: 8192}}
model: {{kind: seq2seq, cell: gru, hidden_size: 16, embedding_size: 16, attention: dot}}
training:
  epochs: 2
  batch_lines: 32
  learning_rate: 0.01
  log_every_steps: 1
  validation: {{bleu_lines: 4, samples: 1}}
  multitask: {{projection: pcgrad, record_cosines: true}}
decoding: {{beam_size: 2, max_length: 30, part_lines: 8}}
scoring: {{part_lines: 8}}
cluster: {{address: none}}
compute: {{precision: fp32, matmul: default}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("corpora")
    conftest.write_corpus(folder)
    config = conftest.configured(BOTH_WAYS, folder)
    with sessions.Session(config.cluster) as session:
        pipeline.run(config, session, reporters.SilentReporter())
    return folder / "run"


def _translated(root: pathlib.Path, source: pathlib.Path, name: str, token: str | None) -> list[dict[str, object]]:
    decoding = inference_settings.DecodingConfig(beam_size=2, max_length=30, target_token=token)
    run, output = location.Location.parse(str(root)), root.parent / name
    with trained.session() as session:
        compute = conftest.configured(BOTH_WAYS, root.parent).compute
        request = translate.Request(run, str(source), str(output), decoding, compute, trained.NONE)
        translate.run(request, session, reporters.SilentReporter())
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_pipeline_translates_scores_and_evaluates_each_direction(root: pathlib.Path) -> None:
    stages = json.loads((root / "run.json").read_text())["stages"]
    verbs = ("translate", "score", "evaluate")
    assert {f"{verb}.{name}" for verb in verbs for name in ("en_fr", "fr_en")} <= set(stages)
    lines = {}
    for name in ("en_fr", "fr_en"):
        outputs = root / "outputs"
        lines[name] = (outputs / f"{name}.test.source.txt").read_text().splitlines()
        rows = [json.loads(line) for line in (outputs / f"{name}.translations.jsonl").read_text().splitlines()]
        assert len(rows) == len(lines[name]) == stages[f"evaluate.{name}"]["report"]["lines"] > 5
    assert lines["fr_en"] == (root / "outputs" / "en_fr.test.target.txt").read_text().splitlines()


def test_the_gauge_of_the_loss_is_the_mean_over_corpora(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = metrics.InMemoryMetrics()
    monkeypatch.setattr(sessions.Session, "metrics", recorded)
    config = conftest.configured(BOTH_WAYS, root.parent)
    with sessions.Session(config.cluster) as session:
        report = pipeline.run(config, session, reporters.SilentReporter())  # nothing is computed again
    losses = [report["stages"][f"score.{name}"]["nll_nats_per_token"] for name in ("en_fr", "fr_en")]
    gauges = [value for name, value, _ in recorded.calls if name == catalog.SCORE_LOSS.name]
    assert losses[0] != losses[1]
    assert gauges == pytest.approx([losses[0], sum(losses) / 2])


def test_the_target_token_determines_the_translation(root: pathlib.Path) -> None:
    """The pipeline's translations are reproduced with the token given by hand, and not with the other one."""
    source = root / "outputs" / "en_fr.test.source.txt"
    made = [json.loads(line) for line in (root / "outputs" / "en_fr.translations.jsonl").read_text().splitlines()]
    again = _translated(root, source, "again.jsonl", "<2fr>")
    other = _translated(root, source, "other.jsonl", "<2en>")
    assert [row["text"] for row in again] == [row["text"] for row in made]
    assert [row["score_nats"] for row in other] != [row["score_nats"] for row in made]


def test_scoring_a_translation_gives_its_translation_score(root: pathlib.Path) -> None:
    source = root / "outputs" / "en_fr.test.source.txt"
    rows = _translated(root, source, "rows.jsonl", "<2fr>")
    (root.parent / "rows.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    scoring, output = inference_settings.ScoringConfig(target_token="<2fr>"), root.parent / "scores.jsonl"
    with trained.session() as session:
        compute = conftest.configured(BOTH_WAYS, root.parent).compute
        run, targets = location.Location.parse(str(root)), str(root.parent / "rows.txt")
        request = score.Request(run, str(source), str(output), scoring, compute, trained.NONE, targets=targets)
        score.run(request, session, reporters.SilentReporter())
    for row, line in zip(rows, output.read_text().splitlines(), strict=True):
        if row["num_tokens"] == json.loads(line)["num_tokens"]:  # otherwise the text is segmented into other subwords
            assert json.loads(line)["nll_nats"] == pytest.approx(-float(str(row["score_nats"])), abs=1e-4)


@pytest.mark.parametrize(
    ("token", "match"),
    [
        (None, r"decoding\.target_token: this run has several directions; choose <2fr> or <2en>"),
        ("<2de>", r"decoding\.target_token: '<2de>' is not a target token of this run; choose <2fr> or <2en>"),
    ],
)
def test_translation_needs_a_target_token_of_this_run(root: pathlib.Path, token: str | None, match: str) -> None:
    with pytest.raises(errors.UsageError, match=match):
        _translated(root, root / "outputs" / "en_fr.test.source.txt", "refused.jsonl", token)


def test_a_model_of_one_direction_accepts_no_target_token(runs: pathlib.Path) -> None:
    for name, where in (("translation", "outputs/test.source.txt"), ("language", "outputs/test.text.txt")):
        with pytest.raises(errors.UsageError, match=r"no target tokens to choose from|needs a seq2seq"):
            _translated(runs / name, runs / name / where, "refused.jsonl", "<2de>")


def test_the_report_shows_each_corpus(root: pathlib.Path) -> None:
    report = content.build(location.Location.parse(str(root)))
    assert [row["task"] for row in report["tasks"]] == ["en_fr", "fr_en"]
    for row in report["tasks"]:
        assert row["train_lines"] > 100
        assert row["validation_perplexity"] > 1
        assert 0 <= row["bleu"] <= 100
        assert row["perplexity"] > 1
    assert set(report["gradients"]["cosines"]) == {"en_fr/fr_en"}
    page = (root / "report.html").read_text()
    assert "fr_en" in page
    assert "Gradient cosine" in page
