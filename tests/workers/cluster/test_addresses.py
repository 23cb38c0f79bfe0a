"""Addresses of clusters are resolved and tried before Ray is imported."""

import socket
import time

import pytest

from core import errors
from workers.cluster import addresses


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", addresses.INSIDE_A_JOB):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_auto_is_the_cluster_around_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.resolve("auto") == "local"
    monkeypatch.setenv(addresses.INSIDE_A_JOB, "{}")
    assert addresses.resolve("auto") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert addresses.resolve("auto") == "head:6379"
    assert addresses.resolve("none") == "none"


def test_an_address_that_answers_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses.check_reachable(f"127.0.0.1:{port}")
        addresses.check_reachable(f"localhost:{port}")
    for keyword in ("auto", "local", "none"):
        addresses.check_reachable(keyword)


def test_an_address_that_does_not_answer_is_a_cluster_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.ClusterError, match=f"^cluster.address: 127.0.0.1:{port} does not answer .*refused"):
        addresses.check_reachable(f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(errors.ClusterError, match=f"^RAY_ADDRESS: 127.0.0.1:{port} does not answer"):
        addresses.check_reachable("auto")


def test_an_address_that_drops_packets_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "CONNECT_TIMEOUT_S", 1.0)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # The queue of the listener is full: further connections are neither accepted nor refused.
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(full.getsockname())
        started_s = time.monotonic()
        with pytest.raises(errors.ClusterError, match=r"does not answer .*timed out"):
            addresses.check_reachable(f"127.0.0.1:{full.getsockname()[1]}")
        assert time.monotonic() - started_s < 5
        for connection in waiting:
            connection.close()
