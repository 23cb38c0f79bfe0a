"""Sources on the web: read with their checksum, from where they are said to be, and from public addresses alone."""

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
from core.storage import filesystems, location
from tests.jobs import preparing

PAGE = gzip.compress("".join(f"{line}\n" for line in preparing.sentences(300)).encode(), mtime=0)


class _Pages(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
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
def asked() -> list[str]:
    """What the server was asked for."""
    return []


@pytest.fixture
def web(asked: list[str]) -> Iterator[str]:
    """A server on this machine."""
    handler = type("Pages", (_Pages,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes this machine for one on the internet."""
    monkeypatch.setattr(filesystems, "refuse_private_host", lambda authority: None)
    monkeypatch.setattr(location, "DEADLINE_S", 0.3)


def settings(root: Path, url: str, sha256: str | None = None) -> schema.RunConfig:
    corpus: dict[str, Any] = {"kind": "text", "train": {"text": [url]}, "split": {"valid": 0.1}}
    if sha256 is not None:
        corpus["sha256"] = {url: sha256}
    return preparing.config(root, corpus)


@pytest.mark.usefixtures("public")
def test_a_corpus_on_the_web_gives_the_dataset_of_its_text_and_is_not_fetched_again(
    web: str, asked: list[str], tmp_path: Path
) -> None:
    url, sha256 = f"{web}/book.txt.gz", hashlib.sha256(PAGE).hexdigest()
    found = settings(tmp_path / "web", url, sha256.upper())
    preparing.run(found)
    (tmp_path / "book.txt").write_bytes(gzip.decompress(PAGE))
    local = settings(tmp_path / "local", str(tmp_path / "book.txt"))
    preparing.run(local)
    here, there = preparing.opened(local).index, preparing.opened(found).index
    assert (there.splits, there.tokenizers, there.fingerprint) == (here.splits, here.tokenizers, here.fingerprint)
    assert there.sources[0]["files"] == [[{"url": url, "size_bytes": None, "sha256": sha256.upper()}]]
    num_asked = len(asked)
    assert preparing.run(found)["already_done"]
    assert len(asked) == num_asked
    assert preparing.run(settings(tmp_path / "local", url, sha256))["already_done"], "the same text, now on the web"


@pytest.mark.usefixtures("public")
def test_what_comes_from_the_web_is_what_was_asked_for_or_nothing(web: str, asked: list[str], tmp_path: Path) -> None:
    sha256 = hashlib.sha256(PAGE).hexdigest()
    url = f"{web}/book.txt.gz"
    with pytest.raises(errors.UsageError, match=r"corpus\.sha256: has no entry for .*book.*; a web source needs"):
        preparing.run(settings(tmp_path, url))
    assert asked == []
    with pytest.raises(errors.DataError, match=rf"its SHA-256 is {sha256}, not {'0' * 64}; download the right file"):
        preparing.run(settings(tmp_path, url, "0" * 64))
    with pytest.raises(errors.StorageError, match=r"moved\.txt\.gz: "):
        preparing.run(settings(tmp_path, f"{web}/moved.txt.gz", sha256))
    with pytest.raises(errors.NotFoundError, match=r"none\.txt: does not exist"):
        preparing.run(settings(tmp_path, f"{web}/none.txt", sha256))
    assert asked.count("GET /book.txt.gz") == 1, "no redirect was followed"
    assert list(tmp_path.rglob("*.arrow")) == []


def test_this_machine_and_its_network_are_not_asked(web: str, asked: list[str], tmp_path: Path) -> None:
    for url in (f"{web}/book.txt.gz", f"{web.replace('127.0.0.1', 'localhost')}/book.txt.gz"):
        with pytest.raises(errors.UsageError, match="is not a public address; download the file"):
            preparing.run(settings(tmp_path, url, hashlib.sha256(PAGE).hexdigest()))
    assert asked == []
