"""Pipes and devices as inputs, and standard output."""

import os
import pathlib
import socket
import threading

import pytest

from core import errors
from core.storage import location, streams


def local(path: pathlib.Path | str) -> location.Location:
    return location.Location.parse(str(path))


@pytest.fixture
def irregular(tmp_path: pathlib.Path) -> dict[str, location.Location]:
    """A pipe without a writer, a device and a socket: reading the first would wait, the second never end."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    return {"pipe": local(tmp_path / "pipe"), "device": local("/dev/zero"), "socket": local(tmp_path / "socket")}


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_has_no_size_and_is_not_opened(
    irregular: dict[str, location.Location], kind: str
) -> None:
    path = irregular[kind]
    for read in (
        path.size_bytes,
        path.read_bytes,
        path.read_json,
        lambda: path.read_range(0, 1),
        path.open().__enter__,
    ):
        with pytest.raises(errors.UsageError, match=f"{path}: is a {kind}, not a regular file; name a file"):
            read()


def test_devices_and_sockets_are_refused_as_inputs_and_pipes_are_streams(
    irregular: dict[str, location.Location], tmp_path: pathlib.Path
) -> None:
    for kind in ("device", "socket"):
        with pytest.raises(errors.UsageError, match=f"^--input: '{irregular[kind]}' is a {kind}, not a regular file"):
            streams.refuse_device(irregular[kind], "--input")
    (tmp_path / "plain").write_text("x")
    for path in (irregular["pipe"], local(tmp_path / "plain"), local(tmp_path), local(tmp_path / "missing")):
        streams.refuse_device(path, "--input")
    assert streams.is_stream(irregular["pipe"])
    assert not any(map(streams.is_stream, (local(tmp_path / "plain"), local(tmp_path), local(tmp_path / "missing"))))
    assert not streams.is_stream(location.Location.parse("memory://plain"))


def test_a_descriptor_is_a_stream_even_of_a_regular_file(tmp_path: pathlib.Path) -> None:
    """Another process has another file behind the same name."""
    (tmp_path / "plain").write_text("x")
    with (tmp_path / "plain").open() as file:
        assert streams.is_stream(local(f"/dev/fd/{file.fileno()}"))
    assert streams.is_stream(local("/dev/stdin"))


def test_a_stream_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = b"line\n" * 100_000  # more than a pipe holds
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    with streams.open_stream(local(tmp_path / "pipe")) as opened:
        assert opened.read() == data
    writer.join()


def test_standard_output_carries_utf8_and_its_errors_are_ours(tmp_path: pathlib.Path) -> None:
    reader, writer = os.pipe()
    with streams.open_stdout(writer) as out:
        out.write("é\n")
    assert os.read(reader, 10) == "é\n".encode()
    os.close(reader)
    with pytest.raises(errors.ClosedOutputError, match="its reader went away"), streams.open_stdout(writer) as out:
        out.write("é\n")
    os.close(writer)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(errors.StorageError, match="No space left on device"), streams.open_stdout(full) as out:
        out.write("é\n")
    os.close(full)


def test_a_stream_that_cannot_be_opened_is_an_error_of_ours(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.StorageError, match=r"cannot be opened \(No such file or directory\)"):
        streams.open_stream(local(tmp_path / "missing")).__enter__()
