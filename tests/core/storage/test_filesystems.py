"""Laws of the drivers of Google's and Azure's stores: one layer of retries, refusals at once, no probing."""

import base64
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from core import errors
from core.storage import location, retries

STORES = {"gs": "gcsfs", "abfs": "adlfs"}
KEY = base64.b64encode(b"no secret").decode()


def _require(scheme: str) -> None:
    # Not imported: how is for the code that is tested.
    if importlib.util.find_spec(STORES[scheme]) is None:
        pytest.skip(f"{STORES[scheme]} is not installed")


class Refusing(http.server.ThreadingHTTPServer):
    """A store that answers every request with one status, and counts them."""

    status, requests = 503, 0


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Refusing)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.requests += 1
        body = b'{"error": {"message": "%s"}}' % (b"busy" if server.status == 503 else b"invalid bucket name")
        self.send_response(server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    """A store of either protocol that never does what it is asked for."""
    server = Refusing(("127.0.0.1", 0), _Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY};BlobEndpoint={address}/a;",
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize("scheme", STORES)
@pytest.mark.parametrize("act", ["put_if_absent", "read_bytes"])
def test_a_driver_sends_one_request_and_leaves_retries_to_us(
    scheme: str, act: str, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require(scheme)
    monkeypatch.setattr(retries, "DEADLINE_S", 0.0)
    path = location.Location.parse(f"{scheme}://bucket/x")
    with pytest.raises(errors.StorageError, match="the store failed for 0 s"):
        path.put_if_absent(b"new") if act == "put_if_absent" else path.read_bytes()
    assert refusing.requests == 1


@pytest.mark.parametrize("scheme", STORES)
@pytest.mark.parametrize(("status", "message"), [(403, "check the credentials"), (400, "check the location")])
def test_a_store_that_refuses_is_not_asked_again(scheme: str, status: int, message: str, refusing: Refusing) -> None:
    _require(scheme)
    refusing.status = status
    with pytest.raises(errors.StorageError, match=message):
        location.Location.parse(f"{scheme}://bucket/x").put_if_absent(b"new")
    assert refusing.requests == 1


def test_azure_without_an_account_names_what_to_do_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _require("abfs")
    for name in [name for name in os.environ if name.startswith("AZURE_STORAGE_")]:
        monkeypatch.delenv(name)
    started_s = time.monotonic()
    with pytest.raises(errors.StorageError, match="set the store's credential variables"):
        location.Location.parse("abfs://container/x").read_bytes()
    assert time.monotonic() - started_s < retries.DEADLINE_S / 2


def test_the_kind_of_a_bucket_is_not_asked_for_by_grpc() -> None:
    _require("gs")
    code = """
import sys
from core.storage import filesystems
filesystems.filesystem("gs", "")
print("gcsfs" in sys.modules, "gcsfs.extended_gcsfs" in sys.modules)
"""
    environment = {**os.environ, "STORAGE_EMULATOR_HOST": "http://localhost:1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
