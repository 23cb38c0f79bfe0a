"""Small runs that last long enough to be disturbed, and checks that they end alike all the same."""

import json
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.config import loading, schema
from core.data.builtin import sentences
from core.reporting import training_history
from core.training import trainer
from jobs import paths, prepare, train
from tests import reporters
from tests.core.training import builders
from tests.e2e import driving
from workers.cluster import session as sessions

# Dropout everywhere, a schedule, frequent checkpoints: any state that a resume lost would change the bits.
TEXT = """
name: text
root: {root}
corpus: {{kind: text, train: {{text: [{folder}/english.txt]}}, split: {{valid: 0.05}}}}
tokenizer: {{kind: char}}
model: {{kind: language_model, cell: lstm, num_layers: 2, hidden_size: 96, embedding_size: 32, dropout: 0.3,
        output_dropout: 0.3}}
training: {{epochs: 2, num_lanes: 12, window: 20, learning_rate: 4e-3, schedule: {{kind: cosine, warmup_steps: 20}},
           checkpoint_every_steps: 10, log_every_steps: 5}}
cluster: {{address: auto, num_workers: 2, collective_timeout_s: 60}}
compute: {{precision: fp32, matmul: default}}
"""
PAIRS = """
name: pairs
root: {root}
corpus: {{kind: pairs, train: {{tsv: [{folder}/pairs.tsv]}}, split: {{valid: 0.05}}}}
tokenizer: {{kind: word}}
model: {{kind: seq2seq, cell: gru, num_layers: 2, hidden_size: 48, embedding_size: 32, bidirectional: true,
        attention: additive, bridge: mean, dropout: 0.3, embedding_dropout: 0.2}}
training: {{epochs: 2, batch_lines: 6, learning_rate: 2e-3, schedule: plateau, validate_every_steps: 90,
           label_smoothing: 0.1, checkpoint_every_steps: 10, log_every_steps: 5}}
cluster: {{address: auto, num_workers: 2, collective_timeout_s: 60}}
compute: {{precision: fp32, matmul: default}}
"""
KINDS = {"text": TEXT, "pairs": PAIRS}
NUM_LINES = 1600
RECOVERY_S = 90.0  # from the death of a rank to the next checkpoint
ELASTIC = ("--set", "cluster.num_workers={min: 1, max: 3}")
GONE_S = 150.0  # from the loss of a node to the next checkpoint of the remaining ranks


