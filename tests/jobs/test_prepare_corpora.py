"""Laws of a dataset of several corpora: shared tokenizers, shards of each, target tokens before source lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import loading, schema
from core.data.tokens import tokenizer
from jobs import held_out, train
from tests.jobs import preparing

BPE: dict[str, Any] = {"kind": "bpe", "max_size": 300, "shared": True}


def corpora(folder: Path, **more: Any) -> dict[str, Any]:
    """Both directions of the same pairs, and pairs of their own with validation lines of their own."""
    rows = [f"{source}\t{target.upper()}" for source, target in zip(preparing.sentences(200), _targets(), strict=True)]
    file = preparing.write(folder / "pairs.tsv", rows)
    other = preparing.write(folder / "other.tsv", rows[:40])
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
    return preparing.sentences(200, seed=1)


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
def test_each_corpus_has_its_own_lines_and_all_share_their_tokenizers(
    tmp_path: Path, tokenizing: dict[str, Any]
) -> None:
    settings = config(tmp_path / "run", corpora(tmp_path), tokenizing)
    report = preparing.run(settings)
    dataset = preparing.opened(settings)
    dataset.verify()
    assert dataset.tasks == ("up", "down", "few")
    codec = dataset.codecs["source"].tokenizer
    assert codec.target_tokens == ("<2UP>", "<2down>")
    assert dataset.codecs["target"].tokenizer.target_tokens == (codec.target_tokens if "shared" in tokenizing else ())
    total = 0
    for task, token in (("up", "<2UP>"), ("down", "<2down>"), ("few", "<2UP>")):
        for split in ("train", "valid", "test"):
            found = dataset.split(split, task)
            if found is None:
                assert (task, split) == ("few", "test")
                continue
            total += found.num_lines
            every = preparing.range_of(found.num_lines)
            for source, target in zip(found.rows(every, "source"), found.rows(every, "target"), strict=True):
                assert codec.reserved[source[0]] == token
                text = codec.decode(source.tolist())
                upper = dataset.codecs["target"].decode(target.tolist())
                assert (text == text.upper()) == (task == "down")
                assert (upper == upper.upper()) == (task != "down")
                assert source.tolist() == [
                    *dataset.codecs["source"].with_target_token(token).encode_lines([text])[0],
                    3,
                ]
    assert total == sum(one["lines"] for one in report["splits"].values())
    assert report["lines_read"] == 200 + 200 + 40 + 40
    assert set(report["tasks"]) == {"up", "down", "few"}
    assert preparing.run(settings)["already_done"]


def test_the_bytes_do_not_depend_on_the_order_of_work_or_on_stops(tmp_path: Path) -> None:
    several = corpora(tmp_path, filters={"duplicates": "drop"})
    whole = config(tmp_path / "whole", several, BPE)
    preparing.run(whole)
    stopped = config(tmp_path / "stopped", several, BPE)
    for seed in range(3):
        with pytest.raises(errors.InterruptedRunError):
            preparing.run(stopped, preparing.Shuffling(seed, 2, stop_after=14))
    preparing.run(stopped, preparing.Shuffling(4, 3))
    one, other = (preparing.content(tmp_path / name / "dataset") for name in ("whole", "stopped"))
    assert {name: data for name, data in one.items() if name != "_PLAN.json"} == {
        name: data for name, data in other.items() if name != "_PLAN.json"
    }


def test_corpora_of_text_are_streams_of_their_own(tmp_path: Path) -> None:
    lines = preparing.sentences(60)
    files = [preparing.write(tmp_path / "a.txt", lines[:40]), preparing.write(tmp_path / "b.txt", lines[40:])]
    several = {
        name: {"kind": "text", "train": {"text": [file]}, "limit": {"tokens": 90}}
        for name, file in zip("ab", files, strict=True)
    }
    settings = config(tmp_path / "run", several)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    for task, own in (("a", lines[:40]), ("b", lines[40:])):
        found = dataset.split("train", task)
        assert found is not None
        stream = " <eos> ".join(own).split()[:90]
        known = [dataset.codecs["text"].tokenizer.token(one) for one in found.stream()[0:90].tolist()]
        assert known == stream


def test_weight_is_no_setting_of_the_dataset_and_the_token_is(tmp_path: Path) -> None:
    several = corpora(tmp_path)
    settings = config(tmp_path / "run", several)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    heavier = {**several, "up": {**several["up"], "weight": 5.0}}
    changed = config(tmp_path / "run", heavier)
    assert preparing.run(changed)["already_done"]
    train.check_dataset(changed, dataset)
    told = config(tmp_path / "run", {**several, "up": {**several["up"], "target_token": "<2X>"}})
    with pytest.raises(errors.LockedError, match=r"corpora\.up\.target_token"):
        train.check_dataset(told, dataset)
    with pytest.raises(errors.LockedError):
        preparing.run(told)


def test_a_corpus_whose_text_changed_is_named(tmp_path: Path) -> None:
    several = corpora(tmp_path)
    settings = config(tmp_path / "run", several)
    preparing.run(settings)
    preparing.write(tmp_path / "other.tsv", ["a\tB"] * 40)
    with pytest.raises(errors.LockedError, match=r"corpora\.few\.train: is not the text"):
        preparing.run(settings)


def test_held_out_lines_of_each_corpus_are_files_of_their_own(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", corpora(tmp_path))
    preparing.run(settings)
    found = {task: held_out.write(settings, task) for task in settings.tasks}
    up, down, few = (found[task] for task in ("up", "down", "few"))
    assert up is not None
    assert down is not None
    assert few is not None
    assert [one.split for one in (up, down, few)] == ["test", "test", "valid"]
    sources = {line.upper() for line in down.files["source"].read_bytes().decode().splitlines()}
    assert sources <= {line.upper() for line in _targets()}
    assert up.files["source"].name == "up.test.source.txt"


def test_a_target_token_is_no_word_of_a_text(tmp_path: Path) -> None:
    rows = ["<2UP> a\tA", *(f"{line}\tX" for line in preparing.sentences(20))]
    several = {
        "up": {"kind": "pairs", "train": {"tsv": [preparing.write(tmp_path / "a", rows)]}, "target_token": "<2UP>"}
    }
    for tokenizing in ({"kind": "word"}, BPE):
        settings = config(tmp_path / str(tokenizing["kind"]), several, tokenizing)
        preparing.run(settings)
        codec = preparing.opened(settings).codecs["source"]
        ids = codec.tokenizer.encode("<2UP> a")
        assert 4 not in ids
        assert codec.with_target_token("<2UP>").encode_lines(["a", ""]) == [[4, *codec.tokenizer.encode("a")], []]
        again = tokenizer.Tokenizer.from_json(codec.tokenizer.to_json(), "x")
        assert again.target_tokens == ("<2UP>",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("corpora={}", "corpus: name one, or several as corpora; not both"),
        ("corpora.Up={kind: pairs, train: {tsv: [x]}}", "corpora: 'Up' is no name of a corpus; use small letters"),
        ("corpora.up.cleaning=[lower]", r"corpora\.down\.cleaning: is not that of up; one model needs one"),
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
        ("training.multitask={detached: {ab: [x]}}", r"multitask\.detached: 'ab' is none of up, down, few"),
        ("tokenizer={load: [x, y]}", r"tokenizer\.load: a ready tokenizer knows no target_token"),
        ("tokenizer.symbols=[<2UP>]", r"tokenizer\.symbols: a target_token is no part of a text"),
        ("model={kind: ngram}", r"corpora: a ngram learns from a single corpus; name it as corpus"),
        ("corpus={kind: pairs, train: {tsv: [x]}}", "corpus: name one, or several as corpora; not both"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, change: str, match: str) -> None:
    with pytest.raises(errors.UsageError, match=match):
        config(tmp_path, corpora(tmp_path), None, [change])


def test_gradients_of_tasks_need_several_corpora(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"training\.multitask: means nothing with a single corpus"):
        preparing.config(tmp_path, preparing.pairs(tmp_path), training={"multitask": {"projection": "pcgrad"}})
