"""What a rank is told, and what ranks and the driver tell each other while they train."""

import dataclasses
from typing import Any, NamedTuple, Protocol


class Hooks(Protocol):
    """What a rank tells the driver, and asks it: `core.training.trainer.Hooks`, for code that does without torch."""

    def progress(self, now: Any) -> None:
        """How far rank 0 is."""

    def should_stop(self) -> bool:
        """Whether the driver wants the run to end; the word of rank 0 counts."""

    def should_save(self) -> bool:
        """Whether the driver wants a checkpoint now; the word of rank 0 counts."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a rank runs. Its process group, if it has company, is set up."""

    rank: int
    world_size: int
    device: str
    threads: int


@dataclasses.dataclass(frozen=True)
class Look:
    """What the driver sees on the board."""

    progress: Any  # the newest that it has not seen, or None
    entered: bool  # whether a rank ever came as far as our code
    nodes: frozenset[str]  # where the ranks of the newest start are, by Ray's id
    fatal: BaseException | None


class Wishes(NamedTuple):
    """What the driver wants of the ranks."""

    stop: bool
    save: bool


class Board:
    """Where ranks and driver leave each other word; an actor."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._workers: dict[int, tuple[str, str]] = {}
        self._stop = False
        self._save = False
        self._fatal: BaseException | None = None

    def enter(self, rank: int, world_size: int, worker: str, node: str) -> bool:
        """A worker begins as this rank; it need not if the run has failed already."""
        self._workers[rank] = (worker, node)
        self._workers = {rank: found for rank, found in self._workers.items() if rank < world_size}
        return self._fatal is None

    def post(self, progress: Any) -> None:
        """Rank 0 says how far it is."""
        self._progress = progress

    def fail(self, rank: int, worker: str, error: BaseException) -> None:
        """A rank says why no restart will help; the first word stays.

        Not heard is a worker whose place another one has taken: it hung, its group was started again without it, and
        that it now finds itself locked out is no news.
        """
        if self._workers.get(rank, ("", ""))[0] == worker:
            self._fatal = self._fatal or error

    def failed(self) -> bool:
        """Did a rank say so?"""
        return self._fatal is not None

    def stop(self) -> None:
        """The driver wants the run to end."""
        self._stop = True

    def save(self) -> None:
        """The driver wants a checkpoint."""
        self._save = True

    def wishes(self) -> Wishes:
        """What does it want? That it wants a checkpoint is said once."""
        save, self._save = self._save, False
        return Wishes(self._stop, save)

    def look(self) -> Look:
        """What is new for the driver."""
        progress, self._progress = self._progress, None
        nodes = frozenset(node for _, node in self._workers.values())
        return Look(progress, bool(self._workers), nodes, self._fatal)
