"""Beam search over many lines at once; a beam of one is greedy search.

A line has `beam_size` slots. In each step all continuations of its unfinished hypotheses compete by the sum of
their log-probabilities for the slots that are left; one that ends in `<eos>` keeps its slot for good. The
search of a line ends when every slot is finished, or when nothing unfinished can still rank among the
`num_best` best. That is decided from the line alone and with a bound that always holds, so a translation
depends neither on the other lines of a batch nor on how many alternatives are asked for.

Finished hypotheses are ranked by `score_nats / length ** length_penalty`, where the length counts `<eos>` and
`score_nats` is the plain sum of the log-probabilities, `<eos>` included. A hypothesis that reaches
`max_length` must end there: `<eos>` is put in its last place and its probability counted, so every score is
one that forced decoding gives too. `<pad>` and `<bos>` are never chosen, `<eos>` not before `min_length`
tokens; what they would have got is not shared out to the others, for the same reason.

Source: document 003 section 1.9.3 (beam search); slots that finished hypotheses keep: Junczys-Dowmunt et al. 2018.
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.config import inference_settings
from core.models import state as states

# Rows are laid out anew when fewer than this share of them is still needed: a new layout copies what the
# attention looks at, an idle row costs a step of the network.
_NEEDED_SHARE = 0.875


class Memory(Protocol):
    """What the encoder leaves for the decoder, a row for each line."""

    def select(self, rows_B: Tensor, /) -> Self:
        """Gives the memory of the rows, in the order asked for; a row may come several times."""


M = TypeVar("M", bound=Memory)
M_contra = TypeVar("M_contra", bound=Memory, contravariant=True)


class Decoder(Protocol[M_contra]):
    """The part of a sequence-to-sequence model that search needs."""

    @property
    def output_weight_VF(self) -> Tensor:
        """The output layer."""

    @property
    def output_bias_V(self) -> Tensor | None:
        """Its bias."""

    def initial_state(self, memory: M_contra, /) -> states.State:
        """The state before the first token."""

    def step(
        self, tokens_B: Tensor, memory: M_contra, state: states.State, /
    ) -> tuple[Tensor, states.State, Tensor | None]:
        """Features, state after the tokens, and the attention over the source.

        There may be K times as many rows as the memory has, the first K of them for its first row, and so on.
        """


class Special(NamedTuple):
    """The reserved ids of the target side."""

    pad: int
    bos: int
    eos: int


class Hypothesis(NamedTuple):
    """A finished translation: its tokens with `<eos>`, and for each the source position looked at most."""

    tokens: tuple[int, ...]
    score_nats: float
    alignment: tuple[int, ...] | None


class _Step(NamedTuple):
    """What one step chose for the N lines' K slots: unfinished hypotheses first, then finished ones, then none."""

    scores_NK: Tensor
    tokens_NK: Tensor
    origins_NK: Tensor
    live_NK: Tensor
    finished_NK: Tensor
    alignment_NK: Tensor | None


class _Rows(NamedTuple, Generic[M]):
    """What the network computes: for each line a row for each of its first slots, R in all."""

    widths_N: npt.NDArray[np.int64]
    slots_R: Tensor
    tokens_R: Tensor
    memory: M
    state: states.State


