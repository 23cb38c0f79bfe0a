"""A control file that was damaged is never read as another decision, nor raises anything but an error of ours."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.storage import commit, control_files, location, run_lock

CONTENT = {"format": "raycurrent-x", "nll_nats": 2.5, "files": [{"name": "a-0"}], "version": 1, "é": None}


def damages(data: bytes, seed: int = 0, count: int | None = None) -> Iterator[bytes]:
    """Yields a file cut off at every byte and with every bit flipped; or so many of these, drawn by a seed."""
    all_ = [(place, bit) for place in range(len(data)) for bit in range(9)]
    for place, bit in all_ if count is None else random.Random(seed).sample(all_, min(count, len(all_))):
        if bit == 8:
            yield data[:place]
        else:
            yield data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def without_hash(data: bytes) -> bytes:
    """Returns the file as release 0.1 wrote it."""
    content = json.loads(data)
    content.pop(control_files.SHA256)
    return control_files.encode_plain(content)


def test_what_is_encoded_is_parsed_and_has_equal_bytes() -> None:
    data = control_files.encode(CONTENT)
    assert control_files.parse(data, "x.json") == CONTENT
    assert control_files.encode(dict(reversed(CONTENT.items()))) == data
    # The rest of the file, from the line end after the hash, hashed by hand.
    head, _, rest = data.partition(b",")
    assert json.loads(head + b"}") == {"sha256": commit.sha256_hex(rest)}


def test_a_file_of_before_is_read_as_it_is() -> None:
    assert control_files.parse(without_hash(control_files.encode(CONTENT)), "x.json") == CONTENT
    assert control_files.parse(b'{"fingerprint": "%s"}' % (b"0" * 64), "x.json") == {"fingerprint": "0" * 64}


def test_any_flipped_bit_or_cut_is_an_error_or_changes_nothing() -> None:
    num_errors = num_same = 0
    for damaged in damages(control_files.encode(CONTENT)):
        try:
            content = control_files.parse(damaged, "x.json")
        except errors.IntegrityError:
            num_errors += 1
        else:
            num_same += 1
            # Only the name of the hash was hit: one more entry, and all others as they were.
            assert {name: content.get(name) for name in CONTENT} == CONTENT
    assert num_errors > 1500
    assert num_same < 100


def test_a_file_of_another_size_or_kind_is_refused_unread(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(10 << 30)  # sparse
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name, reason in (("large", "is larger than"), ("folder", "is a folder"), ("zero", "is a device")):
        with pytest.raises(errors.IntegrityError, match=reason):
            control_files.read(location.Location.parse(str(tmp_path / f"{name}.json")))
    with pytest.raises(errors.NotFoundError):
        control_files.read(location.Location.parse(str(tmp_path / "missing.json")))


def _locked(root: location.Location) -> object:
    with run_lock.RunLock(root, "score", ttl_s=0.02, heartbeat_s=0.01):
        return None


@pytest.mark.parametrize("is_of_before", [False, True])
@pytest.mark.parametrize("name", ["_PLAN.json", "_commits/00000.json", "_MANIFEST.json"])
def test_a_damaged_output_is_refused_or_read_as_it_was(tmp_path: Path, name: str, is_of_before: bool) -> None:
    root = location.Location.parse(str(tmp_path))
    store = commit.PartStore(root, {"beam_size": 5})
    store.begin()
    shard = commit.put_content(root, "part-00000", ".arrow", b"abc").to_json()
    store.commit("00000", {"nats": 1.5, "shard": shard, "files": [shard]})
    store.finish({"format": "raycurrent-output", "version": 1, "files": [shard], "summary": {"nll_nats": 1.5}})

    def outcome() -> Any:
        again = commit.PartStore(root, {"beam_size": 5})
        again.begin()
        return again.committed("00000"), (again.manifest() or {}).get("summary"), again.is_begun()

    _check(root.join(name), outcome, is_of_before)


def _check(path: location.Location, outcome: Callable[[], Any], is_of_before: bool) -> None:
    """Runs a reader on damaged forms of a file: it gives the same, or an error of ours; of before, the latter alone."""
    original = path.read_bytes()
    expected = outcome()
    data = without_hash(original) if is_of_before else original
    for damaged in damages(data, count=400):
        path.replace(damaged)
        with contextlib.suppress(errors.IntegrityError, errors.LockedError):
            actual = outcome()
            assert is_of_before or actual == expected, damaged
    path.replace(data)
    assert outcome() == expected


@pytest.mark.parametrize("name", ["epoch-000001.json", "heartbeat-000001.json"])
def test_a_damaged_lock_is_waited_for_and_taken(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = location.Location.parse(str(tmp_path))
    _locked(root)
    original = root.join("_lock", name).read_bytes()
    for damaged in damages(original, count=40):
        for other in root.join("_lock").list_names():
            if "000001" not in other:
                root.join("_lock", other).remove()
        root.join("_lock", name).replace(damaged)
        with contextlib.suppress(errors.LockedError):
            _locked(root)


@pytest.mark.parametrize("error", [KeyError("rows"), TypeError("no list"), ValueError("a\nb"), ZeroDivisionError()])
def test_what_a_malformed_document_raises_is_an_integrity_error_of_one_line(error: Exception) -> None:
    expected = r"^x\.json: is not complete or not valid \(.*\); make it again$"
    with pytest.raises(errors.IntegrityError, match=expected), control_files.parsing("x.json", "make it again"):
        raise error
