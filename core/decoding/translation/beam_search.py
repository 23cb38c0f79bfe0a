"""Beam search over many lines at once; a beam of one is greedy search.

A line has `beam_size` slots. In each step all continuations of its unfinished hypotheses compete by the sum of
their log-probabilities for the slots that are left; one that ends in `<eos>` keeps its slot for good. The
search of a line ends when every slot is finished, or when nothing unfinished can still rank among the
`num_best` best. That is decided from the line alone and with a bound that always holds, so a translation
depends neither on the other lines of a batch nor on how many alternatives are asked for.

Finished hypotheses are ranked by `rank / length ** length_penalty`, where the length counts `<eos>` and the rank is
what they competed with: the sum of the log-probabilities, as a language model or a penalty changes it. A coverage
penalty adds `coverage_penalty * sum over source positions of log(min(attention paid in all, 1))`, which is never
positive. `score_nats` is the plain sum of the model's log-probabilities in every case, `<eos>` included. A hypothesis
that reaches `max_length` must end there: `<eos>` is put in its last place and its probability counted, so every
score is one that forced decoding gives too. What is refused (see `constraints`) is not shared out to the others,
for the same reason.

Source: document 003 section 1.9.3 (beam search); slots that finished hypotheses keep: Junczys-Dowmunt et al. 2018;
coverage: Wu et al. 2016, section 7.
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

# Rows are laid out anew when fewer than this share of them is still needed: a new layout copies what the
# attention looks at, an idle row costs a step of the network.
_NEEDED_SHARE = 0.875

# On a CPU the likeliest of many tokens are looked for in blocks of so many.
_BLOCK = 128
_SMALLEST_IN_BLOCKS = 4096


class Hypothesis(NamedTuple):
    """A finished translation: its tokens with `<eos>`, and for each the source position looked at most.

    `rank` is what it competed with, before lengths and coverage enter.
    """

    tokens: tuple[int, ...]
    score_nats: float
    alignment: tuple[int, ...] | None
    rank: float


class _Step(NamedTuple):
    """What one step chose for the N lines' K slots: unfinished hypotheses first, then finished ones, then none."""

    ranks_NK: Tensor
    scores_NK: Tensor
    tokens_NK: Tensor
    origins_NK: Tensor
    live_NK: Tensor
    finished_NK: Tensor
    alignment_NK: Tensor | None
    values_NK: Tensor  # what finished hypotheses are ordered by; -inf for others


class _Kept(NamedTuple):
    """What some settings need to know of each slot's hypothesis; None where they do not ask."""

    history_NKT: Tensor | None
    coverage_NKS: Tensor | None

    @staticmethod
    def start(num_lines: int, settings: inference_settings.DecodingConfig, device: torch.device) -> "_Kept":
        asks = settings.no_repeat_ngram is not None or settings.repetition_penalty != 1.0
        shape = (num_lines, settings.beam_size, 0)
        return _Kept(
            torch.zeros(shape, dtype=torch.int64, device=device) if asks else None,
            torch.zeros(shape, device=device) if settings.coverage_penalty else None,
        )

    def after(self, chosen: "_Step", attention_RS: Tensor | None, slots_R: Tensor) -> "_Kept":
        """What is known once each hypothesis has moved to its slot with a new token."""
        history_NKT, coverage_NKS = self
        if history_NKT is not None:
            moved_NKT = _moved(history_NKT, chosen.origins_NK)
            history_NKT = torch.cat([moved_NKT, chosen.tokens_NK[:, :, None]], 2)
        if coverage_NKS is not None and attention_RS is not None:
            num_lines, beam_size, _ = coverage_NKS.shape
            paid = attention_RS.new_zeros(num_lines * beam_size, attention_RS.shape[1])
            paid[slots_R] = attention_RS
            paid_NKS = paid.view(num_lines, beam_size, -1)
            coverage_NKS = _moved(paid_NKS + coverage_NKS if coverage_NKS.shape[2] else paid_NKS, chosen.origins_NK)
        return _Kept(history_NKT, coverage_NKS)


def _moved(held_NKX: Tensor, origins_NK: Tensor) -> Tensor:
    return held_NKX.gather(1, origins_NK[:, :, None].expand(-1, -1, held_NKX.shape[2]))