@torch.inference_mode()
def beam_search(
    model: Decoder[M], memory: M, num_lines: int, settings: inference_settings.DecodingConfig, special: Special
) -> list[list[Hypothesis]]:
    """Finds for each line up to `num_best` translations, best first.

    A line gets fewer where the vocabulary is too small to offer more, and none where the model's numbers are
    not finite. Each step synchronises with the device once.

    Args:
        model: the decoder, in evaluation mode.
        memory: the encoder's result, with a row for each line.
        num_lines: how many rows that are.
        settings: beam size, lengths and penalty.
        special: the reserved ids.
    """
    beam_size, device = settings.beam_size, model.output_weight_VF.device
    slots_R = torch.arange(num_lines, device=device) * beam_size
    widths_N = np.ones(num_lines, dtype=np.int64)
    rows = _Rows(widths_N, slots_R, torch.full_like(slots_R, special.bos), memory, model.initial_state(memory))
    scores_NK = torch.full((num_lines, beam_size), -torch.inf, dtype=torch.float64, device=device)
    scores_NK[:, 0] = 0.0
    free_N1 = torch.full((num_lines, 1), beam_size, device=device)
    best_values = torch.full((num_lines, settings.num_best), -torch.inf, dtype=torch.float64, device=device)
    steps: list[_Step] = []
    for length in range(1, settings.max_length + 1):
        features_RF, state, attention_RS = model.step(rows.tokens_R, rows.memory, rows.state)
        logits_RV = _logits(model, features_RF)
        if length == settings.max_length:
            candidates = _only(logits_RV, special.eos)
        else:
            refused = [special.pad, special.bos] + [special.eos] * (length <= settings.min_length)
            candidates = _best(logits_RV, beam_size, refused)
        chosen = _choose(candidates, attention_RS, rows.slots_R, scores_NK, free_N1, special.eos)
        steps.append(chosen)
        free_N1 = free_N1 - chosen.finished_NK.sum(1, keepdim=True)
        values_NK = torch.where(chosen.finished_NK, chosen.scores_NK / length**settings.length_penalty, -torch.inf)
        best_values = torch.cat([best_values, values_NK], 1).topk(settings.num_best, 1).values
        # The longest hypothesis divides its score by most, and a score only falls: nothing does better than this.
        hope_N1 = chosen.scores_NK[:, :1] / settings.max_length**settings.length_penalty
        live_NK = chosen.live_NK & (hope_N1 >= best_values[:, -1:])
        scores_NK = torch.where(live_NK, chosen.scores_NK, -torch.inf)
        following = _next_rows(rows, state, chosen, live_NK, memory)
        if following is None:
            break
        rows = following
    return _read_back(steps, settings)


def _logits(model: Decoder[M], features_RF: Tensor) -> Tensor:
    return torch.nn.functional.linear(features_RF, model.output_weight_VF, model.output_bias_V).float()


