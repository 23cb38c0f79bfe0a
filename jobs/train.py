"""Trains the model of a configuration on its dataset; what is there is gone on from, what is done is left alone."""

import time
from collections.abc import Iterator
from typing import Any

from core import errors
from core.config import autoregressive_settings, model_settings, ngram_settings, schema, section
from core.data import series
from core.data.dataset import shards
from core.data.tokens import bpe_dropout
from core.storage import location, run_lock
from core.telemetry import catalog
from core.training import checkpoint, progress, resume, trainer
from jobs import run_state
from workers.cluster import session as sessions
from workers.fanout import progress_display
from workers.train import autoregressive_training, launch, ngram_training


def plan(config: schema.RunConfig, fresh: bool = False) -> trainer.TrainingJob:
    """Says what is trained step by step, where; what counts, or fits a series, is not."""
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
        dataset=root.join("dataset"),
        weights={name: corpus.weight for name, corpus in config.corpora.items()},
        device="cuda" if config.cluster.use_gpu else "cpu",
        fresh=fresh,
    )


def run(
    config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Trains until the run's end, or until it is stopped with its state saved.

    Raises:
        UsageError: there is no dataset.
        LockedError: another driver works here, the settings are those of another run, or `fresh` finds a checkpoint.
        InterruptedRunError: it was stopped; the same command goes on.
        DivergedError: the numbers are not finite.
        ClusterError: workers failed, and retries did not help.
    """
    root = location.Location.parse(config.root, "root")
    dataset = _open(config)
    with run_lock.RunLock(root, "train"):
        check_dataset(config, dataset)
        _reached(root, fresh)
        run_state.started(config)
        with run_state.ending(root, session):
            return run_locked(config, session, reporter, fresh)


def run_locked(
    config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Does what `run` does for a caller who holds the lock of the root and has started its record."""
    root = location.Location.parse(config.root, "root")
    dataset = _open(config)
    check_dataset(config, dataset)
    run_state.changed(root, run_state.begin(config))
    search, state = _reached(root, fresh)
    run_state.faults(root, search.passed_over)
    in_one_go = config.model.kind in ("ngram", "autoregressive")
    if search.found is not None and (in_one_go or resume.is_finished(state, config.training)):
        kept: dict[str, Any] = run_state.stage(root, "train").get("report") or {"step": state.step}
        # It may have moved since then.
        here = {"root": str(root), "checkpoint": str(search.found.folder)}
        return {"verb": "train", **kept, **here, "already_done": True}
    started_s = time.monotonic()
    if in_one_go:
        made = _make(config, root, dataset, session, reporter)
        report = {"verb": "train", "root": str(root), **made, "already_done": False}
    else:
        report = _train_steps(plan(config, fresh), session, reporter, state)
    session.metrics.set(catalog.LAST_SUCCESS, time.time(), stage="train")
    run_state.stage_done(root, "train", time.monotonic() - started_s, report, worked=True)
    return report


def _open(config: schema.RunConfig) -> shards.Dataset | series.Dataset:
    folder = location.Location.parse(config.root, "root").join("dataset")
    if config.corpus_kind == "series":
        return series.open_dataset(folder)
    return shards.Dataset.open(folder, backward=model_settings.reads_backward(config.model))


def _make(
    config: schema.RunConfig,
    root: location.Location,
    dataset: shards.Dataset | series.Dataset,
    session: sessions.Session,
    reporter: progress_display.Reporter,
) -> dict[str, Any]:
    """Makes a model that has no steps to resume from: counts an n-gram, or fits the regressor of a series."""
    settings = section.deciding(config)
    if isinstance(dataset, shards.Dataset):
        assert isinstance(config.model, ngram_settings.NgramConfig)
        settings["dataset"] = dataset.index.fingerprint
        return ngram_training.make(root, settings, config.model, dataset, session, reporter)
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    settings["dataset"] = dataset.fingerprint
    threads = config.cluster.cpus_per_worker
    return autoregressive_training.make(
        root, settings, config.model, config.training, config.seed, threads, dataset, session, reporter
    )


def _train_steps(
    job: trainer.TrainingJob, session: sessions.Session, reporter: progress_display.Reporter, state: progress.State
) -> dict[str, Any]:
    """Trains from where the run is."""
    done = state.step if job.training.max_steps is not None else state.epochs_done
    summary = _train(job, session, reporter, done)
    run_state.faults(job.root, summary.passed_over)
    if summary.is_interrupted:
        raise errors.InterruptedRunError(
            f"train: stopped at step {summary.step}, saved in {summary.checkpoint}; run it again to go on"
        )
    return {"verb": "train", "root": str(job.root), **summary.to_json(), "already_done": False}


def check_dataset(config: schema.RunConfig, dataset: shards.Dataset | series.Dataset) -> None:
    """Refuses a dataset that was prepared with other settings, or that training cannot use as they say.

    Where the text lay that it was made of is not asked; `prepare` compares the text itself.
    """
    settings = dataset.settings if isinstance(dataset, series.Dataset) else dataset.index.settings
    deciding = config.of_dataset(settings)
    for name, made_with in settings.items():
        now = deciding.get(name)
        for field in _differing(made_with, now, name):
            raise errors.LockedError(
                f"{field}: the dataset in {dataset.folder} was prepared with another value; "
                "use another root, or prepare's settings"
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
    job: trainer.TrainingJob, session: sessions.Session, reporter: progress_display.Reporter, done: float
) -> trainer.TrainingSummary:
    """Trains with progress shown, in steps where the run ends after so many, else in epochs."""
    in_steps = job.training.max_steps is not None
    total = job.training.max_steps if in_steps else job.training.epochs
    is_moving = False
    with reporter.stage("train", total, "steps" if in_steps else "epochs", done) as stage:

        def show(now: progress.Progress) -> None:
            nonlocal done, is_moving
            reached = now.step if in_steps else now.epoch + now.fraction
            shown: dict[str, float | str] = {"step": now.step, "tokens/s": round(now.tokens_per_s)}
            if now.loss_nats is not None:
                shown["loss"] = round(now.loss_nats, 4)
            if now.validation is not None:
                shown["valid"] = round(now.validation.nll_nats, 4)
            # After a restart of the group the run is where its last checkpoint was: a bar does not go back.
            if not is_moving:
                stage.advance(0)  # until now ranks were starting
                is_moving = True
            stage.advance(max(0.0, reached - done), **shown)
            done = max(done, reached)

        summary = launch.run_training(job, session, show)
        reached = summary.step if in_steps else summary.epochs_done
        stage.advance(max(0.0, reached - done))
        return summary


def _reached(root: location.Location, fresh: bool) -> tuple[checkpoint.Search, progress.State]:
    """Where the run is: its newest checkpoint, if there is one, and the state in it."""
    search = checkpoint.find_newest(root)
    if search.found is None:
        return search, progress.State()
    if fresh:
        raise errors.LockedError(f"{search.found.folder}: --fresh, but this root holds a checkpoint; use another root")
    return search, checkpoint.load_state(search.found)[0]
