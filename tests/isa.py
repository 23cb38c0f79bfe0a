"""Tests of models, training and decoding as on older CPUs: `python -m tests.isa`, or `make isa`.

oneDNN, MKL and torch are each told the most that they may use. A level that the CPU does not reach would be the CPU's
own once more: it is named, and not run twice.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from core.models import compute

FOLDERS = ("tests/core/models", "tests/core/training", "tests/core/decoding")


class Level(NamedTuple):
    """A limit of instructions: oneDNN's name of it, a flag of CPUs that reach it, and the limits of other libraries."""

    name: str
    flag: str
    others: Mapping[str, str]


_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
_AVX512 = {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512"}
LEVELS = (
    Level("AVX2", "avx2", _AVX2),
    Level("AVX512_CORE", "avx512f", _AVX512),
    Level("AVX512_CORE_VNNI", "avx512_vnni", _AVX512),
    Level("AVX512_CORE_BF16", "avx512_bf16", _AVX512),
)


def plan(flags: AbstractSet[str]) -> Iterator[tuple[Level, bool]]:
    """Yields each level, and whether the tests run at it: those that the CPU reaches, the lowest in any case."""
    for number, level in enumerate(LEVELS):
        yield level, number == 0 or level.flag in flags


def main(arguments: Sequence[str]) -> int:
    """Runs the tests at each level of this CPU, with further arguments of pytest; returns 1 if any failed."""
    failed = []
    for level, runs in plan(compute.this_cpu().flags):
        if not runs:
            print(f"isa: {level.name}: this CPU has no {level.flag}; it would be the CPU's own instructions again")
            continue
        print(f"isa: {level.name}", flush=True)
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": level.name, **level.others}
        command = [sys.executable, "-m", "pytest", "-q", *(arguments or FOLDERS)]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(level.name)
    print(f"isa: failed: {', '.join(failed)}" if failed else "isa: all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
