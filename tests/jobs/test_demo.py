"""Settings of the demo: packaged, below one root, with overrides."""

import json
import pathlib

import pytest

from core import errors
from core.config import model_settings
from core.storage import location
from jobs import paths, run_session, settings


def test_both_runs_and_their_corpus_are_below_the_root() -> None:
    root, configs = settings.load_demo_configs(["root=s3://bucket/demo/"])
    assert root == "s3://bucket/demo"
    assert [config.root for config in configs] == ["s3://bucket/demo/translation", "s3://bucket/demo/language"]
    assert configs[0].corpora_by_name[""].train.tsv == ("s3://bucket/demo/corpus/pairs.tsv",)
    assert configs[1].corpora_by_name[""].train.text == ("s3://bucket/demo/corpus/english.txt",)


def test_the_demo_trains_a_gru_with_attention_and_a_character_lstm_on_two_workers() -> None:
    _, (translation, language) = settings.load_demo_configs([])
    assert isinstance(translation.model, model_settings.Seq2SeqConfig)
    assert (translation.model.cell, translation.model.attention != "none") == ("gru", True)
    assert isinstance(language.model, model_settings.LanguageModelConfig)
    assert (language.model.cell, language.tokenizer.kind) == ("lstm", "char")
    assert translation.cluster == language.cluster  # both use one session
    assert translation.cluster.num_workers == 2
    # Source sides of held-out sentences never occur in the training split.
    assert translation.corpora_by_name[""].split.by in (None, "source")
    assert translation.corpora_by_name[""].split.test > 0


def test_overrides_apply_to_both_runs(tmp_path: pathlib.Path) -> None:
    _, configs = settings.load_demo_configs([f"root={tmp_path}/a: b", "training.epochs=1", "cluster.address=none"])
    assert [config.training.epochs for config in configs] == [1, 1]
    assert paths.absolute(configs[1]).root == f"{tmp_path}/a: b/language"


def test_an_override_of_an_unknown_setting_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="epoch"):
        settings.load_demo_configs(["training.epoch=1"])


def test_both_runs_share_one_scrape_target(tmp_path: pathlib.Path) -> None:
    root, configs = settings.load_demo_configs([f"root={tmp_path}/demo"])
    with run_session.open_session(configs[0], location.Location.parse(root)) as session:
        session.start_metrics()
        (entry,) = json.loads((tmp_path / "demo" / "metrics" / "targets.json").read_text())
    assert entry["labels"]["run"] == "demo"
    assert len(entry["targets"]) == 1
