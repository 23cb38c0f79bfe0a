"""Settings of training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import pydantic

from core.config import (
    multitask_settings,
    optimizer_settings,
    schedule_settings,
    section,
    truncation_settings,
)

Metric = Literal["perplexity", "bleu"]


def selection_key(metric: Metric, validation: Mapping[str, Any]) -> tuple[float, float]:
    """Returns a sort key of checkpoints, the best first, from the values of their validations.

    By perplexity: lower `nll_nats` (a token) first. By BLEU: higher `bleu` first, of equal ones the lower `nll_nats`.
    Checkpoints without such a value, or with one that is not finite, come last.
    """
    nll_nats, bleu = (
        float(value) if isinstance(value := validation.get(name), int | float) and math.isfinite(value) else None
        for name in ("nll_nats", "bleu")
    )
    # NaN would make the order of the sort undefined.
    nll_key = math.inf if nll_nats is None else nll_nats
    if metric == "perplexity":
        return 0.0, nll_key
    return math.inf if bleu is None else -bleu, nll_key


class EarlyStopConfig(section.Section):
    """Early stopping, and the metric by which a validation is better than another."""

    metric: Metric = section.schedule(
        "perplexity",
        "validation metric that stops training, selects the best checkpoint and is followed by schedule: plateau; of "
        "equal BLEUs the one with the lower loss is better",
    )
    patience: int = section.schedule(
        5, "validations without improvement before stopping, counted from where early stopping was switched on", ge=1
    )


class ScheduledSamplingConfig(section.Section):
    """Scheduled sampling: the decoder is sometimes fed its own predictions, with a probability that changes linearly.

    Source: Bengio et al. 2015, Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks.
    """

    start: section.Float = section.schedule(0.0, "probability of the model's own token at the first step", ge=0, le=1)
    end: section.Float = section.schedule(0.25, "probability of the model's own token after over_steps", ge=0, le=1)
    over_steps: int = section.schedule(10_000, "steps from start to end", ge=1)


class ValidationConfig(section.Section):
    """Validation besides the loss."""

    bleu_lines: int = section.schedule(0, "lines to translate, greedily, for BLEU; for pairs", ge=0)
    samples: int = section.schedule(0, "sample translations, or continuations of lines, in the run log", ge=0)


# Settings that apply to series; all others must keep their defaults.
_OF_SERIES = {
    *("epochs", "max_steps", "batch_lines", "optimizer", "learning_rate", "schedule", "clip_norm"),
}


class TrainingConfig(section.Section):
    """Training of the model."""

    epochs: int = section.schedule(10, "passes over the training data", ge=1)
    max_steps: int | None = section.schedule(None, "most steps of training; null: all epochs", ge=1)
    batch_tokens: int | None = section.identity(
        None, "batch size of pairs in tokens of the longer side, over all ranks", ge=1
    )
    batch_lines: int | None = section.identity(
        None, "batch size of pairs in lines, over all ranks, or of series in examples", ge=1
    )
    num_lanes: int = section.identity(32, "lanes of text: continuous token streams in a batch, over all ranks", ge=1)
    window: int = section.identity(35, "tokens of a lane in a step, for text", ge=1)
    sampling: Literal["sequential", "random"] = section.identity(
        "sequential",
        "order of windows of text; sequential: lanes carry their state; random: shuffled, each from the zero state",
    )
    truncation: truncation_settings.TruncationConfig = section.identity(
        truncation_settings.WindowConfig(),
        "truncated backpropagation through time, for text: a kind, or a kind with its settings",
        discriminator="kind",
    )
    target_window: int | None = section.identity(
        None, "target tokens between two cuts of the gradient, for pairs; null: no cut", ge=1
    )
    optimizer: optimizer_settings.OptimizerConfig = section.identity(
        optimizer_settings.AdamConfig(), "optimizer: a kind, or a kind with its settings", discriminator="kind"
    )
    learning_rate: section.Float = section.schedule(1e-3, "peak learning rate", gt=0)
    schedule: schedule_settings.ScheduleConfig = section.schedule(
        schedule_settings.ConstantConfig(),
        "learning-rate schedule: a kind, or a kind with its settings",
        discriminator="kind",
    )
    clip_norm: section.Float | None = section.schedule(
        1.0, "largest norm of the gradient (gradient clipping); null: no clipping by norm", gt=0
    )
    clip_by: Literal["global", "layer"] = section.schedule(
        "global", "norm that clip_norm limits: of the whole gradient, or of each layer's"
    )
    clip_value: section.Float | None = section.schedule(
        None, "largest absolute value of a gradient's elements, instead of clip_norm; null: any", gt=0
    )
    label_smoothing: section.Float = section.schedule(
        0.0, "label smoothing: probability mass spread over the vocabulary", ge=0, lt=1
    )
    bpe_dropout: section.Float = section.identity(
        0.0,
        "BPE-dropout (Provilkov et al. 2020): probability of leaving out a merge, anew in each epoch; for pairs",
        ge=0,
        lt=1,
    )
    activation_regularization: section.Float = section.schedule(
        0.0, "AR: weight of the mean square of the features after dropout (Merity et al. 2018); for text", ge=0
    )
    temporal_activation_regularization: section.Float = section.schedule(
        0.0, "TAR: weight of the mean square of the top layer's change from step to step; for text", ge=0
    )
    scheduled_sampling: ScheduledSamplingConfig | None = section.schedule(
        None, "scheduled sampling, for pairs; null: teacher forcing throughout"
    )
    accumulate: int = section.identity(1, "micro-batches of a step (gradient accumulation)", ge=1)
    multitask: multitask_settings.MultitaskConfig = section.identity(
        multitask_settings.MultitaskConfig(), "treatment of conflicting gradients of several corpora"
    )
    validate_every_steps: int | None = section.schedule(
        None, "steps between two validations; null: one at the end of each epoch", ge=1
    )
    validation: ValidationConfig = section.schedule(ValidationConfig(), "validation besides the loss")
    early_stop: EarlyStopConfig | None = section.schedule(None, "early stopping; null: none")
    checkpoint_every_steps: int = section.operational(
        500, "steps between two checkpoints; there is also one at each validation and at the end", ge=1
    )
    keep_checkpoints: int = section.operational(3, "newest checkpoints to keep; the best is always kept", ge=1)
    log_every_steps: int = section.operational(10, "steps between two rows of the run log", ge=1)
    record_gradients: bool = section.operational(
        False,
        "gradient norms by layer in the run log; at validations also spectral radii and, for text, norms by time lag "
        "and mean forget gates; slower",
    )
    init_from: str | None = section.identity(
        None, "root of a run whose weights training starts from; null: random weights"
    )
    embeddings: dict[Literal["text", "source", "target"], str] = section.identity(
        {}, "file of pretrained word vectors, in word2vec's text format, for each embedding that starts from one"
    )

    def first_inapplicable(self, corpus_kind: str) -> str | None:
        """Returns the first setting that is on, but has no effect for this kind of corpus."""
        if corpus_kind == "series":
            others = {name: field.default for name, field in type(self).model_fields.items() if name not in _OF_SERIES}
            changed = [name for name, default in others.items() if getattr(self, name) != default]
            # Series are fitted without the averages of NT-ASGD.
            if self.optimizer.kind == "asgd":
                return "optimizer"
            return "schedule.reload_best" if self.reloads_best else next(iter(changed), None)
        of_pairs = {
            "target_window": self.target_window,
            "scheduled_sampling": self.scheduled_sampling,
            "bpe_dropout": self.bpe_dropout,
            "validation.bleu_lines": self.validation.bleu_lines,
        }
        of_text = {
            "sampling": self.sampling != "sequential",
            "truncation": self.truncation.kind in ("variable", "random", "sliding"),
            "activation_regularization": self.activation_regularization,
            "temporal_activation_regularization": self.temporal_activation_regularization,
        }
        return next((name for name, is_on in (of_text if corpus_kind == "pairs" else of_pairs).items() if is_on), None)

    def split_by_weight(self, weights: Sequence[float]) -> list[Self]:
        """Returns the settings of each of several corpora, with its share of a batch's lanes, tokens or lines."""
        if len(weights) == 1:
            return [self]
        budgets = ("num_lanes", "batch_tokens", "batch_lines")
        whole = {name: getattr(self, name) for name in budgets if getattr(self, name) is not None}
        # Shares of the whole batch: adding a corpus does not make the step larger.
        parts = {name: multitask_settings.shares(total, weights) for name, total in whole.items()}
        return [
            self.model_copy(update={name: shares[index] for name, shares in parts.items()})
            for index in range(len(weights))
        ]

    @property
    def best_by(self) -> Metric:
        """Metric of the best checkpoint: that of early stopping, else perplexity."""
        return "perplexity" if self.early_stop is None else self.early_stop.metric

    @property
    def reloads_best(self) -> bool:
        """True where the schedule returns to the best checkpoint at each decay."""
        return self.schedule.kind == "plateau" and self.schedule.reload_best

    @property
    def setting_requiring_validation(self) -> str | None:
        """First setting that needs a validation split, if any."""
        requirements = {
            "early_stop": self.early_stop is not None,
            "schedule": self.schedule.kind == "plateau",
            "optimizer.non_monotone_interval": (
                self.optimizer.kind == "asgd" and self.optimizer.non_monotone_interval is not None
            ),
            "validate_every_steps": self.validate_every_steps is not None,
            "validation": self.validation != ValidationConfig(),
        }
        return next((name for name, is_on in requirements.items() if is_on), None)

    @pydantic.model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.batch_tokens is not None and self.batch_lines is not None:
            raise ValueError("batch_tokens and batch_lines exclude each other; keep one")
        if self.embeddings and self.init_from is not None:
            raise ValueError("embeddings: init_from has all weights already; remove one of them")
        if self.clip_value is not None and self.clip_norm is not None:
            raise ValueError("clip_value: excludes clip_norm; set clip_norm: null")
        if self.truncation.kind == "variable" and self.sampling == "random":
            raise ValueError("truncation: variable windows need continuous lanes; use sampling: sequential")
        if self.truncation.kind == "sliding" and self.sampling == "random":
            raise ValueError("truncation: sliding looks back into the window before; use sampling: sequential")
        if self.truncation.kind == "none" and self.sampling == "random":
            raise ValueError("truncation: none is for whole lanes, and random windows are short; use fixed")
        if self.reloads_best and self.optimizer.kind == "asgd":
            raise ValueError(
                "schedule.reload_best: does not work with averaged weights; use another optimizer, or remove it"
            )
        if self.early_stop and self.early_stop.metric == "bleu" and not self.validation.bleu_lines:
            raise ValueError(
                "early_stop.metric: bleu needs validation.bleu_lines; set the number of lines to translate"
            )
        return self
