"""Word statistics and tokenizers of every kind, made or found by `prepare`."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import errors
from core.data.dataset import shards
from core.data.tokens import tokenizer
from core.reporting import word_statistics
from core.storage import location
from tests.jobs import preparing


def found(dataset: shards.Dataset) -> dict[str, Any]:
    content = word_statistics.read(dataset.folder, dataset.index.to_json())
    assert content is not None
    columns: dict[str, Any] = content["columns"]
    return columns


def test_statistics_are_of_the_training_lines_whoever_counts_them(tmp_path: Path) -> None:
    corpus = preparing.pairs(tmp_path)
    settings = [preparing.config(tmp_path / name, corpus) for name in ("alone", "many")]
    preparing.run(settings[0])
    preparing.run(settings[1], preparing.Shuffling(3, num_workers=3))
    alone, many = (preparing.opened(one) for one in settings)
    assert many.index == alone.index
    assert alone.index.statistics is not None
    columns = found(alone)
    assert len(alone.index.splits["train"]) > 1
    lines = [source.split() for source, _ in preparing.texts(alone, "train")]
    assert columns["source"]["lines"] == len(lines)
    assert columns["source"]["tokens"] == sum(map(len, lines))
    top = {tuple(units): count for units, count in columns["source"]["orders"][1]["top"]}
    pairs = [pair for line in lines for pair in itertools.pairwise(line)]
    assert top[("the", "dog")] == pairs.count(("the", "dog"))
    assert sum(count for _, count in columns["source"]["orders"][1]["top"]) <= len(pairs)
    assert columns["target"]["coverage"][0]["share"] == 1


def test_statistics_can_be_left_out_and_damage_to_them_is_found(tmp_path: Path) -> None:
    corpus = preparing.pairs(tmp_path)
    without = preparing.config(tmp_path / "without", corpus, sharding={"statistics": False})
    preparing.run(without)
    assert preparing.opened(without).index.statistics is None
    settings = preparing.config(tmp_path / "with", corpus)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    dataset.verify()
    assert dataset.index.statistics is not None
    (tmp_path / "with" / "dataset" / dataset.index.statistics.name).write_text("{}")
    with pytest.raises(errors.IntegrityError, match=r"statistics-.* is damaged"):
        dataset.verify()


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_learnt_subwords_give_the_lines_back(tmp_path: Path, kind: str) -> None:
    lines = preparing.sentences(200)
    text = preparing.write(tmp_path / "a.txt", lines)
    corpus = {"kind": "text", "train": {"text": [text]}}
    settings = preparing.config(tmp_path / "run", corpus, {"kind": kind, "max_size": 320})
    preparing.run(settings, preparing.Shuffling(1, num_workers=2))
    dataset = preparing.opened(settings)
    assert dataset.codecs["text"].tokenizer.kind == kind
    assert [line for (line,) in preparing.texts(dataset, "train")] == lines
    assert found(dataset)["text"]["coverage"] == []


@pytest.mark.parametrize(
    ("shared", "words"),
    [(False, {"source": ["b", "a"], "target": ["c", "b", "d"]}), (True, dict.fromkeys(("source", "target"), "bcad"))],
)
def test_a_vocabulary_is_of_one_side_or_of_both(tmp_path: Path, shared: bool, words: dict[str, Any]) -> None:
    """Shared, b and c occur four and three times, a and d once each; a was seen first."""
    file = preparing.write(tmp_path / "a.tsv", ["b a\tc b", "b\tc d", "b\tc"])
    settings = preparing.config(
        tmp_path / "run", {"kind": "pairs", "train": {"tsv": [file]}}, {"kind": "word", "shared": shared}
    )
    preparing.run(settings)
    for column, codec in preparing.opened(settings).codecs.items():
        every = [codec.tokenizer.token(one) for one in range(codec.tokenizer.vocabulary_size)]
        assert every == ["<unk>", "<pad>", "<bos>", "<eos>", *words[column]]


@pytest.mark.parametrize("tokenizing", [{"kind": "word"}, {"kind": "char"}, {"kind": "bpe", "max_size": 300}])
def test_symbols_of_a_user_are_tokens_wherever_they_stand(tmp_path: Path, tokenizing: dict[str, Any]) -> None:
    lines = [*preparing.sentences(50), "the <num> dogs"]
    corpus = {"kind": "text", "train": {"text": [preparing.write(tmp_path / "a.txt", lines)]}}
    settings = preparing.config(tmp_path / "run", corpus, {**tokenizing, "symbols": ["<num>", "<url>"]})
    preparing.run(settings)
    dataset = preparing.opened(settings)
    codec, split = dataset.codecs["text"], dataset.split("train")
    assert split is not None
    assert [codec.tokenizer.token(one) for one in range(4)] == ["<unk>", "<eos>", "<num>", "<url>"]
    (last,) = split.rows(np.array([50]), "text")
    assert last.tolist().count(2) == 1
    assert codec.decode(last.tolist()) == lines[-1]
    assert {tuple(units) for units, _ in found(dataset)["text"]["orders"][0]["top"]} >= {("<num>",)}
    for wrong in (["<num>", "<num>"], ["<eos>"], ["num"]):
        with pytest.raises(errors.UsageError, match=r"tokenizer.*symbols"):
            preparing.config(tmp_path / "run", corpus, {**tokenizing, "symbols": wrong})


def test_a_ready_tokenizer_is_the_one_of_the_dataset(tmp_path: Path) -> None:
    counts = tokenizer.Counts()
    counts.add(preparing.WORDS[:8])
    made = tokenizer.from_counts("word", counts, 1, None, tokenizer.RESERVED)
    (tmp_path / "words.json").write_text(made.to_json())
    corpus = preparing.pairs(tmp_path)
    ready = {"load": [str(tmp_path / "word*.json")], "shared": True}
    settings = preparing.config(tmp_path / "run", corpus, ready)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    assert {codec.tokenizer for codec in dataset.codecs.values()} == {made}
    assert found(dataset)["source"]["unknown"] > 0
    with pytest.raises(errors.UsageError, match="names 1 files for 2 vocabularies"):
        preparing.run(preparing.config(tmp_path / "two", corpus, {**ready, "shared": False}))
    (tmp_path / "words-2.json").write_text(made.to_json())
    with pytest.raises(errors.UsageError, match=r"tokenizer\.load: .*word\*\.json' names 2 files; name one"):
        preparing.run(preparing.config(tmp_path / "several", corpus, ready))
    with pytest.raises(errors.DataError, match=r"tokenizer\.load: .*none\.json' matches no file; check the path"):
        preparing.run(preparing.config(tmp_path / "none", corpus, {**ready, "load": [str(tmp_path / "none.json")]}))
    (tmp_path / "words-2.json").unlink()
    (tmp_path / "words.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(errors.DataError, match=r"tokenizer\.load: .*words\.json"):
        preparing.run(preparing.config(tmp_path / "bad", corpus, ready))


def test_a_folder_and_a_table_are_sources(tmp_path: Path) -> None:
    lines = preparing.sentences(100)
    (tmp_path / "texts").mkdir()
    preparing.write(tmp_path / "texts" / "a.txt", lines[:50])
    preparing.write(tmp_path / "b.jsonl", [json.dumps({"text": line}) for line in lines[50:]])
    corpus = {
        "kind": "text",
        "train": {"text": [str(tmp_path / "texts")]},
        "valid": {"table": [str(tmp_path / "b.jsonl")], "columns": ["text"]},
    }
    settings = preparing.config(tmp_path / "run", corpus)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    assert [line for (line,) in preparing.texts(dataset, "train")] == lines[:50]
    assert dataset.index.rows("valid") == 50
    url = dataset.index.sources[1]["files"][0][0]["url"]
    assert url == location.Location.parse(str(tmp_path / "b.jsonl")).url
