"""Settings of the processes that compute: environment variables, and what of them a running process can still apply."""

import ctypes
import os

# Parameters of glibc's mallopt (malloc.h), by the environment variable that sets them at the start of a process.
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_MAX_": -4, "MALLOC_ARENA_MAX": -8}

_HUGE_PAGES = "GLIBC_TUNABLES"


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the environment variables of a process that may use `threads` threads.

    oneDNN caches the kernels of the last 1,024 shapes, and torch above it its preparations for as many; batches of
    unequal length have many more shapes: a rank that trained on Multi30k in bf16 grew to 3.8 GB in an hour. With 128
    kernels it takes 140 MB more than with 32, and is 1.12 times as fast on a CPU with AMX; with 256 230 MB and 1.25
    times.

    Huge pages save faults and misses: on an Intel Xeon, interleaved, a language model of 33,000 words is 1.24 times as
    fast and translation in bf16 1.04 times, with 0 to 2 % more memory (2026-12-01); on an EPYC they brought nothing.
    glibc asks for them from the beginning of a process alone, so that a driver goes without.

    glibc returns blocks of more than 32 MB to the system at once, and gets them back zeroed, page by page, at the next
    step: a language model of 33,000 words spent a third of its time on that. With the blocks kept it is 1.6 times
    faster and no larger.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        "LRU_CACHE_CAPACITY": "32",  # torch's cache of matmuls prepared for oneDNN
        _HUGE_PAGES: "glibc.malloc.hugetlb=1",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


def apply(threads: int) -> None:
    """Applies `thread_variables` to this process, but for those that the user has set.

    To be called before torch is imported: its libraries read their variables when they are loaded. glibc has read its
    own before Python began, so that these are passed to `mallopt`; other C libraries go without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, value in thread_variables(threads).items():
        if name in os.environ or name == _HUGE_PAGES:
            continue
        if name not in _MALLOPT:
            os.environ[name] = value
        elif mallopt is not None:
            mallopt(_MALLOPT[name], int(value))
