"""Attention maps."""

import re
import xml.etree.ElementTree

import pytest

from core.reporting import attention_map

_SVG = "{*}"


def cells(svg: str) -> list[tuple[int, int, float]]:
    """Returns row, column and weight of each cell in the map."""
    root = xml.etree.ElementTree.fromstring(svg)
    field, *rects = root.findall(f"{_SVG}rect")
    left, top = float(field.attrib["x"]), float(field.attrib["y"])
    return [
        (
            round((float(cell.attrib["y"]) - top) / attention_map.CELL),
            round((float(cell.attrib["x"]) - left) / attention_map.CELL),
            float(cell.attrib["opacity"]),
        )
        for cell in rects
    ]


def test_the_map_of_identity_weights_is_the_diagonal() -> None:
    words = ["a", "b", "c", "<eos>"]
    weights = [[1.0 if row == column else 0.0 for column in range(4)] for row in range(4)]
    svg = attention_map.draw("copy", {"source": words, "target": words, "weights": weights})
    assert cells(svg) == [(index, index, 1.0) for index in range(4)]


def test_rows_are_target_tokens_and_columns_source_tokens() -> None:
    svg = attention_map.draw(
        "t", {"source": ["x", "y", "z"], "target": ["p", "q"], "weights": [[0, 0, 1], [0.25, 0.75, 0]]}
    )
    assert cells(svg) == [(0, 2, 1.0), (1, 0, 0.25), (1, 1, 0.75)]
    assert re.findall(r"<title>([^<]*)</title>", svg) == ["p → z: 1.00", "q → x: 0.25", "q → y: 0.75"]


def test_cells_are_inside_the_view_box_and_texts_are_escaped() -> None:
    svg = attention_map.draw(
        '"<i>"', {"source": ["<a&b>", " "], "target": [" extraordinarily"], "weights": [[0.5, 0.5]]}
    )
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == '"<i>"'
    assert [text.text for text in root.iter() if text.tag.endswith("text")] == ["<a&b>", "' '", "extraordinarily"]
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for cell in root.findall(f"{_SVG}rect"):
        assert float(cell.attrib["x"]) + float(cell.attrib["width"]) <= width
        assert float(cell.attrib["y"]) + float(cell.attrib["height"]) <= height


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("Le père n'est pas là.", ["Le", " père", " n", "'", "est", " pas", " là", ".", "<eos>"], True),
        ("il est là", ["il", "est", "las", "<eos>"], False),
        ("il est Paul", ["il", "est", "<unk>", "<eos>"], True),
    ],
)
def test_a_map_of_another_translation_is_detected(text: str, tokens: list[str], expected: bool) -> None:
    assert attention_map.matches(text, {"target": tokens}) is expected
