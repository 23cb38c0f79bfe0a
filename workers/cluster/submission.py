"""Job submission: a client of Ray's job server that starts commands, follows their logs and stops them."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from core import errors

POLL_S = 0.2  # longest time between two items of a followed log, so that its reader can check for signals
RETRY_S = 2.0
SILENCE_TIMEOUT_S = 120.0  # without a reply for this long, following the log fails
STARTING_MESSAGE = "No available agent"  # reply of a cluster that has just started
START_TIMEOUT_S = 60.0
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

Reply = TypeVar("Reply")


class State(NamedTuple):
    """The state of a job. The exit code is that of its command, or None where the server does not know it."""

    status: str
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """True once the state is final."""
        return self.status in ENDED


class Summary(NamedTuple):
    """A job in a list; times are seconds since 1970, None before they are."""

    name: str
    status: str
    exit_code: int | None
    metadata: Mapping[str, str]
    started_unix_s: float | None
    ended_unix_s: float | None


class Server:
    """The job server at an HTTP address.

    Raises:
        ClusterError: the server does not respond.
        UsageError: the server requires another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: Any = self._call(lambda: _client(address))

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
            entrypoint: command line for a shell.
            folder: current folder of the command, also on the Python path of its workers.
            name: id of the job; must be new.
            env_vars: variables of the command and its workers, readable by everybody with the cluster's token.
            metadata: key-value pairs, readable likewise.
            resources: `entrypoint_num_cpus` and the like; without any, the command runs on the head node.
        """
        self._call_when_started(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env={"working_dir": str(folder), "env_vars": dict(env_vars)},
                metadata=dict(metadata),
                # Left out, not 0: with any resource Ray may run the command on another node than the head.
                **{name: amount for name, amount in resources.items() if amount is not None},
            )
        )

    def state(self, name: str) -> State:
        """Returns the state of a job."""
        info = self._call(lambda: self._client.get_job_info(name))
        return State(str(info.status), info.driver_exit_code, info.message or "")

    def stop(self, name: str) -> None:
        """Requests a job to stop; `RAY_JOB_STOP_WAIT_TIME_S` in its environment limits how long it may take."""
        self._call(lambda: self._client.stop_job(name))

    def list_jobs(self) -> list[Summary]:
        """Returns the submitted jobs, oldest first; drivers that joined the cluster by themselves are left out."""
        jobs = [
            Summary(
                job.submission_id,
                str(job.status),
                job.driver_exit_code,
                dict(job.metadata or {}),
                None if job.start_time is None else job.start_time / 1000,
                None if not job.end_time else job.end_time / 1000,
            )
            for job in self._call(self._client.list_jobs)
            if job.submission_id
        ]
        return sorted(jobs, key=lambda job: job.started_unix_s or float("inf"))

    def log_so_far(self, name: str) -> str:
        """Returns the log of a job so far."""
        text: str = self._call(lambda: self._client.get_job_logs(name))
        return text

    def log(self, name: str) -> Iterator[str]:
        """Yields the log of a job as it is written, until the job ends; empty strings while there is no output.

        A broken connection is re-established, and the log continues where it was.
        """
        num_seen, last_reply_s = 0, time.monotonic()
        while True:
            # A queue for each connection: a thread of a broken one may still write to its own.
            chunks: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
            # In a thread: Ray's client blocks until there is output, and the caller must look for signals.
            threading.Thread(target=_follow, args=(self._client, name, num_seen, chunks), daemon=True).start()
            while isinstance(chunk := _next(chunks), str):
                if chunk:
                    last_reply_s = time.monotonic()
                    num_seen += len(chunk)
                yield chunk
            if chunk is None:
                return
            if time.monotonic() - last_reply_s > SILENCE_TIMEOUT_S:
                raise errors.ClusterError(
                    f"{self.address}: the log of {name} cannot be followed ({chunk}); "
                    f"the job may still be running: ray job logs --follow {name}"
                ) from chunk
            yield from _pause()

    def _call_when_started(self, request: Callable[[], Reply]) -> Reply:
        started_s = time.monotonic()
        while True:
            try:
                return self._call(request)
            except errors.ClusterError as error:
                if STARTING_MESSAGE not in str(error) or time.monotonic() - started_s > START_TIMEOUT_S:
                    raise
            time.sleep(RETRY_S)

    def _call(self, request: Callable[[], Reply]) -> Reply:
        from ray import exceptions

        try:
            return request()
        except exceptions.AuthenticationError as error:
            raise errors.UsageError(
                f"--address: {self.address} does not accept this token; point RAY_AUTH_TOKEN_PATH to the cluster's"
            ) from error
        # What answers may be no job server: Ray's client then looks for what the reply does not have.
        except (AttributeError, LookupError, TypeError) as error:
            raise errors.ClusterError(
                f"--address: {self.address}: its reply is not that of a Ray job server ({type(error).__name__}); "
                "check the address"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise errors.ClusterError(f"--address: {self.address}: {reason}; is its dashboard up?") from error


def _client(address: str) -> Any:
    from ray import job_submission

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # warnings repeat what is raised
    return job_submission.JobSubmissionClient(address)


def _next(chunks: "queue.SimpleQueue[str | BaseException | None]") -> str | BaseException | None:
    try:
        return chunks.get(timeout=POLL_S)
    except queue.Empty:
        return ""


def _pause() -> Iterator[str]:
    for _ in range(int(RETRY_S / POLL_S)):
        time.sleep(POLL_S)
        yield ""


def _follow(client: Any, name: str, skip: int, chunks: "queue.SimpleQueue[str | BaseException | None]") -> None:
    """Puts the log after its first `skip` characters into a queue, then None or the error that ended the connection."""

    async def tail() -> None:
        left = skip  # a new connection sends the log from its beginning
        async for text in client.tail_job_logs(name):
            if fresh := text[left:]:
                chunks.put(fresh)
            left = max(0, left - len(text))

    async def ending() -> BaseException | None:
        task = asyncio.ensure_future(tail())
        # `wait` does not raise what the task raised: it becomes an item of the queue.
        await asyncio.wait([task])
        return task.exception()

    chunks.put(asyncio.run(ending()))
