"""Collective operations of the ranks: a protocol, its single-process version, and torch.distributed.

A decision that changes what a rank does next (stop, skip, save) is taken by all ranks together, in the same order, or
they wait for each other forever. Each call names its purpose, so that the error of a rank whose peers are gone does
too.
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
        """The number of ranks."""

    def sum_(self, tensor: torch.Tensor, purpose: str) -> None:
        """Replaces the tensor by the sum of all ranks' tensors."""

    def largest(self, number: int, purpose: str) -> int:
        """Returns the largest of all ranks' numbers."""

    def broadcast(self, value: T, purpose: str) -> T:
        """Returns rank 0's value; the values of the others are ignored."""

    def gather(self, value: T, purpose: str) -> list[T] | None:
        """Returns all ranks' values in rank order on rank 0, None elsewhere."""


class SingleProcess:
    """A group of one rank, without torch.distributed."""

    rank = 0
    world_size = 1

    def sum_(self, tensor: torch.Tensor, purpose: str) -> None:
        """See `Collective`: the tensor is the sum already."""

    def largest(self, number: int, purpose: str) -> int:  # noqa: ARG002
        """See `Collective`."""
        return number

    def broadcast(self, value: T, purpose: str) -> T:  # noqa: ARG002
        """See `Collective`."""
        return value

    def gather(self, value: T, purpose: str) -> list[T] | None:  # noqa: ARG002
        """See `Collective`."""
        return [value]


class TorchDistributed:
    """The ranks of torch.distributed's default process group, which the caller has initialized.

    Tensors on a GPU use the group's own backend. Numbers and objects of the control flow use gloo, so that agreeing on
    them never waits for the GPU.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        is_gloo = dist.get_backend() == dist.Backend.GLOO
        self._control = dist.group.WORLD if is_gloo else dist.new_group(backend="gloo")

    def sum_(self, tensor: torch.Tensor, purpose: str) -> None:
        """Replaces the tensor by the sum of all ranks' tensors.

        Raises:
            ClusterError: a rank did not take part.
        """
        group = self._control if tensor.device.type == "cpu" else dist.group.WORLD
        self._call(purpose, lambda: dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group))

    def largest(self, number: int, purpose: str) -> int:
        """Returns the largest of all ranks' numbers.

        Raises:
            ClusterError: a rank did not take part.
        """
        word = torch.tensor(number, dtype=torch.int32)
        self._call(purpose, lambda: dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self._control))
        return int(word.item())

    def broadcast(self, value: T, purpose: str) -> T:
        """Returns rank 0's value; the values of the others are ignored.

        Raises:
            ClusterError: a rank did not take part.
        """
        values = [value]
        self._call(purpose, lambda: dist.broadcast_object_list(values, src=0, group=self._control))
        return values[0]

    def gather(self, value: T, purpose: str) -> list[T] | None:
        """Returns all ranks' values in rank order on rank 0, None elsewhere.

        Raises:
            ClusterError: a rank did not take part.
        """
        # Pickled on the way, as messages between our own processes; files never are.
        values: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        self._call(purpose, lambda: dist.gather_object(value, values, dst=0, group=self._control))
        return values

    def _call(self, purpose: str, operation: Callable[[], object]) -> None:
        try:
            operation()
        except RuntimeError as error:  # what torch raises when a peer is gone or the timeout has passed
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise errors.ClusterError(
                f"rank {self.rank} of {self.world_size}: collective operation for {purpose} failed ({reason}); "
                "another rank died or hangs, see its log"
            ) from error


def on_rank_0(group: Collective, purpose: str, call: Callable[[], T]) -> T:
    """Calls a function on rank 0 alone, and returns its result, or raises its error, on all ranks.

    Raises:
        RaycurrentError: the call raised it on rank 0.
    """
    result: T | None = None
    failure: errors.RaycurrentError | None = None
    if group.rank == 0:
        try:
            result = call()
        except errors.RaycurrentError as error:
            # Raised only after the broadcast: the others would wait for it forever.
            failure = error
    # An error of ours is built from one string, so that it arrives with its type.
    result, failure = group.broadcast((result, failure), purpose)
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]
