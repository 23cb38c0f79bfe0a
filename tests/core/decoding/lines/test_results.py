"""Laws of results: every format keeps all rows, in order, one output line for each input line."""

import json
import pathlib

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.decoding.lines import results
from tests.core.decoding.lines import rows as rows_of

TRANSLATIONS = [
    results.Translation("le chat", -1.25, 3, (results.Alternative("un chat", -1.0, -0.5),), (0, 1, 2), None, -0.375),
    results.Translation("", 0.0, 0),
    results.Translation("a\nb\r\u2028é𝄞", -3.0, 2, (), ()),
    results.Translation("", None, 0, error="invalid_utf8"),
]
SCORES = [
    results.Score(1.5, 2, 1, tokens=(results.TokenScore("a", 0.5), results.TokenScore("<eos>", 1.0))),
    results.Score(float("inf"), 1, 0),
    results.Score(None, 0, 0, error="invalid_utf8"),
]


@pytest.mark.parametrize(("kind", "rows"), [("translations", TRANSLATIONS), ("scores", SCORES)])
def test_write_then_read_is_identity(kind: results.Kind, rows: list[results.Result]) -> None:
    table = results.to_table(kind, 10, rows)
    read = results.decode(kind, results.encode(table), "here")
    assert read.column("line").to_pylist() == list(range(10, 10 + len(rows)))
    assert rows_of.from_table(kind, read) == rows


@pytest.mark.parametrize("extension", results.EXTENSIONS)
def test_a_merged_file_has_the_rows_of_all_parts_in_order(extension: str, tmp_path: pathlib.Path) -> None:
    parts = [results.to_table("translations", 0, TRANSLATIONS[:1]), results.to_table("translations", 1, [])]
    parts.append(results.to_table("translations", 1, TRANSLATIONS[1:]))
    path = tmp_path / f"out{extension}"
    with path.open("wb") as file:
        results.write_file("translations", parts, extension, file)
    expected = results.to_table("translations", 0, TRANSLATIONS)
    if extension == ".parquet":
        assert parquet.read_table(path).equals(expected)
    elif extension == ".arrow":
        assert pa.ipc.open_file(path.read_bytes()).read_all().equals(expected)
    elif extension == ".jsonl":
        assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == expected.to_pylist()
    else:
        assert path.read_bytes().decode().split("\n") == ["le chat", "", "a b \u2028é𝄞", "", ""]


def test_infinite_and_missing_scores_as_text_and_json(tmp_path: pathlib.Path) -> None:
    table = results.to_table("scores", 0, SCORES)
    assert list(results.text_lines(table)) == ["1.500000", "inf", ""]
    assert [json.loads(line)["nll_nats"] for line in results.json_lines(table)] == [1.5, "inf", None]


def test_an_empty_output_is_a_valid_file(tmp_path: pathlib.Path) -> None:
    for extension in results.EXTENSIONS:
        with (tmp_path / f"out{extension}").open("wb") as file:
            results.write_file("scores", [], extension, file)
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 0
    assert (tmp_path / "out.txt").read_bytes() == b""


def test_damaged_parts_and_parts_of_another_kind_are_refused() -> None:
    data = results.encode(results.to_table("scores", 0, SCORES))
    with pytest.raises(errors.IntegrityError, match="cannot be read"):
        results.decode("scores", data[: len(data) // 2], "here")
    with pytest.raises(errors.IntegrityError, match="other columns"):
        results.decode("translations", data, "here")


def test_rows_of_invalid_text_are_refused() -> None:
    """Arrow reads back any bytes as text, unless it is asked to look."""
    data = results.encode(results.to_table("translations", 0, [results.Translation("le chat", -1.25, 3)]))
    assert data.count(b"le chat") == 1
    with pytest.raises(errors.IntegrityError, match="cannot be read"):
        results.decode("translations", data.replace(b"le chat", b"le\xffchat"), "here")


def test_an_unknown_ending_is_refused_with_the_known_ones() -> None:
    with pytest.raises(errors.UsageError, match=r"\.txt, \.jsonl, \.parquet, \.arrow"):
        results.extension_of("out.csv", "--output")


def test_rows_of_an_older_version_have_its_columns_and_are_read() -> None:
    older = results.to_table("translations", 0, TRANSLATIONS, row_version=1)
    assert older.column_names == ["line", "text", "score_nats", "num_tokens", "alternatives", "alignment", "error"]
    assert older.column("alternatives").to_pylist()[0] == [{"text": "un chat", "score_nats": -1.0}]
    assert results.decode("translations", results.encode(older), "here") == older
    newer = results.to_table("translations", 0, TRANSLATIONS)
    names = ["line", "text", "score_nats", "ranking_score", "num_tokens", "alternatives", "alignment", "error"]
    assert newer.column_names == names
    assert newer.column("alternatives").to_pylist()[0][0]["ranking_score"] == -0.5
