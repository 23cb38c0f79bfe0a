"""JSON documents that commands print and store."""

import json
from typing import Any

from core.storage import json_values


def encode(value: Any, one_line: bool = False) -> str:
    """Encodes a value as JSON text that ends in a line feed; see `json_values.plain` for the conversion."""
    return (
        json.dumps(json_values.plain(value), ensure_ascii=False, allow_nan=False, indent=None if one_line else 2) + "\n"
    )
