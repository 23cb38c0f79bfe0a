"""Sequences whose items are made when they are asked for."""

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class OnDemand(Sequence[Item]):
    """So many items, each made anew from its place whenever it is asked for.

    What is planned for a corpus, a line or a part each, then takes no memory before its turn comes, nor after.
    """

    def __init__(self, length: int, make: Callable[[int], Item]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._length

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        """Makes the item of a place; of a slice, a sequence that makes its items."""
        if isinstance(place, slice):
            chosen = range(self._length)[place]
            return OnDemand(len(chosen), lambda number: self._make(chosen[number]))
        return self._make(range(self._length)[place])
