"""Settings of training."""

from typing import Literal, Self

import pydantic

from core.config import section


class EarlyStopConfig(section.Section):
    """Ends training when validation stops getting better."""

    metric: Literal["perplexity"] = section.schedule("perplexity", "what is watched")
    patience: int = section.schedule(5, "so many validations without a better value", ge=1)


class TrainingConfig(section.Section):
    """How the model is trained."""

    epochs: int = section.schedule(10, "passes over the training data", ge=1)
    max_steps: int | None = section.schedule(None, "ends earlier, after so many steps", ge=1)
    batch_tokens: int | None = section.identity(
        None, "of pairs: tokens of a batch over all ranks, the longer side of each pair", ge=1
    )
    batch_lines: int | None = section.identity(None, "of pairs: lines of a batch over all ranks", ge=1)
    num_lanes: int = section.identity(32, "of text: continuous token streams of a batch, over all ranks", ge=1)
    window: int = section.identity(35, "of text: tokens of a lane in one step", ge=1)
    sampling: Literal["sequential", "random"] = section.identity(
        "sequential", "sequential: lanes carry their state on; random: shuffled windows from the zero state"
    )
    truncation: Literal["fixed", "none"] = section.identity(
        "fixed", "fixed: gradients stop at the window; none: they run through a whole lane or target line"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = section.identity("adam", "the optimiser")
    learning_rate: section.Float = section.schedule(1e-3, "at its highest", gt=0)
    momentum: section.Float = section.schedule(0.0, "of sgd", ge=0, lt=1)
    betas: tuple[section.Float, section.Float] = section.schedule((0.9, 0.999), "of adam and adamw")
    epsilon: section.Float = section.schedule(1e-8, "of adam and adamw", gt=0)
    weight_decay: section.Float = section.schedule(0.0, "L2 penalty (sgd, adam); decoupled (adamw)", ge=0)
    schedule: Literal["constant", "step", "cosine", "inverse_sqrt", "plateau"] = section.schedule(
        "constant", "how the learning rate falls after the warm-up"
    )
    warmup_steps: int = section.schedule(0, "steps in which the rate rises linearly from 0", ge=0)
    decay_factor: section.Float = section.schedule(
        0.1, "of step and plateau: what the rate is multiplied by", gt=0, lt=1
    )
    decay_every_epochs: int = section.schedule(1, "of step: epochs between two decays", ge=1)
    decay_patience: int = section.schedule(1, "of plateau: validations without a better value before a decay", ge=0)
    final_rate: section.Float = section.schedule(0.0, "of cosine: the last rate, as a share of the highest", ge=0, le=1)
    clip_norm: section.Float | None = section.schedule(
        1.0, "largest global norm of the gradient; null: no clipping", gt=0
    )
    label_smoothing: section.Float = section.schedule(
        0.0, "share of the target's probability spread evenly", ge=0, lt=1
    )
    accumulate: int = section.identity(1, "micro-batches of one step", ge=1)
    validate_every_steps: int | None = section.schedule(None, "null: at the end of each epoch", ge=1)
    early_stop: EarlyStopConfig | None = section.schedule(None, "null: train to the end")
    checkpoint_every_steps: int = section.operational(
        500, "steps between two checkpoints; validations and the end add theirs", ge=1
    )
    keep_checkpoints: int = section.operational(3, "the newest so many are kept, and the best", ge=1)
    log_every_steps: int = section.operational(10, "steps between two rows of the run record", ge=1)
    init_from: str | None = section.identity(None, "starts from the weights of another run's root")

    @pydantic.model_validator(mode="after")
    def _one_batch_size(self) -> Self:
        if self.batch_tokens is not None and self.batch_lines is not None:
            raise ValueError("batch_tokens and batch_lines exclude each other; keep one")
        return self
