"""Errors that no retry mends end the job as stopped, so that KubeRay starts no further cluster."""

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import yaml

from core import errors
from jobs import __main__ as main
from tests.k8s import manifests
from workers.cluster import addresses, final_errors

TOKEN = "0123456789abcdef"


class JobServer(http.server.ThreadingHTTPServer):
    """A job server that stops jobs as Ray does: it replies, and then sends SIGTERM to the driver."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.status = 200


class Handler(http.server.BaseHTTPRequestHandler):
    """The requests that a driver sends."""

    server: JobServer

    def do_POST(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps({"stopped": True}).encode())
        if self.server.status == 200:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    """Starts a job server, and sets the environment of a job in a RayJob of ours."""
    with JobServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(final_errors.VARIABLE, f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        monkeypatch.setenv(addresses.INSIDE_A_JOB, json.dumps({"metadata": {"job_submission_id": "x-1"}}))
        yield server
        server.shutdown()


def test_the_codes_are_those_that_no_retry_mends() -> None:
    assert sorted(errors.FINAL_EXIT_CODES) == [2, 3, 4, 6, 7]


@pytest.mark.parametrize("code", sorted(errors.FINAL_EXIT_CODES))
def test_the_driver_stops_its_own_job_and_waits_for_the_signal(server: JobServer, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    final_errors.end_job(code)
    assert server.requests == [("/api/jobs/x-1/stop", f"Bearer {TOKEN}")]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("code", [0, 1, 5, 8, 130, 143])
def test_other_codes_are_left_to_the_retries(server: JobServer, code: int) -> None:
    final_errors.end_job(code)
    assert server.requests == []


@pytest.mark.parametrize("name", [final_errors.VARIABLE, addresses.INSIDE_A_JOB])
def test_outside_of_such_a_job_nothing_is_asked(server: JobServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    final_errors.end_job(2)
    assert server.requests == []


def test_the_token_goes_to_no_other_machine(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # An address for documentation: nobody answers, and nobody is asked.
    monkeypatch.setenv(final_errors.VARIABLE, "http://198.51.100.7:8265")
    monkeypatch.setattr(final_errors, "_request_stop", lambda *_: pytest.fail("a request was sent"))
    final_errors.end_job(2)


def test_a_server_that_refuses_leaves_the_exit_code_as_it_is(server: JobServer) -> None:
    server.status = 500
    assert main.main(["train", "/no/such/file.yaml"]) == 2
    assert len(server.requests) == 1


def test_a_command_says_its_exit_code_before_its_job_is_stopped(
    server: JobServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["train", "/no/such/file.yaml"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "exit=2"
    assert len(server.requests) == 1


def test_every_rayjob_has_the_variable_and_no_cluster_has_it() -> None:
    for job in manifests.of_kind(manifests.rendered("cpu"), "RayJob", "RayCluster"):
        environment = yaml.safe_load(job["spec"].get("runtimeEnvYAML", "{}"))
        # The driver of a RayJob runs on the head, where the job server is.
        expected = {"env_vars": {final_errors.VARIABLE: "http://127.0.0.1:8265"}} if job["kind"] == "RayJob" else {}
        assert environment == expected
        assert final_errors.VARIABLE not in str(manifests.cluster(job))
