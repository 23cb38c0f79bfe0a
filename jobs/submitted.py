"""Jobs that were submitted, on a Ray cluster or on Kubernetes: what there is, its log, its end."""

import time
from typing import Any, Protocol

from core import errors
from core.storage import streams
from jobs import console, kubernetes, rayjob, rayjob_state, submit
from workers.cluster import authentication, kubectl, submission

Report = dict[str, Any]


class Jobs(Protocol):
    """The jobs of one place."""

    def list_jobs(self) -> Report:
        """Returns the jobs, oldest first, and writes a table for people."""

    def print_log(self, name: str, stdout: int) -> Report:
        """Prints the log of a job so far to a descriptor."""

    def follow(self, name: str) -> Report:
        """Follows a job until it ends; returns the document that it printed."""

    def stop(self, name: str) -> Report:
        """Stops a job, and waits until it has ended."""


def choose(address: str | None, on_kubernetes: bool, namespace: str, context: str | None) -> Jobs:
    """Returns the jobs of a Ray job server, or those of a namespace."""
    if on_kubernetes:
        if address is not None:
            raise errors.UsageError("--address: is for Ray's own job server; leave it out with --kubernetes")
        return RayJobs(kubectl.Client(namespace, context))
    if context is not None:
        raise errors.UsageError("--context: is for RayJobs; add --kubernetes, or leave it out")
    return JobServerJobs(submit.resolve_address(address))


class JobServerJobs:
    """The jobs of a Ray job server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def list_jobs(self) -> Report:
        """See `Jobs`."""
        jobs = [
            {
                "name": summary.name,
                "verb": summary.metadata.get("verb"),
                "status": summary.status,
                "exit_code": summary.exit_code,
                "started_unix_s": summary.started_unix_s,
                "ended_unix_s": summary.ended_unix_s,
            }
            for summary in self._server().list_jobs()
        ]
        _write_table(jobs)
        return {"verb": "list", "address": self._address, "jobs": jobs}

    def print_log(self, name: str, stdout: int) -> Report:
        """See `Jobs`."""
        text = self._server().log_so_far(name)
        _print(text, stdout)
        return {"verb": "logs", "name": name, "lines": text.count("\n")}

    def follow(self, name: str) -> Report:
        """See `Jobs`."""
        server = self._server()
        server.state(name)  # an unknown name is reported here
        return submit.follow(server, name)

    def stop(self, name: str) -> Report:
        """See `Jobs`."""
        server = self._server()
        state = server.state(name)
        if not state.has_ended:
            server.stop(name)
            deadline_s = time.monotonic() + submit.STOP_WAIT_S
            while not (state := server.state(name)).has_ended and time.monotonic() < deadline_s:
                time.sleep(submission.POLL_S)
        return {"verb": "stop", "name": name, "status": state.status}

    def _server(self) -> submission.Server:
        authentication.prepare_client(self._address)
        return submission.Server(self._address)


class RayJobs:
    """The RayJobs of ours in a namespace."""

    def __init__(self, client: kubectl.Client) -> None:
        self._client = client

    def list_jobs(self) -> Report:
        """See `Jobs`."""
        jobs = []
        for job in self._client.find(rayjob_state.RAYJOB, rayjob.APPLICATION):
            metadata, state = job["metadata"], rayjob_state.state_of(job)
            jobs.append(
                {
                    "name": metadata["name"],
                    "verb": metadata["labels"].get("app.kubernetes.io/component"),
                    "run": metadata.get("annotations", {}).get(rayjob.NAME),
                    "status": state.job or None,
                    "deployment": state.deployment or None,
                    "failed_attempts": state.num_failed,
                    "created": metadata.get("creationTimestamp"),
                    "ended": job.get("status", {}).get("endTime"),
                }
            )
        _write_table(jobs)
        return {"verb": "list", "namespace": self._client.namespace, "jobs": jobs}

    def print_log(self, name: str, stdout: int) -> Report:
        """See `Jobs`."""
        self._check(name)
        pods = self._client.find(rayjob_state.PODS, rayjob_state.submitter_labels(name))
        begun = [pod for pod in pods if pod.get("status", {}).get("phase") not in (None, "Pending")]
        text = self._client.log(begun[-1]["metadata"]["name"]) if begun else ""
        if not begun:
            console.note(f"logs: {name} has no log yet: its submitter has not started")
        _print(text, stdout)
        return {"verb": "logs", "name": name, "lines": text.count("\n")}

    def follow(self, name: str) -> Report:
        """See `Jobs`."""
        self._check(name)
        document = kubernetes.follow(self._client, name)
        return document or {"verb": "logs", "name": name, "namespace": self._client.namespace}

    def stop(self, name: str) -> Report:
        """See `Jobs`."""
        outcome = rayjob_state.stop(self._client, name)
        state: rayjob_state.State | None = None
        if outcome == "stopping":
            console.note(f"stop: {name} is stopping; it saves a checkpoint first")
            state = self._wait(name)
        report = {"verb": "stop", "name": name, "namespace": self._client.namespace, "outcome": outcome}
        return {**report, "status": state.job} if state is not None else report

    def _wait(self, name: str) -> rayjob_state.State | None:
        """Waits until a job has ended, as long as a pod has for its end."""
        deadline_s = time.monotonic() + submit.STOP_WAIT_S
        while True:
            job = self._client.get(rayjob_state.RAYJOB, name)
            state = None if job is None else rayjob_state.state_of(job)
            if state is None or state.has_ended or time.monotonic() > deadline_s:
                return state
            time.sleep(kubernetes.POLL_S)

    def _check(self, name: str) -> None:
        if self._client.get(rayjob_state.RAYJOB, name) is None:
            raise rayjob_state.unknown(name, self._client.namespace)


def _print(text: str, stdout: int) -> None:
    with streams.open_stdout(stdout) as out:
        out.write(text if not text or text.endswith("\n") else f"{text}\n")


def _write_table(jobs: list[Report]) -> None:
    """Writes a line for each job to stderr, columns aligned."""
    columns = ("name", "verb", "status", "deployment")
    rows = [[console.sanitize(str(job[key] or "-")) for key in columns if key in job] for job in jobs]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    for row in rows:
        console.note("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        console.note("list: nothing was submitted there")
