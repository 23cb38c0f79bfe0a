"""Training metrics: rows of the run log, Prometheus series, and progress."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.data import score_unit
from core.telemetry import catalog, metrics
from core.training import batches, collective, multitask, progress, step

PROGRESS_EVERY_S = 0.5


class TrainingMetrics:
    """Accumulates the figures of steps on the device, and reads them when a row of the run log is due."""

    def __init__(
        self,
        state: progress.State,
        group: collective.Collective,
        metrics: metrics.Metrics,
        device: torch.device,
        unit: score_unit.ScoreUnit,
        corpora: Sequence[str] = ("",),
    ) -> None:
        self._state, self._group, self._metrics = state, group, metrics
        self._rank = str(group.rank)
        self._corpora = corpora
        self._unit = unit.to_json()  # of the training loss, for the rows of the run log
        self._sums_K3 = torch.zeros((len(corpora), 3), dtype=torch.float64, device=device)
        self._durations_s: list[float] = []
        self._num_tokens = self._num_own = self._num_applied = 0
        self._row: dict[str, Any] = {}
        self._rate, self._gradient_norm = 0.0, torch.tensor(math.nan)
        self._layer_norms: Mapping[str, float] = {}
        self._cosines: Mapping[str, float] = {}
        self._shown_s = -math.inf
        # Counters appear with 0, so that Prometheus sees their first increase.
        metrics.count(catalog.TRAIN_STEPS, 0, rank=self._rank)
        if group.rank == 0:
            metrics.set(catalog.TRAIN_WORKERS, group.world_size)
            metrics.count(catalog.TRAIN_STARTS)
            metrics.count(catalog.TRAIN_NONFINITE, 0)

    def add(
        self, result: step.StepResult, micro_batches: Sequence[batches.Batch], rate: float, elapsed_s: float
    ) -> None:
        """Adds a step; reads nothing from the device, so that the CPU does not wait for it."""
        self._durations_s.append(elapsed_s)
        self._rate, self._gradient_norm, self._layer_norms = rate, result.gradient_norm, result.layer_norms
        self._cosines = multitask.name_cosines(result.cosines, self._corpora)
        self._num_tokens += sum(batch.num_targets for batch in micro_batches)
        self._num_own += sum(batch.num_own for batch in micro_batches)
        self._num_applied += 1
        self._sums_K3 += result.sums_K3

    def count_skipped(self, num_skipped: int) -> None:
        """Counts some of the steps that were added as skipped, once it is known."""
        self._num_applied -= num_skipped
        if num_skipped and self._group.rank == 0:
            self._metrics.count(catalog.TRAIN_NONFINITE, num_skipped)

    def reduce(self) -> None:
        """Adds the sums of all ranks to the state, as a checkpoint stores them; all ranks together."""
        self._group.sum_(self._sums_K3, "the training loss")
        for corpus, (loss, nll, num_targets) in zip(self._state.corpora, self._sums_K3.tolist(), strict=True):
            self._state.loss_sum += loss
            corpus.nll_sum += nll
            corpus.num_unlogged_targets += int(num_targets)
        self._sums_K3.zero_()  # they are in the state from now on, and must not be added twice

    def make_row(self) -> dict[str, Any]:
        """Returns the row of the steps since the last one, and exports its metrics; all ranks together."""
        self.reduce()
        # The time of steps alone: validations and checkpoints do not lower the speed.
        state, elapsed_s = self._state, sum(self._durations_s)
        gradient_norm = float(self._gradient_norm)
        count = sum(corpus.num_unlogged_targets for corpus in state.corpora)
        nll_sum = sum(corpus.nll_sum for corpus in state.corpora)
        self._row = {
            "kind": "step",
            "step": state.step,
            "epoch": state.epoch,
            "fraction": state.fraction,
            "loss_nats": state.loss_sum / count if count else None,
            "perplexity": progress.perplexity(nll_sum / count) if count else None,
            # None rather than NaN, which JSON lacks.
            "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,
            "learning_rate": self._rate,
            "tokens_per_s": self._num_tokens / elapsed_s if elapsed_s > 0 else None,
            "num_tokens": state.num_tokens,
            "num_skipped": state.num_skipped,
            **self._unit,
        }
        if self._layer_norms and all(map(math.isfinite, self._layer_norms.values())):
            self._row["layer_norms"] = dict(self._layer_norms)
        if len(self._corpora) > 1:
            by_corpus = zip(self._corpora, map(_corpus_figures, state.corpora), strict=True)
            self._row["tasks"] = {name: figures for name, figures in by_corpus if figures}  # the stored name
        if self._cosines:
            self._row["cosines"] = dict(self._cosines)
        self._export()
        # Reset with the row only: a checkpoint between two rows holds the sums of half a row.
        state.loss_sum = 0.0
        for corpus in state.corpora:
            corpus.nll_sum, corpus.num_unlogged_targets = 0.0, 0
        self._num_tokens = self._num_own = self._num_applied = 0
        self._durations_s = []
        return self._row

    def progress(self, is_due: bool) -> progress.Progress | None:
        """Returns the progress of the run, if the last one is more than `PROGRESS_EVERY_S` ago or it is due anyway."""
        now_s = time.monotonic()
        if not is_due and now_s - self._shown_s < PROGRESS_EVERY_S:
            return None
        self._shown_s = now_s
        state = self._state
        return progress.Progress(
            step=state.step,
            epoch=state.epoch,
            fraction=state.fraction,
            tokens_per_s=self._row.get("tokens_per_s") or 0.0,
            loss_nats=self._row.get("loss_nats"),
            validation=state.history[-1] if state.history else None,
        )

    def _export(self) -> None:
        metrics, row = self._metrics, self._row
        # Counters of a rank: Prometheus adds them up. Gauges are of the run, and rank 0 alone sets them.
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
            for number, figures in enumerate(map(_corpus_figures, self._state.corpora)):
                if figures:
                    metrics.set(catalog.TRAIN_CORPUS_LOSS, figures["nll_nats"], corpus=str(number))
            if self._cosines:
                metrics.set(catalog.TRAIN_COSINE, min(self._cosines.values()))


def _corpus_figures(corpus: progress.CorpusState) -> dict[str, float]:
    """Returns the training loss of a corpus since the last row; nothing where it had no target."""
    if not corpus.num_unlogged_targets:
        return {}
    nll_nats = corpus.nll_sum / corpus.num_unlogged_targets
    return {
        "nll_nats": nll_nats,
        "perplexity": progress.perplexity(nll_nats),
        "num_targets": corpus.num_unlogged_targets,
    }
