"""Job submission to a server that is not ready yet, or does not answer."""

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from core import errors
from workers.cluster import submission


class Client:
    """Refuses so many jobs with these words, then takes one."""

    def __init__(self, refusals: int, words: str) -> None:
        self.refusals, self.words = refusals, words
        self.taken: list[dict[str, Any]] = []

    def submit_job(self, **job: Any) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError(self.words)
        self.taken.append(job)


def submit(client: Client, monkeypatch: pytest.MonkeyPatch) -> float:
    """Submits a job on a clock that only sleeping moves; returns the seconds that it took."""
    now_s = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now_s.append(now_s.pop() + seconds))
    monkeypatch.setattr(submission, "_client", lambda address: client)
    server = submission.Server("http://head:8265")
    server.submit("true", Path("/code"), "job-1", {}, {}, {"entrypoint_num_cpus": None, "entrypoint_num_gpus": 1.0})
    return now_s[0]


STARTING = "Request failed with status code 500: No available agent to submit job, please try again later."


def test_submission_waits_for_a_cluster_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(3, STARTING)
    assert submit(client, monkeypatch) == 3 * submission.RETRY_S
    (job,) = client.taken
    assert job["submission_id"] == "job-1"
    assert "entrypoint_num_cpus" not in job


def test_submission_does_not_wait_forever_or_for_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    starting, broken = Client(1000, STARTING), Client(1, "the disk is full")
    with pytest.raises(errors.ClusterError, match="please try again later"):
        submit(starting, monkeypatch)
    assert 1000 - starting.refusals <= submission.START_TIMEOUT_S / submission.RETRY_S + 2
    with pytest.raises(errors.ClusterError, match=r"^--address: http://head:8265: the disk is full; is its dashboard"):
        submit(broken, monkeypatch)
    assert broken.refusals == 0


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers every request with the same words, as another service at that port would."""

    body = b""

    def do_GET(self) -> None:
        """Answers."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Writes nothing."""


@pytest.mark.parametrize(
    "reply", [[], {}, "text", 3, None, {"version": 1}, {"version": "4", "ray_version": []}, b"<html>"]
)
def test_a_reply_of_another_service_is_one_line(reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stranger, "body", reply if isinstance(reply, bytes) else json.dumps(reply).encode())
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        with pytest.raises(errors.ClusterError, match=r"^--address: http://127") as refusal:
            submission.Server(f"http://127.0.0.1:{stranger.server_port}").state("job-1")
        stranger.shutdown()
    assert "\n" not in str(refusal.value)
