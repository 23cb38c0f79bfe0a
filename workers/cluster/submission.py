"""The job server of a cluster: it is handed a command with the code that it needs, tells its log, and can stop it."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from core import errors

LOOK_S = 0.2  # how often a caller that follows a log may look at something else
RETRY_S = 2.0
SILENCE_S = 120.0  # a server that does not answer for so long is given up
NOT_YET = "No available agent"  # what a cluster says that has just started
START_S = 60.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

Answer = TypeVar("Answer")


class State(NamedTuple):
    """What became of a job; the exit code is that of its command, where the server knows it."""

    status: str
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Will it stay so?"""
        return self.status in ENDED


class Server:
    """The job server at an HTTP address.

    Raises:
        ClusterError: nobody answers there.
        UsageError: it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: Any = self._ask(lambda: _client(address))

    def submit(
        self,
        entrypoint: str,
        folder: Path,
        name: str,
        env_vars: Mapping[str, str],
        metadata: Mapping[str, str],
        resources: Mapping[str, float | None],
    ) -> None:
        """Starts a command in a copy of a folder.

        Args:
            entrypoint: a line for a shell.
            folder: becomes the current folder of the command and is on the Python path of its workers.
            name: of the job; never used before.
            env_vars: for the command and its workers; everybody with the token of the cluster can read them.
            metadata: likewise.
            resources: `entrypoint_num_cpus` and the like; without any, the command runs on the head node.
        """
        self._ask_when_up(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": str(folder), "env_vars": dict(env_vars)},
                metadata=dict(metadata),
                **{name: amount for name, amount in resources.items() if amount is not None},
            )
        )

    def state(self, name: str) -> State:
        """Says what became of a job."""
        info = self._ask(lambda: self._client.get_job_info(name))
        return State(str(info.status), info.driver_exit_code, info.message or "")

    def stop(self, name: str) -> None:
        """Asks a job to stop; it may take the time that `RAY_JOB_STOP_WAIT_TIME_S` in its environment gives it."""
        self._ask(lambda: self._client.stop_job(name))

    def log(self, name: str) -> Iterator[str]:
        """Yields the log of a job as it is written, until the job has ended, and empty pieces while nothing comes.

        A connection that breaks is made again, and the log goes on where it was.
        """
        seen, heard_s = 0, time.monotonic()
        while True:
            pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
            threading.Thread(target=_follow, args=(self._client, name, seen, pieces), daemon=True).start()
            while isinstance(piece := _next(pieces), str):
                if piece:
                    heard_s = time.monotonic()
                    seen += len(piece)
                yield piece
            if piece is None:
                return
            if time.monotonic() - heard_s > SILENCE_S:
                raise errors.ClusterError(
                    f"{self.address}: the log of {name} cannot be followed ({piece}); "
                    f"the job may well go on: ray job logs --follow {name}"
                ) from piece
            yield from _pause()

    def _ask_when_up(self, question: Callable[[], Answer]) -> Answer:
        started_s = time.monotonic()
        while True:
            try:
                return self._ask(question)
            except errors.ClusterError as error:
                if NOT_YET not in str(error) or time.monotonic() - started_s > START_S:
                    raise
            time.sleep(RETRY_S)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        from ray import exceptions

        try:
            return question()
        except exceptions.AuthenticationError as error:
            raise errors.UsageError(
                f"--address: {self.address} does not accept our token; point RAY_AUTH_TOKEN_PATH to the cluster's"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise errors.ClusterError(f"--address: {self.address}: {reason}; is its dashboard up?") from error


def _client(address: str) -> Any:
    from ray import job_submission

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what matters is raised too
    return job_submission.JobSubmissionClient(address)


def _next(pieces: "queue.SimpleQueue[str | BaseException | None]") -> str | BaseException | None:
    try:
        return pieces.get(timeout=LOOK_S)
    except queue.Empty:
        return ""


def _pause() -> Iterator[str]:
    for _ in range(int(RETRY_S / LOOK_S)):
        time.sleep(LOOK_S)
        yield ""


def _follow(client: Any, name: str, skip: int, pieces: "queue.SimpleQueue[str | BaseException | None]") -> None:
    """Puts what comes after the first `skip` characters of a log, then None, or the error that ended the connection."""

    async def tail() -> None:
        left = skip
        async for text in client.tail_job_logs(name):
            if fresh := text[left:]:
                pieces.put(fresh)
            left = max(0, left - len(text))

    async def ending() -> BaseException | None:
        task = asyncio.ensure_future(tail())
        await asyncio.wait([task])
        return task.exception()

    pieces.put(asyncio.run(ending()))
