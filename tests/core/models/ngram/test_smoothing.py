"""Smoothing against its formulas, written with dictionaries, and against numbers worked by hand."""

import collections
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from core.models.ngram import smoothing
from tests.core.models import counted

# I love you I love coding I love AI
ME, LOVE, YOU, CODING, AI, NEVER = range(6)
DOCUMENT = [ME, LOVE, YOU, ME, LOVE, CODING, ME, LOVE, AI]
STREAM = np.random.default_rng(3).choice(9, size=500, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.03, 0.02]).tolist()
SMOOTHINGS = ["kneser_ney", "laplace", "good_turing"]


def _after(estimated: smoothing.Estimate, *context: int) -> list[float]:
    return estimated.model.distribution(torch.tensor(context, dtype=torch.int64)).tolist()


def test_relative_frequencies_without_smoothing() -> None:
    estimated = counted.estimate(DOCUMENT, 6, 2, "laplace", epsilons=(0.0,))
    assert _after(estimated, LOVE) == [0, 0, 1 / 3, 1 / 3, 1 / 3, 0]
    assert _after(estimated, ME) == [0, 1, 0, 0, 0, 0]


def test_laplace_smoothing_worked_by_hand() -> None:
    estimated = counted.estimate(DOCUMENT, 6, 3, "laplace", epsilons=(3.0, 2.0, 1.0))
    you, never = (1 + 3 / 6) / (9 + 3), (0 + 3 / 6) / (9 + 3)
    assert _after(estimated, NEVER, NEVER)[YOU] == pytest.approx(you)
    assert _after(estimated, NEVER, LOVE)[YOU] == pytest.approx(you)  # this pair was never seen: nothing but n = 0
    assert _after(estimated, ME, LOVE)[YOU] == pytest.approx((1 + 1 * you) / (3 + 1))
    assert _after(estimated, ME, LOVE)[NEVER] == pytest.approx(never / (3 + 1))  # of the single word, not of the pair
    longer = counted.estimate(DOCUMENT, 6, 4, "laplace", epsilons=(3.0, 2.0, 1.0))
    # By the same rule: the triple "you I love" was seen once, before "coding", and goes back to the single word.
    assert _after(longer, YOU, ME, LOVE)[CODING] == pytest.approx((1 + 1 * you) / (1 + 1))
    assert _after(longer, YOU, ME, LOVE)[YOU] == pytest.approx((0 + 1 * you) / (1 + 1))
    assert _after(longer, AI, ME, LOVE)[YOU] == pytest.approx(you)  # never seen
    pair = counted.estimate(DOCUMENT, 6, 2, "laplace", epsilons=(3.0, 2.0))
    assert _after(pair, LOVE)[YOU] == pytest.approx((1 + 2 * you) / (3 + 2))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("how", SMOOTHINGS)
