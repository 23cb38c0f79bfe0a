"""Locations as users may write them, and the URLs that they become."""

import pickle
from pathlib import Path

import pytest

from core import errors
from core.storage import location


def parsed(text: str, base: str | None = "/base") -> str:
    return location.Location.parse(text, "root", base).url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("a/b", "file:///base/a/b"),
        ("./a//b/./c/", "file:///base/a/b/c"),
        ("../a", "file:///a"),
        ("/x/../y", "file:///y"),
        ("file:///x//y/", "file:///x/y"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket//a/./b/", "s3://bucket/a/b"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("az://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("memory://m/a b%20ü", "memory://m/a b%20ü"),
        ("https://host:8443/a//b?c=d#e", "https://host:8443/a//b?c=d#e"),
        ("s3://bucket/a?b#c", "s3://bucket/a?b#c"),
        ("a b%20ü?#", "file:///base/a b%20ü?#"),
        ("-x", "file:///base/-x"),
        ("./note:1.txt", "file:///base/note:1.txt"),
        ("$HOME/x", "file:///base/$HOME/x"),
        ("a~b", "file:///base/a~b"),
    ],
)
def test_a_location_becomes_one_absolute_url(text: str, url: str) -> None:
    assert parsed(text) == url
    assert parsed(url) == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("S3://bucket/a", "write s3://"),
        ("s3a://bucket/a", "write s3://"),
        ("s3//bucket/a", "looks like a URL"),
        ("s3:/bucket/a", "looks like a URL"),
        ("C:\\data", "Windows"),
        ("data:text/plain,x", "looks like a URL"),
        ("file://host/a", "names the host 'host'"),
        ("ftp://host/a", "not a known kind"),
        ("hf://datasets/a", "not a known kind"),
        ("zip://a::s3://bucket/b.zip", "not a known kind"),
        ("simplecache::s3://bucket/b", "chain of filesystems"),
        ("s3://bucket/../other", "contains"),
        ("s3://", "no bucket"),
        ("s3:///a", "no bucket"),
        ("s3://key:secret@bucket/a", "credentials"),
        ("https://token@host/a", "credentials"),
        ("https://host:99999/a", "not a valid URL"),
        ("a\0b", "NUL"),
        ("a\nb", "line break"),
        ("a\udcff", "not valid UTF-8"),
        ("x" * 300, "longer than 255"),
    ],
)
def test_a_mistyped_location_is_refused(text: str, expected: str) -> None:
    with pytest.raises(errors.UsageError, match=expected) as caught:
        parsed(text)
    message = str(caught.value)
    assert message.startswith("root: ")
    assert "; " in message
    assert "\n" not in message
    assert "secret" not in message


def test_relative_locations_start_from_a_base_of_any_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert parsed("a/b", None) == f"file://{tmp_path}/a/b"
    assert parsed("a", "s3://bucket/folder/") == "s3://bucket/folder/a"
    assert parsed("/a", "s3://bucket/folder") == "file:///a"
    assert parsed("~/a") == "file:///home/someone/a"


def test_join_and_parent_are_inverse() -> None:
    for text in ("/data/run", "s3://bucket/run", "memory://m/run"):
        folder = location.Location.parse(text)
        child = folder.join("a", "b/c.json")
        assert str(child) == f"{text}/a/b/c.json"
        assert child.name == "c.json"
        assert child.parent == folder.join("a", "b")
        assert pickle.loads(pickle.dumps(child)) == child
        assert len({child, folder.join("a/b", "c.json")}) == 1
    assert str(location.Location("file:///a").parent) == "/"
    assert location.Location("file:///").join("a").url == "file:///a"


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "", "a//b", "."])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(errors.UsageError, match="not a name below"):
        location.Location("memory://m/run").join(name)


def test_only_a_local_location_has_a_path() -> None:
    assert location.Location.parse("/a/b").path == Path("/a/b")
    with pytest.raises(errors.UsageError, match="not a local path"):
        _ = location.Location.parse("s3://bucket/a").path
