"""Submission of a verb as a RayJob: creates its objects, follows it through its retries, ends with its exit code.

The operator runs the command in a Ray cluster of its own. A submitter pod prints the log; there may be several in a
row, since Kubernetes replaces one that died, and a retry has another.
"""

import collections
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer

from core import errors
from jobs import console, following, rayjob, rayjob_state, submit
from workers.cluster import kubectl, signals

FILES_POD = "raycurrent-files"  # of `make k8s-files`: a small pod with the shared volume
POLL_S = 2.0
SILENCE_TIMEOUT_S = 300.0  # without a reply of the API server for this long, following fails
WAITING_EVERY_S = 30.0  # between two looks at what pods wait for
_OF_RAYS_CLIENT = re.compile(r"\bcli\.py:\d+ -- ")
_STARTING = ("ContainerCreating", "PodInitializing")
_log = logging.getLogger(__name__)


def work_of(spec: submit.JobSpec, name: str | None) -> rayjob.Work:
    """Returns the work of a submitted command; `name` replaces the name of its run."""
    if spec.config is not None:
        own_name, root = spec.config.name, spec.config.root
    else:
        # The run, or whatever else the command names first.
        root = next((spec.locations[key] for key in ("runs", "run") if key in spec.locations), "")
        root = root or next(iter(spec.locations.values()), spec.verb)
        own_name = root.rstrip("/").rpartition("/")[2]
    return rayjob.Work(
        verb=spec.verb,
        command=spec.command,
        takes_settings=spec.takes_settings,
        overrides=spec.overrides,
        settings=next(iter(spec.files.values()), None),
        cluster=spec.cluster,
        name=name or own_name or spec.verb,
        root=root,
        output=spec.locations.get("output", root),
    )


def run(objects: rayjob.Objects, client: kubectl.Client, replace: bool, wait: bool) -> dict[str, Any]:
    """Creates the objects of a run and, with `wait`, follows it until it ends.

    Returns:
        The document that the job printed; without `wait`, the names of its objects.

    Raises:
        LockedError: the same run is there and has not ended.
        ClusterError: the API server does not answer or refuses, or the job could not run.
        InterruptedRunError: the user detached; the job continues.
        typer.Exit: the job ended with an exit code other than 0.
    """
    _create(objects, client, replace)
    verb = objects.rayjob["metadata"]["labels"]["app.kubernetes.io/component"]
    names = {"verb": "submit", "submitted": verb, "rayjob": objects.name, "namespace": objects.namespace}
    if not wait:
        return names
    document = follow(client, objects.name)
    for line in whereabouts(objects):
        console.note(line)
    return document or names


def _create(objects: rayjob.Objects, client: kubectl.Client, replace: bool) -> None:
    """Creates the RayJob and its ConfigMap, or what is missing of them since a start that was cut short."""
    name = objects.name
    before = client.get(rayjob_state.RAYJOB, name)
    if before is not None and not replace and not rayjob_state.state_of(before).has_ended:
        uid = before["metadata"]["uid"]
        is_same = before["metadata"].get("annotations", {}).get(rayjob.CONTENT) == _content(objects)
        if _has_config_map(client, name, uid) or not is_same:
            state = _describe(rayjob_state.state_of(before))
            raise errors.LockedError(
                f"submit: {objects.namespace}/{name} is there already ({state}); follow it with {console.program()} "
                f"logs {name} --kubernetes --namespace {objects.namespace} --follow, "
                "or end it and start anew with --replace"
            )
        _log.info("%s has no configuration yet: an earlier start was cut short", name)
    else:
        if before is not None:
            _log.info("%s: removing the job of before (%s)", name, _describe(rayjob_state.state_of(before)))
            client.delete(f"{rayjob_state.RAYJOB}/{name}")
        uid = client.create(objects.rayjob)["metadata"]["uid"]
    # That of an earlier RayJob of this name is only removed some time after it, and cannot be changed.
    client.delete(f"configmap/{name}")
    # Second, since it needs the UID of its owner; the pods wait for it.
    client.create(objects.owned_by(uid))
    _log.info("submitted as %s to namespace %s", name, objects.namespace)


