"""Tests of the word statistics and tokenizers that `prepare` makes or loads."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import loading
from core.data.dataset import shards, word_counts
from core.data.tokens import tokenizer, vocabulary
from core.reporting import word_statistics
from core.storage import location
from jobs import config_checks
from tests.jobs import datasets


def statistics_of(dataset: shards.Dataset) -> dict[str, Any]:
    content = word_statistics.read(dataset.folder, dataset.folder.join("index.json").read_json())
    assert content is not None
    columns: dict[str, Any] = content["columns"]
    return columns


def test_statistics_describe_the_training_lines_for_any_number_of_workers(tmp_path: Path) -> None:
    corpus = datasets.pairs(tmp_path)
    settings = [datasets.config(tmp_path / name, corpus) for name in ("alone", "many")]
    datasets.run(settings[0])
    datasets.run(settings[1], datasets.ShufflingExecutor(3, num_workers=3))
    alone, many = (datasets.open_dataset(config) for config in settings)
    assert many.index == alone.index
    assert alone.index.statistics is not None
    columns = statistics_of(alone)
    assert len(alone.index.splits["train"]) > 1
    lines = [source.split() for source, _ in datasets.texts(alone, "train")]
    assert columns["source"]["lines"] == len(lines)
    assert columns["source"]["tokens"] == sum(map(len, lines))
    top = {tuple(units): count for units, count in columns["source"]["orders"][1]["top"]}
    pairs = [pair for line in lines for pair in itertools.pairwise(line)]
    assert top[("the", "dog")] == pairs.count(("the", "dog"))
    assert sum(count for _, count in columns["source"]["orders"][1]["top"]) <= len(pairs)
    assert columns["target"]["coverage"][0]["share"] == 1


def test_statistics_are_optional_and_verified(tmp_path: Path) -> None:
    corpus = datasets.pairs(tmp_path)
    without = datasets.config(tmp_path / "without", corpus, sharding={"statistics": False})
    datasets.run(without)
    assert datasets.open_dataset(without).index.statistics is None
    settings = datasets.config(tmp_path / "with", corpus)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    dataset.verify()
    assert dataset.index.statistics is not None
    (tmp_path / "with" / "dataset" / dataset.index.statistics.name).write_text("{}")
    with pytest.raises(errors.IntegrityError, match=r"statistics-.* is damaged"):
        dataset.verify()


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_trained_subwords_decode_to_the_lines(tmp_path: Path, kind: str) -> None:
    lines = datasets.sentences(200)
    text = datasets.write(tmp_path / "a.txt", lines)
    corpus = {"kind": "text", "train": {"text": [text]}}
    settings = datasets.config(tmp_path / "run", corpus, {"kind": kind, "max_size": 320})
    datasets.run(settings, datasets.ShufflingExecutor(1, num_workers=2))
    dataset = datasets.open_dataset(settings)
    assert dataset.codecs["text"].tokenizer.kind == kind
    assert [line for (line,) in datasets.texts(dataset, "train")] == lines
    assert statistics_of(dataset)["text"]["coverage"] == []


@pytest.mark.parametrize(
    ("shared", "words"),
    [(False, {"source": ["b", "a"], "target": ["c", "b", "d"]}), (True, dict.fromkeys(("source", "target"), "bcad"))],
)
def test_vocabularies_are_separate_or_shared(tmp_path: Path, shared: bool, words: dict[str, Any]) -> None:
    """In the shared vocabulary b occurs 4 times, c 3 times, a and d once; a occurs before d."""
    file = datasets.write(tmp_path / "a.tsv", ["b a\tc b", "b\tc d", "b\tc"])
    settings = datasets.config(
        tmp_path / "run", {"kind": "pairs", "train": {"tsv": [file]}}, {"kind": "word", "shared": shared}
    )
    datasets.run(settings)
    for column, codec in datasets.open_dataset(settings).codecs.items():
        tokens = [codec.tokenizer.token(token) for token in range(codec.tokenizer.vocabulary_size)]
        assert tokens == ["<unk>", "<pad>", "<bos>", "<eos>", *words[column]]


@pytest.mark.parametrize("tokenizing", [{"kind": "word"}, {"kind": "char"}, {"kind": "bpe", "max_size": 300}])
def test_user_symbols_are_single_tokens(tmp_path: Path, tokenizing: dict[str, Any]) -> None:
    lines = [*datasets.sentences(50), "the <num> dogs"]
    corpus = {"kind": "text", "train": {"text": [datasets.write(tmp_path / "a.txt", lines)]}}
    settings = datasets.config(tmp_path / "run", corpus, {**tokenizing, "symbols": ["<num>", "<url>"]})
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    codec = dataset.codecs["text"]
    assert [codec.tokenizer.token(token) for token in range(4)] == ["<unk>", "<eos>", "<num>", "<url>"]
    last = datasets.rows(datasets.split(dataset, "train"), "text")[50]
    assert last.tolist().count(2) == 1
    assert codec.decode(last.tolist()) == lines[-1]
    assert {tuple(units) for units, _ in statistics_of(dataset)["text"]["orders"][0]["top"]} >= {("<num>",)}
    for wrong in (["<num>", "<num>"], ["<eos>"], ["num"]):
        with pytest.raises(errors.UsageError, match=r"tokenizer.*symbols"):
            datasets.config(tmp_path / "run", corpus, {**tokenizing, "symbols": wrong})


def test_a_ready_tokenizer_is_used_unchanged(tmp_path: Path) -> None:
    counts = vocabulary.Counts()
    counts.add(datasets.WORDS[:8])
    made = tokenizer.from_counts("word", counts, 1, None, vocabulary.RESERVED)
    (tmp_path / "words.json").write_text(made.to_json())
    corpus = datasets.pairs(tmp_path)
    ready = {"load": [str(tmp_path / "word*.json")], "shared": True}
    settings = datasets.config(tmp_path / "run", corpus, ready)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    assert {codec.tokenizer for codec in dataset.codecs.values()} == {made}
    assert statistics_of(dataset)["source"]["unknown"] > 0
    with pytest.raises(errors.UsageError, match="names 1 files for 2 vocabularies"):
        datasets.run(datasets.config(tmp_path / "two", corpus, {**ready, "shared": False}))
    (tmp_path / "words-2.json").write_text(made.to_json())
    with pytest.raises(errors.UsageError, match=r"tokenizer\.load: .*word\*\.json' matches 2 files; name one"):
        datasets.run(datasets.config(tmp_path / "several", corpus, ready))
    with pytest.raises(errors.DataError, match=r"tokenizer\.load: .*none\.json' matches no file; check the path"):
        datasets.run(datasets.config(tmp_path / "none", corpus, {**ready, "load": [str(tmp_path / "none.json")]}))
    (tmp_path / "words-2.json").unlink()
    (tmp_path / "words.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(errors.DataError, match=r"tokenizer\.load: .*words\.json"):
        datasets.run(datasets.config(tmp_path / "bad", corpus, ready))


def test_a_folder_and_a_table_are_sources(tmp_path: Path) -> None:
    lines = datasets.sentences(100)
    (tmp_path / "texts").mkdir()
    datasets.write(tmp_path / "texts" / "a.txt", lines[:50])
    datasets.write(tmp_path / "b.jsonl", [json.dumps({"text": line}) for line in lines[50:]])
    corpus = {
        "kind": "text",
        "train": {"text": [str(tmp_path / "texts")]},
        "valid": {"table": [str(tmp_path / "b.jsonl")], "columns": ["text"]},
    }
    settings = datasets.config(tmp_path / "run", corpus)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    assert [line for (line,) in datasets.texts(dataset, "train")] == lines[:50]
    assert dataset.index.rows("valid") == 50
    url = dataset.index.sources[1]["files"][0][0]["url"]
    assert url == location.Location.parse(str(tmp_path / "b.jsonl")).url


CHINESE = ["我的朋友看见房子。", "我们的老师喜欢苹果。", "猫吃茶。", "国王看见苹果。"]


def _chinese_pairs(folder: Path, valid: list[str]) -> dict[str, Any]:
    sources = datasets.sentences(40)
    train = [f"{source}\t{CHINESE[number % 3]}" for number, source in enumerate(sources)]
    return {
        "kind": "pairs",
        "train": {"tsv": [datasets.write(folder / "train.tsv", train)]},
        "valid": {"tsv": [datasets.write(folder / "valid.tsv", [f"the dog\t{line}" for line in valid])]},
    }


def test_words_of_text_without_spaces_are_warned_about_with_the_share_of_unknown_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of four validation lines, each one word, three are not in the training text."""
    corpus = _chinese_pairs(tmp_path, [CHINESE[0], CHINESE[3], CHINESE[3] + "。", "房子。"])
    report = datasets.run(datasets.config(tmp_path / "word", corpus))
    (of_words, of_bleu) = report["warnings"]
    assert of_words == (
        "tokenizer.kind: word splits words at spaces, which the Chinese text of corpus (target) does not have; "
        "75.0 % of the validation tokens are unknown; use char, or bpe"
    )
    assert of_bleu.startswith("evaluation.tokenize: 13a splits words at spaces, which this Chinese text does not have")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == report["warnings"]


