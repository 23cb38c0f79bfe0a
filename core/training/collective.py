"""What ranks agree on, and how: a protocol, one for a rank alone, and one over torch.distributed.

A decision that changes what a rank does next (stop, skip, save) is taken by all ranks together, in the same
order, or they wait for each other for ever. Each call says what it is about, so that the error of a rank that
waited in vain says it too.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from core import errors

T = TypeVar("T")


class Collective(Protocol):
    """The ranks of a group. Every rank makes the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This rank, from 0."""

    @property
    def world_size(self) -> int:
        """How many ranks there are."""

    def sum_(self, tensor: torch.Tensor, what: str) -> None:
        """Replaces the tensor by the sum of all ranks' tensors."""

    def largest(self, number: int, what: str) -> int:
        """The largest of all ranks' numbers."""

    def broadcast(self, value: T, what: str) -> T:
        """Rank 0's value; what the others pass is ignored."""

    def gather(self, value: T, what: str) -> list[T] | None:
        """All ranks' values in rank order on rank 0, None elsewhere."""

    def barrier(self, what: str) -> None:
        """Returns when every rank has come here."""


class Alone:
    """The only rank: agrees with itself at once."""

    rank = 0
    world_size = 1

    def sum_(self, tensor: torch.Tensor, what: str) -> None:
        """Leaves the tensor: it is the sum."""

    def largest(self, number: int, what: str) -> int:  # noqa: ARG002
        """Its own number."""
        return number

    def broadcast(self, value: T, what: str) -> T:  # noqa: ARG002
        """Its own value."""
        return value

    def gather(self, value: T, what: str) -> list[T] | None:  # noqa: ARG002
        """Its own value, listed."""
        return [value]

    def barrier(self, what: str) -> None:
        """Returns at once."""


class Torch:
    """The ranks of torch.distributed's default group, which the caller has set up.

    Numbers on a GPU go over the group's own backend. Words and objects go over gloo, so that agreeing on them never
    waits for the GPU.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        is_gloo = dist.get_backend() == dist.Backend.GLOO
        self._control = dist.group.WORLD if is_gloo else dist.new_group(backend="gloo")

    def sum_(self, tensor: torch.Tensor, what: str) -> None:
        """Replaces the tensor by the sum of all ranks' tensors.

        Raises:
            ClusterError: a rank did not take part.
        """
        group = self._control if tensor.device.type == "cpu" else dist.group.WORLD
        self._agree(what, lambda: dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group))

    def largest(self, number: int, what: str) -> int:
        """The largest of all ranks' numbers.

        Raises:
            ClusterError: a rank did not take part.
        """
        word = torch.tensor(number, dtype=torch.int32)
        self._agree(what, lambda: dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self._control))
        return int(word.item())

    def broadcast(self, value: T, what: str) -> T:
        """Rank 0's value; what the others pass is ignored.

        Raises:
            ClusterError: a rank did not take part.
        """
        values = [value]
        self._agree(what, lambda: dist.broadcast_object_list(values, src=0, group=self._control))
        return values[0]

    def gather(self, value: T, what: str) -> list[T] | None:
        """All ranks' values in rank order on rank 0, None elsewhere.

        Raises:
            ClusterError: a rank did not take part.
        """
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        self._agree(what, lambda: dist.gather_object(value, values, dst=0, group=self._control))
        return values

    def barrier(self, what: str) -> None:
        """Returns when every rank has come here; rank 0 names those that did not.

        Raises:
            ClusterError: a rank did not come in time.
        """
        self._agree(what, lambda: dist.monitored_barrier(group=self._control, wait_all_ranks=True))

    def _agree(self, what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise errors.ClusterError(
                f"rank {self.rank} of {self.world_size}: agreeing on {what} failed ({reason}); "
                "another rank died or hangs, its log says why"
            ) from error


def from_first(group: Collective, what: str, call: Callable[[], T]) -> T:
    """Rank 0 does something, and all ranks get its result, or its error.

    Raises:
        RaycurrentError: what the call raised on rank 0.
    """
    result: T | None = None
    failure: errors.RaycurrentError | None = None
    if group.rank == 0:
        try:
            result = call()
        except errors.RaycurrentError as error:
            failure = error
    result, failure = group.broadcast((result, failure), what)
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]
