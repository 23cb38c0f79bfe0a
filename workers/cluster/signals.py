"""Turns SIGTERM and SIGINT into a flag that the work looks at: a signal ends a run at the next safe place."""

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Remembers the first signal; the second one ends the process at once, which damages nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over the signals; again after `ray.init`, which puts a handler of its own in the place of ours."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals in its main thread alone
        for number in SIGNALS:
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Gives the signals back to those who had them."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        # Only a flag: an exception raised here inside a call of Ray arrives as something else.
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def __call__(self) -> bool:
        """Should the work stop?"""
        return self.signal is not None
