"""What a process that computes for us finds in its environment."""


def of_process(threads: int) -> dict[str, str]:
    """The variables of a process that may use so many threads.

    oneDNN keeps the kernels of the last 1,024 shapes, and torch above it what it prepared for as many; batches of
    unequal length have many more: a rank that trained on Multi30k in bf16 grew to 3.8 GB in an hour, and to 3.0 GB
    with oneDNN's cache alone made smaller. With 32 in both, and two arenas of malloc, it stays at 1.0 GB and is as
    fast.
    glibc gives blocks of more than 32 MB back at once, and takes them zeroed, page by page, at the next step: a
    language model of 33,000 words spent a third of its time so. Kept instead, it does 1.6 times the work and is no
    larger.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
        "LRU_CACHE_CAPACITY": "32",  # torch's own, of matmuls through oneDNN
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
