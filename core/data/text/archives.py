"""How a member of an archive is written: `zip://folder/name.txt::archive.zip`, as fsspec chains them."""

_SCHEME, _CHAIN = "zip://", "::"


def split(text: str) -> tuple[str, str]:
    """Cuts what a user wrote into the name of a member, empty where none is named, and the location of a file."""
    if not text.startswith(_SCHEME) or _CHAIN not in text:
        return "", text
    member, _, place = text.removeprefix(_SCHEME).partition(_CHAIN)
    return member, place


def join(member: str, place: str) -> str:
    """Puts together what `split` cut."""
    return f"{_SCHEME}{member}{_CHAIN}{place}" if member else place
