"""Beam search over a batch of source lines; with a beam of 1 it is greedy search.

Each line has `beam_size` slots. In each step all continuations of a line's unfinished hypotheses compete for its free
slots by their search scores, the sums of their log-probabilities; a hypothesis that ends in `<eos>` is finished and
keeps its slot. The search of a line ends when all slots are finished, or when no unfinished hypothesis can still enter
the `num_best` best. That is decided for each line alone and with an exact bound, so a translation depends neither on
the other lines of the batch nor on the number of alternatives asked for.

Finished hypotheses are ranked by `search_score / length ** length_penalty`, where the length counts `<eos>`. A coverage
penalty adds `coverage_penalty * sum over source positions of log(min(sum of attention weights, 1))`, which is never
positive. Language-model fusion and the repetition penalty change search scores; `score_nats` is in every case the plain
sum of the model's log-probabilities, `<eos>` included. A hypothesis that reaches `max_length` must end there: `<eos>`
takes its last position, with its probability, so forced decoding gives the same score. For the same reason the
probability of blocked tokens (see `constraints`) is not redistributed.

Source: Zhang et al., Dive into Deep Learning (2021), section 9.8 "Beam Search". Length and coverage penalty: Wu et al.
2016, Google's neural machine translation system, section 7 (here the length penalty is a plain power of the length).
Finished hypotheses keep their slots as in Marian: Junczys-Dowmunt et al. 2018, Marian: fast neural machine translation
in C++.
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding.translation import constraints, decoders
from core.models import state as states

# The batch is compacted when a smaller share of its rows is still in use: compaction copies the encoded sources, an
# unused row costs a step of the network.
_MIN_ROW_USE = 0.875

# On a CPU the top k of a large vocabulary are found by blocks of this size, which is faster than torch.topk.
_BLOCK_SIZE = 128
_MIN_SIZE_FOR_BLOCKS = 4096


class Hypothesis(NamedTuple):
    """A finished translation.

    Attributes:
        tokens: with `<eos>`.
        score_nats: sum of the model's log-probabilities.
        alignment: the most attended source position of each token; None without attention.
        search_score: score in the search, before length and coverage penalty.
        ranking_score: score by which the finished ones of a line are ordered; None where they are not, when sampled.
    """

    tokens: tuple[int, ...]
    score_nats: float
    alignment: tuple[int, ...] | None
    search_score: float
    ranking_score: float | None = None


class _BeamStep(NamedTuple):
    """Hypotheses in the K slots of N lines after a step: unfinished ones first, then newly finished ones, then none.

    Attributes:
        search_scores_NK: cumulative scores by which hypotheses compete.
        scores_NK: cumulative log-probabilities of the model.
        tokens_NK: newest token.
        parents_NK: back-pointers, the slot of each hypothesis in the step before.
        unfinished_NK: whether the slot has an unfinished hypothesis.
        finished_NK: whether its hypothesis has just ended in `<eos>`.
        alignment_NK: the most attended source position.
        final_scores_NK: scores by which finished hypotheses are ranked; -inf for others.
    """

    search_scores_NK: Tensor
    scores_NK: Tensor
    tokens_NK: Tensor
    parents_NK: Tensor
    unfinished_NK: Tensor
    finished_NK: Tensor
    alignment_NK: Tensor | None
    final_scores_NK: Tensor


class _History(NamedTuple):
    """Tokens and attention coverage of each slot's hypothesis; None where no setting needs them."""

    tokens_NKT: Tensor | None
    coverage_NKS: Tensor | None

    @staticmethod
    def empty(num_lines: int, settings: inference_settings.DecodingConfig, device: torch.device) -> "_History":
        """Returns the history before the first step."""
        needs_tokens = settings.no_repeat_ngram is not None or settings.repetition_penalty != 1.0
        shape = (num_lines, settings.beam_size, 0)
        return _History(
            torch.zeros(shape, dtype=torch.int64, device=device) if needs_tokens else None,
            torch.zeros(shape, device=device) if settings.coverage_penalty else None,
        )

    def extend(self, step: "_BeamStep", attention_RS: Tensor | None, slots_R: Tensor) -> "_History":
        """Returns the history after a step: each hypothesis in its new slot, with its new token."""
        tokens_NKT, coverage_NKS = self
        if tokens_NKT is not None:
            parent_tokens_NKT = _reorder(tokens_NKT, step.parents_NK)
            tokens_NKT = torch.cat([parent_tokens_NKT, step.tokens_NK[:, :, None]], 2)
        if coverage_NKS is not None and attention_RS is not None:
            num_lines, beam_size, _ = coverage_NKS.shape
            attention = attention_RS.new_zeros(num_lines * beam_size, attention_RS.shape[1])
            attention[slots_R] = attention_RS
            attention_NKS = attention.view(num_lines, beam_size, -1)
            # The number of source positions is known only from the first step on.
            total_NKS = attention_NKS + coverage_NKS if coverage_NKS.shape[2] else attention_NKS
            coverage_NKS = _reorder(total_NKS, step.parents_NK)
        return _History(tokens_NKT, coverage_NKS)


