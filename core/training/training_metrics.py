"""What a run tells while it goes: rows of its record, metrics, and progress for whoever watches."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.config import training_settings
from core.telemetry import catalog, metrics
from core.training import batches, collective, multitask, progress, step

WATCH_EVERY_S = 0.5


class Meter:
    """Adds up steps on the device, and reads them when a row of the record is due."""

    def __init__(
        self,
        state: progress.State,
        training: training_settings.TrainingConfig,
        group: collective.Collective,
        metrics: metrics.Metrics,
        device: torch.device,
        tasks: Sequence[str] = ("",),
    ) -> None:
        self._state, self._training, self._group, self._metrics = state, training, group, metrics
        self._rank = str(group.rank)
        self._tasks = tasks
        self._sums_K2 = torch.zeros((len(tasks), 2), dtype=torch.float64, device=device)
        self._durations_s: list[float] = []
        self._num_tokens = self._num_own = self._num_applied = 0
        self._row: dict[str, Any] = {}
        self._rate, self._norm = 0.0, math.nan
        self._layer_norms: Mapping[str, float] = {}
        self._cosines: Mapping[str, float] = {}
        self._watched_s = -math.inf
        metrics.count(catalog.TRAIN_STEPS, 0, rank=self._rank)
        if group.rank == 0:
            metrics.set(catalog.TRAIN_WORKERS, group.world_size)
            metrics.count(catalog.TRAIN_STARTS)
            metrics.count(catalog.TRAIN_NONFINITE, 0)

    def add(self, outcome: step.Outcome, micro_batches: Sequence[batches.Batch], rate: float, elapsed_s: float) -> None:
        """Takes note of a step; reads nothing from the device."""
        self._durations_s.append(elapsed_s)
        self._rate, self._norm, self._layer_norms = rate, outcome.norm, outcome.layer_norms
        self._cosines = multitask.named(outcome.cosines, self._tasks)
        self._num_tokens += sum(batch.num_targets for batch in micro_batches)
        self._num_own += sum(batch.num_own for batch in micro_batches)
        if outcome.is_applied:
            self._num_applied += 1
            for batch in micro_batches:
                self._state.tasks[batch.task].num_stale_targets += batch.num_targets
            self._sums_K2 += outcome.sums_K2
        elif self._group.rank == 0:
            self._metrics.count(catalog.TRAIN_NONFINITE)

    def settle(self) -> None:
        """Brings the sums of all ranks into the state, as a checkpoint keeps them; all ranks together."""
        self._group.sum_(self._sums_K2, "the training loss")
        for task, (loss, nll) in zip(self._state.tasks, self._sums_K2.tolist(), strict=True):
            self._state.loss_sum += loss
            task.nll_sum += nll
        self._sums_K2.zero_()

    def row(self) -> dict[str, Any]:
        """The row of the steps since the last one, metrics to the metrics too; all ranks together."""
        self.settle()
        state, elapsed_s = self._state, sum(self._durations_s)
        count, nll_sum = sum(task.num_stale_targets for task in state.tasks), sum(task.nll_sum for task in state.tasks)
        self._row = {
            "kind": "step",
            "step": state.step,
            "epoch": state.epoch,
            "fraction": state.fraction,
            "loss_nats": state.loss_sum / count if count else None,
            "perplexity": progress.perplexity(nll_sum / count) if count else None,
            "gradient_norm": self._norm if math.isfinite(self._norm) else None,
            "learning_rate": self._rate,
            "tokens_per_s": self._num_tokens / elapsed_s if elapsed_s > 0 else None,
            "num_tokens": state.num_tokens,
            "num_skipped": state.num_skipped,
        }
        if self._layer_norms and all(map(math.isfinite, self._layer_norms.values())):
            self._row["layer_norms"] = dict(self._layer_norms)
        if len(self._tasks) > 1:
            found = zip(self._tasks, map(_figures, state.tasks), strict=True)
            self._row["tasks"] = {name: figures for name, figures in found if figures}
        if self._cosines:
            self._row["cosines"] = dict(self._cosines)
        self._tell()
        state.loss_sum = 0.0
        for task in state.tasks:
            task.nll_sum, task.num_stale_targets = 0.0, 0
        self._num_tokens = self._num_own = self._num_applied = 0
        self._durations_s = []
        return self._row

    def progress(self, is_due: bool) -> progress.Progress | None:
        """What a watcher is shown, if it is time to; costs nothing else."""
        now_s = time.monotonic()
        if not is_due and now_s - self._watched_s < WATCH_EVERY_S:
            return None
        self._watched_s = now_s
        state, training = self._state, self._training
        return progress.Progress(
            step=state.step,
            max_steps=training.max_steps,
            epoch=state.epoch,
            epochs=training.epochs,
            fraction=state.fraction,
            num_tokens=state.num_tokens,
            tokens_per_s=self._row.get("tokens_per_s") or 0.0,
            learning_rate=self._rate,
            gradient_norm=self._norm if math.isfinite(self._norm) else None,
            loss_nats=self._row.get("loss_nats"),
            perplexity=self._row.get("perplexity"),
            validation=state.history[-1] if state.history else None,
        )

    def _tell(self) -> None:
        metrics, row = self._metrics, self._row
        metrics.count(catalog.TRAIN_STEPS, self._num_applied, rank=self._rank)
        metrics.count(catalog.TRAIN_TOKENS, self._num_own, rank=self._rank)
        for duration_s in self._durations_s:
            metrics.observe(catalog.TRAIN_STEP_SECONDS, duration_s, rank=self._rank)
        if self._group.rank == 0:
            metrics.set(catalog.TRAIN_EPOCHS, self._state.epochs_done)
            metrics.set(catalog.TRAIN_LEARNING_RATE, self._rate)
            if row["loss_nats"] is not None:
                metrics.set(catalog.TRAIN_LOSS, row["loss_nats"])
            if row["gradient_norm"] is not None:
                metrics.set(catalog.TRAIN_GRADIENT_NORM, row["gradient_norm"])
            for number, figures in enumerate(map(_figures, self._state.tasks)):
                if figures:
                    metrics.set(catalog.TRAIN_CORPUS_LOSS, figures["nll_nats"], corpus=str(number))
            if self._cosines:
                metrics.set(catalog.TRAIN_COSINE, min(self._cosines.values()))


def _figures(task: progress.Task) -> dict[str, float]:
    """The training loss of a task since the last row, nothing where it had no target."""
    if not task.num_stale_targets:
        return {}
    nll_nats = task.nll_sum / task.num_stale_targets
    return {
        "nll_nats": nll_nats,
        "perplexity": progress.perplexity(nll_nats),
        "num_targets": task.num_stale_targets,
    }