@pytest.mark.parametrize("tokenizing", [{"kind": "char"}, {"kind": "bpe", "max_size": 300}])
def test_characters_and_bytes_fit_text_without_spaces(tmp_path: Path, tokenizing: dict[str, Any]) -> None:
    corpus = _chinese_pairs(tmp_path, [CHINESE[0]])
    settings = datasets.config(tmp_path / "run", corpus, tokenizing, evaluation={"tokenize": "zh"})
    assert "warnings" not in datasets.run(settings)


def test_text_with_spaces_is_not_warned_about(tmp_path: Path) -> None:
    assert "warnings" not in datasets.run(datasets.config(tmp_path / "run", datasets.pairs(tmp_path)))


def test_cleaning_that_changes_what_references_say_is_warned_about(tmp_path: Path) -> None:
    corpus = {**datasets.pairs(tmp_path), "cleaning": ["spaces", "lower", "digits"]}
    settings = datasets.config(tmp_path / "run", corpus)
    (warning,) = datasets.run(settings)["warnings"]
    assert warning.startswith("corpus.cleaning: lower, digits also changes the target text")
    assert datasets.run(settings)["warnings"] == [warning], "said again for a dataset that is done"
    text = {"kind": "text", "train": {"text": [datasets.write(tmp_path / "a.txt", ["one"])]}, "cleaning": ["lower"]}
    assert "warnings" not in datasets.run(datasets.config(tmp_path / "text", text))


