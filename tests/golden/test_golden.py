"""Backward compatibility with release 0.1: its runs can be used and resumed, and all its fields are still written.

Everything goes through the command line, as a user who has updated the program does it; `make.py` beside this file
says what the golden roots are and how they were made.
"""

import json
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.golden import make

STORED: dict[str, dict[str, make.Document]] = json.loads(make.DOCUMENTS.read_text(encoding="utf-8"))
KEYS: dict[str, make.Keys] = json.loads(make.KEYS.read_text(encoding="utf-8"))
KINDS = tuple(make.USES)
RESUMABLE = tuple(kind for kind in KINDS if kind not in make.NOT_RESUMABLE)
FOLDERS = [(kind, use) for kind, uses in make.USES.items() for use in uses if use.folder]
HALVES = [(kind, use) for kind, use in FOLDERS if use.has_half]
TOLERANCE = 1e-4
# What differs each time, and where a test has its output elsewhere.
TIMES = {"elapsed_s", "lines_per_s", "output", "mixture"}


def run(words: Sequence[str]) -> make.Document:
    """Does what `python -m jobs` does with these words, in this process; returns the document that it prints."""
    arguments, on_signal = sys.argv, signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryFile() as out:
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            sys.argv = ["jobs", *words]
            with pytest.raises(SystemExit) as ended:
                runpy.run_module("jobs", run_name="__main__", alter_sys=True)
        finally:
            sys.argv = arguments
            signal.signal(signal.SIGTERM, on_signal)
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.close(stdout)
        out.seek(0)
        assert ended.value.code == 0, " ".join(words)
        document: make.Document = json.loads(out.read())
    return document


def restored(kind: str, folder: Path) -> Path:
    """Copies a golden root to a folder."""
    return Path(shutil.copytree(make.ROOTS / kind, folder / kind))


# Verbs with --run write metrics beside an output only where a port for them is set.
NOT_ASKED_FOR = ("outputs/metrics/targets.json",)
# Version 2 of the index of a dataset has these of each shard in a table beside it (`core.data.dataset.shard_table`).
IN_TABLE = tuple(
    f"splits.{split}.{field}" for split in ("train", "valid", "test") for field in ("name", "sha256", "size_bytes")
)


def check_same(actual: Any, stored: Any, where: str = "") -> None:
    """Makes sure that a value has all that the stored one has: numbers nearly, everything else exactly."""
    if isinstance(stored, dict):
        for name in stored.keys() - TIMES:
            assert name in actual, f"{where}.{name} is missing"
            check_same(actual[name], stored[name], f"{where}.{name}")
    elif isinstance(stored, list):
        assert len(actual) == len(stored), where
        for number, value in enumerate(stored):
            check_same(actual[number], value, f"{where}[{number}]")
    elif isinstance(stored, float):
        assert actual == pytest.approx(stored, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True), where
    else:
        assert (type(actual), actual) == (type(stored), stored), where


def stored_document(kind: str, name: str, root: Path) -> make.Document:
    """Returns what a command printed when the root was made, with places as they are now."""
    text = json.dumps(STORED[kind][name])
    text = text.replace(f"{make.PLACE}/texts", str(make.TEXTS)).replace(f"{make.PLACE}/{kind}", str(root))
    document: make.Document = json.loads(text)
    return document


