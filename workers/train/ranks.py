"""One rank of a group: its callbacks through the message board, and where each of its errors goes."""

import secrets
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from core import errors
from workers.train import messages

PROGRESS_S = 0.5  # least interval between rank 0's posts of progress
REQUESTS_S = 0.2  # least interval between rank 0's polls of the driver's requests
# Errors that mean a bug in our code, which would be raised again at the next start of the group.
BUGS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)


class Work(NamedTuple):
    """The work that all ranks of a group share.

    Attributes:
        job: what to train.
        run_rank: called with the job, the context of the rank and its callbacks.
        board: handle of the message board.
        threads: of an operation.
    """

    job: Any
    run_rank: Callable[..., Any]
    board: Any
    threads: int


class RanksFailedError(Exception):
    """The ranks failed more often than they may.

    Attributes:
        worker_failures: the failures of the last start, by rank; none if the group itself failed.
    """

    def __init__(self, text: str, worker_failures: dict[int, BaseException]) -> None:
        super().__init__(text)
        self.worker_failures = worker_failures


def train(work: Work, rank: int, world_size: int, device: str) -> Any:
    """Runs one rank, whose process group is initialized, and returns its result; None if the run has failed.

    An error that no restart of the group will help against goes to the board; any other is raised.
    """
    import ray
    from torch import distributed

    worker = secrets.token_hex(8)
    node = ray.get_runtime_context().get_node_id()
    if not ray.get(work.board.enter.remote(rank, world_size, worker, node)):
        return None
    context = messages.RankContext(rank, world_size, device, work.threads)
    had_group = distributed.is_initialized()
    fatal: BaseException
    try:
        return work.run_rank(work.job, context, BoardCallbacks(work.board, rank))
    except errors.ClusterError:
        if ray.get(work.board.has_failed.remote()):
            return None
        raise
    except errors.RaycurrentError as error:
        fatal = error
    except BUGS as error:
        # To end a group (its node is lost, its size changes), Ray Train destroys the process group under the loop,
        # which then fails in ways that look like bugs: the next start of the group has to go on.
        if had_group and not distributed.is_initialized():
            raise
        fatal = RuntimeError(f"rank {rank} on {socket.gethostname()}:\n{traceback.format_exc()}")
        fatal.__cause__ = error
    except RuntimeError:  # also what torch raises when the peers are gone
        if ray.get(work.board.has_failed.remote()):
            return None
        raise
    # If the rank raised, the group would start again. So the error goes to the board, and the rank returns;
    # destroying the process group releases its peers, which wait for it in a collective operation.
    ray.get(work.board.report_failure.remote(rank, worker, fatal))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return None


class BoardCallbacks:
    """Callbacks of a rank in a worker, through the message board; no call waits for a reply."""

    def __init__(self, board: Any, rank: int) -> None:
        import ray

        self._ray: Any = ray
        self._board = board
        self._rank = rank
        self._posted_s = float("-inf")
        self._polled_s = float("-inf")
        self._reply: Any = None  # a future of the board's reply to the last poll
        self._requests = messages.PendingRequests(stop=False, save=False)

    def on_progress(self, now: Any) -> None:
        """See `Callbacks`."""
        now_s = time.monotonic()
        if self._rank == 0 and now_s - self._posted_s >= PROGRESS_S:
            self._posted_s = now_s
            self._board.post_progress.remote(now)

    def should_stop(self) -> bool:
        """See `Callbacks`."""
        self._poll()
        return self._requests.stop

    def should_save(self) -> bool:
        """See `Callbacks`; a request for a checkpoint is served once."""
        save, self._requests = self._requests.save, self._requests._replace(save=False)
        return save

    def _poll(self) -> None:
        """Reads the reply of the last poll if it has arrived, and sends the next."""
        now_s = time.monotonic()
        if self._requests.stop or self._rank != 0 or now_s - self._polled_s < REQUESTS_S:
            return
        self._polled_s = now_s
        if self._reply is not None and self._ray.wait([self._reply], timeout=0)[0]:
            reply = self._ray.get(self._reply)
            self._requests = messages.PendingRequests(reply.stop, reply.save or self._requests.save)
            self._reply = None
        if self._reply is None:
            self._reply = self._board.take_requests.remote()
