"""Tests of single tasks of prepare."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import corpus_settings
from core.data.text import corpus, selection
from core.storage import commit, location
from workers.prepare import line_tasks, vocabularies


def recipe(folder: Path, kind: str = "word", **more: Any) -> line_tasks.Recipe:
    settings = {"kind": "text", "train": {"text": ("a",)}, **more}
    tokenizing = {"kind": kind, **({"max_size": 300} if kind == "bpe" else {})}
    made = line_tasks.Recipe(
        corpus=corpus_settings.CorpusConfig.model_validate(settings),
        tokenizer=corpus_settings.TokenizerConfig.model_validate(tokenizing),
        seed=1,
        dataset=location.Location.parse(str(folder / "dataset")),
        plan={"made": "for a test"},
        splittings={"train": selection.Splitting("train")},
        num_parts={"train": 1},
    )
    made.store.begin()
    return made


def task(folder: Path, name: str, text: str, max_tokens: int | None = None) -> line_tasks.PartTask:
    file = location.Location.parse(str(folder / "text.txt"))
    file.replace(text.encode())
    blocks = [corpus.count_block(file, *block) for block in corpus.blocks(file.size_bytes(), 1 << 20)]
    (part,) = corpus.cut_by_blocks([(file,)], [[blocks]])
    return line_tasks.PartTask(name, "train", 0, part, max_tokens)


def with_tokenizer(made: line_tasks.Recipe, counted: dict[str, Any]) -> line_tasks.Recipe:
    files = (counted["files"][0]["name"],)
    record = vocabularies.make_tokenizer(made, vocabularies.VocabularyTask("tokenizer-text", ("text",), files))
    file = commit.FileRecord.from_json(record["files"][0], "test")
    return dataclasses.replace(made, tokenizers={"text": file})


def test_a_repeated_task_commits_once_and_returns_the_first_record(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    counted = vocabularies.count_words(made, task(tmp_path, "count", "a b\nb\n"))
    assert counted == vocabularies.count_words(made, task(tmp_path, "count", "a b\nb\n"))
    assert (counted["lines"], counted["tokens"]) == (2, 5)
    ready = with_tokenizer(made, counted)
    work = task(tmp_path, "encode", "a b\nb\n")
    first = line_tasks.make_encoder(ready)(work)
    assert line_tasks.make_encoder(ready)(work) == first == ready.store.committed("encode")
    assert len(list((tmp_path / "dataset" / "train").iterdir())) == 1


@pytest.mark.parametrize("line_end", ["none", "space", "eos"])
@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("max_length", [None, 4])
@pytest.mark.parametrize("max_tokens", [None, 1, 7, 100])
def test_count_words_counts_the_tokens_that_encode_writes(
    tmp_path: Path, kind: str, line_end: str, max_length: int | None, max_tokens: int | None
) -> None:
    """The counts of the first pass decide how a limit on tokens is divided among parts, so both passes must agree."""
    filters = {"max_length": max_length, "too_long": "cut"}
    made = recipe(tmp_path, kind, line_end=line_end, filters=filters)
    text = "one two  three\n\nfour\nfive six seven eight nine\n"
    counted = vocabularies.count_words(made, task(tmp_path, "count", text, max_tokens))
    ready = with_tokenizer(made, counted)
    record = line_tasks.make_encoder(ready)(task(tmp_path, "encode", text, max_tokens))
    assert record["shards"]["train"]["tokens"]["text"] == counted["tokens"]
    assert record["shards"]["train"]["rows"] == counted["lines"]
    assert max_tokens is None or counted["tokens"] <= max_tokens


def test_a_sample_is_limited_to_sample_bytes_per_column(tmp_path: Path) -> None:
    made = recipe(tmp_path, "bpe")
    settings = made.tokenizer.model_copy(update={"sample_bytes": 10})
    made = dataclasses.replace(made, tokenizer=settings)
    record = vocabularies.sample_lines(made, task(tmp_path, "sample", "abcd\nabcd\n\nabcd\n"))
    assert record["lines"] == 3
    vocabulary = vocabularies.VocabularyTask("tokenizer-text", ("text",), (record["files"][0]["name"],))
    assert list(vocabularies._read_sample(made, vocabulary)) == ["abcd", "abcd"]


def test_too_many_tokens_and_too_many_bytes_are_different_reasons_to_drop(tmp_path: Path) -> None:
    made = recipe(tmp_path, filters={"max_length": 3})
    counted = vocabularies.count_words(made, task(tmp_path, "count", "a b\n"))
    file = tmp_path / "text.txt"
    work = task(tmp_path, "encode", "a b\na b c d\n" + "x" * 40 + "\n")
    work = dataclasses.replace(work, part=dataclasses.replace(work.part, max_line_bytes=20))
    record = line_tasks.make_encoder(with_tokenizer(made, counted))(work)
    assert record["drops"] == {"too_long": 1, "too_many_bytes": 1}
    assert record["lines"] == 3
    assert file.exists()


def test_a_damaged_tokenizer_is_an_error_when_a_worker_starts(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    ready = with_tokenizer(made, vocabularies.count_words(made, task(tmp_path, "count", "a\n")))
    file = tmp_path / "dataset" / ready.tokenizers["text"].name
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(errors.IntegrityError, match="is damaged"):
        line_tasks.make_encoder(ready)


def test_recipe_task_and_worker_can_be_pickled(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    worker = line_tasks.make_worker(vocabularies.count_words, made)
    for value in (made, task(tmp_path, "count", "a\n"), worker):
        assert pickle.loads(pickle.dumps(value))
