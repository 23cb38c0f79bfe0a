"""Messages between ranks and driver: an actor that both post to and poll."""

import dataclasses
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class RankContext:
    """Rank, group size, device and threads of a training process; its process group, if any, is initialized."""

    rank: int
    world_size: int
    device: str
    threads: int


@dataclasses.dataclass(frozen=True)
class GroupStatus:
    """State of the worker group, as the driver sees it.

    Attributes:
        progress: the newest that the driver has not seen, or None.
        has_entered: whether a rank of any start of the group has reached our code.
        nodes: ids of Ray's nodes on which the ranks of the newest start run.
        fatal: an error that no restart of the group will help against.
        num_ranks: ranks of the newest start.
    """

    progress: Any
    has_entered: bool
    nodes: frozenset[str]
    fatal: BaseException | None
    num_ranks: int = 0


class PendingRequests(NamedTuple):
    """Requests of the driver that the ranks have not served yet."""

    stop: bool
    save: bool


class MessageBoard:
    """Actor that holds the messages; each method is one post or one poll."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._workers: dict[int, tuple[str, str]] = {}  # by rank: worker id, node id
        self._stop = False
        self._save = False
        self._fatal: BaseException | None = None

    def enter(self, rank: int, world_size: int, worker: str, node: str) -> bool:
        """Registers a worker as this rank; returns False if the run has failed and it should not train."""
        self._workers[rank] = (worker, node)
        # An elastic group may have become smaller: its former last ranks are gone.
        self._workers = {rank: entry for rank, entry in self._workers.items() if rank < world_size}
        return self._fatal is None

    def post_progress(self, progress: Any) -> None:
        """Keeps rank 0's progress for the driver, replacing an older one."""
        self._progress = progress

    def report_failure(self, rank: int, worker: str, error: BaseException) -> None:
        """Records a fatal error; the first is kept.

        Reports of a replaced worker are ignored: its fencing error is expected.
        """
        if self._workers.get(rank, ("", ""))[0] == worker:
            self._fatal = self._fatal or error

    def has_failed(self) -> bool:
        """Returns whether a fatal error was reported."""
        return self._fatal is not None

    def request_stop(self) -> None:
        """Requests that the run saves a checkpoint and ends."""
        self._stop = True

    def request_save(self) -> None:
        """Requests a checkpoint now."""
        self._save = True

    def take_requests(self) -> PendingRequests:
        """Returns the pending requests; a checkpoint request is returned once."""
        save, self._save = self._save, False
        return PendingRequests(self._stop, save)

    def status(self) -> GroupStatus:
        """Returns the state of the group; progress is returned once."""
        progress, self._progress = self._progress, None
        nodes = frozenset(node for _, node in self._workers.values())
        # Not empty again after the first entry: workers are only removed when another one enters.
        return GroupStatus(progress, bool(self._workers), nodes, self._fatal, len(self._workers))
