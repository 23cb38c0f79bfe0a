"""How a start of the worker group becomes ready for its next step: claimed, built, restored."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from core import errors
from core.config import model_settings, schema, section, training_settings
from core.data.batching import lanes
from core.data.dataset import shards
from core.models import bundle, compute, factory, pretrained_embeddings
from core.models import state as states
from core.storage import location
from core.training import (
    averaged_sgd,
    batches,
    checkpoint,
    collective,
    gradients,
    losses,
    multitask,
    optimizers,
    progress,
    randomness,
    step,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """A run to train; the same on all ranks but for `device`.

    `weights` are those of the dataset's corpora by name, 1 where none is given. `fresh` refuses a root that holds a
    checkpoint of another attempt. `attempt` names one call of the driver, so that a group that it starts again goes on
    from its own checkpoints.
    """

    root: location.Location
    name: str
    seed: int
    model: model_settings.NetworkConfig
    training: training_settings.TrainingConfig
    compute: schema.ComputeConfig
    dataset: location.Location
    device: str = "cpu"
    weights: Mapping[str, float] = field(default_factory=dict)
    fresh: bool = False
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)


class Claim(NamedTuple):
    """What rank 0 found and took. A run that is finished takes no epoch: it is 0."""

    epoch: int
    search: checkpoint.Search
    state: progress.State
    settings: dict[str, Any]
    is_finished: bool


@dataclass
class Start:
    """All that the loop works on; `state`, `hidden` and `newest` change as it goes.

    There is a source for each task of the dataset, and in `hidden` the state of its lanes.
    """

    learner: step.Learner
    sources: Sequence[batches.Source]
    dataset: shards.Dataset
    epoch: int
    state: progress.State
    hidden: Sequence[states.State | None]
    newest: checkpoint.CheckpointRef | None
    damaged: tuple[location.Location, ...]
    settings: dict[str, Any]

    def bundle(self, job: TrainingJob) -> bundle.Bundle:
        """What inference needs, as it is now."""
        index = self.dataset.index
        line_end: Any = index.line_end
        model = self.learner.objective.model
        return bundle.Bundle(model, job.model, self.dataset.codecs, line_end, self.learner.precision)


def is_finished(state: progress.State, training: training_settings.TrainingConfig) -> bool:
    """Whether a run has come to its end: its epochs, its steps, or no better validation for too long."""
    if state.epoch >= training.epochs or (training.max_steps is not None and state.step >= training.max_steps):
        return True
    stop = training.early_stop
    return stop is not None and optimizers.validations_since_best(state.watched(stop.metric)) >= stop.patience


def claim(job: TrainingJob, dataset: shards.Dataset, world_size: int) -> Claim:
    """Finds where the run is and takes a fencing epoch for this start; on rank 0 alone.

    Raises:
        LockedError: the checkpoint was made with another model, dataset or seed, or `fresh` forbids to go on from it.
        IntegrityError: there are checkpoints, but none verifies.
    """
    ours = {
        "name": job.name,
        "seed": job.seed,
        "model": job.model.model_dump(mode="json"),
        "dataset": dataset.index.fingerprint,
        "training": job.training.model_dump(mode="json"),
        "attempt": job.attempt,
        "world_size": world_size,
        "torch": torch.__version__,
    }
    before = checkpoint.committed(job.root)
    search = checkpoint.find_newest(job.root)
    state, theirs = _read(search, dataset)
    _compare(job, search.found, ours, theirs)
    precision = (job.compute.precision == "auto" and theirs.get("precision")) or compute.resolve_precision(
        job.compute.precision, job.device
    )
    ours["precision"] = precision
    if search.found is not None and is_finished(state, job.training):
        return Claim(0, search, state, ours, is_finished=True)
    epoch = checkpoint.take_epoch(job.root, world_size)
    if checkpoint.committed(job.root) != before:
        # A group that was believed dead has committed until now, and cannot from now on.
        search = checkpoint.find_newest(job.root)
        state, _ = _read(search, dataset)
    return Claim(epoch, search, state, ours, is_finished(state, job.training) and search.found is not None)


def begin(job: TrainingJob, claimed: Claim, dataset: shards.Dataset, group: collective.Collective) -> Start:
    """Builds model, optimiser and batches, and restores what the checkpoint holds.

    Raises:
        IntegrityError: a file of the checkpoint is damaged.
        UsageError: `init_from` names a run that does not fit.
    """
    precision: compute.Precision = claimed.settings["precision"]
    matmul = compute.use_matmul(job.compute.matmul, precision)
    device = torch.device(job.device)
    learned = losses.build(_first_model(job, dataset, claimed.search.found is None), job.training).to(device).train()
    learner = step.Learner(
        learned,
        step.replicate(learned, group),
        optimizers.build(learned.model, job.training),
        device,
        precision,
        gradients.limits(job.training),
        job.training.record_gradients,
        multitask.plan(learned.model, job.training, dataset.tasks, job.seed),
    )
    learner.warm_up(batches.blank(dataset.kind))
    weights = _weights(job, dataset)
    num_lanes = [settings.num_lanes for settings in job.training.shared_out(weights)]
    found = claimed.search.found
    hidden: Sequence[states.State | None] = [None] * len(weights)
    if found is not None:
        hidden = _restore(learner, found, group, num_lanes)
    elif job.training.init_from is not None:
        _load_weights(learner, _other_run(job, dataset, job.training.init_from))
    _log.info(
        "start %d: step %d, %d ranks, %s on %s, matmul %s",
        claimed.epoch, claimed.state.step, group.world_size, precision, device, matmul,
    )  # fmt: skip
    sources = batches.sources(dataset, job.training, weights, job.seed, group.rank, group.world_size)
    return Start(
        learner, sources, dataset, claimed.epoch, claimed.state, hidden, found, claimed.search.damaged, claimed.settings
    )


def left_out(job: TrainingJob, dataset: shards.Dataset, state: progress.State) -> int:
    """How many targets the passes that are done did without: see `Source.left_out`."""
    sources = batches.sources(dataset, job.training, _weights(job, dataset), job.seed, 0, 1)
    return sum(
        source.left_out(epoch)
        for source, task in zip(sources, state.tasks, strict=True)
        for epoch in range(task.passes)
    )


def _weights(job: TrainingJob, dataset: shards.Dataset) -> list[float]:
    return [job.weights.get(task, 1.0) for task in dataset.tasks]


def _read(search: checkpoint.Search, dataset: shards.Dataset) -> tuple[progress.State, dict[str, Any]]:
    if search.found is None:
        return progress.State(tasks=[progress.Task() for _ in dataset.tasks]), {}
    return checkpoint.load_state(search.found)


def _compare(
    job: TrainingJob, found: checkpoint.CheckpointRef | None, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    if found is None:
        return
    if job.fresh and theirs.get("attempt") != job.attempt:
        raise errors.LockedError(f"{found.folder}: --fresh, but this root holds a checkpoint; use another root")
    ours = {**ours, "model": section.deciding_then(job.model, theirs.get("model") or {})}
    for name in ("model", "dataset", "seed"):
        if theirs.get(name) != ours[name]:
            raise errors.LockedError(
                f"{found.folder}: was made with another {name} ({_shown(theirs.get(name), ours[name])}); "
                "use another root, or the settings that this one was begun with"
            )


def _shown(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
        return ", ".join(f"{name}: {theirs.get(name)!r}, now {ours.get(name)!r}" for name in names)
    return f"{theirs!r}, now {ours!r}"


def _first_model(job: TrainingJob, dataset: shards.Dataset, is_new: bool) -> factory.Model:
    sizes = {role: codec.tokenizer.vocabulary_size for role, codec in dataset.codecs.items()}
    pad_id = batches.pairs_ids(dataset).pad if dataset.kind == "pairs" else None
    randomness.seed_initialisation(job.seed)
    model = factory.build(job.model, sizes, pad_id)
    for role, text in job.training.embeddings.items() if is_new else ():
        if role not in dataset.codecs:
            raise errors.UsageError(f"training.embeddings: {role} is no side of this corpus; it has {', '.join(sizes)}")
        words = dataset.codecs[role].tokenizer
        tokens = [words.token(index) for index in range(words.vocabulary_size)]
        found = pretrained_embeddings.load(location.Location.parse(text, "training.embeddings"), tokens, model, role)
        _log.info("embeddings of %s: %d of %d entries come from %s", role, found, len(tokens), text)
    return model


def _restore(
    learner: step.Learner, found: checkpoint.CheckpointRef, group: collective.Collective, num_lanes: Sequence[int]
) -> Sequence[states.State | None]:
    """Loads weights and optimiser; returns the state of this rank's lanes of each task.

    Of a task at the beginning of its data no lane has a state.
    """
    restored = reload(learner, found)
    if restored.hidden is None:
        return [None] * len(num_lanes)
    going = [count if task.consumed else 0 for count, task in zip(num_lanes, restored.state.tasks, strict=True)]
    if restored.hidden[0][0].shape[0] != sum(going):
        raise errors.LockedError(
            f"{found.folder}: holds the state of {restored.hidden[0][0].shape[0]} lanes, by training.num_lanes it is "
            f"{sum(going)}; use another root, or the settings that this one was begun with"
        )
    hidden: list[states.State | None] = []
    for number, count in enumerate(going):
        own, first = lanes.lanes_of_rank(group.rank, group.world_size, num_lanes[number]), sum(going[:number])
        rows = torch.arange(first + own.start, first + own.stop)
        selected = states.select(restored.hidden, rows) if count else None
        hidden.append(selected and tuple(tuple(part.to(learner.device) for part in layer) for layer in selected))
    return hidden


def reload(learner: step.Learner, found: checkpoint.CheckpointRef) -> checkpoint.Restored:
    """Loads the weights and the optimiser of a checkpoint; returns all that it holds besides the bundle.

    Raises:
        IntegrityError: a file of the checkpoint is damaged.
    """
    _load_weights(learner, bundle.load(found.bundle))
    restored = checkpoint.load(found)
    optimizers.load_named(learner.objective.model, learner.optimizer, restored.optimizer)
    averaged_sgd.swap(learner.optimizer)
    return restored


def _load_weights(learner: step.Learner, loaded: bundle.Bundle) -> None:
    learner.objective.model.load_state_dict(loaded.model.state_dict())


def _other_run(job: TrainingJob, dataset: shards.Dataset, run: str) -> bundle.Bundle:
    where = "training.init_from"
    loaded = bundle.load(bundle.locate(location.Location.parse(run, where)))
    if loaded.config != job.model:
        raise errors.UsageError(f"{where}: {run} holds another model; use the same settings of model here")
    for role, codec in dataset.codecs.items():
        if loaded.codecs[role].tokenizer.fingerprint != codec.tokenizer.fingerprint:
            raise errors.UsageError(f"{where}: {run} has another {role} tokenizer; prepare with that of the run")
    return loaded
