"""Tests of preparing an existing dataset: finished, begun, moved, changed or damaged."""

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import errors
from core.config import loading, schema, section
from core.storage import location, run_lock
from jobs import prepare, train
from tests import reporters
from tests.jobs import datasets


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips fsync to save time: no test here cuts the power."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    return datasets.pairs(tmp_path)


def test_a_finished_dataset_is_not_made_again(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    first = datasets.run(settings)
    before = datasets.read_files(tmp_path / "run")
    session = datasets.Session()
    second = prepare.run(settings, session, reporters.SilentReporter())
    assert second["already_done"]
    assert session.requested == []
    assert datasets.read_files(tmp_path / "run") == before
    assert {**second, "elapsed_s": 0, "already_done": False} == {**first, "elapsed_s": 0}
    Path(pairs["train"]["tsv"][0]).unlink()
    assert datasets.run(settings)["already_done"], "a finished dataset is used without its sources"


def test_other_settings_need_another_root(tmp_path: Path, pairs: dict[str, Any]) -> None:
    datasets.run(datasets.config(tmp_path / "run", pairs))
    with pytest.raises(errors.LockedError, match=r"settings\.tokenizer\.min_freq: was 1, now 2"):
        datasets.run(datasets.config(tmp_path / "run", pairs, {"kind": "word", "min_freq": 2}))


def _settings_of_older_release(config: schema.RunConfig) -> dict[str, Any]:
    """The settings of a dataset made by a release without `seed` and `corpus.filters.duplicates`."""
    corpus = section.result_settings(config.corpora_by_name[""])
    del corpus["filters"]["duplicates"]
    return {
        "corpus": corpus,
        **{name: section.result_settings(getattr(config, name)) for name in ("tokenizer", "sharding")},
    }


@pytest.mark.parametrize("stop_after", [None, 22])
def test_settings_missing_from_an_older_dataset_count_as_their_defaults(
    tmp_path: Path, pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stop_after: int | None
) -> None:
    pairs = {**pairs, "filters": {}}
    settings = datasets.config(tmp_path / "run", pairs)
    with monkeypatch.context() as older:
        older.setattr(prepare, "_settings", _settings_of_older_release)
        with pytest.raises(errors.InterruptedRunError) if stop_after else contextlib.nullcontext():
            datasets.run(settings, datasets.ShufflingExecutor(0, stop_after=stop_after))
    assert datasets.run(settings)["already_done"] is (stop_after is None)
    train.check_dataset(settings, datasets.open_dataset(settings))
    other = datasets.config(tmp_path / "run", {**pairs, "filters": {"duplicates": "drop"}})
    with pytest.raises(errors.LockedError, match=r"corpus\.filters\.duplicates: was null, now \"drop\""):
        datasets.run(other)
    with pytest.raises(errors.LockedError, match=r"corpus\.filters\.duplicates: the dataset in .* another value"):
        train.check_dataset(other, datasets.open_dataset(settings))


@pytest.mark.parametrize("extension", ["", ".gz"])
def test_moved_text_is_accepted_and_changed_text_rejected(
    tmp_path: Path, pairs: dict[str, Any], extension: str
) -> None:
    text = Path(pairs["train"]["tsv"][0]).read_bytes()
    compress = gzip.compress if extension else bytes
    paths = [tmp_path / f"{name}.tsv{extension}" for name in ("first", "moved", "longer", "other")]
    for path, content in zip(paths, (text, text, text + b"one\tmore\n", text.replace(b"dog", b"god")), strict=True):
        path.write_bytes(compress(content))
    first, moved, *others = ({**pairs, "train": {"tsv": [str(path)]}} for path in paths)
    datasets.run(datasets.config(tmp_path / "run", first))
    before = datasets.read_files(tmp_path / "run")
    session = datasets.Session()
    report = prepare.run(datasets.config(tmp_path / "run", moved), session, reporters.SilentReporter())
    assert report["already_done"]
    assert session.requested, "a file with another path is read"
    for other in others:
        with pytest.raises(errors.LockedError, match=r"corpus\.train: is not the text that the dataset in .*run"):
            datasets.run(datasets.config(tmp_path / "run", other))
        assert datasets.read_files(tmp_path / "run") == before


def test_a_stopped_run_resumes_from_moved_text(tmp_path: Path, pairs: dict[str, Any]) -> None:
    datasets.run(datasets.config(tmp_path / "whole", pairs))
    with pytest.raises(errors.InterruptedRunError):
        datasets.run(datasets.config(tmp_path / "run", pairs), datasets.ShufflingExecutor(0, stop_after=22))
    path = Path(pairs["train"]["tsv"][0]).rename(tmp_path / "moved.tsv")
    settings = datasets.config(tmp_path / "run", {**pairs, "train": {"tsv": [str(path)]}})
    datasets.run(settings)
    whole = datasets.open_dataset(datasets.config(tmp_path / "whole", pairs)).index
    index = datasets.open_dataset(settings).index
    assert (index.splits, index.fingerprint) == (whole.splits, whole.fingerprint)


@pytest.mark.parametrize("stop_after", [3, 9, 15, 19, 24])
def test_a_stopped_run_resumes_without_repeating_committed_tasks(
    tmp_path: Path, pairs: dict[str, Any], stop_after: int
) -> None:
    whole = datasets.config(tmp_path / "whole", pairs)
    datasets.run(whole)
    settings = datasets.config(tmp_path / "run", pairs)
    with pytest.raises(errors.InterruptedRunError):
        datasets.run(settings, datasets.ShufflingExecutor(stop_after, stop_after=stop_after))
    folder = tmp_path / "run" / "dataset"
    assert not (folder / "index.json").exists()
    with pytest.raises(errors.UsageError, match="run prepare first"):
        datasets.open_dataset(settings)
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.arrow")}
    datasets.run(settings)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert datasets.read_files(folder) == datasets.read_files(tmp_path / "whole" / "dataset")


def test_word_counts_of_an_earlier_start_are_verified_before_they_become_a_vocabulary(
    tmp_path: Path, pairs: dict[str, Any]
) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    with pytest.raises(errors.InterruptedRunError):
        datasets.run(settings, datasets.ShufflingExecutor(0, stop_after=22))
    file = min((tmp_path / "run" / "dataset" / ".staging").glob("words-train-*.bin"))
    counts = file.read_bytes()
    position = counts.rindex(b"1")
    file.write_bytes(counts[:position] + b"3" + counts[position + 1 :])  # one bit, and a count as valid as before
    with pytest.raises(errors.IntegrityError, match=r"words-train-00000-.*\.bin: is damaged: expected sha256"):
        datasets.run(settings)


def test_a_copy_that_a_killed_worker_left_behind_does_not_end_the_next_start(
    tmp_path: Path, pairs: dict[str, Any]
) -> None:
    left = tmp_path / "run" / "dataset" / ".staging" / ".staging-k3_2x9ab"
    left.mkdir(parents=True)
    (left / "raw").write_bytes(b"half")
    assert datasets.run(datasets.config(tmp_path / "run", pairs))["splits"]["train"]["lines"] > 0


def test_a_source_that_changed_between_two_starts_is_an_error(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    with pytest.raises(errors.InterruptedRunError):
        datasets.run(settings, datasets.ShufflingExecutor(0, stop_after=22))
    file = Path(pairs["train"]["tsv"][0])
    file.write_text(file.read_text().replace("dog", "god"))
    with pytest.raises(errors.LockedError, match=r"corpus\.train: has changed"):
        datasets.run(settings)


def test_intermediate_files_are_removed(tmp_path: Path, pairs: dict[str, Any]) -> None:
    datasets.run(datasets.config(tmp_path / "run", pairs))
    folder = tmp_path / "run" / "dataset"
    names = {path.name.rstrip("0123456789") for path in folder.iterdir()}
    assert {"_PLAN.json", "index.json", "train", "valid", "test"} <= names
    assert [name for name in names if name.startswith((".", "_"))] == ["_PLAN.json"]
    index = datasets.open_dataset(datasets.config(tmp_path / "run", pairs)).index
    listed = {record.name for records in index.splits.values() for record in records}
    listed |= {record.file.name for records in index.lengths.values() for record in records}
    listed.add(json.loads((folder / "index.json").read_text())["shards"]["name"])
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.arrow")} == listed


@pytest.mark.parametrize(
    "edit", ["count", "totals", "table", "type", "text", "version", "hash", "tokenizer", "lost", "cut"]
)
def test_a_damaged_dataset_cannot_be_opened(tmp_path: Path, pairs: dict[str, Any], edit: str) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    datasets.run(settings)
    folder = tmp_path / "run" / "dataset"
    index = json.loads((folder / "index.json").read_text())
    total = index["splits"]["train"][0]
    first = folder / datasets.open_dataset(settings).index.splits["train"][0].name
    if edit == "count":
        index["lines_read"] += 1
    elif edit == "totals":
        total["rows"] += 1
    elif edit == "table":
        file = folder / index["shards"]["name"]
        file.write_bytes(file.read_bytes()[:-1] + b" ")
    elif edit == "type":
        total["shards"] = str(total["shards"])
    elif edit == "version":
        index["version"] = 99
    elif edit == "hash":
        index["tokenizers"]["source"]["fingerprint"] = "0" * 64
    text = json.dumps(index)
    (folder / "index.json").write_text(text[:-9] if edit == "text" else text)
    if edit == "tokenizer":
        file = folder / index["tokenizers"]["source"]["file"]["name"]
        file.write_bytes(file.read_bytes() + b" ")
    elif edit == "lost":
        first.unlink()
    elif edit == "cut":
        first.write_bytes(b"short")
    with pytest.raises(errors.IntegrityError):
        datasets.open_dataset(settings)


def test_swapped_shards_are_detected_before_a_row_is_read(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    datasets.run(settings)
    dataset = datasets.open_dataset(settings)
    dataset.verify()
    records = dataset.index.splits["train"]
    folder = tmp_path / "run" / "dataset"
    (folder / records[0].name).write_bytes(
        (folder / records[1].name).read_bytes().ljust(records[0].size_bytes, b"\0")[: records[0].size_bytes]
    )
    again = datasets.open_dataset(settings)
    split = again.split("train")
    assert split is not None
    with pytest.raises(errors.IntegrityError, match=f"expected SHA-256 {records[0].sha256}, found "):
        split.rows(np.arange(1), "source")
    with pytest.raises(errors.IntegrityError):
        again.verify()


def test_a_shard_that_links_out_of_the_dataset_is_rejected(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs)
    datasets.run(settings)
    shard = tmp_path / "run" / "dataset" / datasets.open_dataset(settings).index.splits["train"][0].name
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.IntegrityError, match="is a link out of the dataset"):
        datasets.open_dataset(settings)


def test_a_locked_root_is_not_prepared(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = datasets.config(tmp_path / "run", pairs, cluster={"address": "none"})
    (tmp_path / "run.yaml").write_text(loading.dump(settings))
    command = [sys.executable, "-m", "jobs", "prepare", str(tmp_path / "run.yaml")]
    with run_lock.RunLock(location.Location.parse(settings.root), "prepare"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 6, second.stderr
    assert f"is in use by prepare on host {socket.gethostname()} (process {os.getpid()}," in second.stderr
    assert not (tmp_path / "run" / "dataset").exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
