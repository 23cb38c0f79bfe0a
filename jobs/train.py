"""Training of a configuration's model on its dataset: resumes from the newest checkpoint, skips a finished run."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from core import errors
from core.config import autoregressive_settings, model_settings, ngram_settings, schema, section
from core.data.dataset import shards
from core.data.series import dataset as series_dataset
from core.data.text import source_files
from core.data.tokens import bpe_dropout
from core.evaluation import bleu_tokenizers
from core.storage import location, node_cache, root_layout, run_lock
from core.telemetry import catalog
from core.training import checkpoint, plan_changes, progress, resume, trainer
from jobs import console, run_state, training_plan
from workers.cluster import session as sessions
from workers.fanout import progress_display
from workers.train import autoregressive_training, launch, ngram_training, validator

_EXAMINED_LINES = 1000  # validation lines, before training, to see whether BLEU can say anything of them
_log = logging.getLogger(__name__)


def plan(config: schema.RunConfig, fresh: bool = False) -> trainer.TrainingJob:
    """Returns the training job of a configuration, for models that are trained in steps and can be resumed."""
    assert config.model.kind in ("language_model", "seq2seq")
    assert not isinstance(config.model, ngram_settings.NgramConfig | autoregressive_settings.AutoregressiveConfig)
    root = location.Location.parse(config.root, "root")
    return trainer.TrainingJob(
        root=root,
        name=config.name,
        seed=config.seed,
        model=config.model,
        training=config.training,
        compute=config.compute,
        evaluation=config.evaluation,
        dataset=root.join(root_layout.DATASET),
        weights={name: corpus.weight for name, corpus in config.corpora.items()},
        device=config.cluster.device,
        cache=node_cache.NodeCache(config.cluster.cache_size_bytes),
        fresh=fresh,
    )


def run(
    config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Trains to the end of the run, or until it is stopped, with its state saved.

    Raises:
        UsageError: there is no dataset.
        LockedError: another driver uses the root, the settings are those of another run, or `fresh` finds a checkpoint.
        InterruptedRunError: it was stopped; the same command resumes it.
        DivergedError: loss or gradients are not finite.
        ClusterError: workers failed, and retries did not help.
    """
    root = location.Location.parse(config.root, "root")
    dataset = _open(config)
    with run_lock.RunLock(root, "train"):
        check_dataset(config, dataset)
        # Before the start is recorded, so that a refused `--fresh` changes nothing.
        _find_newest(root, fresh, config)
        run_state.record_start(config)
        with run_state.record_exit_code(root, session):
            return run_locked(config, session, reporter, fresh)


