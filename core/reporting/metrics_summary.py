"""What a run measured of itself: the last values of its metrics, as each node left them."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from core.storage import location

_FILE = re.compile(r"final-.+\.prom")
_SAMPLE = re.compile(r"(raycurrent_[a-z_]+)(?:\{([^}]*)\})? (\S+)")
_LABEL = re.compile(r'([a-z]+)="([^"]*)"')


class Sample(NamedTuple):
    """One value of a metric in Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


def read(root: location.Location) -> dict[str, Any] | None:
    """Reads who did how much below a run's root; None where nothing was measured.

    The files are those of the newest driver. `workers` has for each rank its steps, the tokens that it trained on
    and the seconds that its steps took; `stages` for each stage that was spread out its parts by outcome, and how
    many workers died.
    """
    folder = root.join("metrics")
    samples: list[Sample] = []
    for name in folder.list_names():
        if _FILE.fullmatch(name):
            samples += parse(folder.join(name).read_bytes().decode("utf-8", "replace"))
    if not samples:
        return None
    return {"workers": _workers(samples), "stages": _stages(samples)}


def parse(text: str) -> Iterator[Sample]:
    """Yields the samples of one file; buckets of histograms are left out.

    Source: Prometheus' exposition formats, the text-based one.
    """
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found and not found[1].endswith("_bucket"):
            yield Sample(found[1], dict(_LABEL.findall(found[2] or "")), float(found[3]))


def _workers(samples: list[Sample]) -> list[dict[str, float]]:
    named = {
        "raycurrent_train_steps_total": "steps",
        "raycurrent_train_tokens_total": "tokens",
        "raycurrent_train_step_seconds_sum": "elapsed_s",
    }
    ranks: dict[int, dict[str, float]] = {}
    for name, labels, value in samples:
        if name in named and "rank" in labels:
            row = ranks.setdefault(int(labels["rank"]), dict.fromkeys(named.values(), 0.0))
            row[named[name]] += value
    return [{"rank": rank, **row} for rank, row in sorted(ranks.items()) if row["steps"]]


def _stages(samples: list[Sample]) -> dict[str, dict[str, float]]:
    stages: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        if name == "raycurrent_fanout_parts_total":
            what = labels["outcome"]
        elif name == "raycurrent_fanout_worker_deaths_total":
            what = "worker_deaths"
        else:
            continue
        row = stages.setdefault(labels["stage"], {})
        row[what] = row.get(what, 0.0) + value
    return stages
