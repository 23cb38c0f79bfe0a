"""Beam search, on a decoder small enough to be searched by hand or exhaustively."""

import dataclasses
import itertools
import math
from typing import Self

import pytest
import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding.translation import beam_search, constraints, decoders
from core.models import state as states

SPECIAL = constraints.SpecialTokens(pad=1, bos=2, eos=3)


@dataclasses.dataclass(frozen=True)
class Lines:
    """Memory that holds the line number of each row."""

    numbers_B: Tensor

    def select(self, rows_B: Tensor) -> Self:
        return dataclasses.replace(self, numbers_B=self.numbers_B[rows_B])


class Table:
    """Decoder with a table of logits for each line, by the last two tokens; its state is the token before the last."""

    def __init__(self, num_lines: int, vocabulary_size: int, seed: int = 0, spread: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.size = vocabulary_size
        shape = (num_lines, vocabulary_size, vocabulary_size, vocabulary_size)
        self.logits = spread * torch.randn(shape, generator=generator)
        self.device = torch.device("cpu")
        self.rows_of_steps: list[int] = []

    def initial_state(self, memory: Lines) -> states.State:
        return ((torch.zeros_like(memory.numbers_B),),)

    def step(self, tokens_B: Tensor, memory: Lines, state: states.State) -> decoders.Predictions:
        self.rows_of_steps.append(len(tokens_B))
        lines_B = memory.numbers_B.repeat_interleave(len(tokens_B) // len(memory.numbers_B))
        logits_BV = self.logits[lines_B, state[0][0], tokens_B]
        norm_B1 = logits_BV.logsumexp(1, keepdim=True)
        return decoders.Predictions(logits_BV, norm_B1, ((tokens_B,),), torch.eye(self.size)[tokens_B])

    def forced(self, line: int, tokens: tuple[int, ...]) -> float:
        """Returns the score of given tokens, computed one by one."""
        total, before, last = 0.0, 0, SPECIAL.bos
        for token in tokens:
            total += float(self.logits[line, before, last].double().log_softmax(0)[token])
            before, last = last, token
        return total


def _search(table: Table, lines: list[int], **settings: float) -> list[list[beam_search.Hypothesis]]:
    decoding = inference_settings.DecodingConfig(**{"max_length": 6, "length_penalty": 1.0, **settings})  # type: ignore[arg-type]
    mask_NS = torch.ones(len(lines), table.size, dtype=torch.bool)
    return beam_search.beam_search(table, Lines(torch.tensor(lines)), mask_NS, decoding, SPECIAL)


def _tokens(hypotheses: list[list[beam_search.Hypothesis]]) -> list[list[tuple[int, ...]]]:
    return [[hypothesis.tokens for hypothesis in line] for line in hypotheses]


def test_beam_search_with_beam_1_is_greedy() -> None:
    table = Table(num_lines=20, vocabulary_size=9)
    for line, hypotheses in enumerate(_search(table, list(range(20)), beam_size=1, max_length=7)):
        expected: list[int] = []
        before, last = 0, SPECIAL.bos
        while not expected or expected[-1] != SPECIAL.eos:
            logits = table.logits[line, before, last].clone()
            logits[[SPECIAL.pad, SPECIAL.bos]] = -torch.inf
            before, last = last, int(logits.argmax()) if len(expected) < 6 else SPECIAL.eos
            expected.append(last)
        assert hypotheses[0].tokens == tuple(expected)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_an_exhaustive_beam_finds_the_best_translations(length_penalty: float) -> None:
    table = Table(num_lines=4, vocabulary_size=6)
    words = [0, 4, 5]
    hypotheses_N = _search(table, [0, 1, 2, 3], beam_size=200, num_best=3, max_length=4, length_penalty=length_penalty)
    for line in range(4):
        everything = [(*path, SPECIAL.eos) for size in range(4) for path in itertools.product(words, repeat=size)]
        everything.sort(key=lambda tokens: -table.forced(line, tokens) / len(tokens) ** length_penalty)
        assert [hypothesis.tokens for hypothesis in hypotheses_N[line]] == everything[:3]
        ranking = [table.forced(line, tokens) / len(tokens) ** length_penalty for tokens in everything[:3]]
        assert [hypothesis.ranking_score for hypothesis in hypotheses_N[line]] == pytest.approx(ranking, abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_scores_equal_those_of_forced_decoding(beam_size: int) -> None:
    table = Table(num_lines=10, vocabulary_size=12)
    for line, hypotheses in enumerate(_search(table, list(range(10)), beam_size=beam_size, num_best=beam_size)):
        assert len(hypotheses) == beam_size
        for hypothesis in hypotheses:
            assert hypothesis.tokens[-1] == SPECIAL.eos
            assert len(hypothesis.tokens) <= 6
            assert hypothesis.score_nats == pytest.approx(table.forced(line, hypothesis.tokens), abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_a_line_does_not_depend_on_its_batch(beam_size: int) -> None:
    table = Table(num_lines=16, vocabulary_size=10)
    together = _search(table, list(range(16)), beam_size=beam_size, num_best=beam_size)
    assert together == [_search(table, [line], beam_size=beam_size, num_best=beam_size)[0] for line in range(16)]
    assert together[::-1] == _search(table, list(range(16))[::-1], beam_size=beam_size, num_best=beam_size)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_num_best_does_not_change_the_first_translations(length_penalty: float) -> None:
    table = Table(num_lines=30, vocabulary_size=10, spread=4.0)
    lines = list(range(30))
    most = _search(table, lines, beam_size=5, num_best=5, length_penalty=length_penalty, max_length=12)
    for num_best in (1, 2, 4):
        fewer = _search(table, lines, beam_size=5, num_best=num_best, length_penalty=length_penalty, max_length=12)
        assert fewer == [line[:num_best] for line in most]


def test_alternatives_differ_and_are_ranked_by_length_normalized_score() -> None:
    for line in _search(Table(10, 10), list(range(10)), beam_size=5, num_best=5, length_penalty=0.7):
        values = [hypothesis.score_nats / len(hypothesis.tokens) ** 0.7 for hypothesis in line]
        assert values == sorted(values, reverse=True)
        assert len({hypothesis.tokens for hypothesis in line}) == 5


def test_two_slots_by_hand() -> None:
    """Two slots. Step 1: a 0.5, b 0.3, <eos> 0.2. After a: <eos> 0.6, a 0.4; after b: b 0.9, <eos> 0.1.

    Step 2: a<eos> 0.30, bb 0.27, aa 0.20: the first is finished and keeps its slot, bb takes the other. Step 3:
    bbb 0.243. Step 4 is the last position, where <eos> is forced: 0.243 * 0.1.
    """
    table = Table(num_lines=1, vocabulary_size=6)
    tiny = -40.0
    table.logits[:] = tiny
    a, b = 4, 5
    table.logits[0, 0, SPECIAL.bos, [a, b, SPECIAL.eos]] = torch.tensor([0.5, 0.3, 0.2]).log()
    for before in (SPECIAL.bos, a, b):
        table.logits[0, before, a, [SPECIAL.eos, a]] = torch.tensor([0.6, 0.4]).log()
        table.logits[0, before, b, [b, SPECIAL.eos]] = torch.tensor([0.9, 0.1]).log()
    (hypotheses,) = _search(table, [0], beam_size=2, num_best=2, max_length=4, length_penalty=0.0)
    assert _tokens([hypotheses]) == [[(a, SPECIAL.eos), (b, b, b, SPECIAL.eos)]]
    assert hypotheses[0].score_nats == pytest.approx(math.log(0.3), abs=1e-6)
    assert hypotheses[1].score_nats == pytest.approx(math.log(0.0243), abs=1e-6)


def test_lengths_stay_between_min_length_and_max_length() -> None:
    table = Table(num_lines=10, vocabulary_size=8)
    for line in _search(table, list(range(10)), beam_size=4, num_best=4, min_length=3, max_length=5):
        assert {len(hypothesis.tokens) for hypothesis in line} <= {4, 5}


def test_pad_and_bos_are_never_generated() -> None:
    table = Table(num_lines=5, vocabulary_size=8)
    table.logits[..., SPECIAL.pad] = 50.0
    table.logits[..., SPECIAL.bos] = 50.0
    for line in _search(table, list(range(5)), beam_size=4, num_best=4):
        assert not {SPECIAL.pad, SPECIAL.bos} & {token for hypothesis in line for token in hypothesis.tokens}


def test_a_small_vocabulary_gives_fewer_hypotheses_than_num_best() -> None:
    table = Table(num_lines=1, vocabulary_size=5)
    (hypotheses,) = _search(table, [0], beam_size=8, num_best=8, max_length=2)
    assert sorted(_tokens([hypotheses])[0]) == [(0, 3), (3,), (4, 3)]


def test_ties_are_broken_deterministically() -> None:
    table = Table(num_lines=3, vocabulary_size=9, spread=0.0)
    first = _search(table, [0, 1, 2], beam_size=4, num_best=4)
    assert first == _search(table, [0, 1, 2], beam_size=4, num_best=4)
    assert first[0] == first[1] == first[2]


def test_finished_rows_leave_the_batch() -> None:
    """Line 0 finishes at once in all its slots; from then on only the rows of line 1 are computed."""
    table = Table(num_lines=2, vocabulary_size=8)
    table.logits[0, ..., SPECIAL.eos] = 30.0
    table.logits[0, 0, SPECIAL.bos] = torch.tensor([0.0, 0, 0, -30, 0, 0, 0, 0])
    table.logits[1, ..., SPECIAL.eos] = -30.0
    _search(table, [0, 1], beam_size=4, max_length=8, num_best=4)
    assert table.rows_of_steps[:2] == [2, 8]
    assert set(table.rows_of_steps[2:]) == {4}


def test_search_stops_when_no_hypothesis_can_improve() -> None:
    """Without length penalty a score only falls, so after an almost certain <eos> no hypothesis can win."""
    table = Table(num_lines=1, vocabulary_size=8)
    table.logits[0, 0, SPECIAL.bos, SPECIAL.eos] = 30.0
    (hypotheses,) = _search(table, [0], beam_size=4, length_penalty=0.0)
    assert hypotheses[0].tokens == (SPECIAL.eos,)
    assert len(table.rows_of_steps) == 1


def test_alignment_follows_the_hypothesis() -> None:
    """The table attends to the position with the number of the input token."""
    for line in _search(Table(4, 9), [0, 1, 2, 3], beam_size=4, num_best=4):
        for hypothesis in line:
            assert hypothesis.alignment == (SPECIAL.bos, *hypothesis.tokens[:-1])


def test_a_line_with_nan_scores_has_no_translation_and_leaves_others_unchanged() -> None:
    table = Table(num_lines=2, vocabulary_size=8)
    undisturbed = _search(table, [1], beam_size=3)
    table.logits[0] = torch.nan
    assert _search(table, [0, 1], beam_size=3) == [[], undisturbed[0]]


@pytest.mark.parametrize("shape", [(1, 5), (300, 4000), (7, 300_000)])
def test_a_normalizer_has_the_bits_of_torch_whatever_rows_are_beside_it(shape: tuple[int, int]) -> None:
    logits_RV = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    logits_RV[0, 1] = -torch.inf
    log_norm_R1 = decoders.log_normalizer(logits_RV)
    assert torch.equal(log_norm_R1, logits_RV.logsumexp(1, keepdim=True))
    assert torch.equal(log_norm_R1[-1:], decoders.log_normalizer(logits_RV[-1:]))