def rows(folder: Path) -> list[dict[str, Any]]:
    """Reads the rows of a finished folder of parts, in the order of its manifest."""
    manifest = json.loads((folder / make.MANIFEST).read_text())
    tables = [pa.ipc.open_file((folder / name).read_bytes()).read_all() for name in manifest["shards"]]
    return [row for table in tables for row in table.to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    """Reads every file of a folder but those of locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and "_lock" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def name_of(value: object) -> str:
    """Names a use for the list of tests."""
    return value.name if isinstance(value, make.Use) else str(value)


@pytest.mark.parametrize(("kind", "use"), FOLDERS, ids=name_of)
def test_a_run_of_release_01_gives_its_stored_results(kind: str, use: make.Use, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    document = run(use.command(root, make.TEXTS, "again"))
    check_same(document, stored_document(kind, use.name, root))
    check_same(rows(root / "outputs" / "again"), rows(make.ROOTS / kind / "outputs" / use.folder))


@pytest.mark.parametrize("kind", ["language-model", "ngram"])
def test_a_run_generates_its_stored_text(kind: str, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    use = make.USES[kind][-1]
    check_same(run(use.command(root, make.TEXTS)), stored_document(kind, use.name, root))


@pytest.mark.parametrize(("kind", "use"), FOLDERS, ids=name_of)
def test_a_finished_folder_is_done_and_left_alone(kind: str, use: make.Use, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    folder = root / "outputs" / use.folder
    before = contents(folder)
    document = run(use.command(root, make.TEXTS))
    assert contents(folder) == before
    assert document.get("lines_per_s", 0) == 0, "lines were done that had been done"
    assert document["already_done"]
    summary = json.loads(before[make.MANIFEST])["summary"]
    assert {name: document[name] for name in summary} == summary


@pytest.mark.parametrize(("kind", "use"), HALVES, ids=name_of)
def test_a_half_done_folder_is_finished(kind: str, use: make.Use, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    folder = root / "outputs" / (use.folder + make.HALF)
    before = contents(folder)
    assert make.MANIFEST not in before
    document = run(use.command(root, make.TEXTS, folder.name))
    after = contents(folder)
    assert {name: after[name] for name in before} == before, "what was done was done again"
    assert document["lines_per_s"] > 0
    assert not document["already_done"]
    finished = rows(make.ROOTS / kind / "outputs" / use.folder)
    check_same(rows(folder), finished)
    assert [list(row) for row in rows(folder)] == [list(row) for row in finished], "its rows have two forms"
    check_same(document, stored_document(kind, use.name, root))


@pytest.mark.parametrize("kind", RESUMABLE)
def test_training_resumes_from_a_checkpoint_of_release_01(kind: str, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    before = contents(root)
    step = STORED[kind]["train"]["step"]
    more = make.settings(f"root={root}", f"training.max_steps={step + 5}")
    document = run(["train", str(root / "config.yaml"), *more])
    assert (document["already_done"], document["step"], document["start"]) == (False, step + 5, 2)
    assert document["passed_over"] == []
    assert document["num_tokens"] > STORED[kind]["train"]["num_tokens"]
    checkpoint = Path(document["checkpoint"])
    assert checkpoint.parent == root / "checkpoints"
    assert checkpoint.name not in {path.name for path in (make.ROOTS / kind / "checkpoints").iterdir()}
    assert run(["inspect", str(checkpoint)])["step"] == step + 5
    (segment,) = root.glob("metrics/e2-*.jsonl")
    steps = [json.loads(line)["step"] for line in segment.read_text().splitlines()]
    assert steps[0] > step
    assert contents(root)["config.yaml"] == before["config.yaml"]
    (change,) = json.loads((root / "run.json").read_text())["changes"]
    assert (change["old"], change["new"]) == (step, step + 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_of_release_01_is_already_done_in_its_run(kind: str, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    before = contents(root / "dataset"), contents(root / "checkpoints")
    words = [str(make.CONFIGS / f"{kind}.yaml"), *make.settings(f"root={root}"), *make.sources(kind, make.TEXTS)]
    prepared, trained = run(["prepare", *words]), run(["train", *words])
    assert (contents(root / "dataset"), contents(root / "checkpoints")) == before
    check_same(prepared, {**stored_document(kind, "prepare", root), "already_done": True})
    check_same(trained, {**stored_document(kind, "train", root), "already_done": True})
    assert json.loads((root / "run.json").read_text())["changes"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_is_verified_and_reported(kind: str, tmp_path: Path) -> None:
    root = restored(kind, tmp_path)
    inspected = run(["inspect", str(root)])
    check_same(inspected, stored_document(kind, "inspect", root))
    for name, described in inspected["checkpoints"].items():
        assert name.endswith(f"-e{described['fencing_number']}")
    run(["report", str(root)])
    assert json.loads((root / "report.json").read_text())["name"] == f"golden-{kind}"
    assert f"golden-{kind}" in (root / "report.html").read_text()


@pytest.mark.parametrize("kind", ["translation", "language-model", "ngram", "series"])
def test_every_stored_field_is_still_written(kind: str, tmp_path: Path) -> None:
    root = tmp_path / kind
    actual = make.keys(root, make.exercise(run, kind, root, make.TEXTS))
    missing = [
        f"{part} {name}: {key}"
        for part, named in KEYS[kind].items()
        for name, old in named.items()
        if name not in NOT_ASKED_FOR
        for key in sorted(set(old) - set(actual[part].get(name, [])))
        if not (kind != "series" and name == "dataset/index.json" and key in IN_TABLE)
    ]
    assert not missing
