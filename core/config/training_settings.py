"""Settings of training."""

from collections.abc import Sequence
from typing import Literal, Self

import pydantic

from core.config import (
    multitask_settings,
    optimizer_settings,
    schedule_settings,
    section,
    truncation_settings,
)

Metric = Literal["perplexity", "bleu"]


class EarlyStopConfig(section.Section):
    """Ends training when validation stops getting better."""

    metric: Metric = section.schedule("perplexity", "what is watched; the best checkpoint is the best by it")
    patience: int = section.schedule(5, "so many validations without a better value", ge=1)


class ScheduledSamplingConfig(section.Section):
    """Feeds the decoder its own words now and then; their share goes linearly from one value to the other."""

    start: section.Float = section.schedule(0.0, "share of the model's own words at first", ge=0, le=1)
    end: section.Float = section.schedule(0.25, "share of the model's own words in the end", ge=0, le=1)
    over_steps: int = section.schedule(10_000, "steps from one to the other", ge=1)


class ValidationConfig(section.Section):
    """What a validation does besides the loss."""

    bleu_lines: int = section.schedule(0, "of pairs: lines that are translated, greedily, for BLEU", ge=0)
    samples: int = section.schedule(0, "translations, or continuations of lines, kept in the run record", ge=0)


# Settings that the regressor of a series heeds; all others have to keep their defaults.
_OF_SERIES = {
    *("epochs", "max_steps", "batch_lines", "optimizer", "learning_rate", "schedule", "clip_norm"),
}