def _content(objects: rayjob.Objects) -> str:
    return str(objects.rayjob["metadata"]["annotations"][rayjob.CONTENT])


def _has_config_map(client: kubectl.Client, name: str, uid: str) -> bool:
    config_map = client.get("configmap", name)
    owners = [] if config_map is None else config_map["metadata"].get("ownerReferences", [])
    return any(owner["uid"] == uid for owner in owners)


def _describe(state: rayjob_state.State) -> str:
    return ", ".join(text for text in (state.deployment or "new", state.job) if text)


def whereabouts(objects: rayjob.Objects) -> list[str]:
    """Returns where the results of a job are, for people."""
    home, claim = rayjob.home_of(objects.rayjob), rayjob.claim_of(objects.rayjob)
    output = str(objects.rayjob["metadata"]["annotations"][rayjob.OUTPUT]).rstrip("/")
    output = output if output.startswith("/") or "://" in output else f"{home.rstrip('/')}/{output}"
    if claim is None or "://" in output:
        return [f"results: {output}"]
    copy = f"kubectl cp {objects.namespace}/{FILES_POD}:{output} {output.rpartition('/')[2]}"
    return [f"results: {output} on the claim {claim}", f"copy them here: make k8s-files, then {copy}"]


def follow(client: kubectl.Client, name: str) -> dict[str, Any] | None:
    """Follows a RayJob until it ends; Ctrl-C asks whether to stop it or to detach.

    Returns:
        The document that the job printed; None if it succeeded and its log is gone.

    Raises:
        ClusterError: the API server does not answer, or the job could not run.
        InterruptedRunError: the user detached; the job continues.
        typer.Exit: the job ended with an exit code other than 0.
    """
    flag = signals.StopFlag()
    flag.install()
    client.shield()
    try:
        return Follower(client, name, flag, console.write_line, following.ask_at_terminal).follow()
    finally:
        flag.restore()


