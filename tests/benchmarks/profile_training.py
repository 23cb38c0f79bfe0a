"""Profile of training: one rank in this process under torch's profiler.

    python -m tests.benchmarks.profile_training CONFIG [--set section.key=value]… [--seconds 60] [--output FOLDER]

The dataset of the configuration is prepared below FOLDER (reused if it is there), one rank trains for `--seconds`, and
the profiler records up to 100 steps after the first ten. FOLDER then holds `operators.txt`, the operators by their own
CPU time, and `trace.json` for https://ui.perfetto.dev. The root of the configuration is not touched.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import profiler

from core import errors
from core.config import loading
from core.storage import location
from core.telemetry import metrics
from core.training import collective, progress, trainer
from jobs import console, paths, run_session
from jobs import prepare as preparing
from jobs import train as training

NUM_WARMUP_STEPS = 10
MAX_STEPS = 100
NUM_OPERATORS = 30


class ProfiledSteps:
    """Callbacks that advance the profiler after each step, and stop the run when the time or the steps are over."""

    def __init__(self, profile: profiler.profile, seconds: float) -> None:
        self._profile = profile
        self._deadline_s = time.monotonic() + seconds
        self.num_steps = 0

    def on_progress(self, now: progress.Progress) -> None:
        """Shows nothing."""

    def should_stop(self) -> bool:
        """Counts a step; returns whether profiling is over."""
        self.num_steps += 1
        self._profile.step()
        return time.monotonic() > self._deadline_s or self.num_steps >= NUM_WARMUP_STEPS + MAX_STEPS

    def should_save(self) -> bool:
        """Returns False: no checkpoint is needed."""
        return False


def main() -> None:
    """Reads the command line, prepares, trains and writes the table and the trace."""
    parser = argparse.ArgumentParser(description="Profile one rank's training under torch's profiler.")
    parser.add_argument("config", metavar="CONFIG", help="YAML configuration")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to train, in seconds (default: 60)")
    parser.add_argument("--output", type=Path, default=Path("reports/profile"), help="folder of the results")
    arguments = parser.parse_args()
    output: Path = arguments.output.resolve()
    own = [f"root={output / 'run'}", "cluster.address=none", "cluster.num_workers=1"]
    config = paths.absolute(loading.load(arguments.config, [*arguments.set, *own]))
    with run_session.open_session(config) as session:
        preparing.run(config, session, console.reporter())
    activities = [profiler.ProfilerActivity.CPU]
    if config.cluster.use_gpu:
        activities.append(profiler.ProfilerActivity.CUDA)
    # Record one range of steps; the schedule's `wait` leaves out the first ones, which build kernels and caches.
    schedule = profiler.schedule(wait=NUM_WARMUP_STEPS - 1, warmup=1, active=MAX_STEPS, repeat=1)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    with (
        tempfile.TemporaryDirectory() as scratch,
        profiler.profile(activities=activities, schedule=schedule) as profile,
    ):
        # Checkpoints go to a scratch root, so that every profile starts from the first step.
        job = dataclasses.replace(training.plan(config), root=location.Location.parse(scratch))
        callbacks = ProfiledSteps(profile, arguments.seconds)
        trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), callbacks)
    if callbacks.num_steps <= NUM_WARMUP_STEPS:
        sys.exit(f"profile: {callbacks.num_steps} steps in {arguments.seconds:g} s are too few; raise --seconds")
    table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=NUM_OPERATORS)
    (output / "operators.txt").write_text(table + "\n")
    profile.export_chrome_trace(str(output / "trace.json"))
    sys.stdout.write(f"{table}\n{output / 'operators.txt'}\n{output / 'trace.json'}\n")


if __name__ == "__main__":
    try:
        main()
    except errors.RaycurrentError as error:
        sys.exit(str(error))