class TrainingConfig(section.Section):
    """How the model is trained."""

    epochs: int = section.schedule(10, "passes over the training data", ge=1)
    max_steps: int | None = section.schedule(None, "ends earlier, after so many steps", ge=1)
    batch_tokens: int | None = section.identity(
        None, "of pairs: tokens of a batch over all ranks, the longer side of each pair", ge=1
    )
    batch_lines: int | None = section.identity(
        None, "of pairs: lines of a batch over all ranks; of series: examples of a batch", ge=1
    )
    num_lanes: int = section.identity(32, "of text: continuous token streams of a batch, over all ranks", ge=1)
    window: int = section.identity(35, "of text: tokens of a lane in one step", ge=1)
    sampling: Literal["sequential", "random"] = section.identity(
        "sequential", "sequential: lanes carry their state on; random: shuffled windows from the zero state"
    )
    truncation: truncation_settings.TruncationConfig = section.identity(
        truncation_settings.WindowConfig(),
        "truncated backpropagation through time, for text: a kind, or a kind with its settings",
        discriminator="kind",
    )
    target_window: int | None = section.identity(
        None, "of pairs: gradients stop every so many target tokens; null: they run through the whole target", ge=1
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
        1.0, "largest norm of the gradient; null: no clipping by norm", gt=0
    )
    clip_by: Literal["global", "layer"] = section.schedule(
        "global", "the norm is that of the whole gradient, or of each layer's on its own"
    )
    clip_value: section.Float | None = section.schedule(
        None, "each entry of the gradient is kept between minus and plus this; instead of clip_norm", gt=0
    )
    label_smoothing: section.Float = section.schedule(
        0.0, "share of the target's probability spread evenly", ge=0, lt=1
    )
    bpe_dropout: section.Float = section.identity(
        0.0,
        "of pairs: BPE-dropout, the chance that a merge of a training word is left out, anew in each epoch",
        ge=0,
        lt=1,
    )
    activation_regularization: section.Float = section.schedule(
        0.0, "of text: AR, weight of the mean square of the features after dropout", ge=0
    )
    temporal_activation_regularization: section.Float = section.schedule(
        0.0, "of text: TAR, weight of the mean square of what the top layer changes from step to step", ge=0
    )
    scheduled_sampling: ScheduledSamplingConfig | None = section.schedule(
        None, "of pairs: null: the decoder is always fed the true words"
    )
    accumulate: int = section.identity(1, "micro-batches of one step", ge=1)
    multitask: multitask_settings.MultitaskConfig = section.identity(
        multitask_settings.MultitaskConfig(), "of several corpora: what is done where their gradients disagree"
    )
    validate_every_steps: int | None = section.schedule(None, "null: at the end of each epoch", ge=1)
    validation: ValidationConfig = section.schedule(ValidationConfig(), "what it does besides the loss")
    early_stop: EarlyStopConfig | None = section.schedule(None, "null: train to the end")
    checkpoint_every_steps: int = section.operational(
        500, "steps between two checkpoints; validations and the end add theirs", ge=1
    )
    keep_checkpoints: int = section.operational(3, "the newest so many are kept, and the best", ge=1)
    log_every_steps: int = section.operational(10, "steps between two rows of the run record", ge=1)
    record_gradients: bool = section.operational(
        False,
        "the run record has norms by layer; at validations spectral radii, and of text norms by time lag and how much "
        "of its memory a layer keeps; costs time",
    )
    init_from: str | None = section.identity(None, "starts from the weights of another run's root")
    embeddings: dict[Literal["text", "source", "target"], str] = section.identity(
        {}, "a file of word vectors (word2vec's text form) for each embedding that starts from one"
    )

    def foreign(self, corpus_kind: str) -> str | None:
        """The first setting that is on, but means nothing for this kind of corpus."""
        if corpus_kind == "series":
            others = {name: field.default for name, field in type(self).model_fields.items() if name not in _OF_SERIES}
            changed = [name for name, default in others.items() if getattr(self, name) != default]
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
            "truncation": self.truncation.kind in ("variable", "random"),
            "activation_regularization": self.activation_regularization,
            "temporal_activation_regularization": self.temporal_activation_regularization,
        }
        return next((name for name, is_on in (of_text if corpus_kind == "pairs" else of_pairs).items() if is_on), None)

    def shared_out(self, weights: Sequence[float]) -> list[Self]:
        """The settings of each of several tasks: its share of a batch's lanes, tokens or lines."""
        if len(weights) == 1:
            return [self]
        budgets = ("num_lanes", "batch_tokens", "batch_lines")
        whole = {name: getattr(self, name) for name in budgets if getattr(self, name) is not None}
        parts = {name: multitask_settings.shares(total, weights) for name, total in whole.items()}
        return [
            self.model_copy(update={name: found[task] for name, found in parts.items()}) for task in range(len(weights))
        ]

    @property
    def best_by(self) -> Metric:
        """What the best checkpoint is the best by: what early stopping watches, else perplexity."""
        return "perplexity" if self.early_stop is None else self.early_stop.metric

    @property
    def reloads_best(self) -> bool:
        """Whether the schedule returns to the best checkpoint at each decay."""
        return self.schedule.kind == "plateau" and self.schedule.reload_best

    @property
    def needs_validation(self) -> str | None:
        """The first setting that asks for what only a validation tells."""
        asks = {
            "early_stop": self.early_stop is not None,
            "schedule": self.schedule.kind == "plateau",
            "optimizer.non_monotone_interval": (
                self.optimizer.kind == "asgd" and self.optimizer.non_monotone_interval is not None
            ),
            "validate_every_steps": self.validate_every_steps is not None,
            "validation": self.validation != ValidationConfig(),
        }
        return next((name for name, is_on in asks.items() if is_on), None)

    @pydantic.model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.batch_tokens is not None and self.batch_lines is not None:
            raise ValueError("batch_tokens and batch_lines exclude each other; keep one")
        if self.embeddings and self.init_from is not None:
            raise ValueError("embeddings: init_from gives all weights already; drop one of them")
        if self.clip_value is not None and self.clip_norm is not None:
            raise ValueError("clip_value: excludes clip_norm; set clip_norm: null")
        if self.truncation.kind == "variable" and self.sampling == "random":
            raise ValueError("truncation: variable windows are cut from continuous lanes; use sampling: sequential")
        if self.truncation.kind == "none" and self.sampling == "random":
            raise ValueError("truncation: none is for whole lanes; gradients run through a random window, use fixed")
        if self.reloads_best and self.optimizer.kind == "asgd":
            raise ValueError("schedule.reload_best: asgd keeps averages of weights; use another optimizer, or drop it")
        if self.early_stop and self.early_stop.metric == "bleu" and not self.validation.bleu_lines:
            raise ValueError("early_stop.metric: bleu needs validation.bleu_lines; say how many lines to translate")
        return self
