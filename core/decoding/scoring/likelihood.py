"""Token log-probabilities, computed from the features that enter a model's output layer."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from core.decoding import device as devices
from core.models import compute as computing
from core.models import language_model, mixture, seq2seq, token_loss

Array = npt.NDArray[np.float64]
Model = language_model.LanguageModel | seq2seq.Seq2Seq | mixture.Mixture

# Logits that are computed at once: few enough to stay in the cache, enough for an efficient matrix product. With a
# large vocabulary rows matter more: a token of 33,278 takes 1.80 ms in products of 63 rows, 1.46 of 126, 1.37 of 252.
_LOGITS_AT_ONCE = 1 << 22
_EFFICIENT_ROWS = 256


class TokenScores(NamedTuple):
    """Negative log-probabilities of tokens in nats, and whether each is the token ranked first by the model.

    Of equally likely tokens the one with the lowest id is ranked first, as in greedy decoding.
    """

    nlls_N: Array
    is_first_N: npt.NDArray[np.bool_]

    def slice(self, start: int, stop: int) -> "TokenScores":
        """Returns the scores of consecutive tokens."""
        return TokenScores(self.nlls_N[start:stop], self.is_first_N[start:stop])

    def split(self, lengths: Sequence[int]) -> "list[TokenScores]":
        """Splits the scores into consecutive runs of the given lengths."""
        ends = list(itertools.accumulate(lengths, initial=0))
        return [self.slice(start, stop) for start, stop in itertools.pairwise(ends)]


def empty() -> TokenScores:
    """Returns the scores of no tokens."""
    return TokenScores(np.zeros(0), np.zeros(0, dtype=np.bool_))


def concatenate(scores: Sequence[TokenScores]) -> TokenScores:
    """Concatenates scores, at least one."""
    return TokenScores(
        np.concatenate([part.nlls_N for part in scores]), np.concatenate([part.is_first_N for part in scores])
    )


def slices(num_tokens: int, vocabulary_size: int, max_tokens: int = _LOGITS_AT_ONCE) -> Iterator[slice]:
    """Yields slices of at most `max_tokens` tokens whose logits are computed at once."""
    rows = max(_LOGITS_AT_ONCE // vocabulary_size, min(_EFFICIENT_ROWS, 2 * _LOGITS_AT_ONCE // vocabulary_size))
    rows = max(1, min(max_tokens, rows))  # one row, however large the vocabulary
    return (slice(start, start + rows) for start in range(0, num_tokens, rows))


@contextlib.contextmanager
def window_inference(context: devices.InferenceContext) -> Iterator[None]:
    """Enters inference over whole windows of a language model.

    The fused recurrent kernels have no int8: with int8 they compute in bf16, where the CPU supports it.
    """
    in_bf16 = context.precision == "int8" and computing.this_cpu().has_bf16
    with context.inference(), computing.autocast(context.device, "bf16") if in_bf16 else contextlib.nullcontext():
        yield


def log_probs(model: Model, features_NF: Tensor) -> Tensor:
    """Returns the log-probabilities of all V tokens (N, V) in fp32, or of a mixture with an n-gram model in fp64."""
    if isinstance(model, mixture.Mixture):
        return model.log_probs(features_NF)
    # Quantization to int8 starts from fp32, whatever the recurrent kernels computed in.
    return model.logits(features_NF.float()).float().log_softmax(1)


def score_tokens(model: Model, vocabulary_size: int, features_NF: Tensor, targets_N: Tensor) -> TokenScores:
    """Returns the scores of targets, given the features after all tokens that precede each of them."""
    # Slice by slice: the logits of all tokens together would be the largest tensor of the program.
    scores = []
    for rows in slices(len(targets_N), vocabulary_size):
        if isinstance(model, mixture.Mixture):
            scores.append(token_scores(log_probs(model, features_NF[rows]), targets_N[rows]))
            continue
        logits_NV, targets = model.logits(features_NF[rows].float()), targets_N[rows]
        rows_at_once = computing.rows_at_once(vocabulary_size, features_NF.device.type)
        scores += [
            _logit_scores(logits_NV[block].float(), targets[block])
            for block in slices(len(targets), vocabulary_size, rows_at_once)
        ]
    return concatenate(scores) if scores else empty()


def _logit_scores(logits_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """Returns the scores of targets, given logits of all tokens, which are overwritten."""
    target_logits_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    is_first_N = _is_first(logits_NV, targets_N, target_logits_N)
    nlls_N = token_loss.softmax_in_place(logits_NV).squeeze(1) - target_logits_N
    return TokenScores(nlls_N.double().cpu().numpy(), is_first_N.cpu().numpy())


def token_scores(log_probs_NV: Tensor, targets_N: Tensor) -> TokenScores:
    """Returns the scores of targets, given normalized log-probabilities of all tokens."""
    target_log_probs_N = log_probs_NV.gather(1, targets_N[:, None]).squeeze(1)
    is_first_N = _is_first(log_probs_NV, targets_N, target_log_probs_N)
    # In fp64 from here on, as scores are summed over a whole corpus.
    return TokenScores(-target_log_probs_N.double().cpu().numpy(), is_first_N.cpu().numpy())


def _is_first(logits_NV: Tensor, targets_N: Tensor, target_logits_N: Tensor) -> Tensor:
    # The maximum is cheap, its index costs as much as the softmax: argmax runs only where the target may be first.
    is_first_N = target_logits_N == logits_NV.amax(1)
    rows = is_first_N.nonzero().squeeze(1)
    is_first_N[rows] = logits_NV[rows].argmax(1) == targets_N[rows]
    return is_first_N