def run_locked(
    config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Does what `run` does for a caller that holds the lock of the root and has started its run state."""
    root = location.Location.parse(config.root, "root")
    dataset = _open(config)
    check_dataset(config, dataset)
    run_state.record_changes(root, run_state.check_settings(config))
    newest, state, rate_change = _find_newest(root, fresh, config)
    run_state.record_skipped_checkpoints(root, [skipped.reason for skipped in newest.skipped_checkpoints])
    trains_without_resume = config.model.kind in ("ngram", "autoregressive")
    if newest.ref is not None and (trains_without_resume or resume.is_finished(state, config.training)):
        # There is no report if the driver died after the last checkpoint.
        kept: dict[str, Any] = run_state.read_stage(root, "train").get("report") or {"step": state.step}
        # The root may have been moved since the report was written.
        here = {"root": str(root), "checkpoint": str(newest.ref.folder)}
        return {"verb": "train", **kept, **here, "already_done": True}
    started_s = time.monotonic() - state.elapsed_s  # as if all starts had followed each other without a break
    if rate_change is not None:
        _log.info("%s", rate_change)
    described = _describe(config, dataset, newest)
    warnings = _warnings(config, dataset)
    if trains_without_resume:
        result = _train_without_resume(config, root, dataset, session, reporter)
        report = {"verb": "train", "root": str(root), **result, "already_done": False}
    else:
        report = _train_steps(plan(config, fresh), session, reporter, state, described["steps"])
    if warnings:
        report["warnings"] = warnings
    session.metrics.set(catalog.LAST_SUCCESS, time.time(), stage="train")
    run_state.record_stage_end(root, "train", time.monotonic() - started_s, report, worked=True)
    return report


def dry_run(config: schema.RunConfig, fresh: bool = False) -> dict[str, Any]:
    """Returns what `run` would train, and writes nothing into the root.

    Raises:
        UsageError: there is no dataset.
        LockedError: the settings are those of another run, or `fresh` finds a checkpoint.
    """
    dataset = _open(config)
    check_dataset(config, dataset)
    run_state.check_settings(config, stores=False)
    newest, _, _ = _find_newest(location.Location.parse(config.root, "root"), fresh, config)
    return {"verb": "train", "dry_run": True, **_describe(config, dataset, newest)}


def _describe(
    config: schema.RunConfig, dataset: shards.Dataset | series_dataset.Dataset, newest: checkpoint.NewestCheckpoint
) -> training_plan.Plan:
    """Returns the plan of the training, which it also writes to stderr."""
    if isinstance(dataset, series_dataset.Dataset):
        described = training_plan.describe_series(config, dataset)
    elif config.model.kind == "ngram":
        described = training_plan.describe_ngram(config, dataset)
    else:
        state, saved = (progress.State(), {}) if newest.ref is None else checkpoint.load_state(newest.ref)
        # Lengths alone are read: hashing the shards is left to those that read all of them.
        unverified = shards.Dataset.open(dataset.folder, verify=False, cache=dataset.cache)
        described = training_plan.describe_steps(config, plan(config), unverified, state, saved)
    for line in training_plan.to_lines(described, config):
        console.note(line)
    return described


def _warnings(config: schema.RunConfig, dataset: shards.Dataset | series_dataset.Dataset) -> list[str]:
    """Returns, and logs, why the BLEU of validations will say nothing, which early stopping may depend on."""
    if not config.training.validation.bleu_lines or not isinstance(dataset, shards.Dataset):
        return []
    warnings = []
    for corpus in dataset.corpora:
        references = validator.references(dataset, corpus, _EXAMINED_LINES)
        mismatch = bleu_tokenizers.mismatch(references, config.evaluation)
        if mismatch is not None:
            warnings.append(f"{mismatch} (validation lines{f' of {corpus}' if corpus else ''})")
            _log.warning(warnings[-1])
    return warnings


def _open(config: schema.RunConfig) -> shards.Dataset | series_dataset.Dataset:
    folder = location.Location.parse(config.root, "root").join(root_layout.DATASET)
    if config.corpus_kind == "series":
        return series_dataset.open_dataset(folder)
    cache = node_cache.NodeCache(config.cluster.cache_size_bytes)
    return shards.Dataset.open(folder, backward=model_settings.reads_backward(config.model), cache=cache)


def _train_without_resume(
    config: schema.RunConfig,
    root: location.Location,
    dataset: shards.Dataset | series_dataset.Dataset,
    session: sessions.Session,
    reporter: progress_display.Reporter,
) -> dict[str, Any]:
    """Trains a model that has no steps to resume from: counts n-grams, or fits the regressor of a series."""
    settings = section.result_settings(config)
    if isinstance(dataset, shards.Dataset):
        assert isinstance(config.model, ngram_settings.NgramConfig)
        settings["dataset"] = dataset.index.fingerprint
        job = ngram_training.NgramJob(root, settings, config.model, dataset)
        return ngram_training.train(job, session, reporter)
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    settings["dataset"] = dataset.fingerprint
    regression_job = autoregressive_training.RegressionJob(
        root,
        settings,
        config.model,
        config.training,
        config.seed,
        config.cluster.cpus_per_worker,
        dataset,
        dataset.preparation(config.corpora_by_name[""]),
    )
    return autoregressive_training.train(regression_job, session, reporter)


def _train_steps(
    job: trainer.TrainingJob,
    session: sessions.Session,
    reporter: progress_display.Reporter,
    state: progress.State,
    num_steps: int,
) -> dict[str, Any]:
    """Trains a model in steps, from the state of its newest checkpoint on; the run has about `num_steps`."""
    done = state.step if job.training.max_steps is not None else state.epochs_done
    expected_end = training_plan.ExpectedEnd(num_steps, job.training.early_stop is not None)
    summary = _train(job, session, reporter, done, expected_end)
    run_state.record_skipped_checkpoints(job.root, summary.skipped_checkpoints)
    # Saved, but not done: the command must not end with 0.
    if summary.is_interrupted:
        raise errors.InterruptedRunError(
            f"train: stopped at step {summary.step}, saved in {summary.checkpoint}; run it again to resume"
        )
    return {"verb": "train", "root": str(job.root), **summary.to_json(), "already_done": False}


def check_dataset(config: schema.RunConfig, dataset: shards.Dataset | series_dataset.Dataset) -> None:
    """Checks that a dataset was prepared with the settings of a configuration, and that training can use it with them.

    The location of the text that it was made of may differ; `prepare` compares the text itself.

    Raises:
        LockedError: it was prepared with other settings.
        UsageError: BPE-dropout is asked for with a tokenizer that has no merges.
        DataError: there is validation text, but no token of it to score.
    """
    settings = dataset.settings if isinstance(dataset, series_dataset.Dataset) else dataset.index.settings
    current = config.of_dataset(settings)
    for name, made_with in settings.items():
        for field in _differing(made_with, current.get(name), name):
            raise errors.LockedError(
                f"{field}: the dataset in {dataset.folder} was prepared with another value; "
                "use another root, or prepare's settings"
            )
    if isinstance(dataset, shards.Dataset) and config.model.kind == "language_model":
        for corpus in dataset.corpora:
            # Since 0.2 `prepare` makes no such dataset. The first token of a stream is context only.
            valid = dataset.split("valid", corpus)
            if valid is not None and valid.num_tokens("text") < 2:
                raise errors.DataError(
                    f"{source_files.setting_name(corpus)}.valid: has no token to score; use more validation text, or "
                    "none"
                )
    if config.training.bpe_dropout and isinstance(dataset, shards.Dataset):
        for codec in dataset.codecs.values():
            bpe_dropout.check(codec.tokenizer)


def _differing(old: Any, new: Any, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield name


def _train(
    job: trainer.TrainingJob,
    session: sessions.Session,
    reporter: progress_display.Reporter,
    done: float,
    expected_end: training_plan.ExpectedEnd,
) -> trainer.TrainingSummary:
    """Trains with progress shown: in steps if `max_steps` is set, else in epochs."""
    in_steps = job.training.max_steps is not None
    total = job.training.max_steps if in_steps else job.training.epochs
    fencing_number: int | None = None
    with reporter.stage("train", total, "steps" if in_steps else "epochs", done) as stage:

        def show(now: progress.Progress) -> None:
            nonlocal done, fencing_number
            reached = now.step if in_steps else now.epoch + now.fraction
            shown: dict[str, float | str] = {"step": now.step, "tokens/s": round(now.tokens_per_s)}
            if now.loss_nats is not None:
                shown["loss"] = round(now.loss_nats, 4)
            if now.validation is not None:
                shown["valid"] = round(now.validation.nll_nats, 4)
            # The ranks have started. After a restart of the group the run is back at its last checkpoint, and what was
            # lost is done again; the time until here, in which no step was taken, does not count in the speed.
            if now.fencing_number != fencing_number:
                fencing_number = now.fencing_number
                stage.advance(min(0.0, reached - done))
                done = min(done, reached)
                expected_end.restart()
            stage.advance(reached - done, **shown)
            done = reached
            expected_end.update(now.step)

        stage.wait_for("starting workers")
        summary = launch.run_training(job, session, show)
        reached = summary.step if in_steps else summary.epochs_done
        # Progress is posted twice a second at most: the last steps may be missing.
        stage.advance(max(0.0, reached - done))
        return summary


def _find_newest(
    root: location.Location, fresh: bool, config: schema.RunConfig
) -> tuple[checkpoint.NewestCheckpoint, progress.State, str | None]:
    """Returns the newest checkpoint, the state to train on from, and a line on a changed learning rate, if any."""
    newest = checkpoint.find_newest(root)
    if newest.ref is None:
        return newest, progress.State(), None
    if fresh:
        raise errors.LockedError(f"{newest.ref.folder}: --fresh, but this root holds a checkpoint; use another root")
    state, saved = checkpoint.load_state(newest.ref)
    rate_change = plan_changes.describe(state, saved, config.training)
    return newest, plan_changes.follow(state, saved, config.training), rate_change
