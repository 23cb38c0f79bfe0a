"""Tests of prepare: content of the dataset, counts, limits, and independence of the workers."""

import collections
import gzip
import itertools
import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.data.dataset import duplicates
from core.data.text import cleaning
from core.storage import location
from jobs import prepare
from tests import reporters
from tests.jobs import datasets

LIMITED = datasets.sentences(400, seed=3)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips fsync to save time: no test here cuts the power."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    return datasets.pairs(tmp_path)


@pytest.mark.parametrize(
    "tokenizer", [{"kind": "word"}, {"kind": "char", "shared": True}, {"kind": "bpe", "max_size": 320}]
)
def test_bytes_do_not_depend_on_workers_or_order_of_completion(
    tmp_path: Path, pairs: dict[str, Any], tokenizer: dict[str, Any]
) -> None:
    if tokenizer["kind"] == "char":
        pairs["filters"]["max_length"] = 60
    alone = datasets.config(tmp_path / "alone", pairs, tokenizer)
    report = datasets.run(alone)
    expected = datasets.read_files(tmp_path / "alone" / "dataset")
    assert report["splits"]["train"]["shards"] > 5
    for num_workers in (2, 4):
        other = datasets.config(tmp_path / str(num_workers), pairs, tokenizer)
        datasets.run(other, datasets.ShufflingExecutor(num_workers, num_workers))
        assert datasets.read_files(tmp_path / str(num_workers) / "dataset") == expected


def test_lines_read_equal_lines_kept_and_dropped_by_reason(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    session = datasets.Session()
    report = prepare.run(settings, session, reporters.SilentReporter())
    kept = sum(split["lines"] for split in report["splits"].values())
    assert report["lines_read"] == 300 == kept + sum(report["drops"].values())
    assert report["drops"]["field_count"] == 1
    assert report["drops"]["empty"] == 1
    assert report["drops"]["too_long"] == 1
    assert report["drops"]["duplicate"] >= 1
    index = datasets.open_dataset(settings).index
    rows = sum(shard.rows for records in index.splits.values() for shard in records)
    assert index.lines_read == 300 == rows + sum(index.drops.values())
    counted = collections.Counter[tuple[str, str | None]]()
    for name, amount, labels in session.metrics.calls:
        counted[name, labels.get("outcome")] += int(amount)
    assert counted["raycurrent_prepare_lines_total", "done"] == kept
    assert counted["raycurrent_prepare_lines_total", "skipped"] == 300 - kept
    tokens = sum(sum(split["tokens"].values()) for split in report["splits"].values())
    assert counted["raycurrent_prepare_tokens_total", None] == tokens


def test_kept_lines_are_in_the_dataset_once_in_order(tmp_path: Path, pairs: dict[str, Any]) -> None:
    """Every kept pair is a pair of the input with its line number, and ends with <eos> on both sides."""
    settings = datasets.config(tmp_path / "run", pairs)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    rows = Path(pairs["train"]["tsv"][0]).read_text().splitlines()
    numbers: list[int] = []
    for split in ("train", "valid", "test"):
        lines = datasets.line_numbers(dataset, split)
        assert lines == sorted(lines)
        assert [tuple(rows[line].split("\t")) for line in lines] == datasets.texts(dataset, split)
        numbers += lines
        for column in ("source", "target"):
            eos = dataset.codecs[column].tokenizer.eos_id
            assert all(row[-1] == eos for row in datasets.rows(datasets.split(dataset, split), column))
    assert len(set(numbers)) == len(numbers)


def test_the_first_of_duplicate_pairs_is_kept(tmp_path: Path) -> None:
    rows = [*datasets.sentences(50), *datasets.sentences(50), "one\tun", "one\tune", "ONE\tun"]
    file = datasets.write(tmp_path / "a.tsv", [row if "\t" in row else f"{row}\t{row}" for row in rows])
    corpus = {"kind": "pairs", "train": {"tsv": [file]}, "cleaning": ["lower"], "filters": {"duplicates": "drop"}}
    settings = datasets.config(tmp_path / "run", corpus)
    assert datasets.run(settings)["drops"]["duplicate"] == 103 - len({row.lower() for row in rows})
    lines = datasets.line_numbers(datasets.open_dataset(settings), "train")
    assert lines[-2:] == [100, 101]
    assert max(lines[:-2]) < 50


def test_duplicates_are_the_same_however_their_hashes_are_partitioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*datasets.sentences(60), *datasets.sentences(90), *datasets.sentences(30)]
    corpus = {
        "kind": "text",
        "train": {"text": [datasets.write(tmp_path / "a.txt", rows)]},
        "split": {"valid": 0.2},
        "filters": {"duplicates": "drop"},
    }
    shards: list[dict[str, bytes]] = []
    names = datasets.note_files(monkeypatch)
    # All hashes in one partition, or ten lines in each: then they are gathered, and the lines found are merged.
    for name, partition_bytes in (("one", 1 << 26), ("many", 240)):
        monkeypatch.setattr(duplicates, "PARTITION_BYTES", partition_bytes)
        settings = datasets.config(tmp_path / name, corpus, sharding={"part_size_bytes": 1024})
        assert datasets.run(settings)["drops"]["duplicate"] == len(rows) - len(set(rows))
        folder = tmp_path / name / "dataset"
        shards.append({str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("*/part-*.arrow")})
        steps = {made.rpartition("-train")[0] for made in names}
        assert ({f"duplicates-{step}" for step in ("gathered", "merged", "collected")} <= steps) == (name == "many")
    assert shards[0] == shards[1]
    assert len(shards[0]) == 5


