"""How likely a model holds given tokens, from the features that go into its output layer."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from core.decoding import device as devices
from core.models import compute as computing
from core.models import language_model, seq2seq

Array = npt.NDArray[np.float64]

# Logits are made for so many numbers at a time: few enough for a cache, enough for a full matrix product.
_LOGITS_AT_ONCE = 1 << 21


class Judged(NamedTuple):
    """Of each token its negative log-probability, and whether it is the one that the model held for the likeliest.

    Of tokens that are equally likely the one with the lowest id counts as the likeliest, as in greedy decoding.
    """

    nlls_N: Array
    is_best_N: npt.NDArray[np.bool_]

    def part(self, start: int, stop: int) -> "Judged":
        """Returns a run of it."""
        return Judged(self.nlls_N[start:stop], self.is_best_N[start:stop])

    def split(self, lengths: Sequence[int]) -> "list[Judged]":
        """Cuts it into runs of these lengths."""
        ends = list(itertools.accumulate(lengths, initial=0))
        return [self.part(start, stop) for start, stop in itertools.pairwise(ends)]


def nothing() -> Judged:
    """Of no tokens at all."""
    return Judged(np.zeros(0), np.zeros(0, dtype=np.bool_))


def join(pieces: Sequence[Judged]) -> Judged:
    """Puts runs one after another; at least one."""
    return Judged(
        np.concatenate([piece.nlls_N for piece in pieces]), np.concatenate([piece.is_best_N for piece in pieces])
    )


def slices(num_tokens: int, vocabulary_size: int, most: int = _LOGITS_AT_ONCE) -> Iterator[slice]:
    """Cuts tokens into runs, of `most` at the most, whose logits are made at once."""
    rows = max(1, min(most, _LOGITS_AT_ONCE // vocabulary_size))
    return (slice(start, start + rows) for start in range(0, num_tokens, rows))


@contextlib.contextmanager
def reading(placed: devices.Placed) -> Iterator[None]:
    """Inference over whole windows of a language model.

    The fused recurrent kernels know no int8: beside int8 they compute in bf16, where the CPU does.
    """
    in_bf16 = placed.precision == "int8" and computing.this_cpu().has_bf16
    with placed.inference(), computing.autocast(placed.device, "bf16") if in_bf16 else contextlib.nullcontext():
        yield


def log_probs(model: language_model.LanguageModel | seq2seq.Seq2Seq, features_NF: Tensor) -> Tensor:
    """Returns the log-probabilities of all V tokens (N, V) in fp32."""
    # Rounding to int8 starts from fp32, whatever the recurrent kernels computed in.
    return model.logits(features_NF.float()).float().log_softmax(1)


def judge(
    model: language_model.LanguageModel | seq2seq.Seq2Seq, vocabulary_size: int, features_NF: Tensor, targets_N: Tensor
) -> Judged:
    """Judges each target by the features that stand for all before it."""
    pieces = [
        judge_log_probs(log_probs(model, features_NF[rows]), targets_N[rows])
        for rows in slices(len(targets_N), vocabulary_size)
    ]
    return join(pieces) if pieces else nothing()


def judge_log_probs(log_probs_NV: Tensor, targets_N: Tensor) -> Judged:
    """Judges each target by log-probabilities that are normalised."""
    own_N = log_probs_NV.gather(1, targets_N[:, None]).squeeze(1)
    # To find the greatest is cheap, to find where it is costs as much as the softmax: asked only where it may matter.
    is_best_N = own_N == log_probs_NV.amax(1)
    rows = is_best_N.nonzero().squeeze(1)
    is_best_N[rows] = log_probs_NV[rows].argmax(1) == targets_N[rows]
    return Judged(-own_N.double().cpu().numpy(), is_best_N.cpu().numpy())
