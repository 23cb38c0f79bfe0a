"""A client of Kubernetes: `kubectl`, with the login that people have set up for it.

Each call is one process. Documents go in and come out as JSON.
"""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core import errors

Document = dict[str, Any]
PROGRAM = "kubectl"
REQUEST_TIMEOUT = "60s"
POLL_S = 0.2  # longest time between two items of a followed log, so that its reader can check for signals


class Client:
    """A client for the objects of one namespace.

    Args:
        namespace: namespace of all objects.
        context: context of the kubeconfig; None: the current one.
    """

    def __init__(self, namespace: str, context: str | None = None) -> None:
        self.namespace = namespace
        self._prefix = [PROGRAM, "--namespace", namespace, *(["--context", context] if context else [])]
        self._shielded = False

    def shield(self) -> None:
        """Keeps Ctrl-C on the terminal from the processes of later calls: it is a question for the user, not for them.

        The calls before it may ask on the terminal, for example for a password.
        """
        self._shielded = True

    def get(self, kind: str, name: str) -> Document | None:
        """Returns an object, or None if there is no such object."""
        text = self._run("get", kind, name, "--ignore-not-found", "--output", "json")
        return dict(json.loads(text)) if text.strip() else None

    def find(self, kind: str, labels: Mapping[str, str]) -> list[Document]:
        """Returns the objects of a kind that have these labels, oldest first."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        text = self._run("get", kind, "--selector", selector, "--output", "json")
        items = json.loads(text)["items"] if text.strip() else []
        return sorted(items, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))

    def create(self, document: Document) -> Document:
        """Creates an object; returns it as the server stored it."""
        return dict(json.loads(self._run("create", "--filename", "-", "--output", "json", text=json.dumps(document))))

    def delete(self, *names: str) -> None:
        """Deletes objects (kind/name) that may not exist; waits until they and all they own are gone."""
        # A driver that saves its last checkpoint still holds the lock of its root.
        self._run("delete", *names, "--ignore-not-found", "--wait", "--cascade=foreground", timeout="")

    def execute(self, pod: str, container: str, command: Sequence[str]) -> str:
        """Runs a command in a container; returns its output."""
        return self._run("exec", pod, "--container", container, "--", *command)

    def log(self, pod: str) -> str:
        """Returns the log of a pod so far."""
        return self._run("logs", pod)

    def follow_log(self, pod: str) -> Iterator[str]:
        """Yields the log of a pod from its beginning until the connection or the pod ends, "" while it is silent."""
        process = self._start("logs", pod, "--follow")
        chunks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # In a thread: reading blocks until there is output, and the caller must look for signals.
        threading.Thread(target=_read, args=(process, chunks), daemon=True).start()
        try:
            while True:
                try:
                    chunk = chunks.get(timeout=POLL_S)
                except queue.Empty:
                    chunk = ""
                if chunk is None:
                    return
                yield chunk
        finally:
            process.kill()
            process.wait()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return self._popen([*self._prefix, *arguments], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def _run(self, *arguments: str, text: str | None = None, timeout: str = REQUEST_TIMEOUT) -> str:
        """Runs kubectl; returns its output.

        Raises:
            UsageError: kubectl is not installed, or the cluster has no KubeRay.
            ClusterError: it failed; with the last line of what it said.
        """
        command = [*self._prefix, *([f"--request-timeout={timeout}"] if timeout else []), *arguments]
        stdin = subprocess.DEVNULL if text is None else subprocess.PIPE
        with self._popen(command, stderr=subprocess.PIPE, stdin=stdin) as process:
            output, said = process.communicate(text)
        if process.returncode:
            lines = [line for line in said.strip().splitlines() if line.strip()]
            reason = lines[-1].removeprefix("error: ").rstrip(".?") if lines else f"ended with {process.returncode}"
            if "doesn't have a resource type" in reason or "no matches for kind" in reason:
                raise errors.UsageError(
                    f"--kubernetes: the cluster does not know RayJobs ({reason}); install the KubeRay operator"
                )
            raise errors.ClusterError(f"kubectl {arguments[0]}: {reason}; check the cluster and your rights in it")
        return output

    def _popen(self, command: list[str], stderr: int, stdin: int) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(  # noqa: S603 (words, no shell)
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",
                start_new_session=self._shielded,
            )
        except FileNotFoundError as error:
            raise errors.UsageError(
                f"--kubernetes: {PROGRAM} is not on the PATH; install it, and log in to the cluster with it"
            ) from error


def _read(process: subprocess.Popen[str], chunks: "queue.SimpleQueue[str | None]") -> None:
    """Puts the output of a process into a queue as it comes, then None."""
    assert process.stdout is not None
    for line in process.stdout:
        chunks.put(line)
    chunks.put(None)
