"""The hash of a content that is written piece by piece."""

import hashlib
import io
from typing import BinaryIO

import pytest

from core.storage import contents


def _write(file: BinaryIO) -> None:
    file.write(b"one ")
    file.write(b"two")


def test_hash_and_size_are_those_of_what_was_written() -> None:
    content, file = contents.Hashed(_write), io.BytesIO()
    content(file)
    assert file.getvalue() == b"one two"
    assert content.sha256_and_size() == (hashlib.sha256(b"one two").hexdigest(), 7)


def test_a_content_that_was_not_written_is_hashed_all_the_same() -> None:
    assert contents.Hashed(_write).sha256_and_size() == (hashlib.sha256(b"one two").hexdigest(), 7)


def test_a_writer_that_stops_half_way_leaves_the_hash_of_the_whole() -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise FileExistsError("the name is taken")

    content = contents.Hashed(_write)
    with pytest.raises(FileExistsError):
        content(Full())  # type: ignore[arg-type]
    assert content.sha256_and_size()[1] == 7


def test_an_error_of_the_check_is_raised_behind_the_content() -> None:
    def lost() -> None:
        raise RuntimeError("another driver has taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        contents.Hashed(_write, lost)(io.BytesIO())
