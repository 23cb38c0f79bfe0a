"""The bytes of text files, in buffers, and their lines.

A local file is read buffer by buffer, an object of a store by few large requests.
"""

from collections.abc import Iterable, Iterator

from core import errors
from core.storage import concurrent, location

AHEAD_BYTES = 1 << 25  # most that one request fetches before it is asked for
_MAX_CHARACTER_BYTES = 4  # in UTF-8


def read_beginning(file: location.Location, size_bytes: int, start: int, stop: int, check_size: bool = True) -> bytes:
    """Checks that a file still has its size, and fetches the bytes from `start` up to about `stop`.

    Of an object both requests are sent at the same time; without `check_size` the first is left out. Of a local file
    nothing is read ahead.

    Raises:
        DataError: the file has another size.
    """
    if file.is_local:
        found_bytes, beginning = file.size_bytes(), b""
    else:
        end = min(stop, start + AHEAD_BYTES, size_bytes)
        if not check_size:
            return file.read_range(start, end)
        found_bytes, beginning = concurrent.pair(file.size_bytes, lambda: file.read_range(start, end))
    # Offsets are those of the counted file: in another one they would point into the middle of lines.
    if found_bytes != size_bytes:
        raise changed_error(file)
    return beginning


def read(
    file: location.Location, start: int, stop: int, buffer_bytes: int, beginning: bytes = b""
) -> Iterator[tuple[int, bytes]]:
    """Yields the bytes [start, stop) of a file as (offset, buffer).

    Args:
        file: the file.
        start: offset of the first byte.
        stop: offset behind the last byte.
        buffer_bytes: size of a buffer.
        beginning: bytes from `start` on that are known already.

    Raises:
        DataError: the file ends before `stop`.
    """
    known_stop = start + len(beginning)
    # Not filled up from the file: most often the lines that are wanted end within what is known.
    for offset in range(start, known_stop, buffer_bytes):
        yield offset, beginning[offset - start : offset - start + buffer_bytes]
    for offset in range(known_stop, stop, buffer_bytes):
        end = min(offset + buffer_bytes, stop)
        buffer = file.read_range(offset, end)
        if len(buffer) != end - offset:
            raise changed_error(file)
        yield offset, buffer


def read_block(file: location.Location, start: int, stop: int, buffer_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yields the bytes [start, stop) of a file as (offset, buffer); those of an object by one request, if not many."""
    beginning = b"" if file.is_local else file.read_range(start, min(stop, start + AHEAD_BYTES))
    return read(file, start, stop, buffer_bytes, beginning)


def read_whole(file: location.Location, size_bytes: int, buffer_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yields all bytes of a file as (offset, buffer); several requests for an object are under way at a time.

    Raises:
        DataError: the file has another size.
    """
    if file.is_local:
        yield from read(file, 0, size_bytes, buffer_bytes)
        return
    offset = 0
    for block in file.read_blocks(size_bytes):
        yield offset, block
        offset += len(block)
    if offset != size_bytes:
        raise changed_error(file)


def split(pieces: Iterable[bytes], max_line_bytes: int) -> Iterator[str | bytes | None]:
    """Splits consecutive buffers at line feeds.

    A line is text, bytes that `corpus.decode` must check and repair, or None if it exceeds `max_line_bytes`. Such a
    line is discarded as soon as it exceeds the limit, so memory does not grow with its length.
    """
    tail: bytes | None = b""  # the line that continues in the next buffer; None once it exceeds the limit
    for buffer in pieces:
        # Between the two are complete lines, decoded in one call; only the ends need joining.
        first, last = buffer.find(b"\n"), buffer.rfind(b"\n")
        if first >= 0:
            yield None if tail is None else _limit(tail + buffer[:first], max_line_bytes)
            tail = b""
            if first < last:
                yield from _split_lines(buffer[first + 1 : last], max_line_bytes)
        tail = None if tail is None else _limit(tail + buffer[last + 1 :], max_line_bytes)
    if tail != b"":  # the last line of the file, without a line feed
        yield tail


def _split_lines(buffer: bytes, max_line_bytes: int) -> Iterator[str | bytes | None]:
    """Splits complete lines: decoded at once if none needs a check or repair, else as bytes."""
    if b"\0" not in buffer and b"\r" not in buffer:
        try:
            lines = buffer.decode().split("\n")
        except UnicodeDecodeError:
            lines = []
        if lines and (len(buffer) <= max_line_bytes or _MAX_CHARACTER_BYTES * max(map(len, lines)) <= max_line_bytes):
            yield from lines
            return
    for line in buffer.split(b"\n"):
        yield _limit(line, max_line_bytes)


def _limit(line: bytes | None, max_line_bytes: int) -> bytes | None:
    return line if line is None or len(line) <= max_line_bytes else None


def changed_error(file: location.Location) -> errors.DataError:
    """Returns the error of a file that is not as it was when its lines were counted."""
    return errors.DataError(f"{file}: changed while it was being read; run the command again when nothing writes to it")
