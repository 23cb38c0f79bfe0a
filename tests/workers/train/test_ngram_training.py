"""N-gram training: the model does not depend on how the counting was distributed."""

import pathlib

import numpy as np
import pytest

from core import errors
from core.config import inference_settings, ngram_settings, schema
from core.data.builtin import sentences
from core.data.dataset import shards
from core.decoding.scoring import scorer
from core.models import bundle
from core.storage import location
from jobs import prepare
from tests import reporters
from tests.jobs import conftest
from workers.cluster import session as sessions
from workers.train import ngram_training

COUNTED = """
name: tiny-counted
root: {folder}/counted
corpus: {{kind: text, train: {{text: [{folder}/english.txt]}}, split: {{valid: 0.1, test: 0.1}}}}
tokenizer: {{kind: word}}
model: {{kind: ngram, order: 3}}
cluster: {{address: none}}
"""
MODEL = ngram_settings.NgramConfig(kind="ngram", order=3)
BY_LINE = MODEL.model_copy(update={"unit": "line"})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> shards.Dataset:
    folder = tmp_path_factory.mktemp("counted")
    sentences.write_english(folder / "english.txt", 1, 0, 100)
    config = conftest.configured(COUNTED, folder)
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
    return shards.Dataset.open(location.Location.parse(config.root).join("dataset"))


def _make(
    dataset: shards.Dataset,
    root: pathlib.Path,
    session: sessions.Session,
    part_tokens: int,
    model: ngram_settings.NgramConfig = MODEL,
) -> tuple[dict[str, object], str]:
    folder = location.Location.parse(str(root))
    job = ngram_training.NgramJob(folder, {}, model, dataset, part_tokens)
    report = ngram_training.train(job, session, reporters.SilentReporter())
    return report, bundle.load(bundle.find_folder(folder)).fingerprint


@pytest.mark.parametrize("model", [MODEL, BY_LINE])
@pytest.mark.parametrize("part_tokens", [64, 1000])
def test_the_model_does_not_depend_on_the_size_of_parts(
    dataset: shards.Dataset, tmp_path: pathlib.Path, part_tokens: int, model: ngram_settings.NgramConfig
) -> None:
    with sessions.Session(conftest.configured(COUNTED, tmp_path).cluster) as session:
        report, whole = _make(dataset, tmp_path / "whole", session, 1 << 20, model)
        assert _make(dataset, tmp_path / "parts", session, part_tokens, model)[1] == whole
    assert report["num_tokens"] == dataset.index.tokens("train")["text"]
    assert not (tmp_path / "parts" / "counts").exists()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_model_of_lines_is_validated_on_every_token(
    dataset: shards.Dataset, tmp_path: pathlib.Path, direction: str
) -> None:
    opened = shards.Dataset.open(dataset.folder, backward=direction == "backward")
    model = BY_LINE.model_copy(update={"direction": direction})
    with sessions.Session(conftest.configured(COUNTED, tmp_path).cluster) as session:
        report, _ = _make(opened, tmp_path / direction, session, 1 << 20, model)
    figures = report["validation"]
    assert isinstance(figures, dict)
    assert figures["num_tokens"] == dataset.index.tokens("valid")["text"]
    loaded = bundle.load(bundle.find_folder(location.Location.parse(str(tmp_path / direction))))
    split = dataset.split("valid")
    assert split is not None
    lines = [loaded.codecs["text"].decode(ids.tolist()) for ids in split.rows(np.arange(split.num_lines), "text")]
    scores = scorer.Scorer(loaded, inference_settings.ScoringConfig(), schema.ComputeConfig()).score_lines(lines)
    mean = sum(score.nll_nats or 0 for score in scores) / sum(score.num_tokens for score in scores)
    assert figures["nll_nats"] == pytest.approx(mean, rel=1e-12)


def test_committed_parts_are_not_counted_again(
    dataset: shards.Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    count = ngram_training._count_part

    def count_three(
        recipe: ngram_training.Recipe, stream: shards.Stream, end: int, part: ngram_training.TokenRange
    ) -> object:
        if len(done) == 3:
            raise errors.InterruptedRunError("stopped")
        done.append(part.name)
        return count(recipe, stream, end, part)

    def count_on(
        recipe: ngram_training.Recipe, stream: shards.Stream, end: int, part: ngram_training.TokenRange
    ) -> object:
        done.append(part.name)
        return count(recipe, stream, end, part)

    with sessions.Session(conftest.configured(COUNTED, tmp_path).cluster) as session:
        monkeypatch.setattr(ngram_training, "_count_part", count_three)
        with pytest.raises(errors.InterruptedRunError):
            _make(dataset, tmp_path / "run", session, 64)
        monkeypatch.setattr(ngram_training, "_count_part", count_on)
        _make(dataset, tmp_path / "run", session, 64)
    assert len(done) == len(set(done))


@pytest.mark.ray
def test_the_model_does_not_depend_on_the_number_of_workers(
    dataset: shards.Dataset, tmp_path: pathlib.Path, ray_session: sessions.Session
) -> None:
    with sessions.Session(conftest.configured(COUNTED, tmp_path).cluster) as alone:
        expected = _make(dataset, tmp_path / "alone", alone, 1 << 20)[1]
    spread = _make(dataset, tmp_path / "spread", ray_session, 100)[1]
    ray_session.release()
    assert spread == expected
