"""Inspection: every file of an artefact is verified, and an error names the damaged one."""

import pathlib
import shutil

import pytest

from core import errors
from core.data.dataset import shards
from core.decoding.translation import shortlist
from core.storage import location
from jobs import inspect
from tests import reporters


def describe(path: pathlib.Path) -> dict[str, object]:
    return inspect.run(location.Location.parse(str(path)), reporters.SilentReporter())


@pytest.fixture
def copy(runs: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a copy of the translation run, which a test may damage."""
    return pathlib.Path(shutil.copytree(runs / "translation", tmp_path / "run"))


def test_lines_of_splits_and_drops_sum_to_the_lines_read(runs: pathlib.Path) -> None:
    description = describe(runs / "translation" / "dataset")
    splits, drops = description["splits"], description["drops"]
    assert isinstance(splits, dict)
    assert isinstance(drops, dict)
    assert sum(split["lines"] for split in splits.values()) + sum(drops.values()) == 200
    assert (description["kind"], description["of"], description["verified"]) == ("dataset", "pairs", True)


def test_a_run_is_described_with_its_checkpoints_and_outputs(runs: pathlib.Path) -> None:
    description = describe(runs / "translation")
    checkpoints, outputs = description["checkpoints"], description["outputs"]
    assert isinstance(checkpoints, dict)
    assert isinstance(outputs, dict)
    assert description["kind"] == "run"
    assert {checkpoint["model"] for checkpoint in checkpoints.values()} == {"seq2seq"}
    assert set(outputs) == {"translations.jsonl.parts", "scores.jsonl.parts"}
    assert all(output["complete"] for output in outputs.values())


DAMAGED = (
    "dataset/index.json",
    "dataset/tokenizer*.json",
    "dataset/shards-*.arrow",
    "dataset/train/part-*.arrow",
    "checkpoints/*/MANIFEST.json",
    "checkpoints/*/bundle/model.safetensors",
    "checkpoints/*/training/progress.json",
    "outputs/scores.jsonl.parts/*.arrow",
    "outputs/translations.jsonl",
)


@pytest.mark.parametrize("pattern", DAMAGED)
@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_an_error_names_the_damaged_file(pattern: str, damage: str, copy: pathlib.Path) -> None:
    path = sorted(copy.glob(pattern))[0]
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:middle] if damage == "cut" else content[:middle] + b"\x01" + content[middle + 1 :])
    if damage == "removed" and path.name in ("index.json", "MANIFEST.json"):
        return  # without its manifest it is not an artefact
    with pytest.raises(errors.IntegrityError) as caught:
        describe(copy)
    assert path.name in str(caught.value)


def test_shortlists_of_a_run_are_verified(copy: pathlib.Path) -> None:
    sizes = describe(copy / "dataset")["vocabulary_sizes"]
    stored = shortlist.prepare(
        location.Location.parse(str(copy)), shards.Dataset.open(location.Location.parse(str(copy / "dataset"))), 3
    )
    assert describe(copy)["shortlists"] == {stored.name: {"candidates": 3, "vocabulary_sizes": sizes}}
    path = copy / "shortlists" / stored.name
    intact = path.read_bytes()
    for damaged in (intact[:-1], intact[:-1] + bytes([intact[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(errors.IntegrityError, match=stored.name):
            describe(copy)


def test_a_merged_output_file_selects_its_folder_of_parts(runs: pathlib.Path) -> None:
    assert describe(runs / "translation" / "outputs" / "translations.jsonl")["complete"] is True


@pytest.mark.parametrize(
    "pattern",
    ["dataset/index.json", "checkpoints/*/MANIFEST.json", "outputs/*.parts/_MANIFEST.json", "config.yaml", "run.json"],
)
def test_a_manifest_stands_for_what_it_describes(runs: pathlib.Path, pattern: str) -> None:
    file = sorted((runs / "translation").glob(pattern))[0]
    assert describe(file) == describe(file.parent)


def test_the_manifest_beside_a_file_stands_for_the_file(copy: pathlib.Path) -> None:
    merged = copy / "outputs" / "translations.jsonl"
    beside = merged.with_name("translations.jsonl.manifest.json")
    assert describe(beside) == describe(merged)


def test_an_unfinished_output_has_the_number_of_committed_parts(copy: pathlib.Path) -> None:
    parts = copy / "outputs" / "scores.jsonl.parts"
    (parts / "_MANIFEST.json").unlink()
    description = describe(parts)
    assert (description["complete"], description["parts_done"]) == (False, len(list((parts / "_commits").iterdir())))
    (copy / "dataset" / "index.json").unlink()
    assert describe(copy / "dataset")["kind"] == "unfinished"
    checkpoint = sorted((copy / "checkpoints").iterdir())[0]
    (checkpoint / "MANIFEST.json").unlink()
    with pytest.raises(errors.UsageError, match="not a dataset, checkpoint"):
        describe(checkpoint)


def test_other_files_and_folders_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "a.txt", tmp_path / "nothing"):
        with pytest.raises(errors.UsageError, match=str(path)):
            describe(path)
