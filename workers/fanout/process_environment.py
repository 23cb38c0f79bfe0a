"""Environment variables of the processes that compute."""


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the environment variables of a process that may use `threads` threads.

    oneDNN caches the kernels of the last 1,024 shapes, and torch above it its preparations for as many; batches of
    unequal length have many more shapes: a rank that trained on Multi30k in bf16 grew to 3.8 GB in an hour, and to
    3.0 GB with only oneDNN's cache reduced. With 32 entries in both, and two malloc arenas, it stays at 1.0 GB and is
    as fast.

    glibc returns blocks of more than 32 MB to the system at once, and gets them back zeroed, page by page, at the next
    step: a language model of 33,000 words spent a third of its time on that. With the blocks kept it is 1.6 times
    faster and no larger.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
        "LRU_CACHE_CAPACITY": "32",  # torch's cache of matmuls prepared for oneDNN
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
