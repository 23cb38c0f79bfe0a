"""Plan of a training run, for people: sizes of model and data, device, and the expected end."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from core.config import schema
from core.data.dataset import shards
from core.data.series import dataset as series_dataset
from core.models import bundle, sizes, skeleton
from core.training import epoch_size, progress, resume, trainer
from jobs import console

Plan = dict[str, Any]

# The first steps are slower than the others, and their times differ.
LEAST_STEPS, LEAST_S = 5, 5.0


def describe_steps(
    config: schema.RunConfig,
    job: trainer.TrainingJob,
    dataset: shards.Dataset,
    state: progress.State,
    saved: Mapping[str, Any],
) -> Plan:
    """Describes the training of a model in steps.

    Args:
        config: settings of the run.
        job: what to train.
        dataset: its data.
        state: that of the newest checkpoint, or the initial one.
        saved: settings in the newest checkpoint; empty without one.

    Raises:
        DataError: there is too little data for the settings.
        UsageError: the settings do not fit the vocabularies.
    """
    training = config.training
    weights = [job.weights.get(corpus, 1.0) for corpus in dataset.corpora]
    num_batches = epoch_size.count_batches(dataset, training, weights, config.seed)
    steps_per_epoch = -(-num_batches // training.accumulate)
    num_steps = training.epochs * steps_per_epoch
    return {
        **_describe(config),
        **_describe_model(skeleton.without_memory(job.model, dataset.codecs, {})),
        **_describe_text(dataset),
        "batches_per_epoch": num_batches,
        "steps_per_epoch": steps_per_epoch,
        "epochs": training.epochs,
        "steps": num_steps if training.max_steps is None else min(num_steps, training.max_steps),
        "step": state.step,
        "precision": resume.precision_of(job, saved),
    }


def describe_ngram(config: schema.RunConfig, dataset: shards.Dataset) -> Plan:
    """Describes the counting of an n-gram model, whose size is known at its end."""
    return {**_describe(config), **_describe_text(dataset)}


def describe_series(config: schema.RunConfig, dataset: series_dataset.Dataset) -> Plan:
    """Describes the fit of a regressor of series."""
    model: Any = config.model
    assert config.training.batch_lines is not None, "the schema asks for it"
    num_examples = len(dataset.examples("train", model.lags, model.horizon).labels_NKO)
    num_batches = -(-num_examples // config.training.batch_lines)
    columns = {"inputs": dataset.inputs, "targets": dataset.targets}
    return {
        **_describe(config),
        **_describe_model(skeleton.without_memory(model, {}, columns)),
        "examples": num_examples,
        "batches_per_epoch": num_batches,
        "steps_per_epoch": num_batches,
        "epochs": config.training.epochs,
        "steps": config.training.epochs * num_batches,
        "step": 0,
        "precision": "fp32",
    }


def _describe(config: schema.RunConfig) -> Plan:
    # N-grams are counted, and series fitted, in the process of the driver.
    in_steps = config.model.kind in ("language_model", "seq2seq")
    # Without Ray there is one rank, in this process.
    workers = config.cluster.workers if in_steps and config.cluster.address != "none" else range(1, 2)
    is_elastic = len(workers) > 1
    return {
        "name": config.name,
        "root": config.root,
        "model": config.model.kind,
        "device": config.cluster.device if in_steps else "cpu",
        "workers": {"min": workers.start, "max": workers.stop - 1} if is_elastic else workers.start,
        "threads": config.cluster.cpus_per_worker,
    }


def _describe_model(model: bundle.Model) -> Plan:
    by_part = sizes.parameters_by_part(model)
    return {"parameters": sum(by_part.values()), "parameters_by_part": by_part}


def _describe_text(dataset: shards.Dataset) -> Plan:
    index = dataset.index
    return {
        "vocabulary_sizes": {role: codec.tokenizer.vocabulary_size for role, codec in dataset.codecs.items()},
        "lines": index.rows("train"),
        "tokens": index.tokens("train"),
    }


def to_lines(plan: Plan, config: schema.RunConfig) -> list[str]:
    """Returns a plan as lines of text."""
    rows = {"model": _model(config)}
    if "parameters" in plan:
        parts = ", ".join(f"{part} {count:,}" for part, count in plan["parameters_by_part"].items())
        rows["parameters"] = f"{plan['parameters']:,}: {parts}"
    if "vocabulary_sizes" in plan:
        rows["vocabulary"] = ", ".join(f"{role} {size:,}" for role, size in plan["vocabulary_sizes"].items())
        tokens = ", ".join(f"{role} {count:,}" for role, count in plan["tokens"].items())
        rows["data"] = f"{plan['lines']:,} lines; tokens: {tokens}"
    elif "examples" in plan:
        rows["data"] = f"{plan['examples']:,} examples"
    if "steps" in plan:
        begin = f", from step {plan['step']:,}" if plan["step"] else ""
        rows["epochs"] = f"{plan['epochs']} of {plan['batches_per_epoch']:,} batches; {plan['steps']:,} steps{begin}"
    workers = plan["workers"]
    number = f"{workers['min']} to {workers['max']}" if isinstance(workers, dict) else str(workers)
    each = "1 worker" if number == "1" else f"{number} workers"
    threads = plan["threads"]
    on = plan["device"] if plan["device"] != "cpu" else f"cpu, {threads} {'thread' if threads == 1 else 'threads'} each"
    precision = f"; {plan['precision']}" if "precision" in plan else ""
    rows["device"] = f"{each} on {on}{precision}"
    rows["root"] = plan["root"]
    return [f"train: {plan['name']}", *(f"  {name:<11} {text}" for name, text in rows.items())]


def _model(config: schema.RunConfig) -> str:
    """Returns the kind of a model with its main settings."""
    model: Any = config.model
    if model.kind == "ngram":
        return f"ngram of order {model.order}, {model.smoothing}"
    if model.kind == "autoregressive":
        return f"autoregressive, {model.network}, {model.lags} lags, horizon {model.horizon}"
    sizes = model.layer_sizes
    widths = f"{len(sizes)}×{sizes[0]}" if len(set(sizes)) == 1 else "-".join(map(str, sizes))
    extras = []
    if model.kind == "seq2seq":
        extras = ["bidirectional"] * model.bidirectional + [f"attention {model.attention}"]
    elif model.context is not None:
        extras = [f"context {model.context}"]
    return ", ".join([f"{model.kind}, {model.cell} {widths}", f"embedding {model.embedding_size}", *extras])


class ExpectedEnd:
    """Says once, after a few steps, when a run is expected to end.

    Args:
        num_steps: steps of the run.
        may_stop_early: whether early stopping may end it before.
        write: takes the line.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        num_steps: int,
        may_stop_early: bool,
        write: Callable[[str], None] = console.note,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._may_stop_early = may_stop_early
        self._write = write
        self._clock = clock
        self._first: tuple[float, int] | None = None  # time and step of the first update
        self._is_said = False

    def restart(self) -> None:
        """Measures from the next update on: the worker group has started again."""
        self._first = None

    def update(self, step: int) -> None:
        """Takes the number of the last step; writes the line when the speed is certain enough."""
        now_s = self._clock()
        first_s, first_step = self._first = self._first or (now_s, step)
        elapsed_s, done = now_s - first_s, step - first_step
        if self._is_said or done < LEAST_STEPS or elapsed_s < LEAST_S:
            return
        self._is_said = True
        left_s = max(0, self._num_steps - step) / done * elapsed_s
        end = time.localtime(time.time() + left_s)
        at = time.strftime("%H:%M" if left_s < 24 * 3600 else "%a %d %b %H:%M", end)
        latest = " at the latest" if self._may_stop_early else ""
        self._write(f"train: expected to end at {at}{latest}, in {console.format_duration(left_s)}")