def test_equal_source_sides_are_in_one_split(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [f"{rng.choice('abcdefghijklmnopqrstuvwxyz')}  {number % 40}\tt{number}" for number in range(800)]
    corpus = {
        "kind": "pairs",
        "train": {"tsv": [datasets.write(tmp_path / "a.tsv", rows)]},
        "cleaning": ["strip"],
        "split": {"valid": 0.2, "test": 0.2},
    }
    settings = datasets.config(tmp_path / "run", corpus)
    datasets.run(settings)
    sides = [
        {source for source, _ in datasets.texts(datasets.open_dataset(settings), split)}
        for split in ("train", "valid", "test")
    ]
    assert all(sides)
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_a_text_is_split_at_its_tail(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(200)]
    corpus = {
        "kind": "text",
        "train": {"text": [datasets.write(tmp_path / "a.txt", lines)]},
        "split": {"valid": 0.1, "test": 0.05},
    }
    settings = datasets.config(tmp_path / "run", corpus)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    assert datasets.line_numbers(dataset, "test") == list(range(190, 200))
    assert [len(datasets.texts(dataset, split)) for split in ("train", "valid", "test")] == [170, 20, 10]
    assert datasets.texts(dataset, "valid")[0] == ("line <unk>",), "the vocabulary is that of the training lines only"


def test_separate_validation_and_test_sources_do_not_enter_the_vocabulary(tmp_path: Path) -> None:
    def side(name: str, lines: list[str]) -> dict[str, list[str]]:
        return {
            "source": [datasets.write(tmp_path / f"{name}.en", lines)],
            "target": [datasets.write(tmp_path / f"{name}.fr", [line.upper() for line in lines])],
        }

    corpus = {
        "kind": "pairs",
        "train": side("train", datasets.sentences(100)),
        "valid": side("valid", ["the dog validates", "a cat"]),
        "test": side("test", ["the dog tests"]),
    }
    settings = datasets.config(tmp_path / "run", corpus)
    report = datasets.run(settings)
    assert {name: split["lines"] for name, split in report["splits"].items()} == {"train": 100, "valid": 2, "test": 1}
    assert datasets.texts(datasets.open_dataset(settings), "valid")[0] == ("the dog <unk>", "THE DOG <unk>")
    assert report["vocabulary_sizes"] == {"source": 4 + len(datasets.WORDS), "target": 4 + len(datasets.WORDS)}


@pytest.mark.parametrize(
    ("line_end", "stream"),
    [("none", "oneandtwo"), ("space", "one and two "), ("eos", "one|and|two|")],
)
def test_line_end_separates_lines_in_the_stream(tmp_path: Path, line_end: str, stream: str) -> None:
    file = datasets.write(tmp_path / "a.txt", ["one", "", "and", "two"])
    corpus = {"kind": "text", "train": {"text": [file]}, "line_end": line_end}
    settings = datasets.config(tmp_path / "run", corpus, {"kind": "char"})
    assert datasets.run(settings)["drops"] == {"empty": 1}
    dataset = datasets.open_dataset(settings)
    tokenizer, ids = dataset.codecs["text"].tokenizer, datasets.split(dataset, "train").stream()[:].tolist()
    assert "".join("|" if token == tokenizer.eos_id else tokenizer.token(token) for token in ids) == stream


def test_a_kept_blank_line_is_an_eos_token(tmp_path: Path) -> None:
    file = datasets.write(tmp_path / "a.txt", ["one", "", "two"])
    corpus = {"kind": "text", "train": {"text": [file]}, "filters": {"min_length": 0}}
    settings = datasets.config(tmp_path / "run", corpus)
    assert datasets.run(settings)["splits"]["train"] == {"lines": 3, "tokens": {"text": 5}, "shards": 1}


def test_words_are_counted_before_long_lines_are_cut(tmp_path: Path) -> None:
    file = datasets.write(tmp_path / "a.tsv", ["a b c d e\tv w", "a b\tv w x y z"])
    corpus = {
        "kind": "pairs",
        "train": {"tsv": [file]},
        "filters": {"max_length": 4, "too_long": "cut"},
    }
    settings = datasets.config(tmp_path / "run", corpus)
    report = datasets.run(settings)
    rows = datasets.rows(datasets.split(datasets.open_dataset(settings), "train"), "source")
    eos = 3
    assert [len(row) for row in rows] == [4, 3]
    assert [row[-1] == eos for row in rows] == [False, True]
    assert report["vocabulary_sizes"] == {"source": 9, "target": 9}
    assert report["drops"] == {}


@pytest.mark.parametrize("vocabulary", ["before", "after"])
@pytest.mark.parametrize("limit", [3, 57, 700])
def test_a_limit_of_tokens_is_exact_for_both_choices_of_vocabulary(tmp_path: Path, vocabulary: str, limit: int) -> None:
    file = datasets.write(tmp_path / "a.txt", LIMITED)
    corpus = {"kind": "text", "train": {"text": [file]}, "limit": {"tokens": limit, "vocabulary": vocabulary}}
    settings = datasets.config(tmp_path / "run", corpus)
    report = datasets.run(settings, datasets.ShufflingExecutor(1))
    stream = [word for line in LIMITED for word in [*line.split(" "), "<eos>"]]
    used = stream if vocabulary == "before" else stream[:limit]
    assert report["vocabulary_sizes"]["text"] == len({*used, "<unk>", "<eos>"})
    assert report["splits"]["train"]["tokens"] == {"text": limit}
    assert report["drops"]["limit"] == 400 - report["splits"]["train"]["lines"]
    dataset = datasets.open_dataset(settings)
    ids = datasets.split(dataset, "train").stream()[:].tolist()
    assert [dataset.codecs["text"].tokenizer.token(token) for token in ids] == stream[:limit]


@pytest.mark.parametrize(("vocabulary", "size"), [("before", 4 + 5), ("after", 4 + 2)])
def test_a_limit_of_lines_keeps_the_first_lines(tmp_path: Path, vocabulary: str, size: int) -> None:
    file = datasets.write(tmp_path / "a.tsv", ["a\tb", "c\td", "e\tf", "g\th", "i\tj"])
    corpus = {"kind": "pairs", "train": {"tsv": [file]}, "limit": {"lines": 2, "vocabulary": vocabulary}}
    settings = datasets.config(tmp_path / "run", corpus)
    report = datasets.run(settings)
    assert report["lines_read"] == 2
    assert report["vocabulary_sizes"] == {"source": size, "target": size}
    assert datasets.texts(datasets.open_dataset(settings), "train") == [("a", "b"), ("c", "d")]


def test_compressed_text_gives_the_same_shards(tmp_path: Path) -> None:
    lines = datasets.sentences(300)
    plain = datasets.write(tmp_path / "a.txt", lines)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    splits = []
    for name, file in (("plain", plain), ("compressed", f"{plain}.gz")):
        settings = datasets.config(tmp_path / name, {"kind": "text", "train": {"text": [file]}})
        datasets.run(settings)
        splits.append(datasets.open_dataset(settings).index.splits)
    assert splits[0] == splits[1]


def test_memory_urls_work_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    location.Location.parse("memory://in/a.txt").put_if_absent(b"one two\nthree\n")
    settings = datasets.config(
        "memory://out/run", {"kind": "text", "train": {"text": ["memory://in/a.txt"]}}, cluster={"address": "none"}
    )
    datasets.run(settings)
    assert datasets.texts(datasets.open_dataset(settings), "train") == [("one two",), ("three",)]


@pytest.mark.parametrize(
    ("lines", "more", "message"),
    [
        ([], {}, "0 usable lines"),
        (["", " ", ""], {}, "0 usable lines of 3"),
        (["one two", "three"], {"filters": {"min_length": 5}}, "0 usable lines of 2"),
        (["one", "two"], {"split": {"valid": 0.4}}, "0 usable lines for valid, of 2 read"),
    ],
)
def test_a_split_without_usable_lines_is_an_error(
    tmp_path: Path, lines: list[str], more: dict[str, Any], message: str
) -> None:
    file = datasets.write(tmp_path / "a.txt", lines)
    with pytest.raises(errors.DataError, match=message):
        datasets.run(datasets.config(tmp_path / "run", {"kind": "text", "train": {"text": [file]}, **more}))


def test_a_bad_line_is_skipped_and_counted_or_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntw\xffo\nth\0ree\n" + b"good line\n" * 50)
    corpus = {"kind": "text", "train": {"text": [str(tmp_path / "a.txt")]}}
    assert datasets.run(datasets.config(tmp_path / "run", corpus))["drops"] == {"control_char": 1, "invalid_utf8": 1}
    with pytest.raises(errors.DataError, match=r"a\.txt:2:3: is a bad line \(invalid_utf8\)"):
        datasets.run(datasets.config(tmp_path / "other", {**corpus, "on_bad_line": "fail"}))


def test_byte_order_marks_and_carriage_returns_are_counted_and_change_no_shard(tmp_path: Path) -> None:
    """Text from an editor of another system gives the same shards, and a report of the repairs."""
    reports = {}
    for name, content in {"plain": b"one two\nthree\n", "marked": b"\xef\xbb\xbfone two\r\nthree\r\n"}.items():
        (tmp_path / name).write_bytes(content)
        corpus = {"kind": "text", "train": {"text": [str(tmp_path / name)]}}
        reports[name] = datasets.run(datasets.config(tmp_path / "run" / name, corpus))
    assert reports["plain"]["repairs"] == {}
    assert reports["marked"]["repairs"] == {"bom": 1, "crlf": 2}
    plain, marked = (json.loads((tmp_path / "run" / name / "dataset/index.json").read_text()) for name in reports)
    assert marked["splits"] == plain["splits"]
    assert marked["repairs"] == reports["marked"]["repairs"]


def test_aligned_files_must_have_equal_numbers_of_lines(tmp_path: Path) -> None:
    source, target = (
        datasets.write(tmp_path / "a.en", datasets.sentences(1000)),
        datasets.write(tmp_path / "a.fr", datasets.sentences(999)),
    )
    with pytest.raises(errors.DataError, match="source 1000 lines, target 999"):
        datasets.run(
            datasets.config(tmp_path / "run", {"kind": "pairs", "train": {"source": [source], "target": [target]}})
        )


def test_a_missing_file_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match=r"corpus\.train\.text: .* matches no file"):
        datasets.run(
            datasets.config(tmp_path / "run", {"kind": "text", "train": {"text": [str(tmp_path / "none.txt")]}})
        )
    assert not (tmp_path / "run").exists()


