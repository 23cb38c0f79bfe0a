"""Signal handling: SIGTERM and SIGINT set a flag, so that a run ends at its next safe point."""

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """A flag that the first signal sets. The second signal ends the process at once, which damages nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Installs the handlers. Call it again after `ray.init`, which replaces them."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python runs signal handlers in the main thread only
        for number in SIGNALS:
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Restores the previous handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _receive(self, number: int, _: FrameType | None) -> None:
        # Set a flag only: an exception raised here inside a call of Ray would surface as another error.
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def __call__(self) -> bool:
        """Returns whether the run should stop."""
        return self.signal is not None
