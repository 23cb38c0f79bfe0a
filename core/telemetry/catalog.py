"""Every metric, once: name, kind, unit in the name, labels, and what it says.

Names are `raycurrent_<stage>_<what>_<unit>`. Labels are closed sets, `rank`, and of several corpora in a training the
number of a `task`; never a path, a shard, a step or text of the user, so the number of series is bounded.
"""

from typing import Literal, NamedTuple

STAGES = ("prepare", "train", "translate", "score", "generate", "evaluate", "report")
OUTCOMES = ("done", "retried", "failed", "skipped")


class Metric(NamedTuple):
    """One metric; a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

TRAIN_STEPS = Metric("raycurrent_train_steps_total", "counter", "Optimiser steps applied", ("rank",))
TRAIN_TOKENS = Metric("raycurrent_train_tokens_total", "counter", "Valid target tokens trained on", ("rank",))
TRAIN_STEP_SECONDS = Metric("raycurrent_train_step_seconds", "histogram", "Wall time of a step", ("rank",), _SECONDS)
TRAIN_LOSS = Metric("raycurrent_train_loss_nats", "gauge", "Training loss of a token, global mean of a step")
TRAIN_GRAD_NORM = Metric("raycurrent_train_gradient_norm_ratio", "gauge", "Global gradient norm before clipping")
TRAIN_LEARNING_RATE = Metric("raycurrent_train_learning_rate_ratio", "gauge", "Learning rate of the last step")
TRAIN_EPOCH = Metric("raycurrent_train_epoch_ratio", "gauge", "Epochs trained, with the fraction of the current one")
TRAIN_VALID_LOSS = Metric("raycurrent_train_validation_loss_nats", "gauge", "Validation loss of a token")
TRAIN_TASK_LOSS = Metric(
    "raycurrent_train_task_loss_nats", "gauge", "Training loss of a token, by number of the corpus", ("task",)
)
TRAIN_TASK_VALID_LOSS = Metric(
    "raycurrent_train_task_validation_loss_nats",
    "gauge",
    "Validation loss of a token, by number of the corpus",
    ("task",),
)
TRAIN_COSINE = Metric(
    "raycurrent_train_gradient_cosine_ratio", "gauge", "Smallest cosine between the gradients of two corpora"
)
TRAIN_NONFINITE = Metric("raycurrent_train_nonfinite_steps_total", "counter", "Steps skipped: gradient not finite")
TRAIN_WORKERS = Metric("raycurrent_train_workers", "gauge", "Ranks of the current group")
TRAIN_STARTS = Metric("raycurrent_train_group_starts_total", "counter", "Starts of the worker group in this run")

CHECKPOINT_SECONDS = Metric(
    "raycurrent_checkpoint_write_seconds", "histogram", "Wall time of writing a checkpoint", (), _LONG_SECONDS
)
CHECKPOINT_STEP = Metric("raycurrent_checkpoint_last_step", "gauge", "Step of the newest checkpoint")
CHECKPOINT_TIME = Metric(
    "raycurrent_checkpoint_last_success_timestamp_seconds", "gauge", "Unix time of the newest checkpoint"
)
CHECKPOINT_FALLBACKS = Metric(
    "raycurrent_checkpoint_fallbacks_total", "counter", "Damaged checkpoints that a start passed over"
)

PREPARE_LINES = Metric("raycurrent_prepare_lines_total", "counter", "Corpus lines handled", ("outcome",))
PREPARE_TOKENS = Metric("raycurrent_prepare_tokens_total", "counter", "Tokens written to shards")

INFERENCE_LINES = Metric("raycurrent_inference_lines_total", "counter", "Lines handled", ("stage", "outcome"))
INFERENCE_TOKENS = Metric("raycurrent_inference_tokens_total", "counter", "Tokens produced or scored", ("stage",))

FANOUT_PARTS = Metric("raycurrent_fanout_parts_total", "counter", "Parts by outcome", ("stage", "outcome"))
FANOUT_PART_SECONDS = Metric(
    "raycurrent_fanout_part_seconds",
    "histogram",
    "Wall time of a part, as the driver sees it",
    ("stage",),
    _LONG_SECONDS,
)
FANOUT_PENDING = Metric("raycurrent_fanout_pending_parts", "gauge", "Parts not yet done", ("stage",))
FANOUT_WORKER_DEATHS = Metric("raycurrent_fanout_worker_deaths_total", "counter", "Workers that died", ("stage",))

EVALUATE_BLEU = Metric("raycurrent_evaluate_bleu_points", "gauge", "BLEU of the held-out part, of 100")
SCORE_LOSS = Metric("raycurrent_score_loss_nats", "gauge", "Loss of a token of the held-out part")

LAST_SUCCESS = Metric(
    "raycurrent_job_last_success_timestamp_seconds", "gauge", "Unix time at which a stage was last done", ("stage",)
)

ALL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
