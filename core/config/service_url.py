"""URLs of services: checked, and without credentials, so that they may be stored, printed and compared."""

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import pydantic


def parse(text: str, default_scheme: str | None = None) -> SplitResult:
    """Splits the http(s) URL of a service.

    Args:
        text: as a user wrote it.
        default_scheme: scheme of a text that has none, such as `host:9091`; None refuses it.

    Raises:
        ValueError: it is no such URL, or has credentials; the message quotes nothing of it.
    """
    url = text if "://" in text or default_scheme is None else f"{default_scheme}://{text}"
    if not text.isprintable() or " " in text:
        raise ValueError("has spaces or control characters; write http://host:port")
    try:
        parts = urlsplit(url)
        # The property raises ValueError for an invalid port.
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not a valid URL; check its host and port") from None
    # An `@` behind a slash too: it is one of a password that holds a slash.
    if "@" in url:
        raise ValueError("holds credentials, which would be stored and logged; leave them out of the URL")
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError("is not the URL of a service; write http://host:port")
    if parts.query or parts.fragment:
        raise ValueError("has a query, which would be stored and logged; write http://host:port")
    return parts


def _checked(text: str) -> str:
    parse(text, default_scheme="http")
    return text


ServiceUrl = Annotated[str, pydantic.AfterValidator(_checked)]
"""A setting that is the URL of a service, or its host:port."""
