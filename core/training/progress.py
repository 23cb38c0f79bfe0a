"""Progress of a run: the position in the data, the validations so far, and the figures shown to the user.

`State` is all that a resume needs besides tensors, and is stored in each checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from core.config import training_settings
from core.data import score_unit
from core.data.batching import buckets
from core.storage import control_files
from core.training import schedules

_LARGEST_EXPONENT = 700.0  # a float overflows at e^709.8


def perplexity(nll_nats: float) -> float:
    """Returns e to the mean negative log-likelihood of a token; capped where a float would overflow."""
    return math.exp(min(nll_nats, _LARGEST_EXPONENT))


@dataclass(frozen=True)
class Validation:
    """Results of a validation; `nll_nats` and `accuracy` are means over its `num_tokens` tokens.

    `num_unk` of them are words outside the vocabulary, scored as `<unk>`; None where an older release did not count
    them. `bleu` is that of the lines that were translated, in percent, and `bleu_signature` what sacreBLEU calls it;
    None where none were. `corpora` holds the results of each corpus of a run of several; the whole is then the mean
    over the tokens of all, and the mean BLEU. `unit` says what the perplexity is of; None where an older release did
    not.
    """

    step: int
    nll_nats: float
    accuracy: float
    num_tokens: int
    bleu: float | None = None
    corpora: Mapping[str, "Validation"] = field(default_factory=dict)
    num_unk: int | None = None
    unit: score_unit.ScoreUnit | None = None
    bleu_signature: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the figures and the perplexity as in manifests and the run log; leaves out those that are None.

        The stored name of `corpora` is "tasks".
        """
        content: dict[str, Any] = {
            "step": self.step,
            "nll_nats": self.nll_nats,
            "accuracy": self.accuracy,
            "num_tokens": self.num_tokens,
            "bleu": self.bleu,
            "bleu_signature": self.bleu_signature,
            "tasks": {name: validation.to_json() for name, validation in self.corpora.items()} or None,
            "num_unk": self.num_unk,
            "perplexity": perplexity(self.nll_nats),  # for readers of the file; not read back
            **({} if self.unit is None else self.unit.to_json()),
        }
        return {name: value for name, value in content.items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`."""
        bleu, num_unk, bleu_signature = (value.get(name) for name in ("bleu", "num_unk", "bleu_signature"))
        return cls(
            int(value["step"]),
            float(value["nll_nats"]),
            float(value["accuracy"]),
            int(value["num_tokens"]),
            None if bleu is None else float(bleu),
            {str(name): cls.from_json(entry) for name, entry in value.get("tasks", {}).items()},
            None if num_unk is None else int(num_unk),
            score_unit.ScoreUnit.from_json(value),
            None if bleu_signature is None else str(bleu_signature),
        )

    @classmethod
    def combine(cls, by_corpus: Mapping[str, Self]) -> Self:
        """Returns the validations of several corpora as one."""
        validations = list(by_corpus.values())
        num_tokens = sum(validation.num_tokens for validation in validations)
        # Weighted by tokens, as one validation over the lines of all would be.
        nll_nats, accuracy = (
            sum(getattr(validation, name) * validation.num_tokens for validation in validations) / num_tokens
            for name in ("nll_nats", "accuracy")
        )
        bleus = [validation.bleu for validation in validations if validation.bleu is not None]
        bleu = sum(bleus) / len(bleus) if bleus else None
        num_unk = sum(validation.num_unk or 0 for validation in validations)
        unit = validations[0].unit
        # Of a mean there is no signature but that of its members, which share their settings.
        signature = next((validation.bleu_signature for validation in validations if validation.bleu_signature), None)
        return cls(validations[0].step, nll_nats, accuracy, num_tokens, bleu, by_corpus, num_unk, unit, signature)


def best_validation(validations: Sequence[Validation], metric: training_settings.Metric) -> Validation | None:
    """Returns the best validation by `training_settings.selection_key`, the first of equal ones; None of none."""
    return min(
        validations, key=lambda validation: training_settings.selection_key(metric, validation.to_json()), default=None
    )


def validations_since_best(validations: Sequence[Validation], metric: training_settings.Metric) -> int:
    """Counts the validations since the best one, the first of equal ones, for early stopping; 0 without any."""
    best = best_validation(validations, metric)
    return 0 if best is None else len(validations) - 1 - validations.index(best)


@dataclass
class CorpusState:
    """Position of a run in the data of one of its corpora; most runs have one corpus.

    Attributes:
        epoch: completed epochs of the corpus; its stored name is "passes".
        consumed: the position in the current epoch, in the unit of its batches (see `batches.BatchStream`).
        fraction: the fraction of the current epoch that is done.
        nll_sum: since the last row of the run log, in nats, without label smoothing.
        num_unlogged_targets: the number of targets that `nll_sum` is over; its stored name is "num_stale_targets".
        pool: of bucketed pairs, the state of planning before the pool of the last batch; it is stored after the first
            pool of an epoch, and an older checkpoint without it resumes at the same batch, after planning up to there.
    """

    epoch: int = 0
    consumed: int = 0
    fraction: float = 0.0
    nll_sum: float = 0.0
    num_unlogged_targets: int = 0  # saved, so that a resume continues a half-accumulated log row
    pool: buckets.PoolStart = buckets.BEGINNING

    def to_json(self) -> dict[str, Any]:
        """Returns the position as in checkpoints, under the stored names."""
        return {
            "passes": self.epoch,
            "consumed": self.consumed,
            "fraction": self.fraction,
            "nll_sum": self.nll_sum,
            "num_stale_targets": self.num_unlogged_targets,
            **({} if self.pool == buckets.BEGINNING else {"pool": self.pool._asdict()}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`."""
        return cls(
            epoch=int(value["passes"]),
            consumed=int(value["consumed"]),
            fraction=float(value["fraction"]),
            nll_sum=float(value["nll_sum"]),
            num_unlogged_targets=int(value["num_stale_targets"]),
            pool=buckets.PoolStart.from_json(value["pool"]) if "pool" in value else buckets.BEGINNING,
        )


@dataclass
class State:
    """Position of a run. A state at step k means: k steps are done, and the next batch is number k.

    Attributes:
        step: steps done, including skipped ones.
        corpora: the position in the data of each corpus, in the order of the dataset.
        num_tokens: valid targets trained on, of all ranks.
        num_skipped: steps whose gradient was not finite.
        num_skipped_in_row: consecutive ones up to now.
        loss_sum: since the last row of the run log, in nats.
        history: the validations so far.
        plateau_start: where a plateau schedule counts from.
        early_stop_start: the number of validations before early stopping was switched on, which it does not count.
        is_validation_due: whether a validation waits for the end of a streak of skipped steps.
        is_save_due: whether a checkpoint does.
        elapsed_s: seconds of training up to here, of all starts; what a start did after its last checkpoint is done
            again, and counts once.
        untimed_steps: the steps of a release that did not save their seconds, which are not in `elapsed_s`.
    """

    step: int = 0
    corpora: list[CorpusState] = field(default_factory=lambda: [CorpusState()])
    num_tokens: int = 0
    num_skipped: int = 0
    num_skipped_in_row: int = 0  # saved, so that a restart does not reset the streak
    loss_sum: float = 0.0
    history: list[Validation] = field(default_factory=list)  # schedules and early stopping follow from it
    plateau_start: schedules.PlateauStart = schedules.BEGINNING
    early_stop_start: int = 0
    is_validation_due: bool = False
    is_save_due: bool = False
    elapsed_s: float = field(default=0.0, compare=False)  # of the clock, not of the run: equal runs differ in it
    untimed_steps: int = 0

    @property
    def epoch(self) -> int:
        """Completed epochs: those of the corpus with the fewest."""
        return self._slowest.epoch

    @property
    def fraction(self) -> float:
        """The fraction of the current epoch that is done, of the same corpus."""
        return self._slowest.fraction

    @property
    def _slowest(self) -> CorpusState:
        # An epoch of the run is done when the last corpus has done its own.
        return min(self.corpora, key=lambda corpus: (corpus.epoch, corpus.fraction))

    @property
    def epochs_done(self) -> float:
        """Epochs done, including the fraction of the current one."""
        return self.epoch + self.fraction

    def selection_keys(self, metric: training_settings.Metric) -> list[tuple[float, float]]:
        """Returns what the validations so far are compared by: stopping, plateaus and the best checkpoint agree."""
        return [training_settings.selection_key(metric, validation.to_json()) for validation in self.history]

    def to_json(self) -> dict[str, Any]:
        """Returns the state as in checkpoints; floats are kept to the bit. The stored name of `corpora` is "tasks"."""
        return {
            "step": self.step,
            "tasks": [corpus.to_json() for corpus in self.corpora],
            "num_tokens": self.num_tokens,
            "num_skipped": self.num_skipped,
            "num_skipped_in_row": self.num_skipped_in_row,
            "loss_sum": self.loss_sum,
            "history": [validation.to_json() for validation in self.history],
            "plateau_start": self.plateau_start._asdict(),
            "early_stop_start": self.early_stop_start,
            "is_validation_due": self.is_validation_due,
            "is_save_due": self.is_save_due,
            "elapsed_s": self.elapsed_s,
            "untimed_steps": self.untimed_steps,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Reads the result of `to_json`.

        Raises:
            IntegrityError: the content is something else.
        """
        with control_files.parsing(where):
            # Older releases had one corpus, whose position was stored in the state itself, with "epoch" for "passes".
            entries = value["tasks"] if "tasks" in value else [{**value, "passes": value["epoch"]}]
            plateau_start = value.get("plateau_start", {})  # younger than release 0.1, as all below it are
            return cls(
                step=int(value["step"]),
                corpora=[CorpusState.from_json(entry) for entry in entries],
                num_tokens=int(value["num_tokens"]),
                num_skipped=int(value["num_skipped"]),
                num_skipped_in_row=int(value["num_skipped_in_row"]),
                loss_sum=float(value["loss_sum"]),
                history=[Validation.from_json(entry) for entry in value["history"]],
                plateau_start=schedules.PlateauStart(
                    int(plateau_start.get("num_validations", 0)), float(plateau_start.get("factor", 1.0))
                ),
                early_stop_start=int(value.get("early_stop_start", 0)),
                is_validation_due=bool(value.get("is_validation_due", False)),
                is_save_due=bool(value.get("is_save_due", False)),
                elapsed_s=float(value.get("elapsed_s", 0.0)),
                untimed_steps=int(value.get("untimed_steps", 0 if "elapsed_s" in value else value["step"])),
            )


@dataclass(frozen=True)
class Progress:
    """Figures shown to the user. The loss, in nats per token, is None before the first row of the run log.

    Another `fencing_number` than before means that the worker group has started again, from its last checkpoint, which
    is at `first_step`.
    """

    step: int
    epoch: int
    fraction: float
    tokens_per_s: float
    loss_nats: float | None
    validation: Validation | None
    fencing_number: int = 0
    first_step: int = 0
