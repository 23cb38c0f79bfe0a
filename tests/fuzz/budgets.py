"""The worst input known for each reader, and what reading it may take; `python -m tests.fuzz.budgets NAME` measures it.

CPU seconds, and the growth of the most memory that a process ever had, each in a process of its own that has not
written the input: in one that held something larger before, nothing would grow.
"""

import json
import os
import resource
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from core import errors
from core.config import loading
from core.data.series import preparation, reading
from core.data.text import compression, corpus, source_files, sources, tables
from core.models import pretrained_embeddings, weights
from core.storage import control_files, location

MIB = 1 << 20
NAME = "input"


class Budget(NamedTuple):
    """A reader at its worst.

    Attributes:
        what: the input, for the table.
        code: exit code of its refusal; 0 if it is read.
        measured: CPU seconds and mebibytes on an AMD EPYC with AVX2 (2026-11-30).
        cpu_s: seconds that reading may take.
        growth_mib: mebibytes that the process may grow by.
        read: reads the file.
        write: writes the file; None of an input that is no file.
    """

    what: str
    code: int
    measured: tuple[float, int]
    cpu_s: float
    growth_mib: int
    read: Callable[[location.Location], object]
    write: Callable[[Path], object] | None = None


def _write(path: Path, *pieces: bytes) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)


def _write_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _write_bomb(path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    _write(path, *(packer.compress(bytes(MIB)) for _ in range(1100)), packer.flush())


def _write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_000):
            archive.writestr(str(number), b"")


def _write_rows(path: Path) -> None:
    # The largest row that is parsed, of as many objects as fit, and one that is not.
    sizes = (tables.MAX_ROW_BYTES - 64, 4 * tables.MAX_ROW_BYTES)
    _write(path, *(b'{"y": "a", "x": [' + b"[]," * (size // 3) + b"[]]}\n" for size in sizes))


def _read_lines(path: location.Location) -> None:
    for part in corpus.cut_by_lines((path,), [corpus.index_lines(path, 9)]):
        list(corpus.read_lines(part))


def _unpack(path: location.Location) -> None:
    named = location.Location.parse(f"{path}.gz")
    with path.open() as opened, compression.unpack(named, "", opened) as (_, buffers):
        for _ in buffers:
            pass


def _read_weights(_: location.Location) -> None:
    head = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'
    weights.from_bytes(len(head).to_bytes(8, "little") + head + bytes(4), "x")


_ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
_LISTS = (b'{"x": [', b"[]," * (control_files.MAX_BYTES // 3 - 16), b"[]]}")

BUDGETS: dict[str, Budget] = {
    "text": Budget(
        "256 MiB without a line end", 0, (0.3, 4), 3, 32, _read_lines, lambda path: _write(path, *[b"x" * MIB] * 256)
    ),
    "gzip": Budget("1.1 GiB of zeros in 1.1 MiB", 3, (4.9, 4), 20, 32, _unpack, _write_bomb),
    "zip": Budget(
        "an archive of 65,000 members", 3, (1.0, 42), 5, 150,
        lambda path: sources.read(source_files.File(path, member="x")), _write_archive,
    ),
    "JSONL": Budget(
        "rows of 16 and 64 MiB, all of them empty lists", 0, (4.3, 443), 20, 800,
        lambda path: list(tables.lines(path.path, "x.jsonl", ["y"], "x")), _write_rows,
    ),
    "CSV of a series": Budget(
        "32 MiB after a quote without a second one", 3, (0.3, 197), 3, 300,
        lambda path: reading.read([source_files.File(path)], ["x"], preparation.Preparation(), "x"),
        lambda path: _write(path, b'x\n"', b"1" * (32 * MIB)),
    ),
    "word vectors": Budget(
        "1 TiB without a line end", 3, (0.1, 1), 3, 32,
        lambda path: list(pretrained_embeddings.read_vectors(path, 2)), _write_sparse,
    ),
    "control file": Budget(
        "16 MiB of empty lists", 0, (4.1, 419), 20, 800, control_files.read, lambda path: _write(path, *_LISTS)
    ),
    "control file, larger": Budget("1 TiB", 4, (0.1, 16), 3, 64, control_files.read, _write_sparse),
    "weights": Budget("a header of 10^12 numbers, and 4 bytes", 4, (0.1, 0), 3, 32, _read_weights),
    "configuration": Budget(
        "60 lists, each of two aliases of the one before", 2, (0.1, 0), 3, 32, lambda _: loading.parse(_ALIASES, "x")
    ),
    "configuration, nested": Budget(
        "500,000 opening brackets", 2, (0.3, 2), 3, 32, lambda _: loading.parse("a: " + "[" * 500_000, "x")
    ),
}  # fmt: skip


def rows() -> list[str]:
    """Returns the rows of the table in `tests/README.md`."""
    return [
        f"| {name} | {one.what} | {one.code} | {one.measured[0]:g} s of {one.cpu_s:g} | "
        f"{one.measured[1]} MiB of {one.growth_mib} |"
        for name, one in BUDGETS.items()
    ]


def measure(name: str) -> dict[str, float]:
    """Reads the worst input of a reader, and returns its exit code, seconds and growth."""
    budget = BUDGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NAME)
        if budget.write is not None:
            if (child := os.fork()) == 0:
                budget.write(path)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        before_s, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code = 0
        try:
            budget.read(location.Location.parse(str(path)))
        except errors.RaycurrentError as error:
            code = error.exit_code
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        return {"code": code, "cpu_s": time.process_time() - before_s, "growth_mib": grown_kib / 1024}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
