"""Lanes and windows of a stream."""

from itertools import pairwise

import numpy as np
import pytest

from core import errors
from core.data.batching import lanes


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_all_lanes_once(world_size: int) -> None:
    shares = [lanes.lanes_of_rank(rank, world_size, num_lanes=5) for rank in range(world_size)]
    assert [lane for share in shares for lane in share] == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_ranks_than_lanes_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="at least 4 lanes"):
        lanes.lanes_of_rank(rank=0, world_size=4, num_lanes=3)


def test_joined_windows_are_the_stream() -> None:
    served = list(lanes.windows(np.arange(35), num_lanes=2, lanes=range(2), window=4, offset=3))
    joined = np.concatenate([window.inputs_BT for window in served], axis=1)
    assert joined.tolist() == [list(range(3, 18)), list(range(18, 33))]
    assert [window.inputs_BT.shape[1] for window in served] == [4, 4, 4, 3]


def test_sequential_partitioning_gives_the_batches_of_d2l() -> None:
    """Dive into Deep Learning (2021), section 8.3: range(35), batch 2, 5 steps, an offset of 1."""
    served = list(lanes.windows(np.arange(35), num_lanes=2, lanes=range(2), window=5, offset=1))
    assert [window.inputs_BT.tolist() for window in served][:3] == [
        [[1, 2, 3, 4, 5], [17, 18, 19, 20, 21]],
        [[6, 7, 8, 9, 10], [22, 23, 24, 25, 26]],
        [[11, 12, 13, 14, 15], [27, 28, 29, 30, 31]],
    ]
    assert served[0].targets_BT.tolist() == [[2, 3, 4, 5, 6], [18, 19, 20, 21, 22]]
    assert served[3].inputs_BT.tolist() == [[16], [32]], "the short window, which D2L drops"


def test_targets_are_the_next_tokens() -> None:
    for window in lanes.windows(np.arange(100), num_lanes=3, lanes=range(3), window=7, offset=2):
        np.testing.assert_array_equal(window.targets_BT, window.inputs_BT + 1)


def test_windows_do_not_depend_on_the_number_of_ranks() -> None:
    stream = np.arange(1000)
    alone = list(lanes.windows(stream, 7, range(7), window=9, offset=4))
    shares = [list(lanes.windows(stream, 7, lanes.lanes_of_rank(rank, 3, 7), window=9, offset=4)) for rank in range(3)]
    for step, whole in enumerate(alone):
        together = np.concatenate([share[step].targets_BT for share in shares])
        np.testing.assert_array_equal(whole.targets_BT, together)
        assert {share[step].num_targets for share in shares} == {whole.targets_BT.size}


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_windows_resume_from_the_stop_of_the_last_one(sampling: str) -> None:
    def read(start: int) -> list[lanes.Window]:
        if sampling == "random":
            return list(lanes.random_windows(np.arange(200), 4, range(4), window=6, seed=3, epoch=1, start=start))
        return list(lanes.windows(np.arange(200), 4, range(4), window=6, offset=1, start=start))

    whole = read(0)
    rest = read(whole[2].stop)
    assert [window.inputs_BT.tolist() for window in rest] == [window.inputs_BT.tolist() for window in whole[3:]]
    assert rest[-1].stop == whole[-1].stop


def test_skipped_targets_are_counted() -> None:
    served = sum(window.targets_BT.size for window in lanes.windows(np.arange(103), 5, range(5), 8, offset=6))
    assert served == 95
    assert lanes.count_skipped(103, num_lanes=5, offset=6) == 103 - 1 - 95


def test_a_stream_shorter_than_its_lanes_is_refused() -> None:
    with pytest.raises(errors.DataError, match="does not fill 8 lanes"):
        next(lanes.windows(np.arange(8), 8, range(8), window=2, offset=0))


def test_epoch_offsets_cover_a_window() -> None:
    offsets = [lanes.epoch_offset(seed=1, epoch=epoch, window=35) for epoch in range(500)]
    assert set(offsets) == set(range(35))
    assert offsets != [lanes.epoch_offset(seed=2, epoch=epoch, window=35) for epoch in range(500)]


def test_random_sampling_gives_the_windows_of_d2l_once_each() -> None:
    """D2L (2021), section 8.3: range(35), batch 2, 5 steps: (34 - offset) // 5 windows, 3 batches."""
    offset = lanes.epoch_offset(seed=0, epoch=0, window=5)
    served = list(lanes.random_windows(np.arange(35), 2, range(2), window=5, seed=0, epoch=0))
    firsts = [int(row[0]) for window in served for row in window.inputs_BT]
    assert sorted(firsts) == [offset + 5 * number for number in range((34 - offset) // 5)]
    assert all((np.diff(window.inputs_BT) == 1).all() for window in served)
    assert len(served) == 3


def test_random_sampling_keeps_the_short_last_batch() -> None:
    offset = lanes.epoch_offset(seed=1, epoch=0, window=2)
    stream = np.arange(2 * 9 + 1 + offset)  # nine windows: batches of 4, 4 and 1
    shares = [list(lanes.random_windows(stream, 4, lanes.lanes_of_rank(r, 2, 4), 2, seed=1, epoch=0)) for r in (0, 1)]
    assert [[len(window.inputs_BT) for window in share] for share in shares] == [[2, 2, 1], [2, 2, 0]]
    assert [window.num_targets for window in shares[1]] == [8, 8, 2]
    tokens = np.concatenate([window.inputs_BT.ravel() for share in shares for window in share])
    assert sorted(tokens.tolist()) == list(range(offset, offset + 18))


def test_random_sampling_is_shuffled_anew_in_each_epoch() -> None:
    def firsts(epoch: int) -> list[int]:
        windows = lanes.random_windows(np.arange(5001), 50, range(50), window=1, seed=9, epoch=epoch)
        return [int(first) for window in windows for first in window.inputs_BT[:, 0]]

    assert firsts(0) != firsts(1)
    assert sum(after == before + 1 for before, after in pairwise(firsts(0))) < 10
