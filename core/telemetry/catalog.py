"""Catalogue of metrics: name, kind, help text and labels of each Prometheus series.

Names are `raycurrent_<stage>_<quantity>_<unit>`, in base units; a quantity without a unit has none in its name.
Labels are closed sets (`stage`, `outcome`), the `rank` of a process and the number of a `corpus`; never a path, a
shard, a step or text of the user, so that the number of series is bounded.
"""

from typing import Literal, NamedTuple

# A value that is not listed is exported as `other`: nothing that a user writes makes a new series.
STAGES = ("prepare", "train", "translate", "score", "generate", "forecast", "evaluate", "report")
OUTCOMES = ("done", "retried", "failed", "skipped")


class Metric(NamedTuple):
    """One metric; a counter's name ends in `_total`.

    Attributes:
        buckets: upper bounds of a histogram's buckets, in the unit of its name.
        old_name: deprecated name under which the same values are exported too, for one version.
        old_labels: deprecated names of the labels, in the same order; empty if the labels kept their names.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    old_name: str | None = None
    old_labels: tuple[str, ...] = ()

    @property
    def deprecated(self) -> "Metric | None":
        """The same metric under its old name; None if it was not renamed."""
        if self.old_name is None:
            return None
        text = f"deprecated: use {self.name}"
        return Metric(self.old_name, self.kind, text, self.old_labels or self.labels, self.buckets)


# At most ten buckets: each is a series for each rank.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
# For checkpoints and parts, which take from tenths of a second to half an hour.
_LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

TRAIN_STEPS = Metric("raycurrent_train_steps_total", "counter", "Optimizer steps applied", ("rank",))
# Padding is left out, so that throughput is comparable between batch sizes.
TRAIN_TOKENS = Metric(
    "raycurrent_train_tokens_total", "counter", "Target tokens trained on, excluding padding", ("rank",)
)
TRAIN_STEP_SECONDS = Metric("raycurrent_train_step_seconds", "histogram", "Wall time per step", ("rank",), _SECONDS)
TRAIN_LOSS = Metric("raycurrent_train_loss_nats", "gauge", "Training loss per token, mean since the last log row")
# No unit, so none in the name; the old name called a norm a ratio.
TRAIN_GRADIENT_NORM = Metric(
    "raycurrent_train_gradient_norm",
    "gauge",
    "Global gradient norm of the last step, before clipping",
    old_name="raycurrent_train_gradient_norm_ratio",
)
TRAIN_LEARNING_RATE = Metric(
    "raycurrent_train_learning_rate",
    "gauge",
    "Learning rate of the last step",
    old_name="raycurrent_train_learning_rate_ratio",
)
TRAIN_EPOCHS = Metric(
    "raycurrent_train_epochs",
    "gauge",
    "Epochs trained, including the fraction of the current epoch",
    old_name="raycurrent_train_epoch_ratio",
)
TRAIN_VALIDATION_LOSS = Metric("raycurrent_train_validation_loss_nats", "gauge", "Validation loss per token")
# The corpus by number, not by name, which is text of the user.
TRAIN_CORPUS_LOSS = Metric(
    "raycurrent_train_corpus_loss_nats",
    "gauge",
    "Training loss per token of one corpus, without label smoothing",
    ("corpus",),
    old_name="raycurrent_train_task_loss_nats",
    old_labels=("task",),
)
TRAIN_CORPUS_VALIDATION_LOSS = Metric(
    "raycurrent_train_corpus_validation_loss_nats",
    "gauge",
    "Validation loss per token of one corpus",
    ("corpus",),
    old_name="raycurrent_train_task_validation_loss_nats",
    old_labels=("task",),
)
TRAIN_COSINE = Metric(
    "raycurrent_train_gradient_cosine",
    "gauge",
    "Smallest cosine similarity between the gradients of two corpora",
    old_name="raycurrent_train_gradient_cosine_ratio",
)
# Counted as 0 at the start of a run, so that an alert on its increase sees the first one.
TRAIN_NONFINITE = Metric(
    "raycurrent_train_nonfinite_steps_total", "counter", "Steps skipped because the gradient norm was not finite"
)
TRAIN_WORKERS = Metric("raycurrent_train_workers", "gauge", "Ranks in the current worker group")
TRAIN_STARTS = Metric("raycurrent_train_group_starts_total", "counter", "Starts of the worker group in this run")

CHECKPOINT_SECONDS = Metric(
    "raycurrent_checkpoint_write_seconds", "histogram", "Wall time per checkpoint written", (), _LONG_SECONDS
)
CHECKPOINT_STEP = Metric("raycurrent_checkpoint_last_step", "gauge", "Step of the newest checkpoint")
# An instant, not an age: Prometheus subtracts it from its own time, and it stays right when the process is gone.
CHECKPOINT_TIME = Metric(
    "raycurrent_checkpoint_last_success_timestamp_seconds", "gauge", "Unix time of the newest checkpoint"
)
CHECKPOINT_FALLBACKS = Metric(
    "raycurrent_checkpoint_fallbacks_total", "counter", "Damaged checkpoints skipped when training resumed"
)

PREPARE_LINES = Metric("raycurrent_prepare_lines_total", "counter", "Corpus lines read, by outcome", ("outcome",))
PREPARE_TOKENS = Metric("raycurrent_prepare_tokens_total", "counter", "Tokens written to shards")

INFERENCE_LINES = Metric(
    "raycurrent_inference_lines_total", "counter", "Lines translated, scored or generated", ("stage", "outcome")
)
INFERENCE_TOKENS = Metric("raycurrent_inference_tokens_total", "counter", "Tokens generated or scored", ("stage",))

FANOUT_PARTS = Metric("raycurrent_fanout_parts_total", "counter", "Part attempts, by outcome", ("stage", "outcome"))
FANOUT_PART_SECONDS = Metric(
    "raycurrent_fanout_part_seconds",
    "histogram",
    "Wall time per part, measured by the driver",
    ("stage",),
    _LONG_SECONDS,
)
FANOUT_PENDING = Metric("raycurrent_fanout_pending_parts", "gauge", "Parts not yet done", ("stage",))
FANOUT_WORKER_DEATHS = Metric("raycurrent_fanout_worker_deaths_total", "counter", "Workers that died", ("stage",))

EVALUATE_BLEU = Metric("raycurrent_evaluate_bleu_points", "gauge", "BLEU of the held-out lines, 0 to 100")
SCORE_LOSS = Metric("raycurrent_score_loss_nats", "gauge", "Loss per token of the held-out lines")

LAST_SUCCESS = Metric(
    "raycurrent_job_last_success_timestamp_seconds", "gauge", "Unix time of the last success of a stage", ("stage",)
)

# Last in the module: a metric declared below it would not be exported.
ALL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
