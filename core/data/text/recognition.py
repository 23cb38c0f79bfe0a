"""Recognition of files: what kind of corpus they are, and the source settings that read them.

Decided by extensions and by the beginning of each file: tab-separated pairs, two aligned files, tables of text, or
plain text.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from core import errors
from core.config import corpus_settings
from core.data.text import compression, corpus, extensions, source_files, sources, tables
from core.storage import location

Kind = Literal["pairs", "text"]

SAMPLE_LINES = 1000
TAB_SHARE = 0.9
"""Share of lines with a tab from which on a file is read as tab-separated pairs."""
FEW_VALUES = 0.02
"""A column with a smaller share of different values holds labels, such as language codes, not sentences."""
_SOURCE_NAMES = ("source", "src", "input", "question", "prompt", "original")
_TARGET_NAMES = ("target", "tgt", "output", "answer", "completion", "translation")
_TEXT_NAMES = ("text", "content", "sentence", "document", "line", "body")
_LANGUAGES = (
    *("ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu"),
    *("id", "is", "it", "ja", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv"),
    *("ta", "th", "tr", "uk", "ur", "vi", "zh", "english", "french", "german", "spanish", "italian", "portuguese"),
    *("dutch", "russian", "chinese", "japanese", "korean", "arabic", "turkish", "polish", "czech", "swedish"),
)
_HEADER_NAMES = frozenset((*_SOURCE_NAMES, *_TARGET_NAMES, *_TEXT_NAMES, *_LANGUAGES))


class Recognized(NamedTuple):
    """Kind of a corpus, and the settings that read it.

    Attributes:
        kind: pairs or text.
        source: settings as under `corpus.train`.
        groups: plain files with its lines, as `survey` takes them.
        columns: of tab-separated lines: those of source and target.
        notes: sentences for the user: what was seen, and what was chosen for it.
    """

    kind: Kind
    source: Mapping[str, Any]
    groups: list[corpus.Group]
    columns: tuple[int, int] | None
    notes: list[str]


def recognize(files: Sequence[str], kind: Kind | None, scratch: location.Location) -> Recognized:
    """Recognizes files, folders or wildcards.

    Args:
        files: as the user names them.
        kind: pairs or text, where the user says so; None to decide.
        scratch: folder for plain copies of compressed files and tables.

    Raises:
        DataError: a file does not exist, is empty, or is of no kind that a corpus can be read from.
    """
    resolved = [group[0] for group in source_files.resolve(_source("text", files), "FILE", {})]
    is_table = [_plain_name(file).endswith(extensions.TABLES) for file in resolved]
    if any(is_table) and not all(is_table):
        raise errors.DataError("FILE: tables and other files are mixed; name files of one kind")
    if any(is_table):
        return _recognize_table(files, resolved, kind, scratch)
    plain = [sources.stage(file, scratch) for file in resolved]
    for file, copy in zip(resolved, plain, strict=True):
        if not copy.size_bytes():
            raise errors.DataError(f"{file}: is empty; name a file with text")
        sources.check(copy)
    rows = [_sample(copy) for copy in plain]
    if not any(rows):
        raise errors.DataError(f"{resolved[0]}: has no line with a word; name a file with text")
    with_tabs = [sum("\t" in line for line in lines) >= TAB_SHARE * len(lines) for lines in rows]
    if all(with_tabs) and kind != "text":
        return _recognize_tabs(files, plain, list(itertools.chain(*rows)))
    are_sides = len(files) == len(resolved) == 2  # named one by one: the files of a folder are one text
    if are_sides and kind != "text":
        counts = [corpus.count_block(copy, 0, copy.size_bytes()).num_lines for copy in plain]
        if counts[0] == counts[1]:
            notes = [f"Two files of {counts[0]:,} lines: the first is the source side, the second the target side."]
            return Recognized("pairs", {"source": [files[0]], "target": [files[1]]}, [tuple(plain)], None, notes)
        if kind == "pairs":
            raise errors.DataError(
                f"{resolved[0]}: has {counts[0]:,} lines, but {resolved[1]} has {counts[1]:,}; align them line by line"
            )
    if kind == "pairs":
        raise errors.DataError(
            f"{resolved[0]}: is not a file of pairs; give two aligned files, or lines of source, a tab and target"
        )
    notes = [f"Text of {len(plain)} {'file' if len(plain) == 1 else 'files'}, read as one stream."]
    if are_sides:
        notes.append("The two files have different numbers of lines, so they are not sides of pairs.")
    return Recognized("text", {"text": list(files)}, [(copy,) for copy in plain], None, notes)


def _source(form: str, files: Sequence[str], columns: Sequence[str] = ()) -> corpus_settings.SourceConfig:
    values: dict[str, Any] = {form: tuple(files)}
    return corpus_settings.SourceConfig(**values, **({"columns": tuple(columns)} if columns else {}))


def _plain_name(file: source_files.File) -> str:
    return extensions.plain_name(file.member or file.origin.name)


def _sample(file: location.Location) -> list[str]:
    """Returns the first lines of a plain file that can be read."""
    lines = file.read_range(0, min(file.size_bytes(), sources.SAMPLE_BYTES)).decode(errors="replace").split("\n")
    return [line for line in lines[:SAMPLE_LINES] if line.strip()]


def _recognize_tabs(files: Sequence[str], plain: Sequence[location.Location], lines: Sequence[str]) -> Recognized:
    rows = [line.rstrip("\r").split("\t") for line in lines]
    num_columns = max(len(row) for row in rows)
    values = [[row[column].strip() for row in rows if column < len(row)] for column in range(num_columns)]
    columns = [column for column in range(num_columns) if _is_text(values[column])]
    if num_columns == 2 and columns:
        columns = [0, 1]  # both are meant, also where one holds dates, numbers or labels
    if len(columns) < 2:
        which = f"only column {columns[0]} has text" if columns else "none has text"
        raise errors.DataError(
            f"{plain[0]}: is tab-separated, but of its {num_columns} columns {which}; "
            "keep the two that are source and target"
        )
    # The first line may have fewer columns than others.
    first = [*map(str.strip, rows[0]), *[""] * (num_columns - len(rows[0]))]
    header = [field.lower() for field in first]
    has_header = sum(name in _HEADER_NAMES for name in header) >= 2
    source, target = columns[:2]
    notes = [f"Tab-separated, {num_columns} columns: column {source} is the source side, column {target} the target."]
    if has_header:
        by_name = _sides([header[column] for column in columns])
        if by_name is not None:
            source, target = columns[by_name[0]], columns[by_name[1]]
        notes = [
            f"Tab-separated with a header: {first[source]} (column {source}) is the source side, "
            f"{first[target]} (column {target}) the target.",
            "The header is read as a pair, too; remove the first line.",
        ]
    if others := [str(column) for column in range(num_columns) if column not in (source, target)]:
        notes.append(f"Columns that are not used: {', '.join(others)}.")
    groups: list[corpus.Group] = [(copy,) for copy in plain]
    return Recognized("pairs", {"tsv": list(files), "columns": [source, target]}, groups, (source, target), notes)


def _is_text(values: Sequence[str]) -> bool:
    """Returns whether a column holds sentences: most values have letters, and they are not a few labels."""
    with_letters = sum(any(char.isalpha() for char in value) for value in values)
    return with_letters > 0.5 * len(values) and len(set(values)) > FEW_VALUES * len(values)


def _recognize_table(
    files: Sequence[str], resolved: Sequence[source_files.File], kind: Kind | None, scratch: location.Location
) -> Recognized:
    names = _text_columns(resolved[0])
    if not names:
        raise errors.DataError(f"{resolved[0]}: has no column of text; name a table of text or pairs")
    sides = _sides([name.lower() for name in names])
    if sides is None and (kind == "pairs" or (kind is None and len(names) == 2)) and len(names) >= 2:
        sides = 0, 1
    if kind == "pairs" and sides is None:
        raise errors.DataError(f"{resolved[0]}: has one column of text, {names[0]!r}; pairs need two")
    if sides is not None and kind != "text":
        chosen = [names[side] for side in sides]
        notes = [f"Table: column {chosen[0]!r} is the source side, {chosen[1]!r} the target."]
    else:
        chosen = [next((name for name in names if name.lower() in _TEXT_NAMES), names[0])]
        notes = [f"Table: column {chosen[0]!r} is the text."]
    if others := [name for name in names if name not in chosen]:
        notes.append(f"Columns of text that are not used: {', '.join(others)}.")
    staged: list[corpus.Group] = [
        (sources.stage(dataclasses.replace(file, columns=tuple(chosen)), scratch),) for file in resolved
    ]
    columns = (0, 1) if len(chosen) == 2 else None
    return Recognized("pairs" if columns else "text", {"table": list(files), "columns": chosen}, staged, columns, notes)


def _sides(names: Sequence[str]) -> tuple[int, int] | None:
    """Returns the indices of the source and the target column by their names; None if these say nothing."""
    source = next((index for index, name in enumerate(names) if name in _SOURCE_NAMES), None)
    target = next((index for index, name in enumerate(names) if name in _TARGET_NAMES), None)
    if source is not None and target is not None:
        return source, target
    languages = [index for index, name in enumerate(names) if name in _LANGUAGES]
    return (languages[0], languages[1]) if len(languages) >= 2 else None


def _text_columns(file: source_files.File) -> list[str]:
    """Returns the names of a table's columns of text.

    Raises:
        DataError: the table cannot be read.
    """
    with file.origin.open() as opened, compression.unpack(file.origin, file.member, opened) as (name, buffers):
        if name.endswith(extensions.JSON):
            return _json_columns(next(buffers, b""), str(file))
    with file.origin.open() as opened, tables.open_parquet(opened, str(file)) as table:
        schema = table.schema_arrow
    return [field.name for field in schema if tables.is_text(field.type) and not pa.types.is_null(field.type)]


def _json_columns(beginning: bytes, where: str) -> list[str]:
    lines = beginning.split(b"\n")
    names: dict[str, bool] = {}
    # The last line of the buffer may be cut.
    for number, line in enumerate(lines[:SAMPLE_LINES] if len(lines) == 1 else lines[:-1][:SAMPLE_LINES], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise errors.DataError(f"{where}: row {number} is not valid JSON ({error}); correct it") from error
        if not isinstance(row, dict):
            raise errors.DataError(f"{where}: row {number} is not an object; write one object a line")
        if nested := next((name for name, value in row.items() if isinstance(value, dict)), None):
            raise errors.DataError(
                f"{where}: row {number} has an object in column {nested!r}; write source and target as columns of text"
            )
        for name, value in row.items():
            names[name] = names.get(name, True) and isinstance(value, str | None)
    return [name for name, is_text in names.items() if is_text]
