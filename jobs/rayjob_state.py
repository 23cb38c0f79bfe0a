"""RayJobs on the API server: their state, the exit code of their command, their end."""

import re
from typing import NamedTuple

from core import errors
from jobs import console
from workers.cluster import kubectl

RAYJOB, PODS, HEAD = "rayjobs.ray.io", "pods", "ray-head"
KILLED = 128 + 15  # of a job that was stopped before it could log an exit code
_JOB_SERVER = "http://127.0.0.1:8265"
_EXIT_CODE = re.compile(r"exit code (-?\d+)")


class State(NamedTuple):
    """The state of a RayJob, from its status.

    Attributes:
        deployment: what the operator does: Initializing, Running, Retrying, Suspended, Complete, Failed, …
        job: state of the Ray job: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty before it is submitted.
        job_id: submission id of the Ray job; each retry has another.
        cluster: name of the Ray cluster; each retry has another.
        reason: why it failed, in one word of the operator.
        message: the same in a sentence.
        num_failed: attempts that have failed.
    """

    deployment: str
    job: str
    job_id: str
    cluster: str
    reason: str
    message: str
    num_failed: int

    @property
    def has_ended(self) -> bool:
        """True once the state is final."""
        return self.deployment in ("Complete", "Failed")


def state_of(job: kubectl.Document) -> State:
    """Returns the state of a RayJob as the API server has sent it."""
    status = job.get("status") or {}

    def text(name: str) -> str:
        return str(status.get(name) or "")

    return State(
        deployment=text("jobDeploymentStatus"),
        job=text("jobStatus"),
        job_id=text("jobId"),
        cluster=text("rayClusterName"),
        reason=text("reason"),
        message=text("message"),
        num_failed=int(status.get("failed") or 0),
    )


def exit_code(state: State, logged: int | None) -> int:
    """Returns the exit code of the command of a job that has not succeeded.

    Args:
        state: final state.
        logged: the code in the log; None if it was not found there.

    Raises:
        ClusterError: the command did not run, or a deadline of the RayJob ended it.
    """
    if state.job == "STOPPED":
        return KILLED if logged is None else logged
    stated = _EXIT_CODE.search(state.message)
    code = logged or (int(stated[1]) if stated else 0)
    if state.job != "FAILED" or not code:
        reason = console.sanitize(
            f"{state.reason} {' '.join(state.message.split())}".strip() or "no reason given", 1000
        )
        raise errors.ClusterError(f"submit: the cluster could not run the job: {reason}")
    return code if code > 0 else 128 - code  # negative: killed by a signal, as subprocess reports it


def submitter_labels(name: str) -> dict[str, str]:
    """Returns the labels of the submitter pods of a RayJob; its Kubernetes Job has the same name."""
    return {"batch.kubernetes.io/job-name": name}


def unknown(name: str, namespace: str) -> errors.UsageError:
    """Returns the error of a job that is not there."""
    return errors.UsageError(
        f"NAME: there is no RayJob {console.sanitize(name)} in namespace {namespace}; "
        f"see {console.program()} list --kubernetes"
    )


def stop(client: kubectl.Client, name: str) -> str:
    """Stops a RayJob: its command saves a checkpoint and ends; one that has not begun is deleted.

    Returns:
        `stopping`, `deleted`, or `ended` if it had ended before.

    Raises:
        UsageError: there is no such job.
    """
    job = client.get(RAYJOB, name)
    if job is None:
        raise unknown(name, client.namespace)
    state = state_of(job)
    if state.has_ended:
        return "ended"
    heads = client.find(PODS, {"ray.io/cluster": state.cluster, "ray.io/node-type": "head"}) if state.cluster else []
    running = [head for head in heads if head.get("status", {}).get("phase") == "Running"]
    if state.job in ("PENDING", "RUNNING") and running:
        # Not by deleting it: a job that Ray has stopped is not tried again, and its log and state stay.
        command = ["ray", "job", "stop", "--no-wait", "--address", _JOB_SERVER, state.job_id]
        client.execute(running[-1]["metadata"]["name"], HEAD, command)
        return "stopping"
    client.delete(f"{RAYJOB}/{name}")
    return "deleted"
