"""Writer of YAML, for configurations that people read and edit."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice twice: the reader of configurations refuses aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Returns True: for all values."""
        return True


def document(value: Any) -> str:
    """Returns a value as a YAML document, in the order of its keys."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def flow(value: Any) -> str:
    """Returns a value on one line: `{a: [1, 2], b: text}`."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")  # the end of a document follows a plain value
