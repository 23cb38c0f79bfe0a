"""Recognition of corpora by their files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.data.text import recognition
from core.storage import location

PAIRS = [("Go on.", "Continue."), ("I see a cat.", "Je vois un chat."), ("Wait here.", "Attends ici.")] * 10


def _recognize(tmp_path: Path, *files: Path, kind: recognition.Kind | None = None) -> recognition.Recognized:
    return recognition.recognize(
        [str(file) for file in files], kind, location.Location.parse(str(tmp_path / "scratch"))
    )


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lines_with_tabs_are_pairs_of_the_first_two_columns_of_text(tmp_path: Path) -> None:
    # As Tatoeba exports them: number, language, sentence, number, language, sentence.
    rows = [f"{number}\teng\t{a} {number}\t{number + 7}\tfra\t{b} {number}" for number, (a, b) in enumerate(PAIRS * 4)]
    recognized = _recognize(tmp_path, _write(tmp_path / "a.tsv", rows))
    assert (recognized.kind, recognized.columns) == ("pairs", (2, 5))
    assert recognized.source == {"tsv": [str(tmp_path / "a.tsv")], "columns": [2, 5]}
    assert any("not used: 0, 1, 3, 4" in note for note in recognized.notes)


@pytest.mark.parametrize("target", ["2026-01-31", "1,250", "yes"])
def test_both_columns_of_two_are_sides_also_without_letters_or_with_few_labels(tmp_path: Path, target: str) -> None:
    rows = [f"the {number}th of something\t{target}" for number in range(100)]
    assert _recognize(tmp_path, _write(tmp_path / "a.tsv", rows)).columns == (0, 1)


def test_a_header_names_the_sides_and_may_swap_them(tmp_path: Path) -> None:
    rows = ["target\tsource", *(f"{b}{n}\t{a}{n}" for n, (a, b) in enumerate(PAIRS))]
    recognized = _recognize(tmp_path, _write(tmp_path / "a.txt", rows))
    assert recognized.columns == (1, 0)
    assert any("remove the first line" in note for note in recognized.notes)


def test_two_files_of_equal_length_are_sides_and_others_are_text(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.en", [a for a, _ in PAIRS])
    target = _write(tmp_path / "a.fr", [b for _, b in PAIRS])
    assert _recognize(tmp_path, source, target).source == {"source": [str(source)], "target": [str(target)]}
    assert _recognize(tmp_path, source, target, kind="text").source == {"text": [str(source), str(target)]}
    assert _recognize(tmp_path, tmp_path).kind == "text", "a folder of two files is one text"
    shorter = _write(tmp_path / "b.fr", ["one line"])
    assert _recognize(tmp_path, source, shorter).kind == "text"
    with pytest.raises(errors.DataError, match=r"has 30 lines, but .* has 1; align them"):
        _recognize(tmp_path, source, shorter, kind="pairs")


@pytest.mark.parametrize(
    ("row", "kind", "chosen"),
    [
        ({"id": 1, "de": "zwei Wörter", "en": "two words"}, "pairs", ["de", "en"]),
        ({"answer": "b", "question": "a", "note": "c"}, "pairs", ["question", "answer"]),
        ({"title": "a", "text": "b", "url": "c"}, "text", ["text"]),
        ({"left": "a", "right": "b"}, "pairs", ["left", "right"]),
    ],
)
def test_the_columns_of_a_table_are_chosen_by_their_names(
    tmp_path: Path, row: dict[str, Any], kind: str, chosen: list[str]
) -> None:
    jsonl = _write(tmp_path / "a.jsonl", [json.dumps(row)] * 3)
    parquet.write_table(pa.Table.from_pylist([row] * 3), tmp_path / "a.parquet")
    for file in (jsonl, tmp_path / "a.parquet"):
        recognized = _recognize(tmp_path, file)
        assert (recognized.kind, recognized.source["columns"]) == (kind, chosen)


def test_a_compressed_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text\nof two lines\n"))
    recognized = _recognize(tmp_path, tmp_path / "a.txt.gz")
    assert recognized.kind == "text"
    assert recognized.groups[0][0].read_bytes() == b"some text\nof two lines\n"


def test_files_of_no_use_are_refused_with_the_reason(tmp_path: Path) -> None:
    empty = _write(tmp_path / "empty.txt", [])
    empty.write_bytes(b"")
    numbers = _write(tmp_path / "n.tsv", ["1\t2", "3\t4"])
    nested = _write(tmp_path / "n.jsonl", [json.dumps({"translation": {"en": "a", "de": "b"}})])
    text = _write(tmp_path / "a.txt", ["one", "two"])
    for files, message in [
        ((empty,), "is empty"),
        ((numbers,), "of its 2 columns none has text"),
        ((nested,), "object in column 'translation'"),
        ((nested, text), "mixed"),
        ((tmp_path / "missing.txt",), "matches no file"),
    ]:
        with pytest.raises(errors.DataError, match=message):
            _recognize(tmp_path, *files)
    with pytest.raises(errors.DataError, match="is not a file of pairs"):
        _recognize(tmp_path, text, kind="pairs")
