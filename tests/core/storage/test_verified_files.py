"""Copies of files in object stores: fetched once, kept only if they have their hash."""

import errno
import hashlib
import pathlib

import pytest

from core import errors
from core.storage import local_files, location, verified_files
from tests import s3

CONTENT = b"tables" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Returns the folder of the copies, which is this test's own."""
    monkeypatch.setattr(verified_files, "folder", lambda: tmp_path)
    return tmp_path


def test_a_file_in_a_store_is_fetched_once_for_all_that_ask_for_its_hash(
    s3_root: location.Location, store: s3.Store, cache: pathlib.Path
) -> None:
    file = s3_root.join("model.safetensors")
    assert file.put_if_absent(CONTENT)
    path = verified_files.copy(file, SHA256, ".safetensors")
    assert path == cache / f"{SHA256}.safetensors"
    assert path.read_bytes() == CONTENT
    with store.recording() as asked:
        assert verified_files.copy(file, SHA256, ".safetensors") == path
        assert verified_files.copy(s3_root.join("moved"), SHA256, ".safetensors") == path
    assert asked.by_kind() == {}


def test_a_file_with_another_hash_is_refused_and_leaves_no_copy(
    s3_root: location.Location, cache: pathlib.Path
) -> None:
    file = s3_root.join("model.safetensors")
    assert file.put_if_absent(CONTENT[:-1])
    with pytest.raises(errors.IntegrityError, match="SHA-256"):
        verified_files.copy(file, SHA256, ".safetensors")
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told_with_what_is_free_and_what_to_set(
    s3_root: location.Location, cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = s3_root.join("model.safetensors")
    assert file.put_if_absent(CONTENT)

    def fill(path: pathlib.Path, write: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local_files, "replace", fill)
    with pytest.raises(errors.StorageError, match=r"No space left on device, \d+ bytes are free\); set TMPDIR"):
        verified_files.copy(file, SHA256, ".safetensors")
