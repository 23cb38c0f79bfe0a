"""Writer of YAML, for configurations that people read and edit."""

from typing import Any

import yaml


def document(value: Any) -> str:
    """Returns a value as a YAML document, in the order of its keys."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def flow(value: Any) -> str:
    """Returns a value on one line: `{a: [1, 2], b: text}`."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")  # the end of a document follows a plain value