class _Rows(NamedTuple, Generic[decoders.M]):
    """What the network computes: for each line a row for each of its first slots, R in all."""

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
    special: constraints.Special,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Finds for each line up to `num_best` translations, best first.

    A line gets fewer where the vocabulary is too small to offer more, and none where the model's numbers are
    not finite. Each step synchronises with the device once.

    Args:
        model: the decoder, in evaluation mode.
        memory: the encoder's result, with a row for each line.
        mask_NS: True where a line has a token.
        settings: beam size, lengths and penalties.
        special: the reserved ids.
        prefixes: what the translation of each line must begin with; shorter than `max_length`.
    """
    num_lines, beam_size, device = len(mask_NS), settings.beam_size, model.device
    slots_R = torch.arange(num_lines, device=device) * beam_size
    widths_N = np.ones(num_lines, dtype=np.int64)
    rows = _Rows(widths_N, slots_R, torch.full_like(slots_R, special.bos), memory, model.initial_state(memory))
    ranks_NK = torch.full((num_lines, beam_size), -torch.inf, dtype=torch.float64, device=device)
    ranks_NK[:, 0] = 0.0
    scores_NK = ranks_NK
    kept = _Kept.start(num_lines, settings, device)
    given = constraints.Prefixes(prefixes or [], device)
    free_N1 = torch.full((num_lines, 1), beam_size, device=device)
    best_values = torch.full((num_lines, settings.num_best), -torch.inf, dtype=torch.float64, device=device)
    steps: list[_Step] = []
    for length in range(1, settings.max_length + 1):
        said = model.step(rows.tokens_R, rows.memory, rows.state)
        forced_N = given.at(length)
        forced_R = None if forced_N is None else forced_N[rows.slots_R // beam_size]
        history_RT = None if kept.history_NKT is None else kept.history_NKT.flatten(0, 1)[rows.slots_R]
        candidates = _candidates(said, length, forced_R, history_RT, settings, special)
        chosen = _choose(candidates, said.attention_RS, rows.slots_R, ranks_NK, scores_NK, free_N1, special.eos)
        kept = kept.after(chosen, said.attention_RS, rows.slots_R)
        chosen = chosen._replace(values_NK=_values(chosen, kept.coverage_NKS, mask_NS, length, settings))
        steps.append(chosen)
        free_N1 = free_N1 - chosen.finished_NK.sum(1, keepdim=True)
        best_values = torch.cat([best_values, chosen.values_NK], 1).topk(settings.num_best, 1).values
        # The longest hypothesis divides its rank by most, and a rank only falls: nothing does better than this.
        hope_N1 = chosen.ranks_NK[:, :1] / settings.max_length**settings.length_penalty
        live_NK = chosen.live_NK & (hope_N1 >= best_values[:, -1:])
        ranks_NK, scores_NK = torch.where(live_NK, chosen.ranks_NK, -torch.inf), chosen.scores_NK
        following = _next_rows(rows, said.state, chosen, live_NK, memory)
        if following is None:
            break
        rows = following
    return _read_back(steps, settings)


class _Candidates(NamedTuple):
    """The likeliest continuations of each row: what each competes with, its log-probability, its token."""

    ranks_RC: Tensor
    nats_RC: Tensor
    ids_RC: Tensor


def _candidates(
    said: decoders.Predicted,
    length: int,
    forced_R: Tensor | None,
    history_RT: Tensor | None,
    settings: inference_settings.DecodingConfig,
    special: constraints.Special,
) -> _Candidates:
    is_changed = said.bonus_RV is not None or settings.repetition_penalty != 1.0
    plain_RV = said.logits_RV.clone() if is_changed else None
    values_RV = constraints.apply(said, length, forced_R, history_RT, settings, special)
    values_RC, ids_RC = likeliest(values_RV, min(settings.beam_size, values_RV.shape[1]))
    ranks_RC = values_RC - said.norm_R1
    nats_RC = ranks_RC if plain_RV is None else plain_RV.gather(1, ids_RC) - said.norm_R1
    return _Candidates(ranks_RC, nats_RC, ids_RC)


def likeliest(values_RV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k greatest of each row, falling, and where they are.

    On a CPU only the k blocks with the greatest maxima are looked into: they hold them all.
    """
    num_rows, size = values_RV.shape
    num_blocks = size // _BLOCK
    if values_RV.device.type != "cpu" or size < _SMALLEST_IN_BLOCKS or k > num_blocks:
        top = values_RV.topk(k, 1)
        return top.values, top.indices
    blocks_RNB = values_RV[:, : num_blocks * _BLOCK].view(num_rows, num_blocks, _BLOCK)
    best_RK = blocks_RNB.amax(2).topk(k, 1, sorted=False).indices
    within_B = torch.arange(_BLOCK)
    ids_RX = (best_RK[:, :, None] * _BLOCK + within_B).flatten(1)
    rest = torch.arange(num_blocks * _BLOCK, size).expand(num_rows, -1)
    ids_RX = torch.cat([ids_RX, rest], 1)
    top = values_RV.gather(1, ids_RX).topk(k, 1)
    return top.values, ids_RX.gather(1, top.indices)


