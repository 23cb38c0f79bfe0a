"""Simulates the driver at a million parts, and writes the table of `tests/scale/README.md` (`make scale`)."""

import datetime
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from core.models import compute
from tests.scale import simulation

LATENCY_S = 0.05
README = pathlib.Path(__file__).with_name("README.md")
_BEGIN, _END = "<!-- table: make scale -->", "<!-- end of table -->"


class Scenario(NamedTuple):
    """A simulation: what it does, at which size, and how the driver gets to its first part; None without parts."""

    what: str
    size: str
    run: Callable[[], simulation.Measured]
    first: Callable[[], simulation.Measured] | None


def _translate(num_parts: int, num_committed: int) -> Scenario:
    what = "translate, resumed with half of the parts committed" if num_committed else "translate, a new output"
    return Scenario(
        what,
        f"{num_parts:,} parts",
        lambda: simulation.translate(num_parts, num_committed),
        lambda: simulation.translate(num_parts, num_committed, LATENCY_S, stop_at_first=True),
    )


SCENARIOS = [
    _translate(100_000, 0),
    _translate(1_000_000, 0),
    _translate(100_000, 50_000),
    Scenario(
        "prepare, one text, words",
        "1 TiB, 65,536 parts",
        lambda: simulation.prepare(1 << 40),
        lambda: simulation.prepare(1 << 40, LATENCY_S, stop_at_first=True),
    ),
    Scenario("train: a rank opens a dataset", "100,000 shards", lambda: simulation.open_dataset(100_000), None),
]


def measure(number: int) -> dict[str, Any]:
    """Runs a scenario in this process, which should be a fresh one: its largest size is what is measured."""
    scenario = SCENARIOS[number]
    first_s = None
    if scenario.first is not None:
        try:
            scenario.first()
        except simulation.FirstPartError as error:
            first_s = error.elapsed_s
    measured = scenario.run()
    # Where the dataset is made in the same process, the largest size of the process is that of the making.
    held_bytes = simulation.hold_dataset(100_000)[1] if scenario.first is None else measured.memory_bytes
    return {
        "first_s": first_s,
        "requests": {stage: dict(kinds) for stage, kinds in measured.store.by_stage().items() if stage != "lock"},
        "cpu_s": measured.cpu_s,
        "memory_bytes": held_bytes,
        "num_computed": measured.num_computed,
    }


def _row(scenario: Scenario, measured: dict[str, Any]) -> str:
    requests = "; ".join(
        f"{stage}: {', '.join(f'{number:,} {kind}' for kind, number in sorted(kinds.items()))}"
        for stage, kinds in measured["requests"].items()
    )
    first = "" if measured["first_s"] is None else f"{measured['first_s']:.1f} s"
    cost = f"{measured['cpu_s']:.1f} s | {measured['memory_bytes'] / (1 << 20):.0f} MiB"
    return f"| {scenario.what} | {scenario.size} | {requests} | {first} | {cost} |"


def main() -> None:
    """Runs each scenario in a process of its own, prints the table and puts it into the README."""
    rows = [
        "| | size | requests of the driver | first part handed out | processor time | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, scenario in enumerate(SCENARIOS):
        command = [sys.executable, "-m", "tests.scale", str(number)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(_row(scenario, json.loads(done.stdout)))
        sys.stdout.write(f"{rows[-1]}\n")
    today = datetime.datetime.now(datetime.UTC).date()
    note = f"{today}, {compute.this_cpu().vendor}, one core of the driver, {simulation.NUM_WORKERS} simulated workers."
    text = README.read_text()
    before, after = text[: text.index(_BEGIN)], text[text.index(_END) :]
    README.write_text("\n".join([f"{before}{_BEGIN}", "", note, "", *rows, "", after]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