class Workspace:
    """A folder with corpora, their datasets, and runs of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sentences.write_english(folder / "english.txt", 1, 0, NUM_LINES)
        sentences.write_pairs(folder / "pairs.tsv", 1, 0, NUM_LINES)

    def run(self, kind: str, name: str) -> "Run":
        """Creates a run on the dataset of this kind."""
        config = self._write(kind, name)
        shutil.copytree(self._dataset(kind), self.folder / name / "dataset")
        return Run(self.folder / name, config)

    def _dataset(self, kind: str) -> Path:
        """Returns the dataset of this kind, prepared when it is first used."""
        root = self.folder / f"{kind}-prepared"
        if not root.exists():
            config = paths.absolute(loading.load(self._write(kind, root.name), ["cluster.address=none"]))
            with sessions.Session(config.cluster) as session:
                prepare.run(config, session, reporters.SilentReporter())
        return root / "dataset"

    def _write(self, kind: str, name: str) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(KINDS[kind].format(root=self.folder / name, folder=self.folder))
        return str(path)


class Run:
    """A run that is trained by commands."""

    def __init__(self, root: Path, config: str) -> None:
        self.root, self.config = root, config

    def settings(self, *overrides: str) -> schema.RunConfig:
        return paths.absolute(loading.load(self.config, overrides))

    def job(self) -> trainer.TrainingJob:
        """Returns the job that the command would train."""
        return train.plan(self.settings())

    def reached(self, start: int | None = None) -> int | None:
        """Returns the step of the newest checkpoint, of any fencing number or of this one."""
        return max((step for step, number in self._committed() if start in (None, number)), default=None)

    def beyond(self, step: int, start: int | None = None) -> Callable[[], int | None]:
        """Returns a function that returns the step of the newest checkpoint once it is at least `step`."""

        def look() -> int | None:
            reached = self.reached(start)
            return reached if reached is not None and reached >= step else None

        return look

    def newest(self) -> Path:
        """Returns the folder of the newest checkpoint."""
        step, fencing_number = max(self._committed(), key=lambda entry: (entry[1], entry[0]))
        return self.root / "checkpoints" / f"step-{step:08d}-e{fencing_number}"

    def newest_step(self) -> int:
        """Returns the step of the newest checkpoint."""
        return int(self.newest().name[5:13])

    def _committed(self) -> list[tuple[int, int]]:
        names = [path.parent.name for path in self.root.glob("checkpoints/*/MANIFEST.json")]
        return [(int(name[5:13]), int(name.partition("-e")[2])) for name in names]

    def starts(self) -> int:
        """Returns the number of starts of the worker group."""
        return len(list(self.root.glob("epochs/*.json")))

    def record(self) -> dict[str, Any]:
        """Returns the content of `run.json`."""
        content: dict[str, Any] = json.loads((self.root / "run.json").read_text())
        return content

    def rows(self, start: int | None = None) -> list[dict[str, Any]]:
        """Returns the rows of the run log, or those of one start of the worker group."""
        if start is None:
            return [dict(row) for row in training_history.read(builders.location_of(self.root))]
        segments = sorted(self.root.glob(f"metrics/e{start}-*.jsonl"))
        return [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]

    def state(self) -> dict[str, Any]:
        """Returns the training state in the newest checkpoint."""
        content: dict[str, Any] = json.loads((self.newest() / "training" / "progress.json").read_text())["state"]
        del content["elapsed_s"]  # of the clock
        return content


def check_same(run: Run, whole: Run) -> None:
    """Checks that a disturbed run ended like an undisturbed one.

    Weights, optimizer and hidden state are the same bits, the counts and validations the same numbers; the run log
    has each step once, with the same figures but for the order of a sum.
    """
    assert builders.digest(run.root) == builders.digest(whole.root)
    assert run.state() == whole.state()
    rows, expected = run.rows(), whole.rows()
    assert [(row["kind"], row["step"]) for row in rows] == [(row["kind"], row["step"]) for row in expected]
    for name in ("epoch", "loss_nats", "learning_rate", "gradient_norm", "nll_nats", "num_tokens"):
        values = [row.get(name, 0.0) for row in expected]
        assert [row.get(name, 0.0) for row in rows] == pytest.approx(values, rel=1e-6), name


def check_went_on(run: Run, report: dict[str, Any], saved: int) -> None:
    """Checks that two ranks resumed at this step at least, with each step once in the run log and a falling loss."""
    assert (report["start"], report["world_size"]) == (2, 2)
    rows = [row for row in run.rows() if row["kind"] == "step"]
    assert [row["step"] for row in rows] == sorted({*range(5, report["step"], 5), report["step"]})
    losses = [row["loss_nats"] for row in rows]
    first = next(row["step"] for row in run.rows(2) if row["kind"] == "step")
    assert first > saved
    at = first // 5 - 1
    spans = (slice(max(0, at - 10), at), slice(at, at + 10), slice(-10, None))
    before, after, end = (statistics.mean(losses[span]) for span in spans)
    assert end < 0.9 * before
    assert after < 1.1 * before
    assert run.state()["step"] == report["step"]


def signal_a_rank(
    driver: driving.Driver, run: Run, start: int, number: int, world_size: int, what: signal.Signals
) -> None:
    """Sends a signal to a rank of one start: number 0 is rank 0, the others are in no order."""
    first = json.loads((run.root / "epochs" / f"{start:08d}.json").read_text())["pid"]
    ranks = driver.ranks()[-world_size:]
    assert first in {process.pid for process in ranks}, "these are not the ranks of this start"
    ranks.sort(key=lambda process: process.pid != first)
    ranks[number].signal(what)


def kill_twice_in_an_epoch(driver: driving.Driver, run: Run, chance: random.Random, world_size: int) -> list[float]:
    """Kills a random rank at random moments of the first epoch; returns the seconds to the next checkpoint of each."""
    took_s = []
    for start, earliest, latest in ((1, 20, 60), (2, 80, 140)):
        step = chance.randrange(earliest, latest)
        driver.until(run.beyond(step, start), f"step {step} of start {start}")
        time.sleep(chance.uniform(0, 0.2))
        signal_a_rank(driver, run, start, chance.randrange(world_size), world_size, signal.SIGKILL)
        killed_s = time.monotonic()
        driver.until(run.beyond(1, start + 1), f"a checkpoint of start {start + 1}", RECOVERY_S)
        took_s.append(time.monotonic() - killed_s)
    for start in (1, 2, 3):
        assert run.rows(start)[0]["epoch"] == 0, f"start {start} was not in the first epoch"
    return took_s
