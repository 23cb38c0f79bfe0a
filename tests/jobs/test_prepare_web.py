"""Tests of sources on the web: checksums, redirects and private addresses."""

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import schema
from core.storage import filesystems, retries
from tests.jobs import datasets

PAGE = gzip.compress("".join(f"{line}\n" for line in datasets.sentences(300)).encode(), mtime=0)


class _Pages(http.server.BaseHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        self.send_response({"/book.txt.gz": 200, "/moved.txt.gz": 302}.get(self.path, 404))
        self.send_header("Location", "/book.txt.gz")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(PAGE)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def requests() -> list[str]:
    """The requests that the server received."""
    return []


@pytest.fixture
def web(requests: list[str]) -> Iterator[str]:
    """The URL of a server on this machine."""
    handler = type("Pages", (_Pages,), {"requests": requests})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this machine count as a public address."""
    monkeypatch.setattr(filesystems, "refuse_private_host", lambda authority: None)
    monkeypatch.setattr(retries, "DEADLINE_S", 0.3)


def settings(root: Path, url: str, sha256: str | None = None) -> schema.RunConfig:
    corpus: dict[str, Any] = {"kind": "text", "train": {"text": [url]}, "split": {"valid": 0.1}}
    if sha256 is not None:
        corpus["sha256"] = {url: sha256}
    return datasets.config(root, corpus)


@pytest.mark.usefixtures("public")
def test_a_web_source_gives_the_same_dataset_and_is_downloaded_once(
    web: str, requests: list[str], tmp_path: Path
) -> None:
    url, sha256 = f"{web}/book.txt.gz", hashlib.sha256(PAGE).hexdigest()
    remote = settings(tmp_path / "web", url, sha256.upper())
    datasets.run(remote)
    (tmp_path / "book.txt").write_bytes(gzip.decompress(PAGE))
    local = settings(tmp_path / "local", str(tmp_path / "book.txt"))
    datasets.run(local)
    here, there = datasets.open_dataset(local).index, datasets.open_dataset(remote).index
    assert (there.splits, there.tokenizers, there.fingerprint) == (here.splits, here.tokenizers, here.fingerprint)
    assert there.sources[0]["files"] == [[{"url": url, "size_bytes": None, "sha256": sha256.upper()}]]
    num_requests = len(requests)
    assert datasets.run(remote)["already_done"]
    assert len(requests) == num_requests
    assert datasets.run(settings(tmp_path / "local", url, sha256))["already_done"], "the same text, now on the web"


@pytest.mark.usefixtures("public")
def test_web_sources_need_a_checksum_and_redirects_are_not_followed(
    web: str, requests: list[str], tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(PAGE).hexdigest()
    url = f"{web}/book.txt.gz"
    with pytest.raises(errors.UsageError, match=r"corpus\.sha256: has no entry for .*book.*; a web source needs"):
        datasets.run(settings(tmp_path, url))
    assert requests == []
    with pytest.raises(errors.DataError, match=rf"its SHA-256 is {sha256}, not {'0' * 64}; download the right file"):
        datasets.run(settings(tmp_path, url, "0" * 64))
    with pytest.raises(errors.StorageError, match=r"moved\.txt\.gz: "):
        datasets.run(settings(tmp_path, f"{web}/moved.txt.gz", sha256))
    with pytest.raises(errors.NotFoundError, match=r"none\.txt: does not exist"):
        datasets.run(settings(tmp_path, f"{web}/none.txt", sha256))
    assert requests.count("GET /book.txt.gz") == 1, "no redirect was followed"
    assert list(tmp_path.rglob("*.arrow")) == []


def test_private_addresses_are_rejected_without_a_request(web: str, requests: list[str], tmp_path: Path) -> None:
    for url in (f"{web}/book.txt.gz", f"{web.replace('127.0.0.1', 'localhost')}/book.txt.gz"):
        with pytest.raises(errors.UsageError, match="is not a public address; download the file"):
            datasets.run(settings(tmp_path, url, hashlib.sha256(PAGE).hexdigest()))
    assert requests == []
