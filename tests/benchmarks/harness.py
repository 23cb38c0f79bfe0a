"""Timing of variants against each other: random order, garbage collector off, medians.

The measure is work per CPU-second of the process, which other load on the machine disturbs less than wall-clock time.
Only ratios of one run are comparable.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Done(NamedTuple):
    """Amount of work that a variant did, and its CPU-seconds; None: those of the whole call."""

    amount: float
    cpu_s: float | None = None


class Ratio(NamedTuple):
    """One row of the table: throughput of a workload, ours and the baseline's."""

    work: str
    baseline: str
    ours_per_cpu_s: float
    baseline_per_cpu_s: float
    goal: float

    @property
    def ratio(self) -> float:
        """Speed-up over the baseline."""
        return self.ours_per_cpu_s / self.baseline_per_cpu_s


def rates(variants: Mapping[str, Callable[[], Done]], rounds: int, seed: int = 1) -> dict[str, float]:
    """Returns the median work per CPU-second of each variant, a function that does its work and returns its amount.

    Every variant runs once as a warm-up; then each round runs all of them in a random order.
    """
    for run in variants.values():
        run()
    order = random.Random(seed)
    measured: dict[str, list[float]] = {name: [] for name in variants}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(variants), len(variants)):
                started_s = time.process_time()
                done = variants[name]()
                elapsed_s = time.process_time() - started_s
                measured[name].append(done.amount / (elapsed_s if done.cpu_s is None else done.cpu_s))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in measured.items()}


def table(ratios: list[Ratio]) -> str:
    """Formats the ratios as a Markdown table."""
    rows = [
        "| workload | baseline | ours, per CPU-second | baseline, per CPU-second | speed-up | goal |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in ratios:
        ours, baseline = f"{row.ours_per_cpu_s:,.0f}", f"{row.baseline_per_cpu_s:,.0f}"
        rows.append(f"| {row.work} | {row.baseline} | {ours} | {baseline} | {row.ratio:.2f} × | ≥ {row.goal:g} × |")
    return "\n".join(rows)
