"""A language model along one long stream of text: what it carries from part to part, remembers and learns."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core import errors
from core.config import inference_settings
from core.data.batching import lanes
from core.decoding import device as devices
from core.decoding.scoring import dynamic_evaluation, likelihood, neural_cache
from core.models import compute as computing
from core.models import language_model, weights
from core.models import state as states
from core.models.ngram import ngram_model

# The cache compares each position with all that are remembered, so many positions at a time.
_COMPARED_AT_ONCE = 256

# What the names of carried tensors begin with, beside those of the recurrent state.
_CACHE = "cache."
_WEIGHTS = "weights."


class Carried(NamedTuple):
    """What a stream leaves for its continuation: the last token, which is still to be read, and the state.

    With a neural cache also what it remembers, with dynamic evaluation the weights as they are now; else None.
    """

    last: int | None
    state: states.State
    memory: neural_cache.Memory | None = None
    weights: Mapping[str, Tensor] | None = None

    def to_bytes(self) -> bytes:
        """Writes it as a safetensors file."""
        named = {"last": torch.tensor([-1 if self.last is None else self.last]), **states.to_named(self.state)}
        if self.memory is not None:
            named |= {f"{_CACHE}{name}": part for name, part in self.memory._asdict().items()}
        if self.weights is not None:
            named |= {f"{_WEIGHTS}{name}": part for name, part in self.weights.items()}
        return weights.to_bytes(named)

    @staticmethod
    def from_bytes(data: bytes, where: str) -> "Carried":
        """Undoes `to_bytes`.

        Raises:
            IntegrityError: the bytes are something else.
        """
        named = weights.from_bytes(data, where)
        remembered, learnt = _take(named, _CACHE), _take(named, _WEIGHTS)
        is_whole = not remembered or remembered.keys() == set(neural_cache.Memory._fields)
        if "last" not in named or named["last"].shape != (1,) or not is_whole:
            raise errors.IntegrityError(f"{where}: holds no carried state; remove the output and run again")
        last = int(named.pop("last"))
        memory = neural_cache.Memory(**remembered) if remembered else None
        return Carried(None if last < 0 else last, states.from_named(named), memory, learnt or None)

    def to(self, device: str) -> "Carried":
        """Moves all of it to a device."""
        return Carried(
            self.last,
            tuple(tuple(part.to(device) for part in layer) for layer in self.state),
            None if self.memory is None else neural_cache.Memory(*(part.to(device) for part in self.memory)),
            None if self.weights is None else {name: part.to(device) for name, part in self.weights.items()},
        )


class Follower:
    """Runs a language model along a stream, window by window; state, memory and weights go in and come out."""

    def __init__(
        self,
        model: language_model.LanguageModel,
        vocabulary_size: int,
        scoring: inference_settings.ScoringConfig,
        placed: devices.Placed,
        training_text: lanes.Stream | None,
    ) -> None:
        """Makes the model ready; with dynamic evaluation its weights change from then on.

        Args:
            model: placed, in evaluation mode.
            vocabulary_size: V.
            scoring: what is remembered and learnt, and how much is computed together.
            placed: where and in which precision the model computes.
            training_text: what dynamic evaluation of the rule `rms` measures gradients on.

        Raises:
            UsageError: dynamic evaluation in a precision that cannot learn.
        """
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._settings = scoring
        self._placed = placed
        # Every stream starts where the trained model does: a learned first state changes with the weights.
        self._first = tuple(tuple(part.detach().clone() for part in layer) for layer in model.initial_state(1))
        self._learner = None if scoring.dynamic is None else self._make_learner(scoring.dynamic, training_text)

    def start(self, first: int | None) -> Carried:
        """What a stream starts from: the zero state, nothing remembered, the trained weights."""
        memory = (
            None if self._settings.cache is None else neural_cache.empty(self._model.feature_size, self._placed.device)
        )
        learnt = None if self._learner is None else self._learner.trained
        return Carried(first, self._first, memory, learnt)

    def follow(self, stream: Sequence[int], carried: Carried) -> tuple[likelihood.Judged, Carried]:
        """Judges every token of a stream but the first, which is the one that was carried.

        What is learnt from a window counts from the next on. The last window of a call may be short: with dynamic
        evaluation it depends on where calls divide the stream what comes out.

        Raises:
            DivergedError: what was learnt has made the loss infinite.
        """
        tokens_N = torch.tensor(stream, device=self._placed.device)
        _, state, memory, learnt = carried.to(self._placed.device)
        if self._learner is not None:
            assert learnt is not None, "the weights of a stream travel with it"
            self._learner.go_on_from(learnt)
        learning = self._settings.dynamic
        window = self._settings.batch_tokens if learning is None else learning.window
        pieces = []
        for start in range(0, len(stream) - 1, window):
            stop = min(start + window, len(stream) - 1)
            inputs_1T, targets_T = tokens_N[None, start:stop], tokens_N[start + 1 : stop + 1]
            if self._learner is None:
                judged, state, memory = self._read(inputs_1T, targets_T, state, memory)
            else:
                judged, state, memory, loss = self._read_to_learn(inputs_1T, targets_T, state, memory)
                if not bool(loss.isfinite()):
                    raise errors.DivergedError(
                        "scoring.dynamic.learning_rate: the weights ran away from the text; use a smaller rate"
                    )
                self._learner.learn(loss / window)
            pieces.append(judged)
        learnt = None if self._learner is None else self._learner.weights()
        return likelihood.join(pieces), Carried(stream[-1], state, memory, learnt)

    def _read(
        self, inputs_1T: Tensor, targets_T: Tensor, state: states.State, memory: neural_cache.Memory | None
    ) -> tuple[likelihood.Judged, states.State, neural_cache.Memory | None]:
        with likelihood.reading(self._placed):
            (features_TF,), state = self._model(inputs_1T, state)
            if memory is None:
                return likelihood.judge(self._model, self._vocabulary_size, features_TF, targets_T), state, None
            pieces = []
            for rows in likelihood.slices(len(targets_T), self._vocabulary_size, _COMPARED_AT_ONCE):
                log_probs_TV = likelihood.log_probs(self._model, features_TF[rows])
                judged, memory = self._recall(memory, features_TF[rows], targets_T[rows], log_probs_TV)
                pieces.append(judged)
            return likelihood.join(pieces), state, memory

    def _read_to_learn(
        self, inputs_1T: Tensor, targets_T: Tensor, state: states.State, memory: neural_cache.Memory | None
    ) -> tuple[likelihood.Judged, states.State, neural_cache.Memory | None, Tensor]:
        """Does what `_read` does, and returns the summed loss of the model alone, which has a gradient."""
        with self._autocast():
            (features_TF,), state = self._model(inputs_1T, state)
            log_probs_TV = likelihood.log_probs(self._model, features_TF)
        loss = F.nll_loss(log_probs_TV, targets_T, reduction="sum")
        judged, memory = self._recall(memory, features_TF.detach(), targets_T, log_probs_TV.detach())
        return judged, states.detach(state), memory, loss

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return computing.autocast(self._placed.device, "bf16" if self._placed.precision == "bf16" else "fp32")

    def _recall(
        self, memory: neural_cache.Memory | None, features_TF: Tensor, targets_T: Tensor, log_probs_TV: Tensor
    ) -> tuple[likelihood.Judged, neural_cache.Memory | None]:
        if memory is not None:
            assert self._settings.cache is not None, "only a cache leaves a memory"
            log_probs_TV, memory = neural_cache.blend(
                self._settings.cache, memory, features_TF, targets_T, log_probs_TV
            )
        return likelihood.judge_log_probs(log_probs_TV, targets_T), memory

    def _make_learner(
        self, settings: inference_settings.DynamicConfig, training_text: lanes.Stream | None
    ) -> dynamic_evaluation.Learner:
        if self._placed.precision == "int8":
            raise errors.UsageError(
                "scoring.dynamic: rounded weights cannot learn; use compute.precision: fp32 or bf16"
            )
        dynamic_evaluation.make_differentiable(self._model)
        if settings.rule == "sgd":
            return dynamic_evaluation.Learner(self._model, settings, None)
        assert training_text is not None, "the rule rms measures training text"
        with self._autocast():
            rms = dynamic_evaluation.gradient_rms(
                self._model, training_text, settings.window, settings.statistics_windows, self._placed.device
            )
        return dynamic_evaluation.Learner(self._model, settings, rms)


class Lookup:
    """Runs n-gram tables along a stream: there is nothing to learn, and what counts is in the state."""

    def __init__(self, model: ngram_model.Ngram, placed: devices.Placed) -> None:
        self._model = model
        self._followers = model.followers()
        self._device = placed.device

    def start(self, first: int | None) -> Carried:
        """What a stream starts from: nothing came before."""
        return Carried(first, self._model.initial_state(1))

    def follow(self, stream: Sequence[int], carried: Carried) -> tuple[likelihood.Judged, Carried]:
        """Judges every token of a stream but the first, which is the one that was carried."""
        inputs_1T = torch.tensor([stream[:-1]], device=self._device)
        (judged,), state = self.judge(inputs_1T, [stream[1:]], carried.to(self._device).state)
        return judged, Carried(stream[-1], state)

    def judge(
        self, inputs_BT: Tensor, targets: Sequence[Sequence[int]], state: states.State
    ) -> tuple[list[likelihood.Judged], states.State]:
        """Judges the targets of each row, of which there may be fewer than inputs."""
        guesses_BT = self._model.guesses(inputs_BT, state, self._followers).cpu().numpy()
        nlls, after = self._model.score(inputs_BT, targets, state)
        found = [
            likelihood.Judged(nlls_T.double().cpu().numpy(), guesses_T[: len(own)] == np.array(own, dtype=np.int64))
            for nlls_T, guesses_T, own in zip(nlls, guesses_BT, targets, strict=True)
        ]
        return found, after


def _take(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes out what begins with a prefix, which it loses."""
    names = [name for name in named if name.startswith(prefix)]
    return {name.removeprefix(prefix): named.pop(name) for name in names}
