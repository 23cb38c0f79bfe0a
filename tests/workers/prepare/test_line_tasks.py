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
from workers.prepare import line_tasks, part_groups, vocabularies


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


def count(made: line_tasks.Recipe, *parts: line_tasks.PartTask) -> dict[str, Any]:
    """Counts the words of some parts; the record, with the numbers of the last part."""
    record = vocabularies.count_words(made, part_groups.PartsTask(parts[-1].name, parts))
    return {**record, **record["parts"][-1]}


def with_tokenizer(made: line_tasks.Recipe, counted: dict[str, Any]) -> line_tasks.Recipe:
    files = (counted["files"][0]["name"],)
    record = vocabularies.make_tokenizer(made, vocabularies.VocabularyTask("tokenizer-text", ("text",), files))
    file = commit.FileRecord.from_json(record["files"][0], "test")
    return dataclasses.replace(made, tokenizers={"text": file})


def test_a_repeated_task_commits_once_and_returns_the_first_record(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    counted = count(made, task(tmp_path, "count", "a b\nb\n"))
    assert counted == count(made, task(tmp_path, "count", "a b\nb\n"))
    assert (counted["lines"], counted["tokens"]) == (2, 5)
    ready = with_tokenizer(made, counted)
    work = task(tmp_path, "encode", "a b\nb\n")
    first = line_tasks.make_encoder(ready)(work)
    assert line_tasks.make_encoder(ready)(work) == first == ready.store.committed("encode")
    assert len(list((tmp_path / "dataset" / "train").iterdir())) == 1


def test_words_of_several_parts_are_counted_as_those_of_each(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    whole = task(tmp_path, "whole", "c b\na b\nb\nd a\n")
    halves = tuple(
        dataclasses.replace(whole, name="halves", number=number, part=corpus.narrow(whole.part, start, start + 2))
        for number, start in enumerate((0, 2))
    )
    made = dataclasses.replace(made, num_parts={"train": 2})
    together = count(made, *halves)
    assert together["parts"] == [
        {"lines": 2, "tokens": 6, "scripts": {"text": None}},
        {"lines": 2, "tokens": 5, "scripts": {"text": None}},
    ]
    files = [count(made, dataclasses.replace(whole, name="alone")), together]
    alone, in_groups = (commit.read_content(made.dataset, record["files"][0]["name"]) for record in files)
    assert in_groups == alone == b'{"text":[["c",1],["b",3],["a",2],["d",1]]}'


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
    counted = count(made, task(tmp_path, "count", text, max_tokens))
    ready = with_tokenizer(made, counted)
    record = line_tasks.make_encoder(ready)(task(tmp_path, "encode", text, max_tokens))
    assert record["shards"]["train"]["tokens"]["text"] == counted["tokens"]
    assert record["shards"]["train"]["rows"] == counted["lines"]
    assert max_tokens is None or counted["tokens"] <= max_tokens


def test_a_sample_is_limited_to_sample_bytes_per_column(tmp_path: Path) -> None:
    made = recipe(tmp_path, "bpe")
    settings = made.tokenizer.model_copy(update={"sample_bytes": 10})
    made = dataclasses.replace(made, tokenizer=settings)
    part = task(tmp_path, "sample", "abcd\nabcd\n\nabcd\n")
    record = vocabularies.sample_lines(made, part_groups.PartsTask("sample", (part,)))
    assert [values["lines"] for values in record["parts"]] == [3]
    vocabulary = vocabularies.VocabularyTask("tokenizer-text", ("text",), (record["files"][0]["name"],))
    assert list(vocabularies._read_sample(made, vocabulary)) == ["abcd", "abcd"]


def test_too_many_tokens_and_too_many_bytes_are_different_reasons_to_drop(tmp_path: Path) -> None:
    made = recipe(tmp_path, filters={"max_length": 3})
    counted = count(made, task(tmp_path, "count", "a b\n"))
    file = tmp_path / "text.txt"
    work = task(tmp_path, "encode", "a b\na b c d\n" + "x" * 40 + "\n")
    work = dataclasses.replace(work, part=dataclasses.replace(work.part, max_line_bytes=20))
    record = line_tasks.make_encoder(with_tokenizer(made, counted))(work)
    assert record["drops"] == {"too_long": 1, "too_many_bytes": 1}
    assert record["lines"] == 3
    assert file.exists()


def test_a_damaged_tokenizer_is_an_error_when_a_worker_starts(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    ready = with_tokenizer(made, count(made, task(tmp_path, "count", "a\n")))
    file = tmp_path / "dataset" / ready.tokenizers["text"].name
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(errors.IntegrityError, match="is damaged"):
        line_tasks.make_encoder(ready)


def test_recipe_task_and_worker_can_be_pickled(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    worker = line_tasks.make_worker(vocabularies.count_words, made)
    for value in (made, task(tmp_path, "count", "a\n"), worker):
        assert pickle.loads(pickle.dumps(value))
