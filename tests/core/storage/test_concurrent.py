"""Laws of requests at the same time."""

import threading
from collections.abc import Iterator

import pytest

from core.storage import concurrent


@pytest.mark.parametrize("number", [0, 1, 2, 10, 11, 57])
def test_results_have_the_order_of_the_items(number: int) -> None:
    assert list(concurrent.map_in_order(lambda item: item * item, range(number))) == [n * n for n in range(number)]


def test_calls_overlap() -> None:
    # Each call waits for all the others: one after the other they would never end.
    barrier = threading.Barrier(concurrent.NUM_REQUESTS, timeout=30)
    assert len(list(concurrent.map_in_order(lambda _: barrier.wait(), range(concurrent.NUM_REQUESTS)))) == 10


def test_no_more_items_are_taken_than_may_be_under_way() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    results = concurrent.map_in_order(lambda item: item, items())
    for number in range(1, 20):
        assert next(results) == number
        assert taken <= number + concurrent.NUM_REQUESTS


def test_the_first_error_in_the_order_of_the_items_is_raised() -> None:
    def fail(item: int) -> int:
        if item >= 3:
            raise ValueError(str(item))
        return item

    results = concurrent.map_in_order(fail, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^3$"):
        next(results)


def test_two_calls_overlap_and_both_results_are_returned() -> None:
    barrier = threading.Barrier(2, timeout=30)

    def second() -> str:
        barrier.wait()
        return "second"

    assert concurrent.pair(lambda: barrier.wait() in (0, 1), second) == (True, "second")
    with pytest.raises(ZeroDivisionError):
        concurrent.pair(lambda: None, lambda: 1 / 0)
