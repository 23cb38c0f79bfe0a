"""Inspecting: every file that an artefact names is checked, and the damaged one is named."""

import pathlib
import shutil

import pytest

from core import errors
from core.data.dataset import shards
from core.decoding.translation import shortlist
from core.storage import location
from jobs import console, inspect


def look(place: pathlib.Path) -> dict[str, object]:
    return inspect.run(location.Location.parse(str(place)), console.SilentReporter())


@pytest.fixture
def copy(runs: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(runs / "translation", tmp_path / "run"))


def test_a_dataset_adds_up_to_the_lines_that_were_read(runs: pathlib.Path) -> None:
    found = look(runs / "translation" / "dataset")
    splits, drops = found["splits"], found["drops"]
    assert isinstance(splits, dict)
    assert isinstance(drops, dict)
    assert sum(split["lines"] for split in splits.values()) + sum(drops.values()) == 200
    assert (found["kind"], found["of"], found["verified"]) == ("dataset", "pairs", True)


def test_a_run_holds_all_of_them(runs: pathlib.Path) -> None:
    found = look(runs / "translation")
    checkpoints, outputs = found["checkpoints"], found["outputs"]
    assert isinstance(checkpoints, dict)
    assert isinstance(outputs, dict)
    assert found["kind"] == "run"
    assert {checkpoint["model"] for checkpoint in checkpoints.values()} == {"seq2seq"}
    assert set(outputs) == {"translations.jsonl.parts", "scores.jsonl.parts"}
    assert all(output["complete"] for output in outputs.values())


DAMAGED = (
    "dataset/index.json",
    "dataset/tokenizer*.json",
    "dataset/train/*.arrow",
    "checkpoints/*/MANIFEST.json",
    "checkpoints/*/bundle/model.safetensors",
    "checkpoints/*/training/progress.json",
    "outputs/scores.jsonl.parts/*.arrow",
    "outputs/translations.jsonl",
)


@pytest.mark.parametrize("pattern", DAMAGED)
@pytest.mark.parametrize("how", ["changed", "cut", "removed"])
def test_a_damaged_file_is_named(pattern: str, how: str, copy: pathlib.Path) -> None:
    path = sorted(copy.glob(pattern))[0]
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:middle] if how == "cut" else content[:middle] + b"\x01" + content[middle + 1 :])
    if how == "removed" and path.name in ("index.json", "MANIFEST.json"):
        return  # without its manifest there is no artefact
    with pytest.raises(errors.IntegrityError) as caught:
        look(copy)
    assert path.name in str(caught.value)


def test_shortlists_are_part_of_a_run_and_a_damaged_one_is_named(copy: pathlib.Path) -> None:
    sizes = look(copy / "dataset")["vocabulary_sizes"]
    place = shortlist.prepare(
        location.Location.parse(str(copy)), shards.Dataset.open(location.Location.parse(str(copy / "dataset"))), 3
    )
    assert look(copy)["shortlists"] == {place.name: {"candidates": 3, "vocabulary_sizes": sizes}}
    path = copy / "shortlists" / place.name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(errors.IntegrityError, match=place.name):
            look(copy)


def test_a_merged_output_is_found_by_its_own_name(runs: pathlib.Path) -> None:
    assert look(runs / "translation" / "outputs" / "translations.jsonl")["complete"] is True


def test_an_unfinished_output_says_how_far_it_is(copy: pathlib.Path) -> None:
    parts = copy / "outputs" / "scores.jsonl.parts"
    (parts / "_MANIFEST.json").unlink()
    found = look(parts)
    assert (found["complete"], found["parts_done"]) == (False, len(list((parts / "_commits").iterdir())))
    (copy / "dataset" / "index.json").unlink()
    assert look(copy / "dataset")["kind"] == "unfinished"
    checkpoint = sorted((copy / "checkpoints").iterdir())[0]
    (checkpoint / "MANIFEST.json").unlink()
    with pytest.raises(errors.UsageError, match="is no dataset, checkpoint"):
        look(checkpoint)


def test_what_is_not_ours_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for place in (tmp_path, tmp_path / "a.txt", tmp_path / "nothing"):
        with pytest.raises(errors.UsageError, match=str(place)):
            look(place)
