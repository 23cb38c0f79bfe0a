"""Checks of the dataset before training."""

import pathlib

import pytest

from core import errors
from core.data.dataset import shards
from core.data.tokens import tokenizer, vocabulary
from jobs import prepare, train
from tests import reporters
from tests.jobs import conftest
from workers.cluster import session as sessions


def test_a_dataset_of_other_settings_is_refused_one_of_another_path_is_not(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    before = conftest.configured(conftest.LANGUAGE, tmp_path, "training.max_steps=1")
    moved = conftest.configured(
        conftest.LANGUAGE, tmp_path, "training.max_steps=2", f"corpus.train.text=[{tmp_path}/elsewhere/book.txt]"
    )
    other = conftest.configured(conftest.LANGUAGE, tmp_path, "corpus.cleaning=[lower]")
    with sessions.Session(before.cluster) as session:
        reporter = reporters.SilentReporter()
        prepare.run(before, session, reporter)
        assert train.run(before, session, reporter)["step"] == 1
        assert train.run(moved, session, reporter)["step"] == 2
        with pytest.raises(errors.LockedError, match=r"corpus\.cleaning: the dataset in .* with another value"):
            train.run(other, session, reporter)


def test_bpe_dropout_is_refused_for_a_tokenizer_without_merges(tmp_path: pathlib.Path) -> None:
    """Refused before any worker starts; the settings alone do not tell the kind of a ready tokenizer file."""
    conftest.write_corpus(tmp_path)
    words = tokenizer.train_subwords("unigram", iter(["to be or not to be"] * 9), 300, vocabulary.RESERVED)
    (tmp_path / "ready.json").write_text(words.to_json())
    text = conftest.TRANSLATION.replace("{{kind: word}}", "{{shared: true, load: [{folder}/ready.json]}}")
    config = conftest.configured(text, tmp_path, "training.bpe_dropout=0.1", "sharding.statistics=false")
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
        with pytest.raises(errors.UsageError, match=r"bpe_dropout: this tokenizer \(unigram\) is not a byte-level BPE"):
            train.run(config, session, reporters.SilentReporter())


@pytest.mark.parametrize(("split", "lines"), [("valid", "\n"), ("test", "\n\n")])
def test_held_out_text_without_a_token_to_score_is_refused_by_prepare(
    tmp_path: pathlib.Path, split: str, lines: str
) -> None:
    conftest.write_corpus(tmp_path)
    (tmp_path / "empty.txt").write_text(lines)
    overrides = [f"corpus.{split}.text=[{tmp_path}/empty.txt]", "corpus.filters.min_length=0", "corpus.split={}"]
    # Without <eos> an empty line has no token at all; with it one, before which the validation has none.
    line_end = "eos" if split == "valid" else "none"
    config = conftest.configured(conftest.LANGUAGE, tmp_path, *overrides, f"corpus.line_end={line_end}")
    with (
        sessions.Session(config.cluster) as session,
        pytest.raises(errors.DataError, match=rf"corpus\.{split}: has no token to score, in . lines?; use more text"),
    ):
        prepare.run(config, session, reporters.SilentReporter())
    assert not (tmp_path / "language" / "dataset" / "index.json").exists()


def test_a_dataset_of_before_with_a_validation_of_no_token_is_refused_before_the_first_step(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest.write_corpus(tmp_path)
    config = conftest.configured(conftest.LANGUAGE, tmp_path, "training.max_steps=1")
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
        monkeypatch.setattr(shards.Split, "num_tokens", lambda _, column: 1)
        with pytest.raises(errors.DataError, match=r"corpus\.valid: has no token to score"):
            train.run(config, session, reporters.SilentReporter())
