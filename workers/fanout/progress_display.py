"""Progress display: the interface of bars and progress lines.

Stages report how much of their work is done; `jobs.console` shows it on stderr.
"""

import contextlib
from typing import Protocol


class Stage(Protocol):
    """One stage of a run, whose progress is shown."""

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Adds `amount` units to the progress and shows further values with it, such as the loss.

        An amount of 0 before any other ends the start-up: the time until then does not count in the speed.
        """


class Reporter(Protocol):
    """Shows the progress of stages."""

    def stage(
        self, name: str, total: float | None, unit: str, done: float = 0.0
    ) -> contextlib.AbstractContextManager[Stage]:
        """Opens a stage of `total` units, `done` of which were done before; None if the total is unknown."""
