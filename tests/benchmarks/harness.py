"""Times variants against each other in one run: random order, garbage collector off, medians, ratios only.

What is counted is work done per CPU-second of the process, which other load on the machine does not disturb
as it disturbs the clock on the wall.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Done(NamedTuple):
    """How much work a variant did, and in how many CPU-seconds; None: those of the whole call."""

    amount: float
    cpu_s: float | None = None


class Ratio(NamedTuple):
    """One line of the table: how many times as much work `ours` does as `baseline` in the same CPU time."""

    work: str
    baseline: str
    ours_per_cpu_s: float
    baseline_per_cpu_s: float
    goal: float

    @property
    def ratio(self) -> float:
        return self.ours_per_cpu_s / self.baseline_per_cpu_s


def rates(variants: Mapping[str, Callable[[], Done]], rounds: int, seed: int = 1) -> dict[str, float]:
    """Median work per CPU-second of each variant; a variant does its work when called and returns how much it was.

    Every variant runs once beforehand, unmeasured; then each round runs all of them in a random order.
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
    """The ratios as a Markdown table."""
    rows = [
        "| work | against | ours, per CPU-second | baseline | ratio | goal |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in ratios:
        ours, baseline = f"{row.ours_per_cpu_s:,.0f}", f"{row.baseline_per_cpu_s:,.0f}"
        rows.append(f"| {row.work} | {row.baseline} | {ours} | {baseline} | {row.ratio:.2f} × | ≥ {row.goal:g} × |")
    return "\n".join(rows)