def _best(logits_RV: Tensor, beam_size: int, refused: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of each row, as (log-probabilities, ids); what is refused has none."""
    norm_R1 = logits_RV.logsumexp(1, keepdim=True)
    logits_RV[:, list(refused)] = -torch.inf
    top = logits_RV.topk(min(beam_size, logits_RV.shape[1]), 1)
    return top.values - norm_R1, top.indices


def _only(logits_RV: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """The log-probability of one token in each row, in the form of `_best`."""
    values_R1 = logits_RV[:, token, None] - logits_RV.logsumexp(1, keepdim=True)
    return values_R1, torch.full_like(values_R1, token, dtype=torch.int64)


def _choose(
    candidates: tuple[Tensor, Tensor],
    attention_RS: Tensor | None,
    slots_R: Tensor,
    scores_NK: Tensor,
    free_N1: Tensor,
    eos: int,
) -> _Step:
    """Gives the free slots of each line to its best continuations."""
    values_RC, ids_RC = candidates
    num_lines, beam_size = scores_NK.shape
    width = values_RC.shape[1]
    totals = scores_NK.new_full((num_lines * beam_size, width), -torch.inf)
    totals[slots_R] = scores_NK.flatten()[slots_R, None] + values_RC
    ids = ids_RC.new_zeros(totals.shape)
    ids[slots_R] = ids_RC
    top = totals.view(num_lines, -1).topk(beam_size, 1)
    tokens_NK = ids.view(num_lines, -1).gather(1, top.indices)
    taken_NK = (top.values > -torch.inf) & (torch.arange(beam_size, device=slots_R.device) < free_N1)
    finished_NK = taken_NK & (tokens_NK == eos)
    live_NK = taken_NK & ~finished_NK
    order_NK = (2 * live_NK.int() + finished_NK.int()).argsort(dim=1, descending=True, stable=True)
    origins_NK = (top.indices // width).gather(1, order_NK)
    alignment_NK = None
    if attention_RS is not None:
        looked_at = slots_R.new_zeros(num_lines * beam_size)
        looked_at[slots_R] = attention_RS.argmax(1)
        alignment_NK = looked_at.view(num_lines, beam_size).gather(1, origins_NK)
    return _Step(
        scores_NK=top.values.gather(1, order_NK),
        tokens_NK=tokens_NK.gather(1, order_NK),
        origins_NK=origins_NK,
        live_NK=live_NK.gather(1, order_NK),
        finished_NK=finished_NK.gather(1, order_NK),
        alignment_NK=alignment_NK,
    )


def _next_rows(rows: _Rows[M], state: states.State, chosen: _Step, live_NK: Tensor, memory: M) -> _Rows[M] | None:
    """Moves each unfinished hypothesis to the row of its slot; None when there is none left.

    The unfinished ones are in the first slots of their line, so how many each line has says where they are: that
    is all that the host needs to know. Rows keep their slots, some of them idle, until enough are idle or a slot
    is used that has no row.
    """
    num_lines, beam_size = live_NK.shape
    device = live_NK.device
    live_N = live_NK.sum(1).cpu().numpy()
    if not live_N.any():
        return None
    row_of_slot = torch.zeros(num_lines * beam_size, dtype=torch.int64, device=device)
    row_of_slot[rows.slots_R] = torch.arange(len(rows.slots_R), device=device)
    widths_N, slots_R, memory_rows = rows.widths_N, rows.slots_R, rows.memory
    if (live_N > widths_N).any() or live_N.sum() < _NEEDED_SHARE * widths_N.sum():
        # As many rows for each line let the hypotheses of a line share its memory; else each has its copy.
        even_N = np.where(live_N > 0, live_N.max(), 0)
        shared = live_N.sum() >= _NEEDED_SHARE * even_N.sum()
        widths_N = even_N if shared else live_N
        slots = np.flatnonzero(np.arange(beam_size) < widths_N[:, None])
        slots_R = torch.from_numpy(slots).to(device)
        lines = np.flatnonzero(widths_N) if shared else slots // beam_size
        memory_rows = memory.select(torch.from_numpy(lines).to(device))
    first_slots_N1 = torch.arange(num_lines, device=device)[:, None] * beam_size
    origins = (first_slots_N1 + chosen.origins_NK).flatten()[slots_R]
    moved = states.select(state, row_of_slot[origins])
    return _Rows(widths_N, slots_R, chosen.tokens_NK.flatten()[slots_R], memory_rows, moved)


def _read_back(steps: Sequence[_Step], settings: inference_settings.DecodingConfig) -> list[list[Hypothesis]]:
    """Follows the back-pointers of the best finished hypotheses of each line, all of them together."""
    tokens_TNK, origins_TNK = _stacked(steps, "tokens_NK"), _stacked(steps, "origins_NK")
    scores_TNK = _stacked(steps, "scores_NK")
    aligned = steps[0].alignment_NK is not None
    alignment_TNK = _stacked(steps, "alignment_NK") if aligned else np.zeros_like(tokens_TNK)
    ends, lines, slots = np.nonzero(_stacked(steps, "finished_NK"))
    scores = scores_TNK[ends, lines, slots]
    order = np.lexsort((slots, ends, -scores / (ends + 1.0) ** settings.length_penalty, lines))
    ends, lines, slots, scores = ends[order], lines[order], slots[order], scores[order]
    tokens = np.zeros((len(order), len(steps)), dtype=np.int64)
    alignment = np.zeros_like(tokens)
    for step in range(len(steps) - 1, -1, -1):
        inside = np.flatnonzero(ends >= step)
        here = (step, lines[inside], slots[inside])
        tokens[inside, step], alignment[inside, step] = tokens_TNK[here], alignment_TNK[here]
        slots[inside] = origins_TNK[here]
    found: list[list[Hypothesis]] = [[] for _ in range(tokens_TNK.shape[1])]
    for row, line in enumerate(lines):
        if len(found[line]) < settings.num_best:
            length = ends[row] + 1
            looked_at = tuple(alignment[row, :length].tolist()) if aligned else None
            found[line].append(Hypothesis(tuple(tokens[row, :length].tolist()), float(scores[row]), looked_at))
    return found


def _stacked(steps: Sequence[_Step], name: str) -> npt.NDArray[Any]:
    return torch.stack([getattr(step, name) for step in steps]).cpu().numpy()
