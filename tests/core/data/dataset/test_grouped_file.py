"""Files of groups: any consecutive groups are read back, and no damage of the bytes that are read goes unnoticed."""

from pathlib import Path

import pytest

from core import errors
from core.data.dataset import grouped_file
from core.storage import commit, location

GROUPS = [b"first", b"", b"second", b"3", b""]
BOUNDS = [0, 5, 5, 11, 12, 12]
NUM_GROUPS = len(GROUPS)


def write(folder: Path) -> tuple[location.Location, str]:
    place = location.Location.parse(str(folder))
    data = grouped_file.pack(b"".join(GROUPS), BOUNDS)
    return place, commit.put_content(place, "groups", ".bin", data).name


@pytest.mark.parametrize("start", range(NUM_GROUPS))
def test_consecutive_groups_are_read_as_they_were_written(tmp_path: Path, start: int) -> None:
    folder, name = write(tmp_path)
    for stop in range(start, NUM_GROUPS + 1):
        groups = range(start, stop)
        assert bytes(grouped_file.read(folder, name, groups, NUM_GROUPS)) == b"".join(GROUPS[start:stop])
        each = grouped_file.read_each(folder, name, groups, NUM_GROUPS)
        assert [bytes(group) for group in each] == GROUPS[start:stop]


@pytest.mark.parametrize("groups", [range(NUM_GROUPS), range(2, 4)])
def test_a_flipped_bit_in_what_is_read_is_noticed(tmp_path: Path, groups: range) -> None:
    folder, name = write(tmp_path)
    good = (tmp_path / name).read_bytes()
    header_bytes = len(good) - BOUNDS[-1]
    entry_bytes = header_bytes // (NUM_GROUPS + 1)
    # The entries of the groups and the offset after the last one, then the groups themselves.
    read = [*range(entry_bytes * groups.start, entry_bytes * groups.stop + 8)]
    read += range(header_bytes + BOUNDS[groups.start], header_bytes + BOUNDS[groups.stop])
    for position in read:
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            (tmp_path / name).write_bytes(bad)
            with pytest.raises(errors.IntegrityError, match=r"groups-.*\.bin: is damaged"):
                grouped_file.read(folder, name, groups, NUM_GROUPS)


def test_a_file_that_was_cut_is_noticed(tmp_path: Path) -> None:
    folder, name = write(tmp_path)
    good = (tmp_path / name).read_bytes()
    for size in range(len(good)):
        (tmp_path / name).write_bytes(good[:size])
        with pytest.raises(errors.IntegrityError, match="is damaged"):
            grouped_file.read(folder, name, range(2, 4), NUM_GROUPS)