def test_a_limit_of_tokens_is_rejected_for_subwords(tmp_path: Path) -> None:
    corpus = {"kind": "text", "train": {"text": [datasets.write(tmp_path / "a.txt", ["one"])]}, "limit": {"tokens": 5}}
    with pytest.raises(errors.UsageError, match=r"use limit\.lines"):
        prepare.plan(datasets.config(tmp_path / "run", corpus, {"kind": "bpe", "max_size": 300}))


@pytest.mark.data
@pytest.mark.parametrize(
    ("line_end", "kind", "size", "tokens"),
    [("none", "char", 28, 170_580), ("none", "word", 4_580, 32_775), ("space", "char", 28, 173_428)],
)
def test_the_time_machine_has_the_counts_of_d2l(
    tmp_path: Path, corpora: Path, line_end: str, kind: str, size: int, tokens: int
) -> None:
    corpus = {
        "kind": "text",
        "train": {"text": [str(corpora / "timemachine" / "timemachine.txt")]},
        "cleaning": ["letters", "lower"],
        "line_end": line_end,
    }
    settings = datasets.config(tmp_path / "run", corpus, {"kind": kind})
    report = datasets.run(settings)
    assert report["lines_read"] == 3_221
    assert report["vocabulary_sizes"] == {"text": size}
    assert report["splits"]["train"]["tokens"] == {"text": tokens}
    if kind == "word":
        assert datasets.open_dataset(settings).codecs["text"].tokenizer.encode("the time machine by") == [1, 19, 50, 40]


