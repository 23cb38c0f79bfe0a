"""Lazy sequences.

An item is computed by a function of its index whenever it is read, and not kept.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence of `length` items, each computed from its index on access.

    A plan with an entry for each line or part of a corpus takes no memory before an entry's turn, nor after it.
    """

    def __init__(self, length: int, make: Callable[[int], Item]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        """Returns the number of items."""
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """Computes the items in turn."""
        return map(self._make, range(self._length))

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """Computes an item; for a slice, returns another lazy sequence."""
        # Indexing a range handles negative indexes, steps and bounds as a list would.
        if isinstance(index, slice):
            indexes = range(self._length)[index]
            return LazySequence(len(indexes), lambda number: self._make(indexes[number]))
        return self._make(range(self._length)[index])
