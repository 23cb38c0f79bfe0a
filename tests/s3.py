"""Fixtures: an S3 server (moto) in this process, with recorded requests, injected latency and injected faults."""

import collections
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from core.storage import location

BUCKET = "raycurrent-tests"


class Request(NamedTuple):
    """A request to the server: HEAD, GET, PUT, DELETE, POST, or LIST; times of a monotonic clock."""

    kind: str
    path: str
    started_s: float
    ended_s: float


class Requests(list[Request]):
    """The requests of a recording, in the order in which they ended."""

    def by_kind(self) -> collections.Counter[str]:
        """Returns the number of requests of each kind."""
        return collections.Counter(request.kind for request in self)

    def in_series(self) -> int:
        """Returns the largest number of requests of which each began after the one before it had ended."""
        number, ended_s = 0, float("-inf")
        # They are in the order of their ends: to take the one that ends first leaves the most room for others.
        for request in self:
            if request.started_s >= ended_s:
                number, ended_s = number + 1, request.ended_s
        return number


class Store:
    """WSGI application of an S3 server that counts requests and injects `faults` into the next PUT requests.

    `busy` answers 503 and does not apply the request; `lost` applies it, and answers 503 in place of its reply;
    `denied` answers 403.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app
        self.faults: list[str] = []
        self.requests = 0
        self._recordings: list[Requests] = []
        self._latency_s = 0.0
        self._draw: Callable[[], str] = lambda: ""

    @contextlib.contextmanager
    def recording(self, latency_s: float = 0.0) -> Iterator[Requests]:
        """Records the requests of a block, each answered `latency_s` later than the server would."""
        requests = Requests()
        self._recordings.append(requests)
        self._latency_s = latency_s
        try:
            yield requests
        finally:
            self._latency_s = 0.0
            self._recordings.remove(requests)

    @contextlib.contextmanager
    def failing(self, share: float, chance: random.Random) -> Iterator[None]:
        """Injects `busy` and `lost`, at random, into a share of the requests of any kind during a block."""
        self._draw = lambda: chance.choice(("busy", "lost")) if chance.random() < share else ""
        try:
            yield
        finally:
            self._draw = lambda: ""

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        started_s = time.monotonic()
        time.sleep(self._latency_s)
        try:
            return self._answer(environment, start)
        finally:
            kind = "LIST" if "list-type=" in environment["QUERY_STRING"] else environment["REQUEST_METHOD"]
            request = Request(kind, environment["PATH_INFO"], started_s, time.monotonic())
            for requests in self._recordings:
                requests.append(request)

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        self.requests += 1
        fault = self.faults.pop(0) if self.faults and environment["REQUEST_METHOD"] == "PUT" else self._draw()
        if fault == "lost":
            list(self._app(environment, lambda *_, **__: None))
        if fault:
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0) if fault != "lost" else 0)
            status, code = ("403 Forbidden", b"AccessDenied") if fault == "denied" else ("503 Slow Down", b"SlowDown")
            start(status, [("Content-Type", "application/xml"), ("Connection", "close")])
            # A reply to HEAD has no body.
            return [] if environment["REQUEST_METHOD"] == "HEAD" else [b"<Error><Code>%s</Code></Error>" % code]
        return self._app(environment, start)


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """Yields the server, with an empty bucket."""
    pytest.importorskip("s3fs")
    backends = pytest.importorskip("moto.moto_server.werkzeug_app")
    serving = pytest.importorskip("werkzeug.serving")
    botocore = pytest.importorskip("botocore.session")
    app = Store(backends.DomainDispatcherApplication(backends.create_backend_app))

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[misc,name-defined]
        """Request handler that does not log."""

        def log_request(self, *_: object) -> None:
            """Does nothing."""

    http = serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        botocore.get_session().create_client("s3").create_bucket(Bucket=BUCKET)
        yield app
    http.shutdown()
    thread.join()


@pytest.fixture
def s3_root(store: Store) -> location.Location:
    """Returns a new prefix in the bucket."""
    store.faults.clear()
    return location.Location.parse(f"s3://{BUCKET}/{uuid.uuid4().hex}")
