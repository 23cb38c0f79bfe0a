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
    name = plain_name(name.removesuffix(".zip"))
    for extension in (*TABLES, ".txt"):
        if name.endswith(extension):
            return name.removesuffix(extension)
    return name
