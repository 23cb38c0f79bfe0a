"""What translating and scoring give for each line: rows, their schemas, and the formats they are written in."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from core import errors

Kind = Literal["translations", "scores", "forecasts"]
ENDINGS = (".txt", ".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Alternative:
    """Another translation of the same line, ranked below the first."""

    text: str
    score_nats: float


@dataclass(frozen=True)
class Translation:
    """A translated line; with an error there is no text and no score.

    `score_nats` is the plain sum of the log-probabilities of the tokens, `<eos>` included, as it is in
    `num_tokens`. `alternatives` are the next best. `alignment` has for each token the position in the source that
    the attention looked at most, without attention it is None. An empty line has an empty translation of no tokens.
    """

    text: str
    score_nats: float | None
    num_tokens: int
    alternatives: tuple[Alternative, ...] = ()
    alignment: tuple[int, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class TokenScore:
    """A token as the tokenizer writes it, and its negative log-probability."""

    text: str
    nll_nats: float


@dataclass(frozen=True)
class Score:
    """A scored line; with an error there is no score.

    `num_tokens` counts the tokens that were scored, `<eos>` among them where the model has one; `num_unk` those of
    them that the vocabulary lacks. `num_infinite` counts those that cannot be, by the model; `num_characters` is what
    bits per character are divided by; `num_correct` those that the model held for the likeliest, None where it was not
    asked. These three are not in the rows.
    """

    nll_nats: float | None
    num_tokens: int
    num_unk: int
    num_characters: int = 0
    num_infinite: int = 0
    num_correct: int | None = None
    tokens: tuple[TokenScore, ...] | None = None
    error: str | None = None


Result = Translation | Score

SCHEMAS: dict[Kind, pa.Schema] = {
    "translations": pa.schema(
        [
            ("line", pa.int64()),
            ("text", pa.string()),
            ("score_nats", pa.float64()),
            ("num_tokens", pa.int64()),
            ("alternatives", pa.list_(pa.struct([("text", pa.string()), ("score_nats", pa.float64())]))),
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
        ]
    ),
}


def failed(kind: Kind, reason: str) -> Result:
    """The result of a line that could not be done."""
    return Translation("", None, 0, error=reason) if kind == "translations" else Score(None, 0, 0, error=reason)


def to_table(kind: Kind, first_line: int, results: Sequence[Result]) -> pa.Table:
    """Makes the rows of consecutive lines, counted from 0."""
    rows = [{"line": first_line + index, **_plain(result)} for index, result in enumerate(results)]
    return pa.Table.from_pylist(rows, schema=SCHEMAS[kind])


def forecast_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Makes the rows of forecasts from their columns; `line` is the row of the series, counted from 0."""
    return pa.Table.from_pydict(dict(columns), schema=SCHEMAS["forecasts"])


def from_table(kind: Kind, table: pa.Table) -> list[Result]:
    """Undoes `to_table`; what is not in the rows is 0."""
    return [_result(kind, row) for row in table.to_pylist()]


def _plain(result: Result) -> dict[str, Any]:
    row = dict(vars(result))
    for name in ("num_characters", "num_infinite", "num_correct"):
        row.pop(name, None)
    for name in ("alternatives", "tokens"):
        if row.get(name) is not None:
            row[name] = [vars(item) for item in row[name]]
    return row


def _result(kind: Kind, row: dict[str, Any]) -> Result:
    fields = {name: value for name, value in row.items() if name != "line"}
    if kind == "scores":
        tokens = fields["tokens"]
        return Score(**{**fields, "tokens": None if tokens is None else tuple(TokenScore(**token) for token in tokens)})
    fields["alternatives"] = tuple(Alternative(**item) for item in fields["alternatives"] or ())
    fields["alignment"] = None if fields["alignment"] is None else tuple(fields["alignment"])
    return Translation(**fields)


def encode(table: pa.Table) -> bytes:
    """Writes the rows of a part as an Arrow file: equal rows, equal bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())


def decode(kind: Kind, data: bytes, where: str) -> pa.Table:
    """Reads the rows of a part.

    Raises:
        IntegrityError: the bytes are not those of such rows.
    """
    try:
        table = pa.ipc.open_file(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove the output and run again") from error
    if table.schema != SCHEMAS[kind]:
        raise errors.IntegrityError(f"{where}: holds other columns than {kind}; name another folder")
    return table


def ending_of(name: str, where: str) -> str:
    """Returns the ending that decides the format of an output file.

    Raises:
        UsageError: it is none that we write.
    """
    for ending in ENDINGS:
        if name.endswith(ending):
            return ending
    raise errors.UsageError(
        f"{where}: {name!r} does not say its format; end it in {', '.join(ENDINGS)}, or in / for a folder of parts"
    )


def write_file(kind: Kind, tables: Iterable[pa.Table], ending: str, path: pathlib.Path) -> None:
    """Writes the parts, in their order, as one file; no more than one part is in memory."""
    with _WRITERS[ending](path, SCHEMAS[kind]) as write:
        for table in tables:
            write(table)


def text_lines(table: pa.Table) -> Iterator[str]:
    """Yields one line for each row: translation, score in nats, or forecast; empty where there is none."""
    if "text" in table.column_names:
        yield from (_one_line(text or "") for text in table.column("text").to_pylist())
    elif "forecast" in table.column_names:
        yield from (f"{value:.9g}" for value in table.column("forecast").to_pylist())
    else:
        yield from ("" if nll is None else f"{nll:.6f}" for nll in table.column("nll_nats").to_pylist())


def json_lines(table: pa.Table) -> Iterator[str]:
    """Yields each row as a JSON object; an infinite number, which JSON lacks, is the word `inf`."""
    for row in table.to_pylist():
        yield json.dumps(_spelt(row), ensure_ascii=False, allow_nan=False)


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _spelt(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _spelt(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_spelt(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_Write = Callable[[pa.Table], Any]


@contextmanager
def _lines_writer(path: pathlib.Path, lines: Callable[[pa.Table], Iterator[str]]) -> Iterator[_Write]:
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        yield lambda table: file.writelines(f"{line}\n" for line in lines(table))


@contextmanager
def _arrow_writer(path: pathlib.Path, schema: pa.Schema) -> Iterator[_Write]:
    with pa.ipc.new_file(str(path), schema) as writer:
        yield writer.write_table


@contextmanager
def _parquet_writer(path: pathlib.Path, schema: pa.Schema) -> Iterator[_Write]:
    with parquet.ParquetWriter(str(path), schema) as writer:
        yield lambda table: writer.write_table(table, row_group_size=max(1, table.num_rows)) if table.num_rows else None


_WRITERS: dict[str, Callable[[pathlib.Path, pa.Schema], AbstractContextManager[_Write]]] = {
    ".txt": lambda path, _: _lines_writer(path, text_lines),
    ".jsonl": lambda path, _: _lines_writer(path, json_lines),
    ".parquet": _parquet_writer,
    ".arrow": _arrow_writer,
}
