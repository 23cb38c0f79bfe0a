"""Stream scoring: a language model over one long text, whose state is carried over from part to part.

The state holds the recurrent state, with a neural cache also the cached positions, with dynamic evaluation the weights.
"""

import contextlib
import itertools
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
from core.models import language_model, mixture
from core.models import state as states
from core.models import weights as tensor_files
from core.models.ngram import ngram_model

# Positions compared with the whole cache at once: bounds the memory of their similarities.
_POSITIONS_PER_COMPARISON = 256

# Tokens that an n-gram model looks up together.
_TOKENS_AT_ONCE = 1 << 18

# Stored: prefixes of tensor names in the state's file, which also has `last` and the recurrent state.
_CACHE = "cache."
_WEIGHTS = "weights."


class StreamState(NamedTuple):
    """State of a stream after some of its text.

    Attributes:
        last_token: scored already, but still to be read by the model; None before the first token.
        recurrent: the recurrent state, of an n-gram model the last tokens.
        cache: of the neural cache; None without one.
        weights: current weights by name, with dynamic evaluation; else None.
    """

    last_token: int | None
    recurrent: states.State
    cache: neural_cache.Cache | None = None
    weights: Mapping[str, Tensor] | None = None

    def to_bytes(self) -> bytes:
        """Serializes the state as a safetensors file."""
        # A file of tensors has no null; token ids are not negative.
        last = torch.tensor([-1 if self.last_token is None else self.last_token])
        tensors = {"last": last, **states.to_named(self.recurrent)}
        if self.cache is not None:
            tensors |= {f"{_CACHE}{name}": tensor for name, tensor in self.cache._asdict().items()}
        if self.weights is not None:
            tensors |= {f"{_WEIGHTS}{name}": tensor for name, tensor in self.weights.items()}
        return tensor_files.to_bytes(tensors)

    @staticmethod
    def from_bytes(data: bytes, where: str) -> "StreamState":
        """Parses what `to_bytes` wrote.

        Raises:
            IntegrityError: the bytes are no stream state.
        """
        tensors = tensor_files.from_bytes(data, where)
        # Taken out first: what is left besides `last` is the recurrent state.
        cache, stream_weights = _pop_prefixed(tensors, _CACHE), _pop_prefixed(tensors, _WEIGHTS)
        is_complete = not cache or cache.keys() == set(neural_cache.Cache._fields)
        if "last" not in tensors or tensors["last"].shape != (1,) or not is_complete:
            raise errors.IntegrityError(f"{where}: holds no stream state; remove the output and run again")
        last = int(tensors.pop("last"))
        return StreamState(
            last_token=None if last < 0 else last,
            recurrent=states.from_named(tensors),
            cache=neural_cache.Cache(**cache) if cache else None,
            weights=stream_weights or None,
        )

    def to(self, device: str) -> "StreamState":
        """Returns the state with all tensors on a device."""
        return StreamState(
            self.last_token,
            tuple(tuple(part.to(device) for part in layer) for layer in self.recurrent),
            None if self.cache is None else neural_cache.Cache(*(part.to(device) for part in self.cache)),
            None if self.weights is None else {name: part.to(device) for name, part in self.weights.items()},
        )


