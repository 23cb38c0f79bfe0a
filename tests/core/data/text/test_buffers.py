"""An object of a store gives the lines of a local file, whatever is fetched ahead."""

import uuid
from pathlib import Path

import pytest

from core import errors
from core.data.text import buffers, corpus
from core.storage import filesystems, location

# Lines of unequal length, so that a part ends before or behind the place that is fetched up to.
LINES = ["a" * length for length in (0, 3, 200, 0, 1, 40, 7, 7, 500, 2, 90, 0, 5)]


def _lines(file: location.Location, block_bytes: int, columns: int = 1) -> list[tuple[int, corpus.Sides]]:
    blocks = [corpus.count_block(file, *block) for block in corpus.blocks(file.size_bytes(), block_bytes)]
    parts = corpus.cut_by_blocks([(file,) * columns], [[blocks] * columns])
    lines = [line for part in parts for line in corpus.read_lines(part)]
    return [(number, sides) for number, sides in lines if not isinstance(sides, corpus.BadLine)]


@pytest.mark.parametrize("ahead_bytes", [1, 10, 1 << 20])
@pytest.mark.parametrize("margin_bytes", [0, 5, 1 << 16])
@pytest.mark.parametrize("block_bytes", [16, 100, 5000])
def test_parts_of_an_object_have_the_lines_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, margin_bytes: int, ahead_bytes: int
) -> None:
    monkeypatch.setattr(buffers, "AHEAD_BYTES", ahead_bytes)
    monkeypatch.setattr(corpus, "_MARGIN_BYTES", margin_bytes)
    monkeypatch.setattr(corpus, "BUFFER_BYTES", 64)
    monkeypatch.setattr(filesystems, "BLOCK_BYTES", 128)
    text = "\n".join(LINES).encode()
    local = location.Location.parse(str(tmp_path / "a.txt"))
    remote = location.Location.parse(f"memory://{uuid.uuid4().hex}/a.txt")
    for file in (local, remote):
        file.put_if_absent(text)
    expected = [(number, (line, line)) for number, line in enumerate(LINES)]
    assert _lines(remote, block_bytes, columns=2) == _lines(local, block_bytes, columns=2) == expected
    indexes = [corpus.index_lines(file, 3) for file in (local, remote)]
    assert [*indexes[0].starts_bytes] == [*indexes[1].starts_bytes]
    parts = corpus.cut_by_lines((remote,), indexes[1:])
    assert [line for part in parts for line in corpus.read_lines(part)] == [
        (number, (line,)) for number, line in enumerate(LINES)
    ]


def test_an_object_that_has_changed_is_refused() -> None:
    remote = location.Location.parse(f"memory://{uuid.uuid4().hex}/a.txt")
    remote.put_if_absent(b"one\ntwo\n")
    (part,) = corpus.cut_by_lines((remote,), [corpus.index_lines(remote, 5)])
    remote.replace(b"one\ntwo\nthree\n")
    with pytest.raises(errors.DataError, match="changed while it was being read"):
        [*corpus.read_lines(part)]
    with pytest.raises(errors.DataError, match="changed while it was being read"):
        [*buffers.read_whole(remote, 8, 4)]
    with pytest.raises(errors.DataError, match="changed while it was being read"):
        [*buffers.read(remote, 0, 99, 4)]
