"""Levels of instructions at which `make isa` runs the tests."""

import pytest

from tests import isa


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({"avx2"}, ["AVX2"]),
        ({"avx2", "avx512f", "avx512_vnni"}, ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"]),
        ({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"}, [level.name for level in isa.LEVELS]),
        (set(), ["AVX2"]),
    ],
)
def test_levels_above_the_cpu_are_not_run_again(flags: set[str], names: list[str]) -> None:
    assert [level.name for level, runs in isa.plan(flags) if runs] == names
