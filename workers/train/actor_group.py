"""A group of ranks on the one node of a cluster of our own: plain actors, which this process starts and restarts.

Ray Train does the same and more (nodes that come and go, groups that grow), with a controller and helpers in processes
of their own; a laptop waits for these at each start.
"""

import datetime
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from core.config import schema
from workers.train import ranks

CULPRIT_S = 1.0  # after one rank fails its peers lose it: time for the other failures to arrive


class ActorGroup:
    """A group of ranks in actors of this node, without GPUs.

    Args:
        cluster: settings of the cluster.
        worker_env: environment variables of the ranks.
        folder: private folder of this run, in which the ranks find each other.
    """

    def __init__(self, cluster: schema.ClusterConfig, worker_env: dict[str, str], folder: Path) -> None:
        self._cluster = cluster
        self._worker_env = worker_env
        self._folder = folder

    def run(self, work: ranks.Work) -> Any:
        """Runs the ranks to their end and returns the result of rank 0.

        Raises:
            ranks.RanksFailedError: ranks failed more often than `cluster.max_failures` allows.
        """
        failures: dict[int, BaseException] = {}
        for _ in range(self._cluster.max_failures + 1):
            # A file of its own: ranks that were killed leave theirs, in which others would find addresses of the dead.
            failures, result = self._start(work, str(self._folder / f"ranks-{secrets.token_hex(8)}"))
            if not failures:
                return result
        raise ranks.RanksFailedError("the ranks failed", failures)

    def _start(self, work: ranks.Work, meeting_file: str) -> tuple[dict[int, BaseException], Any]:
        """Runs one start of the group; returns the failures by rank, and the result of rank 0."""
        import ray

        rank_actor: Any = ray.remote(TrainingRank)
        options = {
            "num_cpus": self._cluster.cpus_per_worker,
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": self._worker_env},
        }
        num_ranks = self._cluster.workers.start
        actors = [rank_actor.options(**options).remote() for _ in range(num_ranks)]
        try:
            # The ranks wait for each other for `cluster.collective_timeout_s`; to import torch may take longer.
            if failures := _failures([actor.load.remote() for actor in actors]):
                return failures, None
            timeout_s = self._cluster.collective_timeout_s
            results = [
                actor.run.remote(work, rank, num_ranks, meeting_file, timeout_s) for rank, actor in enumerate(actors)
            ]
            if failures := _failures(results):
                return failures, None
            return {}, ray.get(results[0])
        finally:
            for actor in actors:
                ray.kill(actor, no_restart=True)  # survivors of a dead rank hang in a collective operation


def _failures(results: list[Any]) -> dict[int, BaseException]:
    """Waits until all ranks have returned or one has failed; returns the failures by rank."""
    import ray

    waiting, failures = list(results), dict[int, BaseException]()
    while waiting:
        timeout_s = CULPRIT_S if failures else None
        done, waiting = ray.wait(waiting, num_returns=len(waiting) if failures else 1, timeout=timeout_s)
        for result in done:
            try:
                ray.get(result)
            except ray.exceptions.RayTaskError as error:
                failures[results.index(result)] = error.cause
            except ray.exceptions.RayError as error:
                failures[results.index(result)] = error
        if timeout_s is not None:
            break
    return failures


class TrainingRank:
    """Actor of one rank."""

    def load(self) -> None:
        """Imports torch, of which each operation then has the threads of the process's environment."""
        import torch.distributed  # noqa: F401

    def run(self, work: ranks.Work, rank: int, world_size: int, meeting_file: str, timeout_s: float) -> Any:
        """Joins the process group and runs the rank; returns its result."""
        from torch import distributed

        # The connections of a group on one node stay on it; gloo takes the address of the host's name otherwise.
        for _, interface in socket.if_nameindex():
            if interface in ("lo", "lo0"):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting_file}",
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=timeout_s),
        )
        result = ranks.train(work, rank, world_size, "cpu")
        if distributed.is_initialized():
            distributed.destroy_process_group()
        return result
