"""Following of a job that runs elsewhere: its log, and the question at Ctrl-C.

Ray's job server and Kubernetes send the same log; `submit` follows it alike.
"""

import json
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from core import errors
from jobs import console
from workers.cluster import signals

_EXIT = re.compile(r"exit=(\d+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class JobLog:
    """Parser of the log of a job: progress lines, the line with the exit code, and the JSON document after it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.exit_code: int | None = None
        self._write = write
        self._rest = ""
        self._after: list[str] = []

    def feed(self, piece: str) -> None:
        """Parses the next piece of the log, which may end within a line."""
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            self._parse(line)

    def document(self) -> dict[str, Any]:
        """Returns the document that a successful job printed.

        Raises:
            ClusterError: there is none in the log.
        """
        self._flush()
        text = "\n".join(self._after)
        try:
            # `raw_decode` ignores what follows the document in the log.
            document, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
        except ValueError as error:
            raise errors.ClusterError(
                "submit: the job succeeded, but its log has no report; read it with ray job logs"
            ) from error
        return dict(document)

    def close(self) -> None:
        """Writes the last lines of a job that failed."""
        self._flush()
        for line in self._after:
            self._write_line(line)

    def _flush(self) -> None:
        if self._rest:
            self.feed("\n")

    def _parse(self, line: str) -> None:
        exit_line = _EXIT.fullmatch(line.rstrip())
        if exit_line:
            self.exit_code = int(exit_line[1])
        elif self.exit_code is not None:
            self._after.append(line)
        elif line:
            self._write_line(line)

    def _write_line(self, line: str) -> None:
        self._write(console.sanitize(_COLOURS.sub("", line).expandtabs(), limit=2000))


class Interruptions:
    """Signals that arrive while a job is followed: each stops the job, or detaches from it.

    Args:
        flag: flag that signal handlers set.
        write: called with each line for the user.
        ask: called at an interrupt (Ctrl-C); returns `stop`, `detach` or `follow`.
        name: name of the job.
        stop: requests the job to stop.
        how_to_follow: command that follows the job.
        how_to_stop: command that stops it.
    """

    def __init__(
        self,
        flag: signals.StopFlag,
        write: Callable[[str], None],
        ask: Callable[[], str],
        *,
        name: str,
        stop: Callable[[], object],
        how_to_follow: str,
        how_to_stop: str,
    ) -> None:
        self._flag = flag
        self._write = write
        self._ask = ask
        self._name = name
        self._stop = stop
        self._how_to_follow = how_to_follow
        self._how_to_stop = how_to_stop
        self.is_stopping = False

    def handle(self) -> None:
        """Handles a received signal; a job is asked to stop once.

        Raises:
            InterruptedRunError: the user detached; the job continues.
        """
        if self._flag.signal is None or self.is_stopping:
            return
        number = self._flag.signal
        # SIGTERM comes from a program, which would not answer a question.
        answer = self._ask() if number == signal.SIGINT else "stop"
        if answer == "follow":
            self._flag.signal = None
        elif answer == "detach":
            raise errors.InterruptedRunError(
                f"submit: detached, the job continues; follow it with {self._how_to_follow}, "
                f"end it with {self._how_to_stop}"
            )
        else:
            self.is_stopping = True
            self._write(
                f"submit: stopping {self._name}; it saves a checkpoint first (Ctrl-C again: return without waiting)"
            )
            self._stop()


def ask_at_terminal() -> str:
    """Asks on the terminal what Ctrl-C should do; without a terminal it stops the job, as it stops any command."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stop"
    console.write_line("Stop the job (it saves a checkpoint), detach (it continues) or follow? [s/d/F] ")
    answer = sys.stdin.readline().strip().lower()
    return {"s": "stop", "d": "detach"}.get(answer[:1], "follow")
