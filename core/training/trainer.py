"""The training loop: from the newest checkpoint to the end of the run, to a stop request, or to divergence."""

import dataclasses
import functools
import math
import time
from dataclasses import dataclass
from typing import Any

from core import errors
from core.config import model_settings, schedule_settings
from core.data import score_unit
from core.data.dataset import shards
from core.telemetry import catalog, metrics
from core.training import (
    averaged_sgd,
    batches,
    callbacks,
    checkpoint,
    collective,
    diagnostics,
    optimizers,
    progress,
    randomness,
    resume,
    retention,
    run_log,
    scheduled_sampling,
    schedules,
    skipped_steps,
    training_metrics,
    validation,
)

TrainingJob = resume.TrainingJob
MAX_SKIPPED_IN_ROW = 3  # as many steps without a finite gradient in a row end the run


@dataclass(frozen=True)
class TrainingSummary:
    """Results of a training run.

    Attributes:
        num_skipped_targets: targets that were in no batch of the epochs of a text: those before the offset of each
            epoch, and the remainder that fills no lanes or window; its stored name is "num_left_out".
        loss_nats: training loss of the last row of the run log.
        checkpoint: URL of the newest checkpoint.
        fencing_number: of this worker group, 0 for a run that was finished already; its stored name is "start".
        skipped_checkpoints: the damaged checkpoints that a resume skipped, and why; their stored name is "passed_over".
        is_interrupted: whether the run was asked to stop before its end.
        elapsed_s: seconds of all starts, as `num_tokens` is of all; without `untimed_steps` (see `progress.State`).
        last_start_s: seconds of this start alone.
    """

    step: int
    epochs_done: float
    num_tokens: int
    num_skipped_targets: int
    num_skipped: int
    loss_nats: float | None
    validation: progress.Validation | None
    best_validation: progress.Validation | None
    checkpoint: str | None
    fencing_number: int
    world_size: int
    precision: str
    skipped_checkpoints: tuple[str, ...]
    is_interrupted: bool
    elapsed_s: float
    last_start_s: float
    untimed_steps: int

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as in a report."""
        stored_names = {
            "fencing_number": "start",
            "num_skipped_targets": "num_left_out",
            "skipped_checkpoints": "passed_over",
        }
        content = {
            stored_names.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)
        }
        for name in ("validation", "best_validation"):
            content[name] = content[name].to_json() if content[name] else None
        return {**content, "passed_over": list(self.skipped_checkpoints)}


def train(
    job: TrainingJob,
    group: collective.Collective,
    metrics: metrics.Metrics,
    callbacks: callbacks.Callbacks,
    validator: validation.Validator | None = None,
) -> TrainingSummary:
    """Trains a run from its newest checkpoint, or from the beginning, to its end.

    Every rank of the group calls it. A run that is finished already is left as it is. Without a validator the loss
    is all that is validated.

    Raises:
        DivergedError: gradients were not finite several steps in a row; the message names the last good checkpoint.
        LockedError: a newer worker group took over, or the checkpoint was made with other settings.
        IntegrityError: dataset or checkpoints are damaged.
        DataError: there is too little data for the settings.
        ClusterError: another rank is gone.
    """
    started_s = time.monotonic()
    dataset = shards.Dataset.open(
        job.dataset, backward=model_settings.reads_backward(job.model), check_files=False, cache=job.cache
    )
    # Rank 0 finds the checkpoint for all: listing the store on each rank could give different results.
    claimed = collective.on_rank_0(group, "the newest checkpoint", lambda: resume.claim(job, dataset, group.world_size))
    if group.rank == 0:
        metrics.count(catalog.CHECKPOINT_FALLBACKS, len(claimed.newest.skipped_checkpoints))
    state, newest, loss_nats, is_interrupted = claimed.state, claimed.newest.ref, None, False
    began_s = started_s - state.elapsed_s  # as if all starts had followed each other without a break
    if not claimed.is_finished:
        run = resume.build(job, claimed, dataset, group)
        loop = _TrainingLoop(job, run, group, metrics, callbacks, validator or validation.LossOnly(), began_s)
        is_interrupted = loop.run_to_end()
        state, newest, loss_nats = run.state, run.newest, loop.loss_nats
    return TrainingSummary(
        step=state.step,
        epochs_done=state.epochs_done,
        num_tokens=state.num_tokens,
        num_skipped_targets=resume.count_skipped_targets(job, dataset, state),
        num_skipped=state.num_skipped,
        loss_nats=loss_nats,
        validation=state.history[-1] if state.history else None,
        best_validation=progress.best_validation(state.history, job.training.best_by),
        checkpoint=str(newest.folder) if newest else None,
        fencing_number=claimed.fencing_number,
        world_size=group.world_size,
        precision=claimed.settings["precision"],
        skipped_checkpoints=tuple(skipped.reason for skipped in claimed.newest.skipped_checkpoints),
        is_interrupted=is_interrupted,
        elapsed_s=time.monotonic() - began_s,
        last_start_s=time.monotonic() - started_s,
        untimed_steps=state.untimed_steps,
    )


class _TrainingLoop:
    """The steps, validations and checkpoints of one worker group, on one rank."""

    def __init__(
        self,
        job: TrainingJob,
        run: resume.TrainingRun,
        group: collective.Collective,
        metrics: metrics.Metrics,
        callbacks: callbacks.Callbacks,
        validator: validation.Validator,
        began_s: float = 0.0,
    ) -> None:
        self.run = run
        self.loss_nats: float | None = None
        self._first_step = run.state.step
        self._job, self._group, self._metrics = job, group, metrics
        self._callbacks, self._validator, self._began_s = callbacks, validator, began_s
        corpora = run.dataset.corpora
        self._training_metrics = training_metrics.TrainingMetrics(
            run.state, group, metrics, run.learner.device, self._training_unit(), corpora
        )
        self._skipped_steps = skipped_steps.SkippedSteps(run.state, run.learner.device)
        self._log = run_log.RunLog(job.root, run.fencing_number)
        # Older checkpoints are removed once a step from a new one was finite: until then nobody knows if it is good.
        self._is_retention_due = run.newest is not None
        self._validated_corpora = [corpus for corpus in corpora if run.dataset.split("valid", corpus) is not None]

    def _training_unit(self) -> score_unit.ScoreUnit:
        """Returns the unit of the training loss: that of the validation, but for shuffled windows."""
        unit = validation.unit_of(self.run.dataset, self._job.training)
        is_shuffled = unit.unit == "stream" and self._job.training.sampling == "random"
        return unit._replace(unit="window", lanes=None) if is_shuffled else unit

    def run_to_end(self) -> bool:
        """Trains until the run is finished or asked to stop; returns whether it was asked to stop."""
        state = self.run.state
        # Endless: epochs, steps and early stopping end the loop below, as they do when a run is resumed.
        steps = batches.steps(self.run.batch_streams, state.corpora, self._job.training.accumulate)
        while True:
            epoch = state.epoch
            self._step(next(steps))
            is_finished, is_stopped = self._after_step(ends_epoch=state.epoch > epoch)
            if is_finished or is_stopped:
                return not is_finished

    def _step(self, micro_batches: list[batches.Batch]) -> None:
        run, state, training = self.run, self.run.state, self._job.training
        started_s = time.perf_counter()
        self._reload_best_if_due()
        history = state.selection_keys(training.best_by)
        rate = schedules.learning_rate(training, state.step, state.epochs_done, history, state.plateau_start)
        # Windows of variable length scale the learning rate, see `batches.SequentialLanes`.
        rate *= sum(batch.rate_scale for batch in micro_batches) / len(micro_batches)
        optimizers.prepare(run.learner.optimizer, rate, training, history)
        # By the step, not once at the start: a resumed run then draws the same dropout masks.
        randomness.seed_step(self._job.seed, state.step, self._group.rank)
        result = run.learner.train_step(
            micro_batches,
            run.hidden,
            run.batch_streams[0].carries_state,
            scheduled_sampling.sampling_probability(training.scheduled_sampling, state.step),
            state.step,
        )
        run.hidden = result.states
        state.step += 1
        state.num_tokens += sum(batch.num_targets for batch in micro_batches)
        # A skipped step counts as a step: its batch is gone, and the schedule advances.
        self._skipped_steps.add(result.is_applied)
        for batch in micro_batches:
            corpus = state.corpora[batch.corpus]
            corpus.epoch, corpus.consumed, corpus.fraction = batch.epoch, batch.consumed, batch.fraction
            corpus.pool = batch.pool
        self._training_metrics.add(result, micro_batches, rate, time.perf_counter() - started_s)

    def _reload_best_if_due(self) -> None:
        """Loads the best checkpoint again after a validation that made a plateau schedule decay.

        Whether it is due follows from the state alone, so a run that resumes at this step reloads it too.
        """
        schedule, state = self._job.training.schedule, self.run.state
        if not isinstance(schedule, schedule_settings.PlateauConfig) or not schedule.reload_best:
            return
        if not state.history or state.history[-1].step != state.step:
            return
        counted = state.selection_keys(self._job.training.best_by)[state.plateau_start.num_validations :]
        patience = schedule.patience
        if schedules.num_decays(counted, patience) > schedules.num_decays(counted[:-1], patience):
            find = functools.partial(checkpoint.find_best, self._job.root)
            best_checkpoint = collective.on_rank_0(self._group, "the best checkpoint", find)
            if best_checkpoint is not None:
                resume.reload(self.run.learner, best_checkpoint)

    def _after_step(self, ends_epoch: bool) -> tuple[bool, bool]:
        """Logs, validates and saves what is due; returns whether the run is finished, and whether to stop."""
        state, training = self.run.state, self._job.training
        # Every rank reaches the collective operations below in the same order: all decisions follow from equal state.
        save_now, is_stopped = self._agree_on_requests()
        is_last = resume.is_finished(state, training)
        is_logged = state.step % training.log_every_steps == 0 or is_last
        every = training.validate_every_steps
        state.is_validation_due |= ends_epoch if every is None else state.step % every == 0
        state.is_save_due |= save_now or state.step % training.checkpoint_every_steps == 0
        # On a CPU there is nothing to wait for, and a diverged run ends at once.
        is_cpu = self.run.learner.device.type == "cpu"
        if is_cpu or is_logged or is_stopped or state.is_validation_due or state.is_save_due:
            self._read_skipped_steps()
        if is_logged:
            row = self._training_metrics.make_row()
            if self._group.rank == 0:
                self._log.add(row)
            self.loss_nats = row["loss_nats"]
        # Between skipped steps nobody knows whether the weights are usable: what is due waits for a finite one.
        is_open = is_last or not state.num_skipped_in_row
        result = None
        # The end of a run is always validated, or its last weights could never be selected.
        if self._validated_corpora and (state.is_validation_due or is_last) and is_open:
            # The averages, where there are any, are what inference uses: they are validated and saved.
            with averaged_sgd.averaged_weights(self.run.learner.optimizer):
                result = self._validate()
        is_finished = resume.is_finished(state, training)  # again: this validation may trigger early stopping
        # After each validation, too: the weights that it measured may turn out to be the best.
        if result or is_finished or is_stopped or (state.is_save_due and is_open):
            with averaged_sgd.averaged_weights(self.run.learner.optimizer):
                self._save(result)
            if is_finished and not state.num_skipped_in_row:
                self._retain()
        if self._group.rank == 0:
            now = self._training_metrics.progress(is_finished or is_stopped or result is not None)
            if now is not None:
                number, first_step = self.run.fencing_number, self._first_step
                self._callbacks.on_progress(dataclasses.replace(now, fencing_number=number, first_step=first_step))
        return is_finished, is_stopped

    def _read_skipped_steps(self) -> None:
        """Reads from the device which steps were skipped; ends a run that has diverged."""
        self._training_metrics.count_skipped(self._skipped_steps.read())
        num_in_row = self._skipped_steps.longest_in_row
        if num_in_row >= MAX_SKIPPED_IN_ROW:
            what = f"loss or gradient is not finite ({num_in_row} steps in a row)"
            raise self._diverged(what, self._skipped_steps.last_finite_step)
        if self._is_retention_due and not self.run.state.num_skipped_in_row:
            self._retain()

    def _agree_on_requests(self) -> tuple[bool, bool]:
        """Returns whether to save now, and whether to stop too; rank 0 asks, and all agree in one reduction.

        A rank that stopped on its own would leave the others waiting in the next all-reduce.
        """
        request = 0
        if self._group.rank == 0:
            request = 2 if self._callbacks.should_stop() else int(self._callbacks.should_save())
        agreed = self._group.largest(request, "whether to save or stop")
        return agreed >= 1, agreed == 2

    def _validate(self) -> progress.Validation:
        run, group = self.run, self._group
        by_corpus: dict[str, progress.Validation] = {}
        samples: list[validation.Sample] = []
        for corpus in self._validated_corpora:
            by_corpus[corpus], decoded = self._validate_corpus(corpus)
            samples += decoded.samples
        is_single = len(run.dataset.corpora) == 1
        result = by_corpus[corpus] if is_single else progress.Validation.combine(by_corpus)
        # Before `_save`: the checkpoint of this step holds its own validation.
        run.state.history.append(result)
        run.state.is_validation_due = False
        if group.rank == 0:
            self._log.add({"kind": "validation", "epoch": run.state.epoch, **result.to_json()})
            for row in diagnostics.validation_rows(run, self._job.training, samples):
                self._log.add(row)
            self._metrics.set(catalog.TRAIN_VALIDATION_LOSS, result.nll_nats)
            for corpus, own in by_corpus.items():
                number = run.dataset.corpora.index(corpus)
                self._metrics.set(catalog.TRAIN_CORPUS_VALIDATION_LOSS, own.nll_nats, corpus=str(number))
        return result

    def _validate_corpus(self, corpus: str) -> tuple[progress.Validation, validation.DecodingResult]:
        """Scores the held-out lines of one corpus, and decodes some of them."""
        run, group = self.run, self._group
        result = validation.validate(
            run.learner.objective,
            validation.held_out_batches(run.dataset, self._job.training, group.rank, group.world_size, corpus),
            run.learner.device,
            run.learner.precision,
            group,
            run.state.step,
        )
        # Not saved: the checkpoint before is the last good one.
        if not math.isfinite(result.nll_nats):
            last_finite_step = run.state.step - run.state.num_skipped_in_row
            raise self._diverged("the validation loss is not finite", last_finite_step)
        decoded = self._validator.decode(run.bundle(self._job), run.dataset, corpus, group, run.learner.device)
        run.learner.objective.train()  # decoding leaves the model in evaluation mode
        unit = validation.unit_of(run.dataset, self._job.training)
        return dataclasses.replace(result, bleu=decoded.bleu, bleu_signature=decoded.bleu_signature, unit=unit), decoded

    def _save(self, result: progress.Validation | None) -> None:
        """Commits a checkpoint, all ranks together; among skipped steps only where the run ends or is stopped."""
        started_s = time.monotonic()
        run = self.run
        run.state.is_save_due, run.state.elapsed_s = False, started_s - self._began_s
        self._training_metrics.reduce()  # the sums are in the state, which the checkpoint holds
        # A collective operation: all ranks reach it, and rank 0 alone writes below.
        hidden = resume.gather_lanes(run.hidden, self._group)

        def write() -> checkpoint.CheckpointRef:
            snapshot = checkpoint.Snapshot(
                bundle=run.bundle(self._job),
                optimizer=optimizers.named_state(run.learner.objective.model, run.learner.optimizer),
                hidden=hidden,
                state=run.state,
                settings=run.settings,
                validation=result,
                best_by=self._job.training.best_by,
            )
            if run.newest is not None:
                retention.make_room(self._job.root, run.newest, run.fencing_number, run.skipped_folders)
            return checkpoint.save(self._job.root, run.fencing_number, snapshot, self._log)

        # The others wait: a write that fails must end all ranks with the same error.
        run.newest = collective.on_rank_0(self._group, f"the checkpoint of step {run.state.step}", write)
        self._is_retention_due = True
        if self._group.rank == 0:
            self._metrics.observe(catalog.CHECKPOINT_SECONDS, time.monotonic() - started_s)
            self._metrics.set(catalog.CHECKPOINT_STEP, run.state.step)
            self._metrics.set(catalog.CHECKPOINT_TIME, time.time())

    def _retain(self) -> None:
        """Removes the checkpoints that `keep_checkpoints` does not keep."""
        keep, number, skipped = self._job.training.keep_checkpoints, self.run.fencing_number, self.run.skipped_folders
        collective.on_rank_0(
            self._group, "removing old checkpoints", lambda: retention.retain(self._job.root, keep, number, skipped)
        )
        self._is_retention_due = False

    def _diverged(self, what: str, last_finite_step: int) -> errors.DivergedError:
        """Returns the error of a diverged run, which names the checkpoint that a resume takes; all ranks together."""
        state = self.run.state
        find = functools.partial(retention.pass_over_diverged, self._job.root, state.step, last_finite_step)
        good = collective.on_rank_0(self._group, "the last good checkpoint", find)
        kept = f"the last good checkpoint is {good.folder}" if good else "there is no good checkpoint"
        start = "resumes from it" if good else "starts from the beginning"
        return errors.DivergedError(
            f"step {state.step}: {what}; {kept}, the same command {start}; use a lower learning_rate or clip_norm"
        )
