"""Laws of what is there already: done stays done, begun goes on, damaged is refused."""

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import loading, schema, section
from core.storage import location, run_lock
from jobs import console, prepare, train
from tests.jobs import preparing


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    return preparing.pairs(tmp_path)


def test_done_is_done(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = preparing.config(tmp_path / "run", pairs)
    first = preparing.run(settings)
    before = preparing.content(tmp_path / "run")
    session = preparing.Session()
    second = prepare.run(settings, session, console.SilentReporter())
    assert second["already_done"]
    assert session.asked == []
    assert preparing.content(tmp_path / "run") == before
    assert {**second, "elapsed_s": 0, "already_done": False} == {**first, "elapsed_s": 0}
    Path(pairs["train"]["tsv"][0]).unlink()
    assert preparing.run(settings)["already_done"], "a finished dataset does without its sources"


def test_other_settings_need_another_root(tmp_path: Path, pairs: dict[str, Any]) -> None:
    preparing.run(preparing.config(tmp_path / "run", pairs))
    with pytest.raises(errors.LockedError, match=r"settings\.tokenizer\.min_freq: was 1, now 2"):
        preparing.run(preparing.config(tmp_path / "run", pairs, {"kind": "word", "min_freq": 2}))


def _of_an_older_program(config: schema.RunConfig) -> dict[str, Any]:
    """The settings of a dataset as a program says them that had neither `seed` nor `corpus.filters.duplicates`."""
    corpus = section.deciding(config.tasks[""])
    del corpus["filters"]["duplicates"]
    return {"corpus": corpus, **{name: section.deciding(getattr(config, name)) for name in ("tokenizer", "sharding")}}


@pytest.mark.parametrize("stop_after", [None, 22])
def test_a_dataset_of_an_older_program_stands_for_the_defaults_of_younger_settings(
    tmp_path: Path, pairs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stop_after: int | None
) -> None:
    pairs = {**pairs, "filters": {}}
    settings = preparing.config(tmp_path / "run", pairs)
    with monkeypatch.context() as older:
        older.setattr(prepare, "_settings", _of_an_older_program)
        with pytest.raises(errors.InterruptedRunError) if stop_after else contextlib.nullcontext():
            preparing.run(settings, preparing.Shuffling(0, stop_after=stop_after))
    assert preparing.run(settings)["already_done"] is (stop_after is None)
    train.check_dataset(settings, preparing.opened(settings))
    other = preparing.config(tmp_path / "run", {**pairs, "filters": {"duplicates": "drop"}})
    with pytest.raises(errors.LockedError, match=r"corpus\.filters\.duplicates: was null, now \"drop\""):
        preparing.run(other)
    with pytest.raises(errors.LockedError, match=r"corpus\.filters\.duplicates: the dataset in .* another value"):
        train.check_dataset(other, preparing.opened(settings))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_same_text_elsewhere_is_the_same_source_and_other_text_is_another(
    tmp_path: Path, pairs: dict[str, Any], ending: str
) -> None:
    text = Path(pairs["train"]["tsv"][0]).read_bytes()
    packed = gzip.compress if ending else bytes
    places = [tmp_path / f"{name}.tsv{ending}" for name in ("first", "moved", "longer", "other")]
    for place, content in zip(places, (text, text, text + b"one\tmore\n", text.replace(b"dog", b"god")), strict=True):
        place.write_bytes(packed(content))
    first, moved, *others = ({**pairs, "train": {"tsv": [str(place)]}} for place in places)
    preparing.run(preparing.config(tmp_path / "run", first))
    before = preparing.content(tmp_path / "run")
    session = preparing.Session()
    found = prepare.run(preparing.config(tmp_path / "run", moved), session, console.SilentReporter())
    assert found["already_done"]
    assert session.asked, "text that lies elsewhere is read"
    for other in others:
        with pytest.raises(errors.LockedError, match=r"corpus\.train: is not the text that the dataset in .*run"):
            preparing.run(preparing.config(tmp_path / "run", other))
        assert preparing.content(tmp_path / "run") == before


def test_a_run_that_was_stopped_goes_on_from_the_same_text_elsewhere(tmp_path: Path, pairs: dict[str, Any]) -> None:
    preparing.run(preparing.config(tmp_path / "whole", pairs))
    with pytest.raises(errors.InterruptedRunError):
        preparing.run(preparing.config(tmp_path / "run", pairs), preparing.Shuffling(0, stop_after=22))
    place = Path(pairs["train"]["tsv"][0]).rename(tmp_path / "moved.tsv")
    settings = preparing.config(tmp_path / "run", {**pairs, "train": {"tsv": [str(place)]}})
    preparing.run(settings)
    whole = preparing.opened(preparing.config(tmp_path / "whole", pairs)).index
    found = preparing.opened(settings).index
    assert (found.splits, found.fingerprint) == (whole.splits, whole.fingerprint)


@pytest.mark.parametrize("stop_after", [3, 9, 15, 19, 24])
def test_a_run_that_was_stopped_goes_on_and_touches_nothing_that_is_done(
    tmp_path: Path, pairs: dict[str, Any], stop_after: int
) -> None:
    whole = preparing.config(tmp_path / "whole", pairs)
    preparing.run(whole)
    settings = preparing.config(tmp_path / "run", pairs)
    with pytest.raises(errors.InterruptedRunError):
        preparing.run(settings, preparing.Shuffling(stop_after, stop_after=stop_after))
    folder = tmp_path / "run" / "dataset"
    assert not (folder / "index.json").exists()
    with pytest.raises(errors.UsageError, match="run prepare first"):
        preparing.opened(settings)
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.arrow")}
    preparing.run(settings)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert preparing.content(folder) == preparing.content(tmp_path / "whole" / "dataset")


def test_a_source_that_changed_between_two_attempts_is_found(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = preparing.config(tmp_path / "run", pairs)
    with pytest.raises(errors.InterruptedRunError):
        preparing.run(settings, preparing.Shuffling(0, stop_after=22))
    file = Path(pairs["train"]["tsv"][0])
    file.write_text(file.read_text().replace("dog", "god"))
    with pytest.raises(errors.LockedError, match=r"corpus\.train: has changed"):
        preparing.run(settings)


def test_nothing_but_the_dataset_is_left(tmp_path: Path, pairs: dict[str, Any]) -> None:
    preparing.run(preparing.config(tmp_path / "run", pairs))
    folder = tmp_path / "run" / "dataset"
    names = {path.name.rstrip("0123456789") for path in folder.iterdir()}
    assert {"_PLAN.json", "index.json", "train", "valid", "test"} <= names
    assert [name for name in names if name.startswith((".", "_"))] == ["_PLAN.json"]
    listed = {
        record.name
        for records in preparing.opened(preparing.config(tmp_path / "run", pairs)).index.splits.values()
        for record in records
    }
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.arrow")} == listed


@pytest.mark.parametrize(
    "edit", ["count", "twice", "name", "type", "text", "version", "hash", "tokenizer", "lost", "cut"]
)
def test_a_damaged_dataset_is_refused_when_it_is_opened(tmp_path: Path, pairs: dict[str, Any], edit: str) -> None:
    settings = preparing.config(tmp_path / "run", pairs)
    preparing.run(settings)
    folder = tmp_path / "run" / "dataset"
    index = json.loads((folder / "index.json").read_text())
    first = index["splits"]["train"][0]
    if edit == "count":
        first["rows"] += 1
    elif edit == "twice":
        index["splits"]["train"].append(first)
        index["lines_read"] += first["rows"]
    elif edit == "name":
        first["name"] = "train/../../secret.arrow"
    elif edit == "type":
        first["rows"] = str(first["rows"])
    elif edit == "version":
        index["version"] = 99
    elif edit == "hash":
        index["tokenizers"]["source"]["fingerprint"] = "0" * 64
    text = json.dumps(index)
    (folder / "index.json").write_text(text[:-9] if edit == "text" else text)
    if edit == "tokenizer":
        place = folder / index["tokenizers"]["source"]["file"]["name"]
        place.write_bytes(place.read_bytes() + b" ")
    elif edit == "lost":
        (folder / first["name"]).unlink()
    elif edit == "cut":
        (folder / first["name"]).write_bytes(b"short")
    with pytest.raises(errors.IntegrityError):
        preparing.opened(settings)


def test_swapped_shards_are_found_before_a_row_is_used(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = preparing.config(tmp_path / "run", pairs)
    preparing.run(settings)
    dataset = preparing.opened(settings)
    dataset.verify()
    records = dataset.index.splits["train"]
    folder = tmp_path / "run" / "dataset"
    (folder / records[0].name).write_bytes(
        (folder / records[1].name).read_bytes().ljust(records[0].size_bytes, b"\0")[: records[0].size_bytes]
    )
    again = preparing.opened(settings)
    split = again.split("train")
    assert split is not None
    with pytest.raises(errors.IntegrityError, match=f"expected SHA-256 {records[0].sha256}, found "):
        split.lengths(0, 1)
    with pytest.raises(errors.IntegrityError):
        again.verify()


def test_a_shard_that_is_a_link_out_of_the_dataset_is_refused(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = preparing.config(tmp_path / "run", pairs)
    preparing.run(settings)
    shard = tmp_path / "run" / "dataset" / preparing.opened(settings).index.splits["train"][0].name
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.IntegrityError, match="is a link out of the dataset"):
        preparing.opened(settings)


def test_a_root_that_is_in_use_is_not_prepared(tmp_path: Path, pairs: dict[str, Any]) -> None:
    settings = preparing.config(tmp_path / "run", pairs, cluster={"address": "none"})
    (tmp_path / "run.yaml").write_text(loading.dump(settings))
    command = [sys.executable, "-m", "jobs", "prepare", str(tmp_path / "run.yaml")]
    with run_lock.RunLock(location.Location.parse(settings.root), "prepare"):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 6, second.stderr
    assert f"is in use by prepare on host {socket.gethostname()} (process {os.getpid()}," in second.stderr
    assert not (tmp_path / "run" / "dataset").exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
