"""The training loop: from wherever the run is to its end, to a signal, or to numbers that are not finite."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from core import errors
from core.config import model_settings, training_settings
from core.data.dataset import shards
from core.models import state as states
from core.telemetry import catalog, metrics
from core.training import (
    averaged_sgd,
    batches,
    checkpoint,
    collective,
    diagnostics,
    optimizers,
    progress,
    randomness,
    resume,
    scheduled_sampling,
    training_metrics,
    validation,
)

TrainingJob = resume.TrainingJob
MOST_SKIPPED_IN_ROW = 3


class Hooks(Protocol):
    """Who watches a run and may interfere; asked on rank 0 alone, after each step."""

    def progress(self, now: progress.Progress) -> None:
        """Is metrics how far the run is, about twice a second at most."""

    def should_stop(self) -> bool:
        """Whether the run is to save its state and end."""

    def should_save(self) -> bool:
        """Whether the run is to save its state now, as a machine is about to go, and to go on."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a run came to. Folders are URLs; `is_interrupted` says that it was asked to stop before its end.

    `num_left_out` are the targets that its passes over a text did without: those before the offset of each, and the
    remainder that fills no lanes or window.
    """

    step: int
    epochs_done: float
    num_tokens: int
    num_left_out: int
    num_skipped: int
    loss_nats: float | None
    validation: progress.Validation | None
    best_validation: progress.Validation | None
    checkpoint: str | None
    start: int
    world_size: int
    precision: str
    passed_over: tuple[str, ...]
    is_interrupted: bool
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """The summary as it stands in a report."""
        content = dataclasses.asdict(self)
        for name in ("validation", "best_validation"):
            found: progress.Validation | None = getattr(self, name)
            content[name] = found.to_json() if found else None
        return {**content, "passed_over": list(self.passed_over)}


def train(
    job: TrainingJob,
    group: collective.Collective,
    metrics: metrics.Metrics,
    hooks: Hooks,
    validator: validation.Validator | None = None,
) -> TrainingSummary:
    """Trains a run from its newest checkpoint, or from the beginning, to its end.

    Every rank of the group calls it. A run that is finished already is left as it is. Without a validator the loss
    is all that is validated.

    Raises:
        DivergedError: gradients were not finite several steps in a row; the message names the last good checkpoint.
        LockedError: another start of this run took over, or its checkpoint was made with other settings.
        IntegrityError: dataset or checkpoints are damaged.
        DataError: there is too little data for the settings.
        ClusterError: another rank is gone.
    """
    started_s = time.monotonic()
    dataset = shards.Dataset.open(job.dataset, backward=model_settings.reads_backward(job.model))
    claimed = collective.from_first(group, "where the run is", lambda: resume.claim(job, dataset, group.world_size))
    if group.rank == 0:
        metrics.count(catalog.CHECKPOINT_FALLBACKS, len(claimed.search.passed_over))
    if claimed.is_finished:
        num_left_out = resume.left_out(job, dataset, claimed.state)
        return _summary(
            claimed.state, job.training, claimed, claimed.search.found, None, num_left_out, group, False, started_s
        )
    start = resume.begin(job, claimed, dataset, group)
    loop = _Loop(job, start, group, metrics, hooks, validator or validation.LossOnly())
    is_interrupted = loop.run()
    num_left_out = resume.left_out(job, dataset, start.state)
    return _summary(
        start.state, job.training, claimed, start.newest, loop.loss_nats, num_left_out, group, is_interrupted, started_s
    )


class _Loop:
    """One start of a run on one rank."""

    def __init__(
        self,
        job: TrainingJob,
        start: resume.Start,
        group: collective.Collective,
        metrics: metrics.Metrics,
        hooks: Hooks,
        validator: validation.Validator,
    ) -> None:
        self.start = start
        self.loss_nats: float | None = None
        self._job, self._group, self._metrics, self._hooks, self._validator = job, group, metrics, hooks, validator
        tasks = start.dataset.tasks
        self._meter = training_metrics.Meter(start.state, job.training, group, metrics, start.learner.device, tasks)
        self._record = progress.Record(job.root, start.epoch)
        self._validated = [task for task in tasks if start.dataset.split("valid", task) is not None]

    def run(self) -> bool:
        """Trains until the run is finished or asked to stop; returns whether it was."""
        state = self.start.state
        steps = batches.steps(self.start.sources, state.tasks, self._job.training.accumulate)
        while True:
            epoch = state.epoch
            self._step(next(steps))
            is_finished, is_stopped = self._after_step(ends_epoch=state.epoch > epoch)
            if is_finished or is_stopped:
                return not is_finished

    def _step(self, micro_batches: list[batches.Batch]) -> None:
        start, state, training = self.start, self.start.state, self._job.training
        started_s = time.perf_counter()
        self._go_back_if_due()
        rate = optimizers.rate(training, state.step, state.epochs_done, state.losses)
        rate *= sum(batch.rate_scale for batch in micro_batches) / len(micro_batches)
        optimizers.prepare(start.learner.optimizer, rate, training, state.losses)
        randomness.seed_step(self._job.seed, state.step, self._group.rank)
        own_share = scheduled_sampling.share(training.scheduled_sampling, state.step)
        carries_state = start.sources[0].carries_state
        outcome = start.learner.take(micro_batches, start.hidden, carries_state, own_share, state.step)
        start.hidden = outcome.states
        state.step += 1
        state.num_tokens += sum(batch.num_targets for batch in micro_batches)
        state.num_skipped += not outcome.is_applied
        state.num_skipped_in_row = 0 if outcome.is_applied else state.num_skipped_in_row + 1
        for batch in micro_batches:
            task = state.tasks[batch.task]
            task.passes, task.consumed, task.fraction = batch.passes, batch.consumed, batch.fraction
        self._meter.add(outcome, micro_batches, rate, time.perf_counter() - started_s)

    def _go_back_if_due(self) -> None:
        """Takes the best weights again where a validation just now made a rate on plateau fall.

        Whether it is due follows from the state alone, so a run that was stopped right here does it too.
        """
        training, state = self._job.training, self.start.state
        if not training.reload_best or not state.history or state.history[-1].step != state.step:
            return
        patience = training.decay_patience
        if optimizers.decays(state.losses, patience) > optimizers.decays(state.losses[:-1], patience):
            find = functools.partial(checkpoint.find_best, self._job.root)
            best = collective.from_first(self._group, "the best checkpoint", find)
            if best is not None:
                resume.reload(self.start.learner, best)

    def _after_step(self, ends_epoch: bool) -> tuple[bool, bool]:
        """Records, validates and saves what is due; returns whether the run is finished, and whether to stop."""
        state, training = self.start.state, self._job.training
        if state.num_skipped_in_row >= MOST_SKIPPED_IN_ROW:
            raise self._diverged(f"loss or gradient is not finite ({state.num_skipped_in_row} steps in a row)")
        save_now, is_stopped = self._wishes()
        is_last = resume.is_finished(state, training)
        if state.step % training.log_every_steps == 0 or is_last:
            row = self._meter.row()
            if self._group.rank == 0:
                self._record.add(row)
            self.loss_nats = row["loss_nats"]
        every = training.validate_every_steps
        is_due = ends_epoch if every is None else state.step % every == 0
        found = None
        if self._validated and (is_due or is_last):
            with averaged_sgd.showing_averages(self.start.learner.optimizer):
                found = self._validate()
        is_finished = resume.is_finished(state, training)
        if found or is_finished or save_now or state.step % training.checkpoint_every_steps == 0:
            with averaged_sgd.showing_averages(self.start.learner.optimizer):
                self._save(found)
        if self._group.rank == 0:
            now = self._meter.progress(is_finished or is_stopped or found is not None)
            if now is not None:
                self._hooks.progress(now)
        return is_finished, is_stopped

    def _wishes(self) -> tuple[bool, bool]:
        """Whether to save now, and whether to stop too: rank 0 is metrics, and all ranks agree in one reduction."""
        metrics = 0
        if self._group.rank == 0:
            metrics = 2 if self._hooks.should_stop() else int(self._hooks.should_save())
        agreed = self._group.largest(metrics, "whether to save or stop")
        return agreed >= 1, agreed == 2

    def _validate(self) -> progress.Validation:
        start, group = self.start, self._group
        by_task: dict[str, progress.Validation] = {}
        samples: list[validation.Sample] = []
        for task in self._validated:
            by_task[task], examined = self._validate_task(task)
            samples += examined.samples
        found = by_task[task] if len(start.dataset.tasks) == 1 else progress.Validation.together(by_task)
        start.state.history.append(found)
        if group.rank == 0:
            self._record.add({"kind": "validation", "epoch": start.state.epoch, **found.to_json()})
            for row in diagnostics.of_validation(start, self._job.training, samples):
                self._record.add(row)
            self._metrics.set(catalog.TRAIN_VALIDATION_LOSS, found.nll_nats)
            for task, one in by_task.items():
                number = start.dataset.tasks.index(task)
                self._metrics.set(catalog.TRAIN_CORPUS_VALIDATION_LOSS, one.nll_nats, corpus=str(number))
        return found

    def _validate_task(self, task: str) -> tuple[progress.Validation, validation.Examination]:
        """Scores the held-out lines of one task, and looks at what the model says to them."""
        start, group = self.start, self._group
        found = validation.validate(
            start.learner.objective,
            validation.pieces(start.dataset, self._job.training, group.rank, group.world_size, task),
            start.learner.device,
            start.learner.precision,
            group,
            start.state.step,
        )
        if not math.isfinite(found.nll_nats):
            raise self._diverged("the validation loss is not finite")
        examined = self._validator.examine(start.bundle(self._job), start.dataset, task, group, start.learner.device)
        start.learner.objective.train()
        return dataclasses.replace(found, bleu=examined.bleu), examined

    def _save(self, found: progress.Validation | None) -> None:
        """Commits a checkpoint, all ranks together; older ones go."""
        started_s = time.monotonic()
        start = self.start
        self._meter.settle()
        hidden = _gathered(start.hidden, self._group)

        def write() -> checkpoint.CheckpointRef:
            learner = start.learner
            snapshot = checkpoint.Snapshot(
                start.bundle(self._job),
                optimizers.to_named(learner.objective.model, learner.optimizer),
                hidden,
                start.state,
                start.settings,
                found,
                self._job.training.best_by,
            )
            ref = checkpoint.save(self._job.root, start.epoch, snapshot, self._record)
            checkpoint.retain(self._job.root, self._job.training.keep_checkpoints, start.damaged)
            return ref

        start.newest = collective.from_first(self._group, f"the checkpoint of step {start.state.step}", write)
        if self._group.rank == 0:
            self._metrics.observe(catalog.CHECKPOINT_SECONDS, time.monotonic() - started_s)
            self._metrics.set(catalog.CHECKPOINT_STEP, start.state.step)
            self._metrics.set(catalog.CHECKPOINT_TIME, time.time())

    def _diverged(self, what: str) -> errors.DivergedError:
        newest = self.start.newest
        kept = f"the last good checkpoint is {newest.folder}" if newest else "there is no checkpoint yet"
        return errors.DivergedError(
            f"step {self.start.state.step}: {what}; {kept}; use a lower learning_rate or clip_norm"
        )


def _gathered(hidden: Sequence[states.State | None], group: collective.Collective) -> states.State | None:
    """The state of all lanes in order, task after task, on rank 0; those that start from zero have none."""
    found = [_gathered_of_task(own, group) for own in hidden if own is not None]
    tasks = [own for own in found if own is not None]
    if not tasks:
        return None
    return tuple(tuple(torch.cat(parts) for parts in zip(*layers, strict=True)) for layers in zip(*tasks, strict=True))


def _gathered_of_task(own: states.State, group: collective.Collective) -> states.State | None:
    here = tuple(tuple(part.cpu() for part in layer) for layer in own)
    everywhere = group.gather(here, "the state of the lanes")
    if everywhere is None:
        return None
    return tuple(
        tuple(torch.cat(parts) for parts in zip(*layers, strict=True)) for layers in zip(*everywhere, strict=True)
    )


def _summary(
    state: progress.State,
    training: training_settings.TrainingConfig,
    claimed: resume.Claim,
    newest: checkpoint.CheckpointRef | None,
    loss_nats: float | None,
    num_left_out: int,
    group: collective.Collective,
    is_interrupted: bool,
    started_s: float,
) -> TrainingSummary:
    return TrainingSummary(
        step=state.step,
        epochs_done=state.epochs_done,
        num_tokens=state.num_tokens,
        num_left_out=num_left_out,
        num_skipped=state.num_skipped,
        loss_nats=loss_nats,
        validation=state.history[-1] if state.history else None,
        best_validation=checkpoint.best(state.history, training.best_by),
        checkpoint=str(newest.folder) if newest else None,
        start=claimed.epoch,
        world_size=group.world_size,
        precision=claimed.settings["precision"],
        passed_over=claimed.search.passed_over,
        is_interrupted=is_interrupted,
        elapsed_s=time.monotonic() - started_s,
    )