def test_probabilities_after_any_context_sum_to_one(how: str, order: int) -> None:
    estimated = counted.estimate(STREAM, 12, order, how)  # three entries of the vocabulary never occur
    contexts = [STREAM[position : position + order - 1] for position in range(0, 490, 37)]
    contexts += [[11] * (order - 1), [0, 11, 0, 0, 1][: order - 1], [8] * (order - 1)]
    for context in contexts:
        assert sum(_after(estimated, *context)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("how", SMOOTHINGS)
@pytest.mark.parametrize("stream", [[0], [0, 1], [0, 0, 0], [1, 0, 1, 0, 1, 0, 1]])
def test_texts_of_a_few_tokens_give_normalized_models(stream: list[int], how: str, order: int) -> None:
    estimated = counted.estimate(stream, 2, order, how)
    for context in ([0, 0], [0, 1], [1, 0], [1, 1]):
        assert sum(_after(estimated, *context[: order - 1])) == pytest.approx(1, abs=1e-9)


def _kneser_ney(stream: Sequence[int], size: int, context: tuple[int, ...], token: int, order: int) -> float:
    """p(token | context) from the formulas: order is the highest, and the context may be shorter than it allows."""
    length = len(context) + 1
    counts = _adjusted(stream, length, order)
    n = [sum(count == number for count in counts.values()) for number in range(5)]
    y = n[1] / (n[1] + 2 * n[2])
    discounts = [0.0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
    lower = _kneser_ney(stream, size, context[1:], token, order) if context else 1 / size
    following = {run: count for run, count in counts.items() if run[:-1] == context}
    total = sum(following.values())
    if not total:
        return lower
    gamma = sum(discounts[min(count, 3)] for count in following.values()) / total
    count = counts.get((*context, token), 0)
    return (count - discounts[min(count, 3)]) / total + gamma * lower


def _adjusted(stream: Sequence[int], length: int, order: int) -> dict[tuple[int, ...], int]:
    """Counts of the highest order; below, the different tokens before, the beginning of the stream as one."""
    runs = [tuple(stream[position : position + length]) for position in range(len(stream) - length + 1)]
    if length == order:
        return collections.Counter(runs)
    before: dict[tuple[int, ...], set[int]] = collections.defaultdict(set)
    for position, run in enumerate(runs):
        before[run].add(stream[position - 1] if position else -1)
    return {run: len(tokens) for run, tokens in before.items()}


def test_kneser_ney_equals_the_formulas() -> None:
    # Zipf's law over 300 tokens: every order has runs with counts of 1, 2, 3 and 4.
    shares = 1 / np.arange(1, 301)
    stream = np.random.default_rng(5).choice(300, size=3000, p=shares / shares.sum()).tolist()
    estimated = counted.estimate(stream, 310, 3, "kneser_ney")
    assert smoothing.FALLBACK_DISCOUNTS not in estimated.discounts
    for context in [(0, 1), (stream[7], stream[8]), (250, 0), (0, 251), (309, 309)]:
        actual = _after(estimated, *context)
        for token in (0, 1, 5, 40, 299, 309, stream[9]):
            assert actual[token] == pytest.approx(_kneser_ney(stream, 310, context, token, 3), rel=1e-9)


def test_kneser_ney_discounts_worked_by_hand() -> None:
    # Eight runs seen once, four twice, two three times, one four times: Y = 8 / 16.
    counts = torch.tensor([1] * 8 + [2] * 4 + [3] * 2 + [4] + [0] * 3)
    assert smoothing._chen_goodman_discounts(counts) == pytest.approx((0.5, 1.25, 2.0))


def test_katz_discounts_worked_by_hand() -> None:
    # n = 10, 3, 1: with cutoff 1, (k+1) n2 / n1 = 0.6 takes all of a count of 1; with 2, 3 · 1 / 10 = 0.3.
    counts = torch.tensor([1] * 10 + [2] * 3 + [3])
    first, second = (2 * 3 / 10 - 0.3) / 0.7, (3 * 1 / (2 * 3) - 0.3) / 0.7
    assert smoothing._katz_discounts(counts) == pytest.approx((first, second))
    assert smoothing._katz_discounts(torch.tensor([5, 5])) == ()


def test_good_turing_gives_freed_mass_to_unseen_tokens() -> None:
    shares = 1 / np.arange(1, 61)
    stream = np.random.default_rng(5).choice(60, size=800, p=shares / shares.sum()).tolist()
    estimated = counted.estimate(stream, 60, 2, "good_turing")
    pairs = collections.Counter(itertools.pairwise(stream))
    context = 4
    seen = {token: count for (first, token), count in pairs.items() if first == context}
    total, discounts = sum(seen.values()), estimated.discounts[1]
    assert len(discounts) > 1
    kept = {
        token: count * (discounts[count - 1] if count <= len(discounts) else 1) / total for token, count in seen.items()
    }
    single = _after(counted.estimate(stream, 60, 1, "good_turing"))
    alpha = (1 - sum(kept.values())) / (1 - sum(single[token] for token in seen))
    expected = [kept.get(token, alpha * single[token]) for token in range(60)]
    assert _after(estimated, context) == pytest.approx(expected, rel=1e-9)
