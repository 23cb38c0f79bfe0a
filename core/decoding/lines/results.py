"""Results of batch inference: one row for each line, its schema, and the output formats.

Parts are written as Arrow files and merged into one text, JSONL, Parquet or Arrow file, one part in memory at a time.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import pyarrow as pa
from pyarrow import parquet

from core import errors
from core.data import uncompressed_arrow
from core.storage import json_values

Kind = Literal["translations", "scores", "rankings", "forecasts"]
EXTENSIONS = (".txt", ".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Alternative:
    """A translation of the same line that is ranked below the best."""

    text: str
    score_nats: float
    ranking_score: float | None = None


@dataclass(frozen=True)
class Translation:
    """A translated line; a line that failed has an error and neither text nor score.

    An empty line has an empty translation of no tokens.

    Attributes:
        text: the best translation.
        score_nats: sum of the log-probabilities of its tokens, `<eos>` included, without length normalization.
        num_tokens: number of its tokens, `<eos>` included.
        alternatives: the next best translations.
        alignment: for each token, the source position with the largest attention weight; None without attention.
        error: the reason of the failure.
        ranking_score: the score by which the search ordered it among the alternatives, with length and coverage
            penalties and language model; None where there was no search. An alternative may have a better `score_nats`.
    """

    text: str
    score_nats: float | None
    num_tokens: int
    alternatives: tuple[Alternative, ...] = ()
    alignment: tuple[int, ...] | None = None
    error: str | None = None
    ranking_score: float | None = None


@dataclass(frozen=True)
class TokenScore:
    """A token in the spelling of the tokenizer, and its negative log-probability."""

    text: str
    nll_nats: float


@dataclass(frozen=True)
class Score:
    """A scored line; a line that failed has an error and no score.

    `num_characters`, `num_infinite` and `num_correct` are summed over the corpus; they have no column in the output.

    Attributes:
        nll_nats: negative log-probability of the line.
        num_tokens: number of scored tokens, `<eos>` included if the model has one.
        num_unk: number of those that the vocabulary lacks.
        num_characters: the divisor of bits per character.
        num_infinite: number of tokens with probability 0.
        num_correct: number of tokens that the model ranked first; None if that was not computed.
        tokens: the score of each token, if it was asked for.
        error: the reason of the failure.
    """

    nll_nats: float | None
    num_tokens: int
    num_unk: int
    num_characters: int = 0
    num_infinite: int = 0
    num_correct: int | None = None
    tokens: tuple[TokenScore, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ranking:
    """A line ranked by several language models; a line that failed has an error and no score.

    Attributes:
        ranking_score: weighted sum of the line's log-probabilities, in nats; higher is better. Not a log-probability.
        member_nll_nats: negative log-probability of the line by each model.
        num_tokens: number of scored tokens, as in `Score`.
        num_unk: number of those that the vocabulary lacks.
        error: the reason of the failure.
    """

    ranking_score: float | None
    member_nll_nats: tuple[float, ...]
    num_tokens: int
    num_unk: int
    error: str | None = None


Result = Translation | Score | Ranking

# Part of the stored format: `decode` refuses parts with other columns.
SCHEMAS: dict[Kind, pa.Schema] = {
    "translations": pa.schema(
        [
            ("line", pa.int64()),
            ("text", pa.string()),
            ("score_nats", pa.float64()),
            ("ranking_score", pa.float64()),
            ("num_tokens", pa.int64()),
            (
                "alternatives",
                pa.list_(
                    pa.struct([("text", pa.string()), ("score_nats", pa.float64()), ("ranking_score", pa.float64())])
                ),
            ),
            ("alignment", pa.list_(pa.int32())),
            ("error", pa.string()),
        ]
    ),
    "scores": pa.schema(
        [
            ("line", pa.int64()),
            ("nll_nats", pa.float64()),
            ("num_tokens", pa.int64()),
            ("num_unk", pa.int64()),
            ("tokens", pa.list_(pa.struct([("text", pa.string()), ("nll_nats", pa.float64())]))),
            ("error", pa.string()),
        ]
    ),
    "rankings": pa.schema(
        [
            ("line", pa.int64()),
            ("ranking_score", pa.float64()),
            ("member_nll_nats", pa.list_(pa.float64())),
            ("num_tokens", pa.int64()),
            ("num_unk", pa.int64()),
            ("error", pa.string()),
        ]
    ),
    "forecasts": pa.schema(
        [
            ("line", pa.int64()),
            ("target", pa.string()),
            ("horizon", pa.int64()),
            ("method", pa.string()),
            ("forecast", pa.float64()),
            ("actual", pa.float64()),
            ("residual", pa.float64()),
            ("z_score", pa.float64()),
            ("time", pa.string()),
            ("split", pa.string()),
        ]
    ),
}
# Version of the rows of translations, stored in the plan of an output: 2 has `ranking_score`. An output that was begun
# with an older version is finished with it.
ROW_VERSION = 2
# The rows of release 0.1, whose plans have no version.
_OLDER: dict[Kind, pa.Schema] = {
    "translations": pa.schema(
        [
            pa.field("alternatives", pa.list_(pa.struct([("text", pa.string()), ("score_nats", pa.float64())])))
            if field.name == "alternatives"
            else field
            for field in SCHEMAS["translations"]
            if field.name != "ranking_score"
        ]
    ),
    "scores": SCHEMAS["scores"],
    "rankings": SCHEMAS["rankings"],
    "forecasts": pa.schema([field for field in SCHEMAS["forecasts"] if field.name not in ("time", "split")]),
}


def failed(kind: Kind, reason: str) -> Result:
    """Returns the result of a line that failed."""
    if kind == "translations":
        return Translation("", None, 0, error=reason)
    return Ranking(None, (), 0, 0, reason) if kind == "rankings" else Score(None, 0, 0, error=reason)


def to_table(kind: Kind, first_line: int, results: Sequence[Result], row_version: int = ROW_VERSION) -> pa.Table:
    """Returns the rows of consecutive lines, in the form of a row version; line numbers count from 0."""
    # Numbers of the whole input, so that a row keeps its number when parts are merged.
    rows = [{"line": first_line + index, **_plain(result)} for index, result in enumerate(results)]
    return pa.Table.from_pylist(rows, schema=(SCHEMAS if row_version == ROW_VERSION else _OLDER)[kind])


def forecast_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Returns the rows of forecasts, given by column; `line` is the row of the series, counted from 0."""
    return pa.Table.from_pydict(dict(columns), schema=SCHEMAS["forecasts"])