class NeuralStreamScorer:
    """Scores a stream with a network or a mixture of models, window by window; holds no state of any stream."""

    def __init__(
        self,
        model: language_model.LanguageModel | mixture.Mixture,
        vocabulary_size: int,
        scoring: inference_settings.ScoringConfig,
        context: devices.InferenceContext,
        training_text: lanes.Stream | None,
    ) -> None:
        """Prepares the model; with dynamic evaluation its weights change from then on.

        Args:
            model: on its device, in evaluation mode.
            vocabulary_size: V.
            scoring: neural cache, dynamic evaluation and batch size.
            context: device and precision.
            training_text: measured for gradient statistics by dynamic evaluation with rule `rms`.

        Raises:
            UsageError: dynamic evaluation in a precision that has no gradients.
        """
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._settings = scoring
        self._context = context
        # Copied now: a learned initial state is a weight, which dynamic evaluation changes, and every stream must
        # start as the trained model does.
        self._initial = tuple(tuple(part.detach().clone() for part in layer) for layer in model.initial_state(1))
        self._evaluator = None if scoring.dynamic is None else self._make_evaluator(scoring.dynamic, training_text)

    def initial_state(self, first_token: int | None) -> StreamState:
        """Returns the state at the start of a stream: initial recurrent state, empty cache, trained weights."""
        cache = (
            None if self._settings.cache is None else neural_cache.empty(self._model.feature_size, self._context.device)
        )
        weights = None if self._evaluator is None else self._evaluator.trained_weights
        return StreamState(first_token, self._initial, cache, weights)

    def score(self, tokens: Sequence[int], before: StreamState) -> tuple[likelihood.TokenScores, StreamState]:
        """Scores all tokens but the first, which is the last token of the state before.

        Dynamic evaluation updates the weights after each window. The last window of a call may be short, so with it
        the scores depend on where the caller divides the stream.

        Raises:
            DivergedError: dynamic evaluation made the loss infinite.
        """
        tokens_N = torch.tensor(tokens, device=self._context.device)
        _, recurrent, cache, weights = before.to(self._context.device)
        if self._evaluator is not None:
            assert weights is not None, "with dynamic evaluation the weights are part of the state"
            # The last part scored may be of another lane: every part starts from the weights of its own stream.
            self._evaluator.load_weights(weights)
        dynamic = self._settings.dynamic
        # Without updates the length of a window decides about memory alone.
        window = self._settings.batch_tokens if dynamic is None else dynamic.window
        scores = []
        for start in range(0, len(tokens) - 1, window):
            stop = min(start + window, len(tokens) - 1)
            inputs_1T, targets_T = tokens_N[None, start:stop], tokens_N[start + 1 : stop + 1]
            if self._evaluator is None:
                window_scores, recurrent, cache = self._score_window(inputs_1T, targets_T, recurrent, cache)
            else:
                window_scores, recurrent, cache, loss = self._score_with_loss(inputs_1T, targets_T, recurrent, cache)
                if not bool(loss.isfinite()):
                    raise errors.DivergedError(
                        "scoring.dynamic.learning_rate: dynamic evaluation diverged; use a smaller rate"
                    )
                # The sum over a full window's length, so that a token of a short last window weighs as much as others.
                self._evaluator.update(loss / window)
            scores.append(window_scores)
        weights = None if self._evaluator is None else self._evaluator.weights()
        return likelihood.concatenate(scores), StreamState(tokens[-1], recurrent, cache, weights)

    def _score_window(
        self, inputs_1T: Tensor, targets_T: Tensor, recurrent: states.State, cache: neural_cache.Cache | None
    ) -> tuple[likelihood.TokenScores, states.State, neural_cache.Cache | None]:
        with likelihood.window_inference(self._context):
            (features_TF,), recurrent = self._model(inputs_1T, recurrent)
            if cache is None:
                scores = likelihood.score_tokens(self._model, self._vocabulary_size, features_TF, targets_T)
                return scores, recurrent, None
            parts = []
            for rows in likelihood.slices(len(targets_T), self._vocabulary_size, _POSITIONS_PER_COMPARISON):
                log_probs_TV = likelihood.log_probs(self._model, features_TF[rows])
                part, cache = self._score_with_cache(cache, features_TF[rows], targets_T[rows], log_probs_TV)
                parts.append(part)
            return likelihood.concatenate(parts), recurrent, cache

    def _score_with_loss(
        self, inputs_1T: Tensor, targets_T: Tensor, recurrent: states.State, cache: neural_cache.Cache | None
    ) -> tuple[likelihood.TokenScores, states.State, neural_cache.Cache | None, Tensor]:
        """Scores a window as `_score_window` does; also returns the summed loss of the model alone, with gradient."""
        # Not `window_inference`: tensors of inference mode have no gradients.
        with self._autocast():
            (features_TF,), recurrent = self._model(inputs_1T, recurrent)
            log_probs_TV = likelihood.log_probs(self._model, features_TF)
        loss = F.nll_loss(log_probs_TV, targets_T, reduction="sum")
        # Detached: the cache outlives the window, and would keep the graphs of all windows alive.
        scores, cache = self._score_with_cache(cache, features_TF.detach(), targets_T, log_probs_TV.detach())
        return scores, states.detach(recurrent), cache, loss

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return computing.autocast(self._context.device, "bf16" if self._context.precision == "bf16" else "fp32")

    def _score_with_cache(
        self, cache: neural_cache.Cache | None, features_TF: Tensor, targets_T: Tensor, log_probs_TV: Tensor
    ) -> tuple[likelihood.TokenScores, neural_cache.Cache | None]:
        if cache is not None:
            assert self._settings.cache is not None, "a cache comes from the setting"
            log_probs_TV, cache = neural_cache.interpolate(
                self._settings.cache, cache, features_TF, targets_T, log_probs_TV
            )
        return likelihood.token_scores(log_probs_TV, targets_T), cache

    def _make_evaluator(
        self, settings: inference_settings.DynamicConfig, training_text: lanes.Stream | None
    ) -> dynamic_evaluation.DynamicEvaluator:
        if self._context.precision == "int8":
            raise errors.UsageError(
                "scoring.dynamic: quantized weights have no gradients; use compute.precision: fp32 or bf16"
            )
        assert isinstance(self._model, language_model.LanguageModel), "a mixture is not updated"
        dynamic_evaluation.enable_gradients(self._model)
        if settings.rule == "sgd":
            return dynamic_evaluation.DynamicEvaluator(self._model, settings, None)
        assert training_text is not None, "rule rms needs training text"
        with self._autocast():
            rms = dynamic_evaluation.gradient_rms(self._model, training_text, settings, self._context.device)
        return dynamic_evaluation.DynamicEvaluator(self._model, settings, rms)


