"""Tests of datasets of several corpora: shared tokenizers, shards of each, and target tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import loading, schema
from core.data.tokens import tokenizer
from jobs import held_out, train
from tests.jobs import datasets

BPE: dict[str, Any] = {"kind": "bpe", "max_size": 300, "shared": True}


def corpora(folder: Path, **more: Any) -> dict[str, Any]:
    """Both directions of the same pairs, and a corpus with a separate validation source."""
    rows = [f"{source}\t{target.upper()}" for source, target in zip(datasets.sentences(200), _targets(), strict=True)]
    file = datasets.write(folder / "pairs.tsv", rows)
    other = datasets.write(folder / "other.tsv", rows[:40])
    split = {"valid": 0.1, "test": 0.1, "by": "line"}
    return {
        "up": {"kind": "pairs", "train": {"tsv": [file]}, "split": split, "target_token": "<2UP>", **more},
        "down": {
            **{"kind": "pairs", "train": {"tsv": [file], "columns": [1, 0]}, "split": split, "target_token": "<2down>"},
            **{"filters": {"max_length": 12}, **more},
        },
        "few": {
            **{"kind": "pairs", "train": {"tsv": [other]}, "valid": {"tsv": [other]}, "weight": 2.0},
            **{"target_token": "<2UP>", **more},
        },
    }


def _targets() -> list[str]:
    return datasets.sentences(200, seed=1)


def config(
    root: Path, several: dict[str, Any], tokenizing: dict[str, Any] | None = None, changes: Sequence[str] = ()
) -> schema.RunConfig:
    kind = next(iter(several.values()))["kind"]
    content = {
        **{"name": "test", "root": str(root), "corpora": several, "tokenizer": tokenizing or {"kind": "word"}},
        **{"sharding": {"part_size_bytes": 2048}, "cluster": {"num_workers": 1}},
        "model": {"kind": "language_model" if kind == "text" else "seq2seq"},
        "training": {"batch_tokens": 100} if kind == "pairs" else {},
    }
    return loading.parse(json.dumps(content), "test", changes)


@pytest.mark.parametrize("tokenizing", [{"kind": "word"}, BPE])
def test_corpora_have_their_own_shards_and_share_their_tokenizers(tmp_path: Path, tokenizing: dict[str, Any]) -> None:
    settings = config(tmp_path / "run", corpora(tmp_path), tokenizing)
    report = datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    dataset.verify()
    assert dataset.corpora == ("up", "down", "few")
    codec = dataset.codecs["source"].tokenizer
    assert codec.target_tokens == ("<2UP>", "<2down>")
    assert dataset.codecs["target"].tokenizer.target_tokens == (codec.target_tokens if "shared" in tokenizing else ())
    total = 0
    for name, token in (("up", "<2UP>"), ("down", "<2down>"), ("few", "<2UP>")):
        for split_name in ("train", "valid", "test"):
            if dataset.split(split_name, name) is None:
                assert (name, split_name) == ("few", "test")
                continue
            split = datasets.split(dataset, split_name, name)
            total += split.num_lines
            for source, target in zip(datasets.rows(split, "source"), datasets.rows(split, "target"), strict=True):
                assert codec.reserved[source[0]] == token
                text = codec.decode(source.tolist())
                target_text = dataset.codecs["target"].decode(target.tolist())
                assert (text == text.upper()) == (name == "down")
                assert (target_text == target_text.upper()) == (name != "down")
                assert source.tolist() == [
                    *dataset.codecs["source"].with_target_token(token).encode_lines([text])[0],
                    3,
                ]
    assert total == sum(split["lines"] for split in report["splits"].values())
    assert report["lines_read"] == 200 + 200 + 40 + 40
    assert set(report["tasks"]) == {"up", "down", "few"}
    assert datasets.run(settings)["already_done"]


def test_bytes_do_not_depend_on_the_order_of_tasks_or_on_stops(tmp_path: Path) -> None:
    several = corpora(tmp_path, filters={"duplicates": "drop"})
    whole = config(tmp_path / "whole", several, BPE)
    datasets.run(whole)
    stopped = config(tmp_path / "stopped", several, BPE)
    for seed in range(3):
        with pytest.raises(errors.InterruptedRunError):
            datasets.run(stopped, datasets.ShufflingExecutor(seed, 2, stop_after=14))
    datasets.run(stopped, datasets.ShufflingExecutor(4, 3))
    whole_files, stopped_files = (datasets.read_files(tmp_path / name / "dataset") for name in ("whole", "stopped"))
    assert stopped_files == whole_files


def test_corpora_of_text_are_separate_streams(tmp_path: Path) -> None:
    lines = datasets.sentences(60)
    files = [datasets.write(tmp_path / "a.txt", lines[:40]), datasets.write(tmp_path / "b.txt", lines[40:])]
    several = {
        name: {"kind": "text", "train": {"text": [file]}, "limit": {"tokens": 90}}
        for name, file in zip("ab", files, strict=True)
    }
    settings = config(tmp_path / "run", several)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    for name, corpus_lines in (("a", lines[:40]), ("b", lines[40:])):
        ids = datasets.split(dataset, "train", name).stream()[0:90].tolist()
        tokens = [dataset.codecs["text"].tokenizer.token(token) for token in ids]
        assert tokens == " <eos> ".join(corpus_lines).split()[:90]


def test_target_token_is_a_setting_of_the_dataset_and_weight_is_not(tmp_path: Path) -> None:
    several = corpora(tmp_path)
    settings = config(tmp_path / "run", several)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    heavier = {**several, "up": {**several["up"], "weight": 5.0}}
    changed = config(tmp_path / "run", heavier)
    assert datasets.run(changed)["already_done"]
    train.check_dataset(changed, dataset)
    retagged = config(tmp_path / "run", {**several, "up": {**several["up"], "target_token": "<2X>"}})
    with pytest.raises(errors.LockedError, match=r"corpora\.up\.target_token"):
        train.check_dataset(retagged, dataset)
    with pytest.raises(errors.LockedError):
        datasets.run(retagged)


def test_a_corpus_with_changed_text_is_named_in_the_error(tmp_path: Path) -> None:
    several = corpora(tmp_path)
    settings = config(tmp_path / "run", several)
    datasets.run(settings)
    datasets.write(tmp_path / "other.tsv", ["a\tB"] * 40)
    with pytest.raises(errors.LockedError, match=r"corpora\.few\.train: is not the text"):
        datasets.run(settings)


def test_held_out_lines_of_each_corpus_have_their_own_files(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", corpora(tmp_path))
    datasets.run(settings)
    up, down, few = (held_out.write(settings, name) for name in ("up", "down", "few"))
    assert up is not None
    assert down is not None
    assert few is not None
    assert [up.split, down.split, few.split] == ["test", "test", "valid"]
    sources = {line.upper() for line in down.files["source"].read_bytes().decode().splitlines()}
    assert sources <= {line.upper() for line in _targets()}
    assert up.files["source"].name == "up.test.source.txt"


def test_a_target_token_in_a_text_is_not_the_reserved_token(tmp_path: Path) -> None:
    rows = ["<2UP> a\tA", *(f"{line}\tX" for line in datasets.sentences(20))]
    several = {
        "up": {"kind": "pairs", "train": {"tsv": [datasets.write(tmp_path / "a", rows)]}, "target_token": "<2UP>"}
    }
    for tokenizing in ({"kind": "word"}, BPE):
        settings = config(tmp_path / str(tokenizing["kind"]), several, tokenizing)
        datasets.run(settings)
        codec = datasets.open_dataset(settings).codecs["source"]
        ids = codec.tokenizer.encode("<2UP> a")
        assert 4 not in ids
        assert codec.with_target_token("<2UP>").encode_lines(["a", ""]) == [[4, *codec.tokenizer.encode("a")], []]
        again = tokenizer.Tokenizer.from_json(codec.tokenizer.to_json(), "x")
        assert again.target_tokens == ("<2UP>",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("corpora={}", "corpus: name one, or several as corpora; not both"),
        ("corpora.Up={kind: pairs, train: {tsv: [x]}}", "corpora: 'Up' is not a valid name of a corpus; use"),
        ("corpora.up.cleaning=[lower]", r"corpora\.down\.cleaning: differs from that of up; one model needs the same"),
        ("corpora.up.target_token=null", "corpora: some have a target_token and others none; give one to each"),
        ("corpora.up.target_token=2de", r"corpora\.up\.target_token: \"2de\" does not match"),
        ("corpora.up.wieght=2.0", r"corpora\.up\.wieght: is not a setting; did you mean weight\?"),
        ("corpora.up.train.txt=[x]", r"corpora\.up\.train\.txt: is not a setting; did you mean text\?"),
        (
            "corpora.up.split.by=source",
            r"corpora\.down\.split: its lines are also those of up; give both the same shares",
        ),
        ("corpora.up.split.test=0.2", r"corpora\.down\.split: .*so that neither trains on what the other holds out"),
        ("corpora.up.weight=0", r"corpora\.up\.weight: must be greater than 0"),
        ("training.multitask={detached: {ab: [x]}}", r"multitask\.detached: 'ab' is not one of up, down, few"),
        ("tokenizer={load: [x, y]}", r"tokenizer\.load: a given tokenizer has no target_token"),
        ("tokenizer.symbols=[<2UP>]", r"tokenizer\.symbols: <2UP> is also a target_token"),
        ("model={kind: ngram}", r"corpora: a ngram learns from a single corpus; name it as corpus"),
        ("corpus={kind: pairs, train: {tsv: [x]}}", "corpus: name one, or several as corpora; not both"),
    ],
)
def test_contradictory_settings_are_rejected(tmp_path: Path, change: str, match: str) -> None:
    with pytest.raises(errors.UsageError, match=match):
        config(tmp_path, corpora(tmp_path), None, [change])


def test_multitask_needs_several_corpora(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"training\.multitask: has no effect with a single corpus"):
        datasets.config(tmp_path, datasets.pairs(tmp_path), training={"multitask": {"projection": "pcgrad"}})