class Follower:
    """Follows a RayJob until it ends; see `follow`.

    Args:
        client: client of its namespace.
        name: name of the RayJob.
        flag: flag that signal handlers set.
        write: called with each line for the user.
        ask: called at an interrupt (Ctrl-C); returns `stop`, `detach` or `follow`.
    """

    def __init__(
        self,
        client: kubectl.Client,
        name: str,
        flag: signals.StopFlag,
        write: Callable[[str], None],
        ask: Callable[[], str],
    ) -> None:
        self._client = client
        self._name = name
        self._write = write
        command = f"{console.program()} VERB {name} --kubernetes --namespace {client.namespace}"
        self._interruptions = following.Interruptions(
            flag,
            write,
            ask,
            name=name,
            stop=lambda: rayjob_state.stop(client, name),
            how_to_follow=command.replace("VERB", "logs") + " --follow",
            how_to_stop=command.replace("VERB", "stop"),
        )
        self._last = rayjob_state.State("", "", "", "", "", "", 0)
        self._log: following.JobLog | None = None
        self._shown: collections.Counter[str] = collections.Counter()  # lines of the log of the current Ray job
        self._read: set[str] = set()  # UIDs of submitter pods whose whole log was read
        self._said: set[str] = set()
        self._looked_s = time.monotonic()

    def follow(self) -> dict[str, Any] | None:
        """See `follow`."""
        while True:
            state = self._poll()
            self._report(state)
            for pod in self._submitters():
                self._follow_pod(pod)
            # A pod may have begun after they were looked for, and ended before the state was read.
            if state.has_ended and not self._submitters():
                return self._result(state)
            self._pause(POLL_S)

    def _poll(self) -> rayjob_state.State:
        """Returns the state; outages of the API server are waited for.

        Raises:
            ClusterError: it does not answer for minutes, or the job was deleted.
        """
        since_s = time.monotonic()
        while True:
            self._interruptions.handle()
            try:
                job = self._client.get(rayjob_state.RAYJOB, self._name)
                break
            except errors.ClusterError:
                if time.monotonic() - since_s > SILENCE_TIMEOUT_S:
                    raise
            self._pause(POLL_S)
        if job is None:
            if self._interruptions.is_stopping:
                raise typer.Exit(rayjob_state.KILLED)
            raise errors.ClusterError(f"submit: {self._name} was deleted; submit it again: it resumes")
        return rayjob_state.state_of(job)

    def _pause(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            self._interruptions.handle()
            time.sleep(min(seconds, kubectl.POLL_S))

    def _report(self, state: rayjob_state.State) -> None:
        """Writes a line for each change of the state, and why pods do not start."""
        if state.num_failed > self._last.num_failed and not state.has_ended:
            self._write(
                f"submit: attempt {state.num_failed} failed ({state.reason or 'no reason given'}); "
                "the run resumes in a new cluster"
            )
        if state.job_id != self._last.job_id:
            self._shown.clear()
        if state.has_ended:
            pass  # the exit code and the log say more
        elif (state.deployment, state.cluster) != (self._last.deployment, self._last.cluster):
            cluster = f", cluster {state.cluster}" if state.cluster else ""
            self._write(f"submit: {self._name}: {state.deployment or 'Retrying'}{cluster}")
            self._looked_s = time.monotonic()
        elif state.deployment != "Running" and time.monotonic() - self._looked_s > WAITING_EVERY_S:
            self._looked_s = time.monotonic()
            for text in self._reasons_to_wait(state):
                if text not in self._said:
                    self._said.add(text)
                    self._write(f"submit: {text}")
        self._last = state

    def _reasons_to_wait(self, state: rayjob_state.State) -> Iterator[str]:
        """Yields what the pods wait for, such as an image that cannot be pulled or a node that is not there."""
        if not state.cluster:
            return
        for pod in self._client.find(rayjob_state.PODS, {"ray.io/cluster": state.cluster}):
            status = pod.get("status", {})
            for container in status.get("containerStatuses", []):
                waiting = container.get("state", {}).get("waiting", {})
                if waiting and waiting.get("reason") not in _STARTING:
                    text = f"{waiting.get('reason')}: {waiting.get('message', '')}"
                    yield f"{pod['metadata']['name']}: {console.sanitize(text, 300)}"
            for condition in status.get("conditions", []):
                if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                    yield f"{pod['metadata']['name']}: {console.sanitize(str(condition.get('message')), 300)}"

    def _submitters(self) -> list[kubectl.Document]:
        """Returns the submitter pods that have begun, and whose log was not read to its end."""
        try:
            pods = self._client.find(rayjob_state.PODS, rayjob_state.submitter_labels(self._name))
        except errors.ClusterError:
            return []  # an outage, which `_poll` waits for
        return [
            pod
            for pod in pods
            if pod["metadata"]["uid"] not in self._read and pod.get("status", {}).get("phase") not in (None, "Pending")
        ]

    def _follow_pod(self, pod: kubectl.Document) -> None:
        """Writes the log of a submitter pod, until the pod or the connection ends."""
        # The log of a Ray job begins anew with each pod and with each connection: what was shown is left out.
        left_out = self._shown.copy()

        def write(line: str) -> None:
            if left_out[line] > 0:
                left_out[line] -= 1
            elif not _OF_RAYS_CLIENT.search(line):
                self._shown[line] += 1
                self._write(line)

        self._log = following.JobLog(write)
        for piece in self._client.follow_log(pod["metadata"]["name"]):
            self._log.feed(piece)
            self._interruptions.handle()
        try:
            after = self._client.get(rayjob_state.PODS, pod["metadata"]["name"])
        except errors.ClusterError:
            return
        if after is None or after.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self._read.add(pod["metadata"]["uid"])

    def _result(self, state: rayjob_state.State) -> dict[str, Any] | None:
        logged = None if self._log is None else self._log.exit_code
        if state.job == "SUCCEEDED" or (state.job == "STOPPED" and logged == 0):
            try:
                return None if self._log is None else self._log.document()
            except errors.ClusterError as error:
                _log.warning("%s", error)
                return None
        if self._log is not None:
            self._log.close()
        raise typer.Exit(rayjob_state.exit_code(state, logged))
