"""N-gram training: the model does not depend on how the counting was distributed."""

import pathlib

import pytest

from core import errors
from core.config import ngram_settings
from core.data.builtin import sentences
from core.data.dataset import shards
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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> shards.Dataset:
    folder = tmp_path_factory.mktemp("counted")
    sentences.write_english(folder / "english.txt", 1, 0, 100)
    config = conftest.configured(COUNTED, folder)
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
    return shards.Dataset.open(location.Location.parse(config.root).join("dataset"))


def _make(
    dataset: shards.Dataset, root: pathlib.Path, session: sessions.Session, part_tokens: int
) -> tuple[dict[str, object], str]:
    folder = location.Location.parse(str(root))
    job = ngram_training.NgramJob(folder, {}, MODEL, dataset, part_tokens)
    report = ngram_training.train(job, session, reporters.SilentReporter())
    return report, bundle.load(bundle.find_folder(folder)).fingerprint


@pytest.mark.parametrize("part_tokens", [64, 1000])
def test_the_model_does_not_depend_on_the_size_of_parts(
    dataset: shards.Dataset, tmp_path: pathlib.Path, part_tokens: int
) -> None:
    with sessions.Session(conftest.configured(COUNTED, tmp_path).cluster) as session:
        report, whole = _make(dataset, tmp_path / "whole", session, 1 << 20)
        assert _make(dataset, tmp_path / "parts", session, part_tokens)[1] == whole
    assert report["num_tokens"] == dataset.index.tokens("train")["text"]
    assert not (tmp_path / "parts" / "counts").exists()


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
