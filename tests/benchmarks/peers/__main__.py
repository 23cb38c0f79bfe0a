"""`make bench-peers`: ours and other programs on the same data and sizes, in turn, one thread each.

Each side of a row is a process of its own, which does a round of work when it is asked; both do one round to warm up,
then rounds in a random order. The ratio is the median over the rounds of work per CPU-second, ours over theirs.
"""

import argparse
import datetime
import os
import pathlib
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from core.models import compute
from tests.benchmarks.peers import corpora, environments, rows, sides
from workers.fanout import process_environment


class Result(NamedTuple):
    """Measured row: medians of work per CPU-second, the ratios of the rounds, and figures of either side."""

    row: rows.Row
    precision: str
    ours_per_cpu_s: float
    peer_per_cpu_s: float
    ratios: list[float]
    figures: str


def main() -> None:
    """Measures the rows that the command line names, and prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[row.name for row in rows.ROWS], help="rows; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("RAYCURRENT_TEST_DATA"))
    parser.add_argument("--folder", type=pathlib.Path, default=sides.REPOSITORY / ".venv" / "peers")
    arguments = parser.parse_args()
    data = pathlib.Path(arguments.data) if arguments.data else None
    folder = arguments.folder.resolve()
    versions: dict[str, str] = {}
    results, failures = [], 0
    for row in rows.ROWS:
        if arguments.only and row.name not in arguments.only:
            continue
        for precision in _precisions(row):
            try:
                results.append(_measure(row, precision, folder, data, arguments.rounds, versions))
            except (RuntimeError, subprocess.CalledProcessError) as error:
                # The other rows do not need this program.
                failures += 1
                sys.stderr.write(f"{row.name}, {precision}: {error}\n")
            else:
                sys.stderr.write(_line(results[-1]) + "\n")
    sys.stdout.write("\n".join([_heading(versions, data), "", *_HEAD, *map(_line, results)]) + "\n")
    sys.exit(1 if failures else 0)


def _precisions(row: rows.Row) -> list[str]:
    """Returns the precisions that this CPU computes without emulation."""
    return [precision for precision in row.goals if precision == "fp32" or compute.this_cpu().has_bf16]


def _measure(
    row: rows.Row,
    precision: str,
    folder: pathlib.Path,
    data: pathlib.Path | None,
    num_rounds: int,
    versions: dict[str, str],
) -> Result:
    with tempfile.TemporaryDirectory(prefix="rc-peers-") as work_folder:
        settings: dict[str, object] = {**row.settings, "precision": precision, "work_folder": work_folder}
        if row.corpus is not None:
            corpus = corpora.write(row.corpus, folder, data)
            settings |= {"corpus": str(corpus), "weights": str(folder / f"{corpus.name}-model")}
        if row.peer == "programs:ngram_kenlm":
            settings["lmplz"] = str(environments.lmplz(folder))
        python = environments.opennmt(folder) if row.peer.startswith("opennmt:") else pathlib.Path(sys.executable)
        # Ours gets the variables that our workers get, the other side those that make it use one thread.
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        log = pathlib.Path(work_folder)
        # The peer first: ours may use the weights that it trains.
        with (
            sides.Side(python, row.peer, settings, threads, log / "peer.log") as peer,
            sides.Side(
                pathlib.Path(sys.executable),
                row.ours,
                settings,
                process_environment.thread_variables(1),
                log / "ours.log",
            ) as ours,
        ):
            versions |= peer.versions | ours.versions
            rounds = _take_turns({"ours": ours, "peer": peer}, num_rounds)
    rates = {name: [done.amount / (done.cpu_s or 1.0) for done in measured] for name, measured in rounds.items()}
    return Result(
        row,
        precision,
        statistics.median(rates["ours"]),
        statistics.median(rates["peer"]),
        [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)],
        ", ".join(
            f"{name} {rounds['ours'][-1].figures[name]:.1f} and {value:.1f}"
            for name, value in rounds["peer"][-1].figures.items()
        ),
    )


def _take_turns(both: Mapping[str, sides.Side], num_rounds: int) -> dict[str, list[sides.Round]]:
    order = random.Random(1)
    for side in both.values():
        side.run()  # to warm up
    rounds: dict[str, list[sides.Round]] = {name: [] for name in both}
    for _ in range(num_rounds):
        for name in order.sample(list(both), len(both)):
            rounds[name].append(both[name].run())
    return rounds


_HEAD = (
    "| work, per CPU-second | against | precision | ours | theirs | ratio (least, most) | goal |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def _line(result: Result) -> str:
    row, ratios = result.row, result.ratios
    ratio = f"{statistics.median(ratios):.2f} × ({min(ratios):.2f}, {max(ratios):.2f})"
    goal = f"≥ {row.goals[result.precision]:g} ×"
    if result.precision != "fp32" and not compute.this_cpu().has_amx:
        goal = "not judged on this CPU"  # the goal is for matrix units
    figures = f"; {result.figures}" if result.figures else ""
    rates = f"{result.ours_per_cpu_s:,.0f} | {result.peer_per_cpu_s:,.0f}"
    return f"| {row.title}{figures} | {row.against} | {result.precision} | {rates} | {ratio} | {goal} |"


def _heading(versions: Mapping[str, str], data: pathlib.Path | None) -> str:
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    text = "Multi30k German–English and WikiText-2" if data else "generated text"
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {_processor()}, one thread, {text}; {named}."


def _processor() -> str:
    cpu = compute.this_cpu()
    names = re.findall(
        r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
    )
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in cpu.flags]
    return f"{names[0] if names else platform.machine()} ({', '.join(units)})"


if __name__ == "__main__":
    main()
