"""A group of ranks under Ray Train, which starts it on the nodes of a cluster and restarts it when a rank dies.

Ray Train stores nothing for us: checkpoints are ours, and nothing is reported to it, since a report blocks until the
next poll (2 s).
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from core.config import schema
from core.storage import filesystems, location, urls
from workers.train import ranks

RESIZE_S = 300.0  # interval at which an elastic group tries to grow: each time may cost a restart

# Helpers of Ray Train that we do not need are off: each is a process that imports ray.train.
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A dead rank is noticed at the next health check; 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Survivors of a dead rank hang in a collective operation and cannot shut down in order (30 s by default).
    "TRAIN_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    # We export our own metrics; these would go to Ray's agent.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# After a node is lost, Ray Train requests the old size of an elastic group first, and waits this long for the resources
# before it looks at those that are left (60 s by default); see `nodes.NodeMonitor`, too.
ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}


_ATTEMPTS = 8  # at a request for an object; Ray Train does not know which errors are transient


class RayTrainGroup:
    """A group of ranks under Ray Train.

    Args:
        cluster: settings of the cluster.
        worker_env: environment variables of the ranks.
        root: folder of the run, which every node can reach.
        has_moving_nodes: whether somebody may drain or remove nodes.
    """

    def __init__(
        self, cluster: schema.ClusterConfig, worker_env: dict[str, str], root: location.Location, has_moving_nodes: bool
    ) -> None:
        self._cluster = cluster
        self._worker_env = worker_env
        self._root = root
        self._has_moving_nodes = has_moving_nodes

    def run(self, work: ranks.Work) -> Any:
        """Runs the ranks to their end and returns the result of rank 0.

        Raises:
            RanksFailedError: ranks failed more often than `cluster.max_failures` allows.
        """
        with scratch(self._root) as (storage, filesystem):
            trainer = self._trainer(work, storage, filesystem)
            from ray import train

            try:
                return trainer.fit().return_value
            except train.TrainingFailedError as error:
                failures: dict[int, Any] = dict(getattr(error, "worker_failures", {}))
                inner: dict[int, BaseException] = {
                    rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()
                }
                raise ranks.RanksFailedError(str(error), inner) from error

    def _trainer(self, work: ranks.Work, storage: str, filesystem: Any) -> Any:
        sizes = self._cluster.workers
        elastic = len(sizes) > 1
        for name, value in {**ENVIRONMENT, **(ELASTIC_ENVIRONMENT if elastic else {})}.items():
            os.environ.setdefault(name, value)
        if not self._has_moving_nodes:
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        from ray import train as train_module
        from ray.train import torch as train_torch

        train: Any = train_module  # typed as version 1 of Ray Train, but used as version 2
        use_gpu = self._cluster.use_gpu
        return train_torch.TorchTrainer(
            _train_rank,
            train_loop_config={"work": work},
            torch_config=train_torch.TorchConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=int(self._cluster.collective_timeout_s)
            ),
            scaling_config=train.ScalingConfig(
                num_workers=(sizes.start, sizes.stop - 1) if elastic else sizes.start,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": float(self._cluster.cpus_per_worker), **({"GPU": 1.0} if use_gpu else {})},
                elastic_resize_monitor_interval_s=RESIZE_S,
                label_selector=dict(self._cluster.label_selector) or None,
            ),
            run_config=train.RunConfig(
                name=f"group-{secrets.token_hex(8)}",  # Ray Train silently continues a run whose name it knows
                storage_path=storage,
                storage_filesystem=filesystem,
                failure_config=train.FailureConfig(max_failures=self._cluster.max_failures),
                worker_runtime_env={"env_vars": self._worker_env},
            ),
        )


def _train_rank(config: dict[str, Any]) -> Any:
    """Runs a rank in a worker of Ray Train, which calls it."""
    from ray import train
    from ray.train import torch as train_torch

    context = train.get_context()
    device = str(train_torch.get_device())
    return ranks.train(config["work"], context.get_world_rank(), context.get_world_size(), device)


@contextlib.contextmanager
def scratch(root: location.Location) -> Iterator[tuple[str, Any]]:
    """Yields a folder for the files of Ray Train, which every node can reach, and its filesystem (None: a local one).

    They are removed at the end. In an object store they go through the drivers of all our files: those that Ray would
    choose, Arrow's own, read other variables and do not know every store.
    """
    folder = root.join(".ray")
    if not root.is_local:
        handler = _Handler(folder.url)
        path, filesystem = str(handler.fs._strip_protocol(folder.url)), fs.PyFileSystem(handler)
        try:
            yield path, filesystem
        finally:
            with contextlib.suppress(OSError):
                filesystem.delete_dir(path)
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        yield str(folder.path), None
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)


class _Handler(fs.FSSpecHandler):  # type: ignore[misc] # without types
    """The driver of a store, pickled as its URL: whoever reads it makes a driver as all of ours are made."""

    def __init__(self, url: str) -> None:
        scheme, authority, _ = urls.split(url)
        super().__init__(filesystems.filesystem(scheme, authority, _ATTEMPTS))
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)
