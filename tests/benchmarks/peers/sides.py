"""Two sides of a comparison, each a long-lived process that is asked for one round of work at a time.

So both sides take turns within seconds, on a machine whose speed changes from minute to minute. This module imports
the standard library alone: the environments of other programs do not have ours.
"""

import gc
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
_PACKAGE = "tests.benchmarks.peers"


class Round(NamedTuple):
    """Result of a round.

    Attributes:
        amount: work that was done, such as tokens.
        cpu_s: CPU-seconds that it took; None: those of the process during the round.
        figures: further figures by name, such as quality, to be shown beside the ratio.
    """

    amount: float
    cpu_s: float | None = None
    figures: Mapping[str, float] = {}


Settings = Mapping[str, Any]
Run = Callable[[], Round]
Builder = Callable[[Settings], Run]
Result = TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Returns what a call returns, and its CPU-seconds."""
    started_s = time.process_time()
    result = call()
    return result, time.process_time() - started_s


def serve(builders: Mapping[str, Builder], versions: Mapping[str, str]) -> None:
    """Runs a side: builds the work that the command line describes, and does a round for each line of stdin."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # some programs log to stdout
        settings = json.loads(sys.argv[1])
        run = builders[settings["work"]](settings)
        _answer(answers, dict(versions))
        for _ in sys.stdin:
            gc.collect()
            gc.disable()
            done, cpu_s = timed(run)
            gc.enable()
            cpu_s = cpu_s if done.cpu_s is None else done.cpu_s
            _answer(answers, {"amount": done.amount, "cpu_s": cpu_s, "figures": dict(done.figures)})


def _answer(answers: Any, content: object) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


class Side:
    """The process of one side; `versions` are those of the program and its libraries."""

    def __init__(
        self, python: pathlib.Path, work: str, settings: Settings, environment: Mapping[str, str], log: pathlib.Path
    ) -> None:
        """Starts the process and waits until it is ready.

        Args:
            python: of the side's environment.
            work: module of this package that calls `serve`, and one of its builders, as `module:builder`.
            settings: for the builder of its work.
            environment: variables besides those of this process.
            log: file for its standard error.

        Raises:
            RuntimeError: the process ended.
        """
        self._log = log
        module, _, builder = work.partition(":")
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", f"{_PACKAGE}.{module}", json.dumps({**settings, "work": builder})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                cwd=REPOSITORY,
                env={**os.environ, **environment},
            )
        self.versions: dict[str, str] = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the end of its loop
        self._process.wait()

    def run(self) -> Round:
        """Has the process do one round.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        return Round(**self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()  # before its last words are read
            tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            raise RuntimeError("\n".join([f"the process ended with {code}:", *tail]))
        return json.loads(line)