@pytest.mark.data
@pytest.mark.parametrize(("counted", "sizes"), [("after", (184, 201)), ("before", (10_012, 17_851))])
def test_fra_eng_has_the_vocabularies_of_d2l(
    tmp_path: Path, corpora: Path, counted: str, sizes: tuple[int, int]
) -> None:
    """Vocabularies of the first 600 pairs, and of all pairs while only 600 are kept."""
    corpus = {
        "kind": "pairs",
        "train": {"tsv": [str(corpora / "fra-eng" / "fra.txt.xz")]},
        "cleaning": ["spaces", "lower", "punctuation"],
        "limit": {"lines": 600, "vocabulary": counted},
    }
    sharding = {"part_size_bytes": 1 << 22, "statistics": False}
    report = datasets.run(datasets.config(tmp_path / "run", corpus, {"kind": "word", "min_freq": 2}, sharding=sharding))
    assert report["vocabulary_sizes"] == {"source": sizes[0], "target": sizes[1]}


@pytest.mark.data
def test_no_english_side_of_fra_eng_is_in_two_splits(tmp_path: Path, corpora: Path) -> None:
    corpus = {
        "kind": "pairs",
        "train": {"tsv": [str(corpora / "fra-eng" / "fra.txt.xz")]},
        "cleaning": ["spaces", "lower", "punctuation"],
        "split": {"valid": 0.02, "test": 0.02},
        "limit": {"lines": 30_000},
    }
    settings = datasets.config(tmp_path / "run", corpus, sharding={"part_size_bytes": 1 << 20, "statistics": False})
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    with lzma.open(corpora / "fra-eng" / "fra.txt.xz", "rt", encoding="utf-8", newline="\n") as file:
        english = [line.split("\t")[0] for line in itertools.islice(file, 30_000)]
    english = cleaning.clean_lines(english, ["spaces", "lower", "punctuation"])
    sides: list[set[str]] = []
    for name in ("train", "valid", "test"):
        sides.append({english[line] for line in datasets.line_numbers(dataset, name)})
    assert sum(map(len, sides)) == len(set(english)) < 0.7 * len(english), (
        "every side is in one split, and many are repeated"
    )
