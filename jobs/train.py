"""Trains the model of a configuration on its dataset; what is there is gone on from, what is done is left alone."""

import time
from collections.abc import Iterator
from typing import Any

from core import errors
from core.config import schema, section
from core.data import shards
from core.storage import commit, location
from core.training import checkpoint, loop, progress, starting
from jobs import console, record
from workers import cluster, launch


def plan(config: schema.RunConfig, fresh: bool = False) -> loop.TrainingJob:
    """Says what is trained, where."""
    root = location.Location.parse(config.root, "root")
    return loop.TrainingJob(
        root=root,
        name=config.name,
        seed=config.seed,
        model=config.model,
        training=config.training,
        compute=config.compute,
        dataset=root.join("dataset"),
        device="cuda" if config.cluster.use_gpu else "cpu",
        fresh=fresh,
    )


def run(
    config: schema.RunConfig, session: cluster.Session, reporter: console.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Trains until the run's end, or until it is stopped with its state saved.

    Raises:
        UsageError: there is no dataset.
        LockedError: another driver works here, the settings are those of another run, or `fresh` finds a checkpoint.
        InterruptedRunError: it was stopped; the same command goes on.
        DivergedError: the numbers are not finite.
        ClusterError: workers failed, and retries did not help.
    """
    job = plan(config, fresh)
    dataset = shards.Dataset.open(job.dataset)
    with commit.RunLock(job.root, "train"):
        _check_dataset(config, dataset)
        _reached(job)
        record.started(config)
        with record.ending(job.root, session):
            return run_locked(config, session, reporter, fresh)


def run_locked(
    config: schema.RunConfig, session: cluster.Session, reporter: console.Reporter, fresh: bool = False
) -> dict[str, Any]:
    """Does what `run` does for a caller who holds the lock of the root and has started its record."""
    job = plan(config, fresh)
    _check_dataset(config, shards.Dataset.open(job.dataset))
    record.changed(job.root, record.begin(config))
    search, state = _reached(job)
    record.faults(job.root, search.passed_over)
    if search.found is not None and starting.is_finished(state, job.training):
        kept: dict[str, Any] = record.stage(job.root, "train").get("report") or {"step": state.step}
        return {"verb": "train", "root": str(job.root), **kept, "already_done": True}
    started_s = time.monotonic()
    done = state.step if config.training.max_steps is not None else state.epochs_done
    summary = _train(job, session, reporter, done)
    record.faults(job.root, summary.passed_over)
    if summary.is_interrupted:
        raise errors.InterruptedRunError(
            f"train: stopped at step {summary.step}, saved in {summary.checkpoint}; run it again to go on"
        )
    report = {"verb": "train", "root": str(job.root), **summary.to_json(), "already_done": False}
    record.stage_done(job.root, "train", time.monotonic() - started_s, report, worked=True)
    return report


def _check_dataset(config: schema.RunConfig, dataset: shards.Dataset) -> None:
    """Refuses a dataset that was prepared with other settings: it does not hold what the configuration says.

    Where the text lay that it was made of is not asked; `prepare` compares the text itself.
    """
    deciding = section.deciding(config)
    for name, made_with in dataset.index.settings.items():
        now = deciding.get(name)
        for field in _differing(made_with, now, name):
            raise errors.LockedError(
                f"{field}: the dataset in {dataset.folder} was prepared with another value; "
                "use another root, or prepare's settings"
            )


def _differing(old: Any, new: Any, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(old.get(key), new.get(key), f"{name}.{key}")
    elif old != new:
        yield name


def _train(
    job: loop.TrainingJob, session: cluster.Session, reporter: console.Reporter, done: float
) -> loop.TrainingSummary:
    """Trains with progress shown, in steps where the run ends after so many, else in epochs."""
    in_steps = job.training.max_steps is not None
    total = job.training.max_steps if in_steps else job.training.epochs
    with reporter.stage("train", total, "steps" if in_steps else "epochs") as stage:

        def show(now: progress.Progress) -> None:
            nonlocal done
            reached = now.step if in_steps else now.epoch + now.fraction
            shown: dict[str, float | str] = {"step": now.step, "tokens/s": round(now.tokens_per_s)}
            if now.loss_nats is not None:
                shown["loss"] = round(now.loss_nats, 4)
            if now.validation is not None:
                shown["valid"] = round(now.validation.nll_nats, 4)
            # After a restart of the group the run is where its last checkpoint was: a bar does not go back.
            stage.advance(max(0.0, reached - done), **shown)
            done = max(done, reached)

        summary = launch.run_training(job, session, show)
        reached = summary.step if in_steps else summary.epochs_done
        stage.advance(max(0.0, reached - done))
        return summary


def _reached(job: loop.TrainingJob) -> tuple[checkpoint.Search, progress.State]:
    """Where the run is: its newest checkpoint, if there is one, and the state in it."""
    search = checkpoint.find_newest(job.root)
    if search.found is None:
        return search, progress.State()
    if job.fresh:
        raise errors.LockedError(f"{search.found.folder}: --fresh, but this root holds a checkpoint; use another root")
    return search, checkpoint.load_state(search.found)[0]
