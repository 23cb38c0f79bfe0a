"""Coverage-guided fuzzing of every reader: `python -m tests.fuzz [--seconds 60] [NAME…]`.

Each target runs in a process of its own with bounded memory. An input that breaks the law of `targets.check` is kept
in `findings/NAME/`, one of each place in the code; the default tier replays it. Needs atheris (Linux).
"""

import argparse
import logging
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

from tests.fuzz.findings import FOLDER, REPOSITORY

TIMEOUT_S, MEMORY_MIB, MOST_INPUT_BYTES = 20, 3000, 1 << 16
MOST_S = 5.0  # of processor time, for an input: several times as much as where nothing is traced


def main() -> int:
    """Runs the targets one after the other, and returns 1 if one has a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.names[0], arguments.seconds)
    from tests.fuzz import targets

    names = arguments.names or list(targets.TARGETS)
    if unknown := [name for name in names if name not in targets.TARGETS]:
        parser.error(f"no target {unknown[0]}; there are {', '.join(targets.TARGETS)}")
    failed = []
    for name in names:
        known, started_s = count(name), time.monotonic()
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(arguments.seconds), "--inside"]
        run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace")
        done = [line for line in run.stderr.splitlines() if line.startswith(("Done", "==", "SUMMARY"))]
        new = count(name) - known
        print(f"{name}: {time.monotonic() - started_s:.0f} s, {new} findings, {' '.join(done[-1:])}", flush=True)
        # A process that libFuzzer ended, for time or memory, has written its input itself.
        if new or run.returncode:
            failed.append(name)
            print(run.stderr[-2000:] if not done else "", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "no findings")
    return int(bool(failed))


def count(name: str) -> int:
    """Returns the number of findings of a target."""
    return len(list((FOLDER / name).glob("*")))


def fuzz(name: str, seconds: int) -> None:
    """Fuzzes one target in this process, which libFuzzer ends."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["core"]):
        from tests.fuzz import targets
    target = targets.TARGETS[name]
    known: set[str] = set()

    def test_one_input(data: bytes) -> None:
        started_s = time.process_time()
        try:
            targets.check(name, data)
            assert time.process_time() - started_s < MOST_S, "takes too long"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            place = where(error)
            if place not in known:
                known.add(place)
                keep(name, data)
                traceback.print_exc()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        # Now and then as libFuzzer does, which knows the constants that the code compares with.
        if chance.random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, chance)[:max_size]

    # What libFuzzer calls slow is so by the clock, and may be due to other work on the machine.
    limits = (f"-timeout={TIMEOUT_S}", f"-report_slow_units={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}")
    options = (f"-max_total_time={seconds}", *limits)
    places = (f"-artifact_prefix={FOLDER / name}/", f"-max_len={MOST_INPUT_BYTES}")
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds()):
            (pathlib.Path(folder) / str(number)).write_bytes(seed)
        setup: Any = atheris.Setup
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        setup([sys.argv[0], *options, *places, folder], test_one_input, custom_mutator=mutate)
        atheris.Fuzz()


def where(error: BaseException) -> str:
    """Returns the kind of an error and the last line of ours that it passed: equal ones are one finding."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(REPOSITORY) in frame.filename]
    return f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"


def keep(name: str, data: bytes) -> None:
    """Keeps an input under the name of its hash."""
    import hashlib

    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    (FOLDER / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