def _plain(result: Result) -> dict[str, Any]:
    row = dict(vars(result))
    # Summed over the part for its commit record; they are no columns of the output.
    for name in ("num_characters", "num_infinite", "num_correct"):
        row.pop(name, None)
    for name in ("alternatives", "tokens"):
        if row.get(name) is not None:
            row[name] = [vars(item) for item in row[name]]
    return row


def encode(table: pa.Table) -> bytes:
    """Encodes the rows of a part as an Arrow file; equal rows give equal bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())  # one record batch, however the table was built
    return bytes(sink.getvalue().to_pybytes())


def decode(kind: Kind, data: bytes, where: str) -> pa.Table:
    """Decodes the rows of a part.

    Raises:
        IntegrityError: the bytes are not a valid Arrow file, or have another schema.
    """
    try:
        table = uncompressed_arrow.open_file(data).read_all()
        # Reading alone checks neither the offsets of lists nor UTF-8.
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove the output and run again") from error
    if table.schema not in (SCHEMAS[kind], _OLDER[kind]):
        raise errors.IntegrityError(f"{where}: has other columns than {kind}; name another folder")
    return table


def extension_of(name: str, where: str) -> str:
    """Returns the extension of a name that gives the format of an output file.

    Raises:
        UsageError: the name has no extension of a known format.
    """
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return extension
    raise errors.UsageError(
        f"{where}: {name!r} has no known extension; use {', '.join(EXTENSIONS)}, or a trailing / for a folder"
    )


def write_file(kind: Kind, tables: Iterable[pa.Table], extension: str, file: BinaryIO) -> None:
    """Writes the parts to an open file, in the given order; only one part is in memory at a time."""
    remaining = iter(tables)
    first = next(remaining, None)
    with _WRITERS[extension](file, SCHEMAS[kind] if first is None else first.schema) as write:
        for table in itertools.chain([] if first is None else [first], remaining):
            write(table)


def text_lines(table: pa.Table) -> Iterator[str]:
    """Yields one line for each row: the translation, a score in nats, or the forecast; empty if it failed."""
    if "text" in table.column_names:
        yield from (_one_line(text or "") for text in table.column("text").to_pylist())
    elif "forecast" in table.column_names:
        # Models forecast in fp32, whose values 9 digits identify.
        yield from (f"{value:.9g}" for value in table.column("forecast").to_pylist())
    else:
        name = "ranking_score" if "ranking_score" in table.column_names else "nll_nats"
        yield from ("" if nats is None else f"{nats:.6f}" for nats in table.column(name).to_pylist())


def json_lines(table: pa.Table) -> Iterator[str]:
    """Yields each row as a JSON object; for numbers that are not finite see `json_values`."""
    for row in table.to_pylist():
        yield json.dumps(json_values.plain(row), ensure_ascii=False, allow_nan=False)


def _one_line(text: str) -> str:
    # A line break in a text would shift all lines after it.
    return text.replace("\r", " ").replace("\n", " ")


_Write = Callable[[pa.Table], Any]


@contextmanager
def _lines_writer(file: BinaryIO, lines: Callable[[pa.Table], Iterator[str]]) -> Iterator[_Write]:
    # Lone surrogates, from escapes in JSON input, are not encodable otherwise.
    yield lambda table: file.write("".join(f"{line}\n" for line in lines(table)).encode("utf-8", "surrogatepass"))


@contextmanager
def _arrow_writer(file: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    with pa.ipc.new_file(file, schema) as writer:
        yield writer.write_table


@contextmanager
def _parquet_writer(file: BinaryIO, schema: pa.Schema) -> Iterator[_Write]:
    # One row group for each part; an empty part has none.
    with parquet.ParquetWriter(file, schema) as writer:
        yield lambda table: writer.write_table(table, row_group_size=max(1, table.num_rows)) if table.num_rows else None


_WRITERS: dict[str, Callable[[BinaryIO, pa.Schema], AbstractContextManager[_Write]]] = {
    ".txt": lambda file, _: _lines_writer(file, text_lines),
    ".jsonl": lambda file, _: _lines_writer(file, json_lines),
    ".parquet": _parquet_writer,
    ".arrow": _arrow_writer,
}
