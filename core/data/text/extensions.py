"""Extensions of file names: those of compression and of tables."""

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
UNPACKED = (*COMPRESSED, ".zip")
JSON = (".jsonl", ".ndjson")
TABLES = (*JSON, ".parquet")


def plain_name(name: str) -> str:
    """Returns the name of a file without the extensions of its compression."""
    for extension in COMPRESSED:
        name = name.removesuffix(extension)
    return name


def stem(name: str) -> str:
    """Returns the name of a file without the extensions of compression and format; others belong to the name."""
    plain = plain_name(name.removesuffix(".zip"))
    extension = next((each for each in (*TABLES, ".txt") if plain.endswith(each)), "")
    return plain.removesuffix(extension) or name  # `.txt` is a name, too
