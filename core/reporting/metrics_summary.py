"""Summary of a run's final Prometheus metrics, which each node writes to a `.prom` file when the run ends."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from core.storage import location, root_layout
from core.telemetry import catalog

# One file for each node.
_FILE = re.compile(r"final-.+\.prom")
_SAMPLE = re.compile(r"(raycurrent_[a-z_]+)(?:\{([^}]*)\})? (\S+)")
_LABEL = re.compile(r'(?<![a-z])([a-z]+)="([^"]*)"')


class Sample(NamedTuple):
    """One value of a metric in Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


def read(root: location.Location) -> dict[str, Any] | None:
    """Returns a summary of the final metrics below a run's root; None if there are none.

    The files are those of the newest driver. `workers` holds the steps, target tokens and seconds of steps of each
    rank; `stages` the part attempts by outcome and the worker deaths of each fan-out stage.
    """
    folder = root.join(root_layout.METRICS)
    samples: list[Sample] = []
    for name in folder.list_names():
        if _FILE.fullmatch(name):
            samples += parse(folder.join(name).read_bytes().decode("utf-8", "replace"))
    if not samples:
        return None
    return {"workers": _workers(samples), "stages": _stages(samples)}


def parse(text: str) -> Iterator[Sample]:
    """Yields the samples of a file, without histogram buckets.

    Source: Prometheus documentation, "Exposition formats", text-based format.
    """
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        # Comments and series of the library itself do not match.
        if match and not match[1].endswith("_bucket"):
            yield Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3]))


def _workers(samples: list[Sample]) -> list[dict[str, float]]:
    columns = {
        catalog.TRAIN_STEPS.name: "steps",
        catalog.TRAIN_TOKENS.name: "tokens",
        f"{catalog.TRAIN_STEP_SECONDS.name}_sum": "elapsed_s",
    }
    ranks: dict[int, dict[str, float]] = {}
    for name, labels, value in samples:
        if name in columns and "rank" in labels:
            row = ranks.setdefault(int(labels["rank"]), dict.fromkeys(columns.values(), 0.0))
            # A rank may have run on several nodes, one after the other.
            row[columns[name]] += value
    return [{"rank": rank, **row} for rank, row in sorted(ranks.items()) if row["steps"]]  # no steps: no speed


def _stages(samples: list[Sample]) -> dict[str, dict[str, float]]:
    stages: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        if name == catalog.FANOUT_PARTS.name:
            count = labels["outcome"]
        elif name == catalog.FANOUT_WORKER_DEATHS.name:
            count = "worker_deaths"
        else:
            continue
        row = stages.setdefault(labels["stage"], {})
        row[count] = row.get(count, 0.0) + value
    return stages
