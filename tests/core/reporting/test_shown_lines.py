"""Lines as a page shows them: which of them stand under which title."""

from typing import Any

from core.reporting import shown_lines


def row(line: int, is_drawn: bool, extreme: str | None, chrf: float | None) -> dict[str, Any]:
    return {"line": line, "is_drawn": is_drawn, "extreme": extreme, "chrf": chrf, "map": f"map {line}"}


def test_a_line_of_two_groups_shows_its_attention_map_once() -> None:
    rows = [
        row(0, is_drawn=True, extreme="worst", chrf=3.0),
        row(1, is_drawn=False, extreme="worst", chrf=2.0),
        row(2, is_drawn=False, extreme="best", chrf=90.0),
        row(3, is_drawn=False, extreme="best", chrf=95.0),
        # Neither: it has a map alone.
        row(4, is_drawn=False, extreme=None, chrf=None),
    ]
    groups = [[(member["line"], member["map"]) for member in members] for _, members in shown_lines.by_extreme(rows)]
    assert groups == [
        [(0, "map 0"), (4, "map 4")],
        [(1, "map 1"), (0, None)],
        [(3, "map 3"), (2, "map 2")],
    ]
