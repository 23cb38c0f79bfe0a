"""`list`, `logs` and `stop` on Ray's job server."""

import json
from collections.abc import Iterator, Sequence

import pytest

from core import errors
from jobs import __main__ as main
from jobs import submit, submitted
from workers.cluster import authentication, submission


class Server(submission.Server):
    """A fake job server with one job, whose states are played back."""

    def __init__(self, states: Sequence[str], log: str = "") -> None:
        self.address = "http://127.0.0.1:8265"
        self.states = list(states)
        self.text = log
        self.stopped: list[str] = []

    def state(self, name: str) -> submission.State:
        if name != "x":
            raise errors.ClusterError(f"--address: {self.address}: job {name} does not exist")
        return submission.State(self.states.pop(0) if len(self.states) > 1 else self.states[0], None, "")

    def list_jobs(self) -> list[submission.Summary]:
        return [
            submission.Summary("raycurrent-train-1", "SUCCEEDED", 0, {"verb": "train"}, 1.0, 2.0),
            submission.Summary("another\x1b[2J", "RUNNING", None, {}, 3.0, None),
        ]

    def log_so_far(self, name: str) -> str:
        return self.text

    def log(self, name: str) -> Iterator[str]:
        yield self.text

    def stop(self, name: str) -> None:
        self.stopped.append(name)


def serve(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "Server", lambda _: server)
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    monkeypatch.setattr(authentication, "prepare_client", lambda _: None)


def test_list_shows_jobs_with_their_states(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    serve(Server(["RUNNING"]), monkeypatch)
    assert main.main(["list", "--address", submit.DEFAULT_ADDRESS]) == 0
    out, log = capfd.readouterr()
    jobs = json.loads(out)["jobs"]
    assert [(job["verb"], job["status"], job["exit_code"]) for job in jobs] == [
        ("train", "SUCCEEDED", 0),
        (None, "RUNNING", None),
    ]
    assert log.splitlines()[:2] == ["raycurrent-train-1  train  SUCCEEDED", "another\\x1b[2J      -      RUNNING"]


def test_logs_are_the_standard_output(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    serve(Server(["RUNNING"], "one\ntwo\n"), monkeypatch)
    assert main.main(["logs", "x", "--address", submit.DEFAULT_ADDRESS]) == 0
    assert capfd.readouterr().out == "one\ntwo\n"


def test_followed_logs_end_as_submit_does(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    serve(Server(["SUCCEEDED"], 'train: 1 of 1\nexit=0\n{"step": 1}\n'), monkeypatch)
    assert main.main(["logs", "x", "--follow", "--address", submit.DEFAULT_ADDRESS]) == 0
    out, log = capfd.readouterr()
    assert json.loads(out) == {"step": 1}
    assert "train: 1 of 1\n" in log
    serve(Server(["FAILED"], "corpus: is not there\nexit=3\n"), monkeypatch)
    assert main.main(["logs", "x", "--follow", "--address", submit.DEFAULT_ADDRESS]) == 3


def test_stop_waits_until_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(["RUNNING", "RUNNING", "STOPPED"])
    serve(server, monkeypatch)
    jobs = submitted.JobServerJobs(server.address)
    assert jobs.stop("x") == {"verb": "stop", "name": "x", "status": "STOPPED"}
    assert jobs.stop("x")["status"] == "STOPPED"
    assert server.stopped == ["x"]


def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(Server(["RUNNING"]), monkeypatch)
    for verb in (["stop"], ["logs", "--follow"]):
        assert main.main([verb[0], "y", *verb[1:], "--address", submit.DEFAULT_ADDRESS]) == 8
