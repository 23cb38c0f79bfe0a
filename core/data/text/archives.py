"""Names of archive members: `zip://folder/name.txt::archive.zip`, as fsspec chains URLs.

Apart from `compression`, so that the command line checks paths without loading pyarrow.
"""

_SCHEME, _CHAIN = "zip://", "::"


def split(text: str) -> tuple[str, str]:
    """Splits a name into the member (empty if none is named) and the path or URL of the file."""
    # Only both together are a chain: a local file may have `::` in its name.
    if not text.startswith(_SCHEME) or _CHAIN not in text:
        return "", text
    member, _, url = text.removeprefix(_SCHEME).partition(_CHAIN)
    return member, url


def join(member: str, url: str) -> str:
    """Joins a member and a path or URL; the inverse of `split`."""
    return f"{_SCHEME}{member}{_CHAIN}{url}" if member else url
