"""Rows of results, read back from their tables."""

from typing import Any

import pyarrow as pa

from core.decoding.lines import results


def from_table(kind: results.Kind, table: pa.Table) -> list[results.Result]:
    """Inverts `results.to_table`; fields that have no column are 0."""
    return [_result(kind, row) for row in table.to_pylist()]


def _result(kind: results.Kind, row: dict[str, Any]) -> results.Result:
    fields = {name: value for name, value in row.items() if name != "line"}
    if kind == "scores":
        if fields["tokens"] is not None:
            fields["tokens"] = tuple(results.TokenScore(**token) for token in fields["tokens"])
        return results.Score(**fields)
    fields["alternatives"] = tuple(results.Alternative(**item) for item in fields["alternatives"] or ())
    fields["alignment"] = None if fields["alignment"] is None else tuple(fields["alignment"])
    return results.Translation(**fields)
