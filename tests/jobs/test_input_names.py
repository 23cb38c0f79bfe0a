"""Inputs of a command line, the files that pair with them, and the folder that their results go to."""

import os
import pathlib
from typing import Any

import pytest

from core import errors
from jobs import input_names


def _touch(folder: pathlib.Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")


def _found(folder: pathlib.Path, named: Any, aligned: Any = None) -> dict[str, list[str]]:
    def located(names: Any) -> Any:
        return f"{folder}/{names}" if isinstance(names, str) else names and tuple(f"{folder}/{name}" for name in names)

    found = input_names.find(located(named), located(aligned), "--targets")
    return {each.stem: [str(file).removeprefix(f"{folder}/") for file in each.files] for each in found.inputs}


def test_a_single_file_has_no_name_for_its_results(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "[a].txt", "t.txt")
    assert _found(tmp_path, "[a].txt") == {"": ["[a].txt"]}
    assert _found(tmp_path, "[a].txt", "t.txt") == {"": ["[a].txt", "t.txt"]}


def test_results_are_named_without_the_extensions_of_format_and_compression(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "in/b.txt.gz", "in/a.en", "in/c.jsonl.zst", "in/d.parquet", "in/e.2016.zip", ".txt")
    expected = {"a.en": "a.en", "b": "b.txt.gz", "c": "c.jsonl.zst", "d": "d.parquet", "e.2016": "e.2016.zip"}
    assert _found(tmp_path, "in") == {stem: [f"in/{name}"] for stem, name in expected.items()}
    assert _found(tmp_path, ".t*") == {".txt": [".txt"]}


def test_the_order_of_names_does_not_matter(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "a.txt", "b.txt")
    assert list(_found(tmp_path, ["b.txt", "a.txt"])) == ["a", "b"]
    assert list(_found(tmp_path, "*.txt")) == ["a", "b"]


def test_a_glob_keeps_the_folders_below_its_first_wildcard(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "in/x/a.txt", "in/y/a.txt", "in/y/z/a.txt")
    assert list(_found(tmp_path, "in/**/*.txt")) == ["x/a", "y/a", "y/z/a"]


@pytest.mark.parametrize("names", [["x/a.txt", "y/a.txt"], ["x/a.txt", "x/a.txt.gz"], ["x/a.txt", "x/a.jsonl"]])
def test_two_inputs_of_one_name_are_refused(tmp_path: pathlib.Path, names: list[str]) -> None:
    _touch(tmp_path, "x/a.txt", "y/a.txt", "x/a.txt.gz", "x/a.jsonl")
    with pytest.raises(errors.UsageError, match=rf"--input: .*/{names[0]} and .*/{names[1]} have the same name, a,"):
        _found(tmp_path, names)


def test_targets_pair_by_name_without_extensions(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "in/a.txt", "in/b.txt.gz", "out/b.jsonl", "out/a.jsonl")
    assert _found(tmp_path, "in", "out") == {
        "a": ["in/a.txt", "out/a.jsonl"],
        "b": ["in/b.txt.gz", "out/b.jsonl"],
    }
    assert _found(tmp_path, "in", ["out/a.jsonl", "out/b.jsonl"]) == _found(tmp_path, "in", "out")


def test_targets_pair_by_name_without_the_endings_of_two_languages(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "a.en.gz", "b.en.gz", "a.de", "b.de", "out/a.en.jsonl", "out/b.en.jsonl")
    assert _found(tmp_path, "*.en.gz", "*.de") == {"a.en": ["a.en.gz", "a.de"], "b.en": ["b.en.gz", "b.de"]}
    assert _found(tmp_path, "*.en.gz", "out") == {
        "a.en": ["a.en.gz", "out/a.en.jsonl"],
        "b.en": ["b.en.gz", "out/b.en.jsonl"],
    }


def test_an_input_or_target_without_a_partner_is_named(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "in/a.txt", "in/b.txt", "one/a.txt", "three/a.txt", "three/b.txt", "three/c.txt")
    with pytest.raises(errors.UsageError, match=r"^--targets: no file has the name of .*/in/b\.txt \(b\); files pair"):
        _found(tmp_path, "in", "one")
    with pytest.raises(errors.UsageError, match=r"^--targets: .*/three/c\.txt \(c\) has no input of its name"):
        _found(tmp_path, "in", "three")
    with pytest.raises(errors.UsageError, match=r"^--targets: names several files, but --input names one"):
        _found(tmp_path, "in/a.txt", "three")
    with pytest.raises(errors.UsageError, match=r"^--targets: .*/nope does not exist"):
        _found(tmp_path, "in", "nope")


def test_standard_input_is_read_alone(tmp_path: pathlib.Path) -> None:
    assert input_names.find("-", None, "--targets").inputs == []
    with pytest.raises(errors.UsageError, match=r"^--input: standard input cannot be combined with other inputs"):
        input_names.find((str(tmp_path), "-"), None, "--targets")


def test_a_descriptor_has_no_name_for_its_results(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "a.txt")
    reader, writer = os.pipe()
    with pytest.raises(errors.UsageError, match=rf"/dev/fd/{reader} has no name for the file of its results"):
        input_names.find((f"{tmp_path}/a.txt", f"/dev/fd/{reader}"), None, "--targets")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("output", "format_", "message"),
    [
        ("-", None, r"several inputs give a folder of files, not standard output; name a folder"),
        ("out.txt", None, r"out\.txt is a file; name a folder, and the format with --format txt"),
        ("a.txt", None, r"a\.txt is a file; name a folder"),
        ("a.txt/", None, r"a\.txt/ is a file; name a folder"),
        ("out", "txt", None),
        ("out.parquet/", None, None),
    ],
)
def test_the_output_of_several_inputs_is_a_folder(
    tmp_path: pathlib.Path, output: str, format_: Any, message: str | None
) -> None:
    _touch(tmp_path, "a.txt", "b.txt")
    found = input_names.find(f"{tmp_path}/*.txt", None, "--targets")
    output = output if output == "-" else f"{tmp_path}/{output}"
    if message is None:
        input_names.check_output(found, output, format_)
    else:
        with pytest.raises(errors.UsageError, match=f"^--output: .*{message}"):
            input_names.check_output(found, output, format_)


def test_a_single_input_has_the_format_of_its_output(tmp_path: pathlib.Path) -> None:
    _touch(tmp_path, "a.txt")
    found = input_names.find(f"{tmp_path}/a.txt", None, "--targets")
    with pytest.raises(errors.UsageError, match=r"^--format: is for several inputs; the ending of --output gives"):
        input_names.check_output(found, f"{tmp_path}/out.txt", "txt")
