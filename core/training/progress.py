"""How far a run is: what a checkpoint keeps of it, what a watcher is shown, and the record of the run."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from core import errors
from core.storage import location

RECORD_FOLDER = "metrics"
_LARGEST_EXPONENT = 700.0
_NUMBERS = ("step", "num_tokens", "num_skipped", "num_skipped_in_row")


def perplexity(nll_nats: float) -> float:
    """Returns e to the mean negative log-likelihood of a token; capped where a float would overflow."""
    return math.exp(min(nll_nats, _LARGEST_EXPONENT))


@dataclass(frozen=True)
class Validation:
    """What a validation found; `nll_nats` and `accuracy` are means over its `num_tokens` tokens.

    `num_unk` of them are words that the vocabulary lacks, scored as `<unk>`; None where an older release did not count.
    `bleu` is that of the lines that were translated, in percent; None where none were. Of several tasks, `tasks` has
    what was found for each; the whole is then the mean over the tokens of all, and the mean of the BLEUs.
    """

    step: int
    nll_nats: float
    accuracy: float
    num_tokens: int
    bleu: float | None = None
    tasks: Mapping[str, "Validation"] = field(default_factory=dict)
    num_unk: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures, perplexity among them, as they stand in manifests and in the record; those that there are."""
        content = {**dataclasses.asdict(self), "perplexity": perplexity(self.nll_nats)}
        for name in ("bleu", "num_unk"):
            if content[name] is None:
                del content[name]
        content["tasks"] = {name: found.to_json() for name, found in self.tasks.items()}
        if not self.tasks:
            del content["tasks"]
        return content

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote."""
        bleu, num_unk = value.get("bleu"), value.get("num_unk")
        return cls(
            int(value["step"]),
            float(value["nll_nats"]),
            float(value["accuracy"]),
            int(value["num_tokens"]),
            None if bleu is None else float(bleu),
            {str(name): cls.from_json(found) for name, found in value.get("tasks", {}).items()},
            None if num_unk is None else int(num_unk),
        )

    @classmethod
    def together(cls, found: Mapping[str, Self]) -> Self:
        """The validation of several tasks as one."""
        num_tokens = sum(one.num_tokens for one in found.values())
        nll_nats, accuracy = (
            sum(getattr(one, name) * one.num_tokens for one in found.values()) / num_tokens
            for name in ("nll_nats", "accuracy")
        )
        bleus = [one.bleu for one in found.values() if one.bleu is not None]
        bleu = sum(bleus) / len(bleus) if bleus else None
        num_unk = sum(one.num_unk or 0 for one in found.values())
        return cls(next(iter(found.values())).step, nll_nats, accuracy, num_tokens, bleu, found, num_unk)


@dataclass
class Task:
    """Where a run is in the data of one of its tasks; most runs have one.

    Attributes:
        passes: whole passes over the data done.
        consumed: the place in the current pass, as its batches count it.
        fraction: the part of the current pass that is done.
        nll_sum: since the last row of the record, in nats, without label smoothing.
        num_stale_targets: the targets that it is over.
    """

    passes: int = 0
    consumed: int = 0
    fraction: float = 0.0
    nll_sum: float = 0.0
    num_stale_targets: int = 0


@dataclass
class State:
    """Where a run is. A state at step k means: k steps are done, and the next batch is number k.

    Attributes:
        step: steps done, those that were skipped included.
        tasks: where it is in the data of each task, in the order of the dataset.
        num_tokens: valid targets trained on, of all ranks.
        num_skipped: steps whose gradient was not finite.
        num_skipped_in_row: how many of them were the last ones.
        loss_sum: since the last row of the record, in nats.
        history: the validations so far.
    """

    step: int = 0
    tasks: list[Task] = field(default_factory=lambda: [Task()])
    num_tokens: int = 0
    num_skipped: int = 0
    num_skipped_in_row: int = 0
    loss_sum: float = 0.0
    history: list[Validation] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Whole passes done over the data of each task: of the task that has done the fewest."""
        return self._slowest.passes

    @property
    def fraction(self) -> float:
        """The part of the current pass that is done, of the same task."""
        return self._slowest.fraction

    @property
    def _slowest(self) -> Task:
        return min(self.tasks, key=lambda task: (task.passes, task.fraction))

    @property
    def epochs_done(self) -> float:
        """Passes over the data, with the part of the current one."""
        return self.epoch + self.fraction

    @property
    def losses(self) -> list[float]:
        """The validation losses so far, in nats."""
        return [validation.nll_nats for validation in self.history]

    def watched(self, metric: Literal["perplexity", "bleu"]) -> list[float]:
        """The validations so far as numbers of which the lowest is the best."""
        if metric == "perplexity":
            return self.losses
        return [math.inf if validation.bleu is None else -validation.bleu for validation in self.history]

    def to_json(self) -> dict[str, Any]:
        """The state as a checkpoint keeps it; floats are kept to the bit."""
        content = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        tasks = [dataclasses.asdict(task) for task in self.tasks]
        return {**content, "tasks": tasks, "history": [validation.to_json() for validation in self.history]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            IntegrityError: it is something else.
        """
        try:
            numbers = {name: int(value[name]) for name in _NUMBERS}
            # Before there were tasks, what is said of the only one stood in the state itself, an epoch for a pass.
            entries = value["tasks"] if "tasks" in value else [{**value, "passes": value["epoch"]}]
            tasks = [_task(entry) for entry in entries]
            loss_sum = float(value["loss_sum"])
            history = [Validation.from_json(entry) for entry in value["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise errors.IntegrityError(f"{where}: does not say how far the run was ({error}); restore it") from error
        return cls(tasks=tasks, loss_sum=loss_sum, history=history, **numbers)


def _task(value: Mapping[str, Any]) -> Task:
    return Task(
        passes=int(value["passes"]),
        consumed=int(value["consumed"]),
        fraction=float(value["fraction"]),
        nll_sum=float(value["nll_sum"]),
        num_stale_targets=int(value["num_stale_targets"]),
    )


@dataclass(frozen=True)
class Progress:
    """What a watcher is shown. Losses are None before the first row of the record."""

    step: int
    max_steps: int | None
    epoch: int
    epochs: int
    fraction: float
    num_tokens: int
    tokens_per_s: float
    learning_rate: float
    gradient_norm: float | None
    loss_nats: float | None
    perplexity: float | None
    validation: Validation | None


class Record:
    """The rows of one start of a run, written a segment at a time: each step in the file of the checkpoint after it.

    The rows of a start that ended before its next checkpoint are lost, and made again by the next start.
    """

    def __init__(self, root: location.Location, epoch: int) -> None:
        self._root, self._epoch = root, epoch
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps a row for the next segment."""
        self._rows.append(row)

    def flush(self, step: int) -> None:
        """Writes the rows since the last segment, if there are any.

        Raises:
            StorageError: it cannot be written.
            LockedError: something else has this name.
        """
        if not self._rows:
            return
        place = self._root.join(RECORD_FOLDER, f"e{self._epoch}-{step:08d}.jsonl")
        lines = [json.dumps(row, allow_nan=False) for row in self._rows]
        data = ("\n".join(lines) + "\n").encode()
        if not place.put_if_absent(data) and place.read_bytes() != data:
            raise errors.LockedError(f"{place}: was written by another run; use another root")
        self._rows = []
