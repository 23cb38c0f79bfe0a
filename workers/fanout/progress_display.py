"""Progress display: the interface of bars and progress lines.

Stages report how much of their work is done; `jobs.console` shows it on stderr.
"""

import contextlib
from typing import Protocol


class Stage(Protocol):
    """One stage of a run, whose progress is shown."""

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Adds `amount` units to the progress and shows further values with it, such as the loss.

        An amount of 0 or less is a start, or a start again after work was lost: the time since the last progress does
        not count in the speed.
        """

    def wait_for(self, what: str) -> None:
        """Says what the stage waits for until it next advances, such as `starting workers`: that is not a stall."""


class Reporter(Protocol):
    """Shows the progress of stages."""

    def stage(
        self, name: str, total: float | None, unit: str, done: float = 0.0
    ) -> contextlib.AbstractContextManager[Stage]:
        """Opens a stage of `total` units, `done` of which were done before; None if the total is unknown."""
