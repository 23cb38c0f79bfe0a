"""Signal handling: SIGTERM and SIGINT set a flag, so that a run ends at its next safe point."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from core import errors

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """A flag that the first signal sets. The second signal ends the process at once, which damages nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received = False
        self._before: dict[int, Any] = {}
        self._interrupts = False

    def install(self) -> None:
        """Installs the handlers. Call it again after `ray.init`, which replaces them."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python runs signal handlers in the main thread only
        for number in SIGNALS:
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def request(self) -> None:
        """Sets the flag as SIGTERM does; a signal that comes after it counts as the first."""
        self.signal = self.signal or signal.SIGTERM

    def restore(self) -> None:
        """Restores the previous handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Lets a signal end the work in the context at once, by an InterruptedRunError.

        For work that never calls Ray and commits as a whole, such as reading an input: a read from a pipe may block for
        hours, and no loop could look at the flag.
        """
        if self.signal is not None:
            raise self._interruption()
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _interruption(self) -> errors.InterruptedRunError:
        return errors.InterruptedRunError("input: stopped while it was read; run the same command again")

    def _receive(self, number: int, _: FrameType | None) -> None:
        # Set a flag only: an exception raised here inside a call of Ray would surface as another error.
        if self._received:
            os._exit(128 + number)
        self._received = True
        self.signal = number
        if self._interrupts:
            raise self._interruption()

    def __call__(self) -> bool:
        """Returns whether the run should stop."""
        return self.signal is not None
