"""Start and resume of a run: claims the root, builds model, optimizer and batches, and restores a checkpoint."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from core import errors
from core.config import evaluation_settings, model_settings, schema, section, training_settings
from core.data.batching import lanes
from core.data.dataset import shards
from core.models import bundle, compute, factory, pretrained_embeddings
from core.models import state as states
from core.storage import location, node_cache
from core.training import (
    averaged_sgd,
    batches,
    checkpoint,
    collective,
    gradients,
    losses,
    multitask,
    optimizers,
    plan_changes,
    progress,
    randomness,
    step,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """A run to train; the same on all ranks but for `device`.

    Attributes:
        root: folder of the run.
        name: of the run.
        seed: of weights, data order and dropout.
        model: settings of the model.
        training: settings of training.
        compute: settings of precision and matrix products.
        evaluation: settings of the BLEU of validations.
        dataset: folder of the dataset.
        device: of the rank, as torch names it.
        weights: of the dataset's corpora by name, 1 where none is given.
        cache: copies of a dataset in an object store on this node.
        fresh: refuses a root that holds a checkpoint of another attempt.
        attempt: names one call of the driver, so that a worker group that it starts again resumes from the checkpoints
            of this call in spite of `fresh`.
    """

    root: location.Location
    name: str
    seed: int
    model: model_settings.NetworkConfig
    training: training_settings.TrainingConfig
    compute: schema.ComputeConfig
    dataset: location.Location
    device: str = "cpu"
    evaluation: evaluation_settings.EvaluationConfig = field(default_factory=evaluation_settings.EvaluationConfig)
    weights: Mapping[str, float] = field(default_factory=dict)
    cache: node_cache.NodeCache = field(default_factory=node_cache.NodeCache)
    fresh: bool = False
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)


class Claim(NamedTuple):
    """The result of claiming a root, on rank 0. A finished run takes no fencing number: it is 0."""

    fencing_number: int
    newest: checkpoint.NewestCheckpoint
    state: progress.State
    settings: dict[str, Any]
    is_finished: bool


@dataclass
class TrainingRun:
    """All that the training loop works on; `state`, `hidden` and `newest` change as it proceeds.

    There is a batch stream for each corpus of the dataset, and in `hidden` the hidden state of this rank's lanes of it.
    """

    learner: step.Learner
    batch_streams: Sequence[batches.BatchStream]
    dataset: shards.Dataset
    fencing_number: int
    state: progress.State
    hidden: Sequence[states.State | None]
    newest: checkpoint.CheckpointRef | None
    skipped_folders: tuple[location.Location, ...]
    settings: dict[str, Any]

    def bundle(self, job: TrainingJob) -> bundle.Bundle:
        """Returns what inference needs, with the weights as they are now."""
        index = self.dataset.index
        line_end: Any = index.line_end
        model = self.learner.objective.model
        return bundle.Bundle(model, job.model, self.dataset.codecs, line_end, self.learner.precision)


def is_finished(state: progress.State, training: training_settings.TrainingConfig) -> bool:
    """Returns whether a run has ended: by its epochs, its steps, or early stopping."""
    if state.epoch >= training.epochs or (training.max_steps is not None and state.step >= training.max_steps):
        return True
    stop = training.early_stop
    if stop is None:
        return False
    counted = state.history[state.early_stop_start :]
    return progress.validations_since_best(counted, stop.metric) >= stop.patience


def claim(job: TrainingJob, dataset: shards.Dataset, world_size: int) -> Claim:
    """Finds the newest checkpoint and takes a fencing number for this worker group; on rank 0 alone.

    Raises:
        LockedError: the checkpoint was made with another model, dataset or seed, or `fresh` forbids to resume from it.
        IntegrityError: there are checkpoints, but none verifies.
    """
    settings = {
        "name": job.name,
        "seed": job.seed,
        "model": job.model.model_dump(mode="json"),
        "dataset": dataset.index.fingerprint,
        "training": job.training.model_dump(mode="json"),
        "attempt": job.attempt,
        "world_size": world_size,
        "torch": torch.__version__,
    }
    before = checkpoint.committed(job.root)  # to notice commits until the fencing number is taken
    newest = checkpoint.find_newest(job.root)
    state, saved_settings = _read_state(newest, dataset, job.training)
    _check_same_run(job, newest.ref, settings, saved_settings)
    # Recorded for the next resume; inference finds it in the bundle.
    settings["precision"] = precision_of(job, saved_settings)
    # A finished run is only reported: taking a number would write into its root.
    if newest.ref is not None and is_finished(state, job.training):
        return Claim(0, newest, state, settings, is_finished=True)
    fencing_number = checkpoint.take_fencing_number(job.root, world_size)
    if checkpoint.committed(job.root) != before:
        # A group that was believed dead has committed until now, and cannot from now on.
        newest = checkpoint.find_newest(job.root)
        state, _ = _read_state(newest, dataset, job.training)
    finished = is_finished(state, job.training) and newest.ref is not None
    return Claim(fencing_number, newest, state, settings, finished)


def precision_of(job: TrainingJob, saved: Mapping[str, Any]) -> compute.Precision:
    """Returns the precision of a run; `saved` are the settings in its newest checkpoint, empty without one."""
    # An automatic precision stays that of the checkpoint, though the machine may be another one by now.
    kept: compute.Precision | None = saved.get("precision") if job.compute.precision == "auto" else None
    return compute.resolve_precision(kept or job.compute.precision, job.device)


def build(job: TrainingJob, claimed: Claim, dataset: shards.Dataset, group: collective.Collective) -> TrainingRun:
    """Builds model, optimizer and batches, and restores the checkpoint if there is one.

    Raises:
        IntegrityError: a file of the checkpoint is damaged.
        UsageError: `init_from` names a run that does not fit.
    """
    precision: compute.Precision = claimed.settings["precision"]
    matmul = compute.use_matmul(job.compute.matmul, precision)
    device = torch.device(job.device)
    newest = claimed.newest.ref
    # On the device before the optimizer is built, whose state lies where its parameters lie.
    objective = losses.build(_initial_model(job, dataset, is_new=newest is None), job.training).to(device).train()
    learner = step.Learner(
        objective,
        step.replicate(objective, group),
        optimizers.build(objective.model, job.training),
        device,
        precision,
        gradients.limits(job.training),
        job.training.record_gradients,
        multitask.plan(objective.model, job.training, dataset.corpora, job.seed),
    )
    # Before weights and optimizer are restored, so that every start, new or resumed, has DDP's final buckets.
    learner.warm_up(batches.make_placeholder(dataset.kind))
    weights = _corpus_weights(job, dataset)
    num_lanes = [settings.num_lanes for settings in job.training.split_by_weight(weights)]
    hidden: Sequence[states.State | None] = [None] * len(weights)  # zero states
    if newest is not None:
        hidden = _restore(learner, newest, group, num_lanes)
    elif job.training.init_from is not None:
        _load_weights(learner, _read_other_run(job, dataset, job.training.init_from))
    _log.info(
        "worker group with fencing number %d: step %d, %d %s, %s on %s, matmul %s",
        claimed.fencing_number, claimed.state.step, group.world_size, "rank" if group.world_size == 1 else "ranks",
        precision, device, matmul,
    )  # fmt: skip
    return TrainingRun(
        learner=learner,
        batch_streams=batches.open_batch_streams(
            dataset, job.training, weights, job.seed, group.rank, group.world_size
        ),
        dataset=dataset,
        fencing_number=claimed.fencing_number,
        state=claimed.state,
        hidden=hidden,
        newest=newest,
        skipped_folders=tuple(skipped.folder for skipped in claimed.newest.skipped_checkpoints),
        settings=claimed.settings,
    )


def count_skipped_targets(job: TrainingJob, dataset: shards.Dataset, state: progress.State) -> int:
    """Counts the targets that were in no batch of the completed epochs; see `batches.BatchStream`."""
    # Those of a single rank: the count is over all ranks together, whatever their number.
    batch_streams = batches.open_batch_streams(dataset, job.training, _corpus_weights(job, dataset), job.seed, 0, 1)
    return sum(
        batch_stream.count_skipped_targets(epoch)
        for batch_stream, corpus in zip(batch_streams, state.corpora, strict=True)
        for epoch in range(corpus.epoch)
    )


def _corpus_weights(job: TrainingJob, dataset: shards.Dataset) -> list[float]:
    return [job.weights.get(corpus, 1.0) for corpus in dataset.corpora]


def _read_state(
    newest: checkpoint.NewestCheckpoint, dataset: shards.Dataset, training: training_settings.TrainingConfig
) -> tuple[progress.State, dict[str, Any]]:
    """Returns the state to train on from, as the settings of today continue it, and the settings that were saved."""
    if newest.ref is None:
        return progress.State(corpora=[progress.CorpusState() for _ in dataset.corpora]), {}
    state, settings = checkpoint.load_state(newest.ref)
    return plan_changes.follow(state, settings, training), settings


def _check_same_run(
    job: TrainingJob, newest: checkpoint.CheckpointRef | None, ours: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    if newest is None:
        return
    if job.fresh and saved.get("attempt") != job.attempt:
        raise errors.LockedError(f"{newest.folder}: --fresh, but this root holds a checkpoint; use another root")
    # A checkpoint of an older release lacks newer settings: with their defaults they are no change.
    ours = {**ours, "model": section.result_settings_as_stored(job.model, saved.get("model") or {})}
    for name in ("model", "dataset", "seed"):
        if saved.get(name) != ours[name]:
            raise errors.LockedError(
                f"{newest.folder}: was made with another {name} ({_describe_change(saved.get(name), ours[name])}); "
                "use another root, or the settings that this run was started with"
            )


def _describe_change(saved: Any, ours: Any) -> str:
    if isinstance(saved, dict) and isinstance(ours, dict):
        names = [name for name in sorted(saved.keys() | ours.keys()) if saved.get(name) != ours.get(name)]
        return ", ".join(f"{name}: {saved.get(name)!r}, now {ours.get(name)!r}" for name in names)
    return f"{saved!r}, now {ours!r}"


def _initial_model(job: TrainingJob, dataset: shards.Dataset, is_new: bool) -> factory.Model:
    sizes = {role: codec.tokenizer.vocabulary_size for role, codec in dataset.codecs.items()}
    pad_id = batches.pairs_ids(dataset).pad if dataset.kind == "pairs" else None
    randomness.seed_initialization(job.seed)
    # Drawn on the CPU from the run's seed, so that all ranks, on any device, begin with the same weights.
    model = factory.build(job.model, sizes, pad_id)
    # A resumed run loads the weights that training made of the pretrained embeddings, and does not need their file.
    for role, text in job.training.embeddings.items() if is_new else ():
        words = dataset.codecs[role].tokenizer
        tokens = [words.token(index) for index in range(words.vocabulary_size)]
        count = pretrained_embeddings.load(location.Location.parse(text, "training.embeddings"), tokens, model, role)
        _log.info("embeddings of %s: %d of %d entries come from %s", role, count, len(tokens), text)
    return model


def _restore(
    learner: step.Learner, newest: checkpoint.CheckpointRef, group: collective.Collective, num_lanes: Sequence[int]
) -> Sequence[states.State | None]:
    """Loads weights and optimizer; returns the hidden state of this rank's lanes of each corpus.

    A corpus at the beginning of its data has none: its lanes start from the zero state.
    """
    restored = reload(learner, newest)
    if restored.hidden is None:
        return [None] * len(num_lanes)
    # A corpus between two epochs is saved without lanes: its state is zero (see `gather_lanes`).
    saved_lanes = [
        count if corpus.consumed else 0 for count, corpus in zip(num_lanes, restored.state.corpora, strict=True)
    ]
    if restored.hidden[0][0].shape[0] != sum(saved_lanes):
        raise errors.LockedError(
            f"{newest.folder}: holds the state of {restored.hidden[0][0].shape[0]} lanes, but training.num_lanes gives "
            f"{sum(saved_lanes)}; use another root, or the settings that this run was started with"
        )
    hidden: list[states.State | None] = []
    for corpus, count in enumerate(saved_lanes):
        # A checkpoint has the lanes of all ranks, one corpus after the other, so the number of ranks may change.
        own, first = lanes.lanes_of_rank(group.rank, group.world_size, num_lanes[corpus]), sum(saved_lanes[:corpus])
        rows = torch.arange(first + own.start, first + own.stop)
        selected = states.select(restored.hidden, rows) if count else None
        hidden.append(selected and tuple(tuple(part.to(learner.device) for part in layer) for layer in selected))
    return hidden


def gather_lanes(hidden: Sequence[states.State | None], group: collective.Collective) -> states.State | None:
    """Returns the hidden state of all ranks' lanes on rank 0, in order, one corpus after the other.

    Lanes of a corpus that start from the zero state are left out; None where there are no others.
    """
    gathered = [_gather_lanes_of_corpus(own, group) for own in hidden if own is not None]
    by_corpus = [lanes for lanes in gathered if lanes is not None]
    return _concatenate(by_corpus) if by_corpus else None


def _gather_lanes_of_corpus(own: states.State, group: collective.Collective) -> states.State | None:
    # gloo gathers objects; tensors on a GPU would be restored on the sender's device.
    on_cpu = tuple(tuple(part.cpu() for part in layer) for layer in own)
    by_rank = group.gather(on_cpu, "the state of the lanes")
    return None if by_rank is None else _concatenate(by_rank)


def _concatenate(parts: Sequence[states.State]) -> states.State:
    """Returns the rows of several states as one."""
    return tuple(tuple(torch.cat(rows) for rows in zip(*layers, strict=True)) for layers in zip(*parts, strict=True))


def reload(learner: step.Learner, ref: checkpoint.CheckpointRef) -> checkpoint.Restored:
    """Loads the weights and the optimizer of a checkpoint; returns its contents besides the bundle.

    Raises:
        IntegrityError: a file of the checkpoint is damaged.
    """
    _load_weights(learner, bundle.load(ref.bundle))
    restored = checkpoint.load(ref)
    optimizers.load_named_state(learner.objective.model, learner.optimizer, restored.optimizer)
    averaged_sgd.swap(learner.optimizer)  # the bundle holds the averages, training continues from the weights
    return restored


def _load_weights(learner: step.Learner, loaded: bundle.Bundle) -> None:
    # Strict: a weight that is missing or unknown is an error.
    learner.objective.model.load_state_dict(loaded.model.state_dict())


def _read_other_run(job: TrainingJob, dataset: shards.Dataset, run: str) -> bundle.Bundle:
    where = "training.init_from"
    loaded = bundle.load(bundle.find_folder(location.Location.parse(run, where)))
    if loaded.config != job.model:
        raise errors.UsageError(f"{where}: {run} holds another model; use the same settings of model here")
    for role, codec in dataset.codecs.items():
        if loaded.codecs[role].tokenizer.fingerprint != codec.tokenizer.fingerprint:
            raise errors.UsageError(f"{where}: {run} has another {role} tokenizer; prepare with that of the run")
    return loaded
