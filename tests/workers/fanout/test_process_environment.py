"""Memory of processes with our settings: what the running process does, not what its environment says."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from workers.fanout import process_environment

# Multiplies in bf16 with row counts that rarely repeat, and prints the growth of anonymous memory in MiB.
MULTIPLY = """
import random
import torch
def anonymous_mib():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
chance, weights = random.Random(0), torch.zeros(1024, 256, dtype=torch.bfloat16)
def multiply(times):
    for _ in range(times):
        torch.nn.functional.linear(torch.zeros(chance.randint(40, 1300), 256, dtype=torch.bfloat16), weights)
multiply(400)  # three times as many as are cached
before = anonymous_mib()
multiply(600)
print(anonymous_mib() - before)
"""
MOST_MIB = 40.0  # measured: 150 to 200 if torch caches its last 1,024 shapes


@pytest.mark.e2e
def test_memory_of_a_worker_does_not_grow_with_the_number_of_batch_shapes() -> None:
    environment = {**os.environ, **process_environment.thread_variables(1)}
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLY], env=environment, capture_output=True, text=True, check=True, timeout=280
    )
    assert float(done.stdout) < MOST_MIB


# Takes four blocks of 48 MiB while it still has the last four, and prints the pages that the kernel had to give for it.
ALLOCATE = """
import resource, sys
import numpy
from core.config import schema
from workers.cluster import session
def use_blocks(times):
    for _ in range(times):
        blocks = [numpy.ones(6 << 20) for _ in range(4)]
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with session.Session(schema.ClusterConfig(address="none", num_workers=1)):
    use_blocks(2)
    before = page_faults()
    use_blocks(5)
    print(page_faults() - before)
"""
PAGES_OF_ALL_BLOCKS = 5 * 4 * (48 << 20) // 4096


def _page_faults(**variables: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    # Pages of 4 KiB, which are counted one by one.
    kept["NUMPY_MADVISE_HUGEPAGE"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE], env={**kept, **variables}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is configured")
def test_a_driver_keeps_the_memory_that_its_stages_use_again() -> None:
    assert _page_faults() < PAGES_OF_ALL_BLOCKS // 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is configured")
def test_a_users_setting_of_malloc_is_kept() -> None:
    assert _page_faults(MALLOC_MMAP_MAX_="65536", MALLOC_MMAP_THRESHOLD_="1000000") > PAGES_OF_ALL_BLOCKS // 2


_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Takes 64 MiB, and prints how many MiB of huge pages the process has.
TAKE = """
block = bytearray(b"x") * (64 << 20)
with open("/proc/self/smaps_rollup") as lines:
    print(next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")) // 1024)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not _HUGE_PAGES.exists() or "[never]" in _HUGE_PAGES.read_text(),
    reason="the system gives no huge pages to malloc",
)
def test_workers_get_huge_pages() -> None:
    environment = {**os.environ, **process_environment.thread_variables(1)}
    done = subprocess.run([sys.executable, "-c", TAKE], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0  # how many depends on how fragmented the memory is