@pytest.mark.parametrize(
    ("tokenizing", "message"),
    [
        ({"kind": "bpe", "max_size": 300, "min_freq": 2}, r"tokenizer\.min_freq: has no effect with kind bpe"),
        ({"kind": "word", "sample_bytes": 2048}, r"tokenizer\.sample_bytes: has no effect with kind word"),
        ({"kind": "char", "max_size": 8, "symbols": ["<a>", "<b>", "<c>", "<d>"]}, r"max_size: 8 .* at least 9"),
        ({"kind": "bpe", "max_size": 300, "symbols": [f"<s{n}>" for n in range(60)]}, r"max_size: 300 .* at least 320"),
    ],
)
def test_a_setting_of_the_tokenizer_that_cannot_be_met_is_refused(
    tmp_path: Path, tokenizing: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UsageError, match=message):
        datasets.run(datasets.config(tmp_path / "run", datasets.pairs(tmp_path), tokenizing))
    assert not (tmp_path / "run").exists()


def test_a_dataset_that_an_older_release_made_with_such_a_setting_stays_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = datasets.config(
        tmp_path / "run", datasets.pairs(tmp_path), {"kind": "bpe", "max_size": 300, "min_freq": 2}
    )
    with monkeypatch.context() as older:
        older.setattr(config_checks, "check_tokenizer", lambda config: None)
        datasets.run(settings)
    assert datasets.run(settings)["already_done"]


def test_a_sample_without_a_line_is_refused(tmp_path: Path) -> None:
    corpus = {"kind": "text", "train": {"text": [datasets.write(tmp_path / "a.txt", ["word " * 500] * 3)]}}
    settings = datasets.config(tmp_path / "run", corpus, {"kind": "bpe", "max_size": 300, "sample_bytes": 1024})
    with pytest.raises(errors.DataError, match=r"tokenizer\.sample_bytes: 1024 bytes hold no line of text"):
        datasets.run(settings)


@pytest.mark.parametrize("tokenizing", [{}, {"shared": True, "min_freq": 2}, {"max_size": 20, "symbols": ["<dog>"]}])
def test_a_vocabulary_is_the_same_however_its_words_are_partitioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizing: dict[str, Any]
) -> None:
    # Two corpora, one of whose words come first, and a word of the text that may be a symbol.
    lines = [line.replace("dog", "<dog>") for line in datasets.sentences(230)]
    files = [
        datasets.write(tmp_path / f"{name}.tsv", [f"{line}\t{line[::-1]}" for line in lines[:number]])
        for name, number in (("a", 150), ("b", 230))
    ]
    corpora = {
        name: {"kind": "pairs", "train": {"tsv": [file]}, "weight": 1, "target_token": f"<{name}>"}
        for name, file in zip("ba", files, strict=True)
    }
    made: list[dict[str, bytes]] = []
    names = datasets.note_files(monkeypatch)
    for name, partition_bytes in (("one", 1 << 32), ("many", 1 << 10)):
        monkeypatch.setattr(word_counts, "PARTITION_BYTES", partition_bytes)
        content = {
            "name": "test",
            "root": str(tmp_path / name),
            "corpora": corpora,
            "tokenizer": {"kind": "word", **tokenizing},
            "sharding": {"part_size_bytes": 1024},
            "model": {"kind": "seq2seq"},
            "training": {"batch_tokens": 100},
        }
        datasets.run(loading.parse(json.dumps(content), "test", []))
        made.append(datasets.read_files(tmp_path / name / "dataset"))
        steps = {committed.split("-")[1] for committed in names}
        assert ({"gathered", "merged"} <= steps) == (name == "many")
    assert made[0] == made[1]
