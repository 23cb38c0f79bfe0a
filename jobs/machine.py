"""Description of this machine: what people paste into a bug report."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import schema
from core.models import machine
from core.storage import location, private_folders, retries, run_lock
from jobs import console, run_state
from workers.cluster import nodes
from workers.cluster import session as sessions
from workers.fanout import pool
from workers.train import launch

_PACKAGES = ("fsspec", "s3fs", "gcsfs", "adlfs", "pydantic", "typer", "prometheus-client", "matplotlib", "tensorboard")


def run(root: location.Location, starts_ray: bool) -> dict[str, Any]:
    """Describes the machine, on stderr for people and as the report.

    Args:
        root: folder whose disk is measured.
        starts_ray: whether a local cluster is started, to see that it works.

    Raises:
        ClusterError: Ray does not start.
    """
    report = {
        "verb": "inspect",
        "kind": "machine",
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cores": _num_cores()},
        **machine.describe(),
        "ray": _ray(starts_ray),
        "disks": {
            "root": _disk(root),
            "temporary": _disk(location.Location.parse(str(private_folders.temporary_folder()))),
        },
        "timeouts_s": _timeouts(),
        "libraries": {**run_state.versions(), **dict(_versions())},
    }
    for line in to_lines(report):
        console.note(line)
    return report


def _num_cores() -> int:
    # Of a container, those that it may use; not everywhere known.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ray(starts: bool) -> dict[str, Any]:
    try:
        version = nodes.ray().__version__
    except ImportError as error:
        return {"importable": False, "error": f"{type(error).__name__}: {error}"}
    report: dict[str, Any] = {"importable": True, "version": version}
    if starts:
        with sessions.Session(schema.ClusterConfig(address="local", num_workers=1)) as session:
            session.start_ray()
            report["nodes"] = len(nodes.alive())
    return report


def _disk(folder: location.Location) -> dict[str, Any]:
    """Returns the space of the disk of a folder, or of its nearest ancestor that exists; none of an object store."""
    if not folder.is_local:
        return {"path": str(folder), "free_bytes": None, "total_bytes": None}
    path = Path(str(folder))
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return {"path": str(folder), "free_bytes": usage.free, "total_bytes": usage.total}


def _timeouts() -> dict[str, float]:
    cluster = schema.ClusterConfig()
    return {
        "cluster.start_timeout_s": cluster.start_timeout_s,
        "cluster.part_timeout_s": cluster.part_timeout_s,
        "cluster.collective_timeout_s": cluster.collective_timeout_s,
        "start of a worker": pool.START_TIMEOUT_S,
        "start of the ranks": launch.START_S,
        "stop of the ranks": launch.STOP_S,
        "resources of a cluster": sessions.RESOURCES_TIMEOUT_S,
        "lock of a root without heartbeat": run_lock.TTL_S,
        "retries of a store": retries.DEADLINE_S,
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        if importlib.util.find_spec(name.replace("-", "_")) is not None:
            yield name, importlib.metadata.version(name)


def to_lines(report: Mapping[str, Any]) -> list[str]:
    """Returns the report as lines of text."""
    torch, cpu, int8, ray = report["torch"], report["cpu"], report["int8"], report["ray"]
    sets = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in cpu["instruction_sets"].items())
    int8_text = f"products are exact, by the {int8['kernel']} kernel" if int8["is_exact"] else "is refused"
    started = f", a local cluster started with {ray['nodes']} node" if "nodes" in ray else ""
    rows = {
        "python": f"{report['python']['version']} on {report['platform']['system']}",
        "torch": f"{torch['version']}, {'CUDA ' + torch['cuda'] if torch['cuda'] else 'for CPUs'}",
        "cpu": f"{cpu['vendor'] or 'unknown'}, {report['platform']['cores']} cores, {torch['cpu_capability']}: {sets}",
        "gpus": ", ".join(report["gpus"]) or "none",
        "precision": f"auto is {report['precision']['auto']}: {report['precision']['reason']}",
        "int8": f"{int8_text}: {int8['reason']}",
        "bf16 LSTM": report["bf16_lstm"],
        "ray": f"{ray['version']}{started}" if ray["importable"] else f"cannot be imported ({ray['error']})",
        **{f"{name} disk": _free(disk) for name, disk in report["disks"].items()},
        "time-outs": ", ".join(f"{name} {seconds:g} s" for name, seconds in report["timeouts_s"].items()),
        "libraries": ", ".join(f"{name} {version}" for name, version in report["libraries"].items()),
    }
    return [f"{name:<14} {text}" for name, text in rows.items()]


def _free(disk: Mapping[str, Any]) -> str:
    if disk["free_bytes"] is None:
        return f"{disk['path']}: an object store"
    return f"{disk['path']}: {disk['free_bytes'] / 1e9:.1f} of {disk['total_bytes'] / 1e9:.1f} GB free"