class NgramStreamScorer:
    """Scores a stream with an n-gram model, by table look-up; its state is the last tokens."""

    def __init__(self, model: ngram_model.Ngram, context: devices.InferenceContext) -> None:
        self._model = model
        # Computed once, not for every part: the first-ranked token after each context.
        self._followers = model.followers()
        self._device = context.device

    def initial_state(self, first_token: int | None) -> StreamState:
        """Returns the state at the start of a stream, with no tokens before it."""
        return StreamState(first_token, self._model.initial_state(1))

    def score(self, tokens: Sequence[int], before: StreamState) -> tuple[likelihood.TokenScores, StreamState]:
        """Scores all tokens but the first, which is the last token of the state before."""
        (context_1C,) = before.to(self._device).recurrent[0]
        width = context_1C.shape[1]
        # By way of an array: `torch.tensor` of a list takes several times as long.
        tokens_L = torch.cat([context_1C[0], torch.from_numpy(np.array(tokens, np.int64)).to(self._device)])
        scores = self._score(tokens_L)
        # The last token is a target here, and the first input of the next call.
        after = tokens_L[None, len(tokens) - 1 : len(tokens) - 1 + width].clone()
        return scores.slice(width + 1, len(tokens_L)), StreamState(tokens[-1], ((after,),))

    def score_rows(self, rows: Sequence[Sequence[int]]) -> list[likelihood.TokenScores]:
        """Scores the tokens of each row but the first, which has no tokens before it."""
        # As one sequence, in which each row begins a text of its own.
        ids = itertools.chain.from_iterable((ngram_model.NO_TOKEN, *row) for row in rows)
        tokens_L = torch.from_numpy(np.fromiter(ids, np.int64)).to(self._device)
        runs = self._score(tokens_L).split([len(row) + 1 for row in rows])
        return [run.slice(2, len(run.nlls_N)) for run in runs]

    def _score(self, tokens_L: Tensor) -> likelihood.TokenScores:
        scores = []
        width = self._model.config.order - 1
        # Slice by slice, each with the context of its first token, so that memory does not grow with the text.
        for start in range(0, len(tokens_L), _TOKENS_AT_ONCE):
            first = max(0, start - width)
            slice_L = tokens_L[first : start + _TOKENS_AT_ONCE]
            matches = self._model.look_up(slice_L)
            nlls_L = self._model.score(slice_L, matches)
            is_first_L = self._model.predict(slice_L, matches, self._followers) == slice_L
            scores.append(
                likelihood.TokenScores(nlls_L.cpu().numpy(), is_first_L.cpu().numpy()).slice(
                    start - first, len(slice_L)
                )
            )
        return likelihood.concatenate(scores)


def _pop_prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Removes the tensors whose names begin with a prefix, and returns them by the rest of their names."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
