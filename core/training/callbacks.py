"""Callbacks of a training run; loads no torch, as the driver of a cluster needs none."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.training import progress


class Callbacks(Protocol):
    """Callbacks, on rank 0, after each step; the other ranks follow rank 0."""

    def on_progress(self, now: "progress.Progress") -> None:
        """Shows the progress of the run; called about twice a second at most."""

    def should_stop(self) -> bool:
        """Returns whether the run should save a checkpoint and end."""

    def should_save(self) -> bool:
        """Returns whether the run should save a checkpoint now and continue, as a node is about to be lost."""