def _values(
    chosen: _Step,
    coverage_NKS: Tensor | None,
    mask_NS: Tensor,
    length: int,
    settings: inference_settings.DecodingConfig,
) -> Tensor:
    values_NK = chosen.ranks_NK / length**settings.length_penalty
    if coverage_NKS is not None:
        covered_NKS = coverage_NKS.double().clamp(torch.finfo(torch.float32).tiny, 1.0).log()
        values_NK = values_NK + settings.coverage_penalty * (covered_NKS * mask_NS[:, None]).sum(2)
    return torch.where(chosen.finished_NK, values_NK, -torch.inf)


def _choose(
    candidates: _Candidates,
    attention_RS: Tensor | None,
    slots_R: Tensor,
    ranks_NK: Tensor,
    scores_NK: Tensor,
    free_N1: Tensor,
    eos: int,
) -> _Step:
    """Gives the free slots of each line to its best continuations."""
    ranks_RC, nats_RC, ids_RC = candidates
    num_lines, beam_size = ranks_NK.shape
    width = ranks_RC.shape[1]
    totals = ranks_NK.new_full((num_lines * beam_size, width), -torch.inf)
    totals[slots_R] = ranks_NK.flatten()[slots_R, None] + ranks_RC
    ids = ids_RC.new_zeros(totals.shape)
    ids[slots_R] = ids_RC
    top = totals.view(num_lines, -1).topk(beam_size, 1)
    sums_NK = top.values
    if nats_RC is not ranks_RC:
        sums = torch.zeros_like(totals)
        sums[slots_R] = scores_NK.flatten()[slots_R, None] + nats_RC
        sums_NK = sums.view(num_lines, -1).gather(1, top.indices)
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
    ranks_after_NK = top.values.gather(1, order_NK)
    return _Step(
        ranks_NK=ranks_after_NK,
        scores_NK=ranks_after_NK if nats_RC is ranks_RC else sums_NK.gather(1, order_NK),
        tokens_NK=tokens_NK.gather(1, order_NK),
        origins_NK=origins_NK,
        live_NK=live_NK.gather(1, order_NK),
        finished_NK=finished_NK.gather(1, order_NK),
        alignment_NK=alignment_NK,
        values_NK=ranks_after_NK,
    )


def _next_rows(
    rows: _Rows[decoders.M], state: states.State, chosen: _Step, live_NK: Tensor, memory: decoders.M
) -> _Rows[decoders.M] | None:
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
    scores_TNK, ranks_TNK = _stacked(steps, "scores_NK"), _stacked(steps, "ranks_NK")
    aligned = steps[0].alignment_NK is not None
    alignment_TNK = _stacked(steps, "alignment_NK") if aligned else np.zeros_like(tokens_TNK)
    ends, lines, slots = np.nonzero(_stacked(steps, "finished_NK"))
    order = np.lexsort((slots, ends, -_stacked(steps, "values_NK")[ends, lines, slots], lines))
    ends, lines, slots = ends[order], lines[order], slots[order]
    scores, ranks = scores_TNK[ends, lines, slots], ranks_TNK[ends, lines, slots]
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
            sentence = tuple(tokens[row, :length].tolist())
            found[line].append(Hypothesis(sentence, float(scores[row]), looked_at, float(ranks[row])))
    return found


def _stacked(steps: Sequence[_Step], name: str) -> npt.NDArray[Any]:
    return torch.stack([getattr(step, name) for step in steps]).cpu().numpy()
