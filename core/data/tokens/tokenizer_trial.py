"""Trial of a tokenizer file of another program, in a process of its own with little time and memory.

Patterns and normalizers of such a file are programs: a regular expression can search for ever, a replacement can grow a
letter into gigabytes, and the library's Rust code panics on some. The trial finds what shows on the entries of the
file's own vocabulary; what shows on other text alone ends the encoding of that text.
"""

import functools
import subprocess
import sys

CPU_S = 10
MEMORY_BYTES = 2 << 30
TIMEOUT_S = 120.0  # of a machine with many other processes

_TRIAL = """
import resource, sys
cpu_s, memory_bytes = map(int, sys.argv[1:])
text = sys.stdin.buffer.read().decode()
resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
import tokenizers
try:
    library = tokenizers.Tokenizer.from_str(text)
    library.encode_special_tokens = True
    names = sorted(library.get_vocab())
    some = names[:: max(1, len(names) // 100)][:100]
    ascii = "".join(map(chr, range(32, 127)))
    lines = [" ".join(some), "".join(some), ascii, ascii * 20, *(name * 40 + "!" for name in some), "a" * 2000 + "!"]
    # Together they are the time of a few thousand ordinary lines.
    for encoding in library.encode_batch_fast([line[:5000] for line in lines], add_special_tokens=False):
        library.decode(encoding.ids, skip_special_tokens=False)
except MemoryError:
    print(f"needs more than {memory_bytes >> 30} GiB of memory for a few lines")
except BaseException as error:
    print(" ".join(str(error).split())[:200] or type(error).__name__)
else:
    print("ok")
"""


@functools.lru_cache(maxsize=8)
def problem_of(text: str) -> str | None:
    """Returns what is wrong with a tokenizer file, as the trial shows it; None if it encodes its own vocabulary."""
    command = [sys.executable, "-I", "-c", _TRIAL, str(CPU_S), str(MEMORY_BYTES)]
    try:
        # A panic writes to the standard error itself. The program is the constant above; the file is its input.
        done = subprocess.run(  # noqa: S603
            command, input=text.encode(), capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {TIMEOUT_S:g} s for a few lines"
    said = done.stdout.decode(errors="replace").strip()
    if said == "ok":
        return None
    # Killed: by the limit of time, or where memory could not be had.
    return said or f"takes more than {CPU_S} s or {MEMORY_BYTES >> 30} GiB of memory for a few lines"
