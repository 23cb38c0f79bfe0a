"""Log on stderr: records as one line each, equal warnings once a minute, and how much of it is written."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from core import errors
from jobs import console

REPEAT_EVERY_S = 60.0
# Libraries whose info lines would hide ours.
_QUIET_LOGGERS = (
    "ray",
    "urllib3",
    "asyncio",
    "fsspec",
    "s3fs",
    "botocore",
    "aiobotocore",
    "azure",
    "gcsfs",
    "matplotlib",
    "PIL",
    "fontTools",
    "sacrebleu",
)
_OUR_LOGGERS = ("core", "workers", "jobs")


def set_up_logging() -> None:
    """Sends log records to stderr, of noisy libraries only warnings; safe to call twice."""
    root = logging.getLogger()
    # A second handler would write every line twice.
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_OneLineFormatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(RepeatFilter())
    root.addHandler(handler)
    set_verbosity("normal")
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def set_verbosity(verbosity: Literal["quiet", "normal", "verbose"]) -> None:
    """Sets what is written besides errors: warnings alone; notes, progress and log; or our debug log, too."""
    logging.getLogger().setLevel(logging.WARNING if verbosity == "quiet" else logging.INFO)
    logging.getLogger(console.NOTES).disabled = verbosity == "quiet"
    for name in _OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbosity == "verbose" else logging.NOTSET)


class _StderrHandler(logging.Handler):
    """Handler that looks `sys.stderr` up for every record, because a progress bar may have wrapped it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record as one line."""
        console.write_line(self.format(record))


class _OneLineFormatter(logging.Formatter):
    """Formatter that escapes control characters in messages; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Formats the record as one printable line, without the passwords of URLs."""
        record.message = console.sanitize(errors.without_credentials(record.message), limit=2000)
        return super().formatMessage(record)


class RepeatFilter(logging.Filter):
    """Filter that passes equal warnings once a minute; the next one that passes has the number suppressed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Compares by logger and unformatted message, so that warnings with other values count as equal."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg)[:200])
        last_s, num_suppressed = self._last.get(key, (float("-inf"), 0))
        if self._clock() - last_s < REPEAT_EVERY_S:
            self._last[key] = (last_s, num_suppressed + 1)
            return False
        self._last[key] = (self._clock(), 0)
        if num_suppressed:
            record.msg = f"{record.getMessage()} (repeated {num_suppressed} times since)"
            record.args = None  # the message is formatted already
        return True