def _reorder(values_NKX: Tensor, parents_NK: Tensor) -> Tensor:
    return values_NKX.gather(1, parents_NK[:, :, None].expand(-1, -1, values_NKX.shape[2]))


class _Batch(NamedTuple, Generic[decoders.M]):
    """Input of the decoder: R rows, for each line one for each of its first `widths_N` slots."""

    widths_N: npt.NDArray[np.int64]
    slots_R: Tensor
    tokens_R: Tensor
    memory: decoders.M
    state: states.State


@torch.inference_mode()
def beam_search(
    model: decoders.Decoder[decoders.M],
    memory: decoders.M,
    mask_NS: Tensor,
    settings: inference_settings.DecodingConfig,
    special: constraints.SpecialTokens,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Finds up to `num_best` translations of each line, best first.

    A line gets fewer where the vocabulary is too small to offer more, and none where its scores are not finite. Each
    step synchronizes with the device once.

    Args:
        model: decoder, in evaluation mode.
        memory: the encoder's output, with a row for each line.
        mask_NS: True where a line has a token.
        settings: beam size, lengths and penalties.
        special: reserved ids.
        prefixes: forced beginning of each line's translation; shorter than `max_length`.
    """
    num_lines, beam_size, device = len(mask_NS), settings.beam_size, model.device
    slots_R = torch.arange(num_lines, device=device) * beam_size
    widths_N = np.ones(num_lines, dtype=np.int64)
    batch = _Batch(widths_N, slots_R, torch.full_like(slots_R, special.bos), memory, model.initial_state(memory))
    # One hypothesis for each line to begin with: K equal ones would fill the beam with copies. In double precision, so
    # that the rounding of long sums does not reorder hypotheses.
    search_scores_NK = torch.full((num_lines, beam_size), -torch.inf, dtype=torch.float64, device=device)
    search_scores_NK[:, 0] = 0.0
    scores_NK = search_scores_NK
    history = _History.empty(num_lines, settings, device)
    forced = constraints.ForcedPrefixes(prefixes or [], device)
    free_slots_N1 = torch.full((num_lines, 1), beam_size, device=device)
    best_scores_NB = torch.full((num_lines, settings.num_best), -torch.inf, dtype=torch.float64, device=device)
    steps: list[_BeamStep] = []
    for length in range(1, settings.max_length + 1):
        predictions = model.step(batch.tokens_R, batch.memory, batch.state)
        forced_N = forced.at(length)
        forced_R = None if forced_N is None else forced_N[batch.slots_R // beam_size]
        history_RT = None if history.tokens_NKT is None else history.tokens_NKT.flatten(0, 1)[batch.slots_R]
        candidates = _candidates(predictions, length, forced_R, history_RT, settings, special)
        attention_RS = predictions.attention_RS
        step = _select(candidates, attention_RS, batch.slots_R, search_scores_NK, scores_NK, free_slots_N1, special.eos)
        history = history.extend(step, attention_RS, batch.slots_R)
        step = step._replace(final_scores_NK=_final_scores(step, history.coverage_NKS, mask_NS, length, settings))
        steps.append(step)
        free_slots_N1 = free_slots_N1 - step.finished_NK.sum(1, keepdim=True)
        best_scores_NB = torch.cat([best_scores_NB, step.final_scores_NK], 1).topk(settings.num_best, 1).values
        # Upper bound of what an unfinished hypothesis can reach: its search score only falls, and the greatest length
        # divides it by most.
        bound_N1 = step.search_scores_NK[:, :1] / settings.max_length**settings.length_penalty
        unfinished_NK = step.unfinished_NK & (bound_N1 >= best_scores_NB[:, -1:])
        search_scores_NK = torch.where(unfinished_NK, step.search_scores_NK, -torch.inf)
        scores_NK = step.scores_NK
        next_batch = _next_batch(batch, predictions.state, step, unfinished_NK, memory)
        if next_batch is None:
            break
        batch = next_batch
    return _backtrack(steps, settings)


class _Candidates(NamedTuple):
    """The C best continuations of each row: search scores and log-probabilities of this step, and tokens."""

    search_scores_RC: Tensor
    log_probs_RC: Tensor
    tokens_RC: Tensor


def _candidates(
    predictions: decoders.Predictions,
    length: int,
    forced_R: Tensor | None,
    history_RT: Tensor | None,
    settings: inference_settings.DecodingConfig,
    special: constraints.SpecialTokens,
) -> _Candidates:
    has_own_scores = predictions.fusion_RV is not None or settings.repetition_penalty != 1.0
    # The constraints may overwrite the logits; a copy is made only where search scores differ from log-probabilities.
    logits_RV = predictions.logits_RV.clone() if has_own_scores else None
    constrained_RV = constraints.apply(predictions, length, forced_R, history_RT, settings, special)
    # A line has K slots, so no row can use more than its K best.
    best_RC, tokens_RC = top_k(constrained_RV, min(settings.beam_size, constrained_RV.shape[1]))
    search_scores_RC = best_RC - predictions.log_norm_R1
    log_probs_RC = search_scores_RC if logits_RV is None else logits_RV.gather(1, tokens_RC) - predictions.log_norm_R1
    return _Candidates(search_scores_RC, log_probs_RC, tokens_RC)


def top_k(values_RV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k greatest values of each row in descending order, and their indices.

    On a CPU a large row is searched in blocks: the k blocks with the greatest maxima contain the k greatest values.
    """
    num_rows, size = values_RV.shape
    num_blocks = size // _BLOCK_SIZE
    if values_RV.device.type != "cpu" or size < _MIN_SIZE_FOR_BLOCKS or k > num_blocks:
        top = values_RV.topk(k, 1)
        return top.values, top.indices
    blocks_RNB = values_RV[:, : num_blocks * _BLOCK_SIZE].view(num_rows, num_blocks, _BLOCK_SIZE)
    # Unsorted: the topk over their values below sorts.
    best_blocks_RK = blocks_RNB.amax(2).topk(k, 1, sorted=False).indices
    offsets_B = torch.arange(_BLOCK_SIZE)
    indices_RX = (best_blocks_RK[:, :, None] * _BLOCK_SIZE + offsets_B).flatten(1)
    # The values after the last whole block are always candidates.
    remainder = torch.arange(num_blocks * _BLOCK_SIZE, size).expand(num_rows, -1)
    indices_RX = torch.cat([indices_RX, remainder], 1)
    top = values_RV.gather(1, indices_RX).topk(k, 1)
    return top.values, indices_RX.gather(1, top.indices)


def _final_scores(
    step: _BeamStep,
    coverage_NKS: Tensor | None,
    mask_NS: Tensor,
    length: int,
    settings: inference_settings.DecodingConfig,
) -> Tensor:
    """Applies length and coverage penalty to finished hypotheses.

    Source: Wu et al. 2016, Google's neural machine translation system, section 7.
    """
    final_scores_NK = step.search_scores_NK / length**settings.length_penalty
    if coverage_NKS is not None:
        # A position without any attention would be -inf: the smallest float instead.
        log_coverage_NKS = coverage_NKS.double().clamp(torch.finfo(torch.float32).tiny, 1.0).log()
        coverage_penalty_NK = (log_coverage_NKS * mask_NS[:, None]).sum(2)
        final_scores_NK = final_scores_NK + settings.coverage_penalty * coverage_penalty_NK
    return torch.where(step.finished_NK, final_scores_NK, -torch.inf)


def _select(
    candidates: _Candidates,
    attention_RS: Tensor | None,
    slots_R: Tensor,
    search_scores_NK: Tensor,
    scores_NK: Tensor,
    free_slots_N1: Tensor,
    eos: int,
) -> _BeamStep:
    """Selects the best continuations of each line for its free slots."""
    num_lines, beam_size = search_scores_NK.shape
    num_candidates = candidates.tokens_RC.shape[1]
    # Every line has a row for each of its K slots here, -inf where the decoder computed none, so that the slots of a
    # line are adjacent and one topk selects among all its candidates.
    totals = search_scores_NK.new_full((num_lines * beam_size, num_candidates), -torch.inf)
    totals[slots_R] = search_scores_NK.flatten()[slots_R, None] + candidates.search_scores_RC
    tokens = candidates.tokens_RC.new_zeros(totals.shape)
    tokens[slots_R] = candidates.tokens_RC
    top = totals.view(num_lines, -1).topk(beam_size, 1)
    has_own_scores = candidates.log_probs_RC is not candidates.search_scores_RC
    next_scores_NK = top.values
    if has_own_scores:
        sums = torch.zeros_like(totals)
        sums[slots_R] = scores_NK.flatten()[slots_R, None] + candidates.log_probs_RC
        next_scores_NK = sums.view(num_lines, -1).gather(1, top.indices)
    tokens_NK = tokens.view(num_lines, -1).gather(1, top.indices)
    selected_NK = (top.values > -torch.inf) & (torch.arange(beam_size, device=slots_R.device) < free_slots_N1)
    finished_NK = selected_NK & (tokens_NK == eos)
    unfinished_NK = selected_NK & ~finished_NK
    # Unfinished hypotheses first, which `_next_batch` relies on; stable, so that better ones stay in front.
    order_NK = (2 * unfinished_NK.int() + finished_NK.int()).argsort(dim=1, descending=True, stable=True)
    parents_NK = (top.indices // num_candidates).gather(1, order_NK)
    alignment_NK = None
    if attention_RS is not None:
        most_attended = slots_R.new_zeros(num_lines * beam_size)
        most_attended[slots_R] = attention_RS.argmax(1)
        alignment_NK = most_attended.view(num_lines, beam_size).gather(1, parents_NK)
    next_search_scores_NK = top.values.gather(1, order_NK)
    return _BeamStep(
        search_scores_NK=next_search_scores_NK,
        scores_NK=next_scores_NK.gather(1, order_NK) if has_own_scores else next_search_scores_NK,
        tokens_NK=tokens_NK.gather(1, order_NK),
        parents_NK=parents_NK,
        unfinished_NK=unfinished_NK.gather(1, order_NK),
        finished_NK=finished_NK.gather(1, order_NK),
        alignment_NK=alignment_NK,
        final_scores_NK=next_search_scores_NK,  # replaced by `_final_scores`, which needs the new coverage
    )


def _next_batch(
    batch: _Batch[decoders.M], state: states.State, step: _BeamStep, unfinished_NK: Tensor, memory: decoders.M
) -> _Batch[decoders.M] | None:
    """Moves each unfinished hypothesis to the row of its slot; returns None when none is left.

    Unfinished hypotheses are in the first slots of their line, so the host needs only their number for each line. The
    rows keep their slots, some of them unused, until too many are unused or a slot without a row is needed.
    """
    num_lines, beam_size = unfinished_NK.shape
    device = unfinished_NK.device
    # The only synchronization of a step: the host decides which rows the next one computes.
    num_unfinished_N = unfinished_NK.sum(1).cpu().numpy()
    if not num_unfinished_N.any():
        return None
    # A slot without a row maps to row 0: only unused rows read it, and their search score is -inf.
    row_of_slot = torch.zeros(num_lines * beam_size, dtype=torch.int64, device=device)
    row_of_slot[batch.slots_R] = torch.arange(len(batch.slots_R), device=device)
    widths_N, slots_R, batch_memory = batch.widths_N, batch.slots_R, batch.memory
    has_too_few_rows = (num_unfinished_N > widths_N).any()
    if has_too_few_rows or num_unfinished_N.sum() < _MIN_ROW_USE * widths_N.sum():
        # With equally many rows for each line, its hypotheses share one row of memory; otherwise each has a copy.
        equal_N = np.where(num_unfinished_N > 0, num_unfinished_N.max(), 0)
        shares_memory = num_unfinished_N.sum() >= _MIN_ROW_USE * equal_N.sum()
        widths_N = equal_N if shares_memory else num_unfinished_N
        slots = np.flatnonzero(np.arange(beam_size) < widths_N[:, None])
        slots_R = torch.from_numpy(slots).to(device)
        lines = np.flatnonzero(widths_N) if shares_memory else slots // beam_size
        batch_memory = memory.select(torch.from_numpy(lines).to(device))
    first_slots_N1 = torch.arange(num_lines, device=device)[:, None] * beam_size
    parents_R = (first_slots_N1 + step.parents_NK).flatten()[slots_R]
    next_state = states.select(state, row_of_slot[parents_R])
    return _Batch(widths_N, slots_R, step.tokens_NK.flatten()[slots_R], batch_memory, next_state)


def _backtrack(steps: Sequence[_BeamStep], settings: inference_settings.DecodingConfig) -> list[list[Hypothesis]]:
    """Follows the back-pointers of the best finished hypotheses of each line, all hypotheses at once."""
    tokens_TNK, parents_TNK = _stack(steps, "tokens_NK"), _stack(steps, "parents_NK")
    scores_TNK, search_scores_TNK = _stack(steps, "scores_NK"), _stack(steps, "search_scores_NK")
    has_attention = steps[0].alignment_NK is not None
    alignment_TNK = _stack(steps, "alignment_NK") if has_attention else np.zeros_like(tokens_TNK)
    ends, lines, slots = np.nonzero(_stack(steps, "finished_NK"))
    # By line, then best first; of equals the shorter one, then the earlier slot, so that results are reproducible.
    ranking_scores = _stack(steps, "final_scores_NK")[ends, lines, slots]
    order = np.lexsort((slots, ends, -ranking_scores, lines))
    ranking_scores = ranking_scores[order]
    ends, lines, slots = ends[order], lines[order], slots[order]
    scores, search_scores = scores_TNK[ends, lines, slots], search_scores_TNK[ends, lines, slots]
    tokens = np.zeros((len(order), len(steps)), dtype=np.int64)
    alignment = np.zeros_like(tokens)
    for step in range(len(steps) - 1, -1, -1):
        # A hypothesis joins at its last step; from there on its slot is that of its parent.
        rows = np.flatnonzero(ends >= step)
        index = (step, lines[rows], slots[rows])
        tokens[rows, step], alignment[rows, step] = tokens_TNK[index], alignment_TNK[index]
        slots[rows] = parents_TNK[index]
    hypotheses: list[list[Hypothesis]] = [[] for _ in range(tokens_TNK.shape[1])]
    for row, line in enumerate(lines):
        if len(hypotheses[line]) < settings.num_best:
            length = ends[row] + 1
            hypotheses[line].append(
                Hypothesis(
                    tokens=tuple(tokens[row, :length].tolist()),
                    score_nats=float(scores[row]),
                    alignment=tuple(alignment[row, :length].tolist()) if has_attention else None,
                    search_score=float(search_scores[row]),
                    ranking_score=float(ranking_scores[row]),
                )
            )
    return hypotheses


def _stack(steps: Sequence[_BeamStep], name: str) -> npt.NDArray[Any]:
    return torch.stack([getattr(step, name) for step in steps]).cpu().numpy()
