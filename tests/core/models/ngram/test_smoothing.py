"""Smoothing against its formulas, written with dictionaries, and against numbers worked by hand."""

import collections
import functools
import gzip
import itertools
import math
import pathlib
import tracemalloc
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch

from core.config import ngram_settings
from core.data import ngram_counts
from core.models.ngram import levels, smoothing, tables
from tests.core.models import counted

Run = tuple[int, ...]

# I love you I love coding I love AI
ME, LOVE, YOU, CODING, AI, NEVER = range(6)
BEGIN = -2
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
    _check_sums(counted.estimate(STREAM, 12, order, how), order)  # three entries of the vocabulary never occur


def _check_sums(estimated: smoothing.Estimate, order: int) -> None:
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


def _kneser_ney(
    counts_of: Callable[[int], Mapping[Run, int]],
    size: int,
    context: Run,
    token: int,
    is_kept: Callable[[Run], bool] = lambda _: True,
) -> float:
    """p(token | context) from the formulas; `counts_of` gives the adjusted counts of n-grams of a length."""
    counts = counts_of(len(context) + 1)
    n = [sum(count == number for count in counts.values()) for number in range(5)]
    y = n[1] / (n[1] + 2 * n[2])
    discounts = [0.0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
    lower = _kneser_ney(counts_of, size, context[1:], token, is_kept) if context else 1 / size
    following = {run: count for run, count in counts.items() if run[:-1] == context}
    total = sum(following.values())
    if not total:
        return lower
    freed = {run: discounts[min(count, 3)] if is_kept(run) else count for run, count in following.items()}
    seen = (*context, token)
    return (following.get(seen, 0) - freed.get(seen, 0)) / total + sum(freed.values()) / total * lower


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
    counts_of = functools.cache(functools.partial(_adjusted, stream, order=3))
    for context in [(0, 1), (stream[7], stream[8]), (250, 0), (0, 251), (309, 309)]:
        actual = _after(estimated, *context)
        for token in (0, 1, 5, 40, 299, 309, stream[9]):
            assert actual[token] == pytest.approx(_kneser_ney(counts_of, 310, context, token), rel=1e-9)


def _occurrences(stream: Sequence[int], length: int) -> collections.Counter[Run]:
    return collections.Counter(
        tuple(stream[position : position + length]) for position in range(len(stream) - length + 1)
    )


def test_pruned_kneser_ney_equals_the_formulas() -> None:
    shares = 1 / np.arange(1, 301)
    stream = np.random.default_rng(5).choice(300, size=3000, p=shares / shares.sum()).tolist()
    estimated = counted.estimate(stream, 310, 3, "kneser_ney", prune=(0, 1, 2))
    # The discounts are those of all n-grams.
    assert estimated.discounts == counted.estimate(stream, 310, 3, "kneser_ney").discounts
    occurrences = {length: _occurrences(stream, length) for length in (1, 2, 3)}
    counts_of = functools.cache(functools.partial(_adjusted, stream, order=3))

    def is_kept(run: Run) -> bool:
        return occurrences[len(run)][run] > (0, 1, 2)[len(run) - 1]

    frequent = [run for run, _ in occurrences[3].most_common(3)]
    for context in [(0, 1), frequent[0][:2], frequent[1][:2], (stream[7], stream[8]), (250, 0), (309, 309)]:
        actual = _after(estimated, *context)
        for token in (0, 1, 5, 40, 299, 309, stream[9], frequent[0][2]):
            assert actual[token] == pytest.approx(_kneser_ney(counts_of, 310, context, token, is_kept), rel=1e-9)


def test_pruned_kneser_ney_worked_by_hand() -> None:
    a, b, c = 0, 1, 2
    estimated = counted.estimate([a, b, a, b, a, c], 4, 2, "kneser_ney", prune=(0, 1))
    # Too little text for discounts: ½, 1 and 1½. The pair "a c" was seen once, and its count goes to single tokens.
    assert estimated.num_ngrams == (3, 2)
    single = [(2 - 1) / 4 + 1 / 8, 0.5 / 4 + 1 / 8, 0.5 / 4 + 1 / 8, 1 / 8]
    freed = (1 + 1) / 3
    assert _after(estimated, a) == pytest.approx([freed * p + (2 - 1) / 3 * (w == b) for w, p in enumerate(single)])
    # The one pair after c was padded at the end: nothing follows it.
    assert _after(estimated, c) == pytest.approx(single)


@pytest.mark.parametrize("prune", [(0, 1), (0, 0, 2), (0, 2, 3, 9), (0, 1000)])
@pytest.mark.parametrize("order", [2, 4, 5])
@pytest.mark.parametrize("how", ["kneser_ney", "good_turing"])
def test_pruning_leaves_normalized_models_of_what_occurs_more_often(
    how: str, order: int, prune: tuple[int, ...]
) -> None:
    prune = prune[:order]
    estimated = counted.estimate(STREAM, 12, order, how, prune=prune)
    _check_sums(estimated, order)
    model, contexts = estimated.model, [(token,) for token in range(12)]
    for level in range(2, order + 1):
        keys = model.keys(level).tolist()
        threshold = prune[min(level, len(prune)) - 1]
        expected = {run for run, count in _occurrences(STREAM, level).items() if count > threshold}
        contexts = [(*contexts[key // 12], key % 12) for key in keys]
        assert contexts == sorted(expected)
        assert estimated.num_ngrams[level - 1] == len(expected)


@pytest.mark.parametrize("how", ["kneser_ney", "good_turing"])
def test_pruned_lines_sum_to_one(how: str) -> None:
    lines = [STREAM[start : start + start % 7] for start in range(0, 480, 6)]
    model = counted.estimate_lines(lines, 12, 3, how, 11, prune=(0, 1)).model
    for context in itertools.product([0, 1, 8, 10, 11], repeat=2):
        assert float(model.distribution(torch.tensor(context)).sum()) == pytest.approx(1, abs=1e-9)


def _adjusted_of_lines(lines: Sequence[Sequence[int]], length: int, order: int, end: int) -> dict[tuple[int, ...], int]:
    """Counts of the highest order, and of n-grams from the beginning of a line; else the different tokens before."""
    counts: collections.Counter[tuple[int, ...]] = collections.Counter()
    before: dict[tuple[int, ...], set[int]] = collections.defaultdict(set)
    for line in lines:
        whole = (BEGIN, *line, end)
        for start in range(len(whole) - length + 1):
            run = whole[start : start + length]
            if run == (BEGIN,):
                continue
            counts[run] += 1
            if start:
                before[run].add(whole[start - 1])
    if length == order:
        return counts
    return {run: count if run[0] == BEGIN else len(before[run]) for run, count in counts.items()}


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kneser_ney_of_lines_equals_the_formulas(order: int) -> None:
    shares = 1 / np.arange(1, 301)
    rng = np.random.default_rng(5)
    lines = [rng.choice(300, size=rng.integers(0, 12), p=shares / shares.sum()).tolist() for _ in range(500)]
    end, size = 300, 310
    estimated = counted.estimate_lines(lines, size, order, "kneser_ney", end)
    assert smoothing.FALLBACK_DISCOUNTS not in estimated.discounts
    counts_of = functools.cache(functools.partial(_adjusted_of_lines, lines, order=order, end=end))
    seen = max(lines, key=len)
    for context in [(0, 1), (seen[4], seen[5]), (end, 0), (3, end), (end, end), (309, 309)]:
        own = context[len(context) - (order - 1) :]
        actual = _after(estimated, *own)
        # A line end before the last token is not seen; as the last token it is the beginning of a line.
        in_line = own[max((index for index, token in enumerate(own) if token == end), default=0) :]
        expected = tuple(BEGIN if token == end else token for token in in_line)
        for token in (0, 1, 5, 299, 309, end):
            reference = _kneser_ney(counts_of, size, expected, token)
            assert actual[token] == pytest.approx(reference, rel=1e-9)


def test_the_beginning_of_a_line_is_a_context_worked_by_hand() -> None:
    # Two lines, "a b" and "a": every line begins with a, whatever ends the line before.
    a, b, end, other = 0, 1, 2, 3
    estimated = counted.estimate_lines([[a, b], [a]], 4, 3, "laplace", end, epsilons=(4.0, 1.0))
    p = {token: (count + 1) / (5 + 4) for token, count in {a: 2, b: 1, end: 2, other: 0}.items()}
    first = [(2 * (token == a) + p[token]) / (2 + 1) for token in (a, b, end, other)]
    assert _after(estimated, b, end) == pytest.approx(first)
    assert _after(estimated, end, end) == pytest.approx(first)
    second = [((token in (b, end)) + p[token]) / (2 + 1) for token in (a, b, end, other)]
    assert _after(estimated, end, a) == pytest.approx(second)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("how", SMOOTHINGS)
def test_probabilities_of_lines_sum_to_one(how: str, order: int) -> None:
    rng = np.random.default_rng(order)
    lines = [rng.integers(0, 7, rng.integers(0, 9)).tolist() for _ in range(80)]
    estimated = counted.estimate_lines(lines, 10, order, how, 8)
    stream = counted.stream_of(lines, 8).tolist()
    contexts = [stream[position : position + order - 1] for position in range(0, 300, 7)] + [[8] * (order - 1)]
    for context in contexts:
        assert sum(_after(estimated, *context)) == pytest.approx(1, abs=1e-9)


def _captions(corpora: pathlib.Path) -> tuple[list[list[int]], dict[str, int]]:
    """Returns the lines of the training captions, and the ids of the words."""
    text = gzip.decompress((corpora / "multi30k" / "train.en.gz").read_bytes()).decode()
    ids: dict[str, int] = {"<unk>": 0, "<eos>": 1}
    return [[ids.setdefault(word, len(ids)) for word in line.split()] for line in text.splitlines()], ids


@pytest.mark.data
@pytest.mark.parametrize(
    ("order", "prune", "num_ngrams", "first_lines", "total"),
    [
        (5, (0, 0, 1), (90000, 30841, 22193, 12473), [-16.468534, -17.354362, -12.953783], -17311.723422),
        (4, (0, 1, 2, 3), (25968, 15956, 5911), [-23.612196, -23.884697, -16.5349], -21200.194965),
    ],
)
def test_pruned_kneser_ney_gives_the_figures_of_kenlm(
    order: int,
    prune: tuple[int, ...],
    num_ngrams: tuple[int, ...],
    first_lines: list[float],
    total: float,
    corpora: pathlib.Path,
) -> None:
    """Figures of `lmplz --prune` and `query` for the training captions, of which the first 1,000 are scored."""
    lines, ids = _captions(corpora)
    estimated = counted.estimate_lines(lines, len(ids), order, "kneser_ney", 1, prune=prune)
    assert estimated.num_ngrams[1:] == num_ngrams
    scored = [-float(counted.nlls(estimated.model, [1, *line, 1]).sum()) / math.log(10) for line in lines[:1000]]
    assert scored[:3] == pytest.approx(first_lines, abs=1e-5)
    assert sum(scored) == pytest.approx(total, rel=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("order", [3, 5])
def test_kneser_ney_gives_the_figures_of_kenlm(order: int, corpora: pathlib.Path) -> None:
    """Figures of `lmplz -o ORDER` and `query` for the training captions, of which the first 1,000 are scored."""
    lines, ids = _captions(corpora)
    expected = {
        3: (math.log(13.299046742913285), [-12.839619, -13.41993, -12.003955], -14286.194),
        5: (math.log(6.369887904876735), [-9.52004, -9.893311, -7.6481724], -8927.542),
    }
    nats_of_lines, first_lines, total_of_stream = expected[order]

    model = counted.estimate_lines(lines, len(ids), order, "kneser_ney", 1).model
    scored = [counted.nlls(model, [1, *line, 1]) for line in lines[:1000]]
    assert sum(map(len, scored)) == 12_900
    assert float(torch.cat(scored).mean()) == pytest.approx(nats_of_lines, abs=1e-5)
    assert [-float(line.sum()) / math.log(10) for line in scored[:3]] == pytest.approx(first_lines, abs=1e-5)
    # As one line, in which a line end is a word, the last of the vocabulary.
    end, size = len(ids), len(ids) + 1
    whole = [token for line in lines for token in (*line, end)]
    part = [token for line in lines[:1000] for token in (*line, end)]
    by_word = counted.nlls(counted.estimate_lines([whole], size, order, "kneser_ney", 1).model, [1, *part, 1])
    assert len(by_word) == 12_901
    assert -float(by_word.sum()) / math.log(10) == pytest.approx(total_of_stream, abs=12_901e-5 / math.log(10))
    # As a stream, which has neither a beginning nor an end of its own; only its first tokens have another context.
    stream = [token for line in lines for token in (*line, 1)]
    of_stream = counted.estimate(stream, len(ids), order, "kneser_ney").model
    own = counted.nlls(of_stream, [1, *stream[: len(part)]])
    assert float(own[order:].sum()) == pytest.approx(float(by_word[order:-1].sum()), abs=12_900e-5)


@pytest.mark.parametrize(("how", "prune"), [*((how, (0,)) for how in SMOOTHINGS), ("kneser_ney", (0, 0, 1))])
@pytest.mark.parametrize("by_line", [False, True])
def test_the_model_does_not_depend_on_how_many_rows_are_in_memory(
    how: str, prune: tuple[int, ...], by_line: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> dict[str, torch.Tensor]:
        if by_line:
            lines = [STREAM[start : start + start % 7] for start in range(0, 480, 6)]
            return counted.estimate_lines(lines, 12, 4, how, 11, prune=prune).model.tables
        return counted.estimate(STREAM, 12, 4, how, prune=prune).model.tables

    whole = model()
    monkeypatch.setattr(levels, "ROWS_AT_ONCE", 3)
    few_at_a_time = model()
    assert whole.keys() == few_at_a_time.keys()
    assert all(torch.equal(table, few_at_a_time[name]) for name, table in whole.items())


def _traced_peak_bytes(num_tokens: int, folder: pathlib.Path) -> int:
    """Returns how much memory the estimation of a model of a random text takes."""
    stream = np.random.default_rng(1).zipf(1.2, num_tokens).clip(max=999)
    parts = [
        ngram_counts.store([ngram_counts.count(stream, start, start + 5000, 4, 1000)], folder / f"{start}.arrow", 4)
        for start in range(0, num_tokens, 5000)
    ]
    config = ngram_settings.NgramConfig(kind="ngram", order=4)
    tracemalloc.start()
    blocks = ngram_counts.merged(parts, 1000, folder, rows=4096)
    smoothing.estimate(config, 1000, blocks, tuple(stream[:4].tolist()), folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_of_estimation_does_not_grow_with_the_text(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "ROWS_AT_ONCE", 4096)
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 4096)
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    short, long = (_traced_peak_bytes(size, tmp_path / name) for size, name in ((20_000, "short"), (120_000, "long")))
    assert long < 1.3 * short
    # The model alone is larger.
    assert long < (tmp_path / "long" / "tables.safetensors").stat().st_size


def test_an_ngram_takes_at_most_20_bytes(tmp_path: pathlib.Path) -> None:
    stream = np.random.default_rng(1).zipf(1.2, 20_000).clip(max=999)
    counts = ngram_counts.count(stream, 0, len(stream), 4, 1000)
    config = ngram_settings.NgramConfig(kind="ngram", order=4)
    made = smoothing.estimate(config, 1000, [counts], tuple(stream[:4].tolist()), tmp_path)
    assert made.model.file is not None
    assert made.model.file.stat().st_size <= 20 * sum(made.num_ngrams)


def test_kneser_ney_discounts_worked_by_hand() -> None:
    # Eight runs seen once, four twice, two three times, one four times: Y = 8 / 16.
    assert smoothing._chen_goodman_discounts((3, 8, 4, 2, 1)) == pytest.approx((0.5, 1.25, 2.0))


def test_katz_discounts_worked_by_hand() -> None:
    # n = 10, 3, 1: with cutoff 1, (k+1) n2 / n1 = 0.6 takes all of a count of 1; with 2, 3 · 1 / 10 = 0.3.
    n = (0, 10, 3, 1, 0, 0, 0)
    first, second = (2 * 3 / 10 - 0.3) / 0.7, (3 * 1 / (2 * 3) - 0.3) / 0.7
    assert smoothing._katz_discounts(n) == pytest.approx((first, second))
    assert smoothing._katz_discounts((0, 0, 0, 0, 0, 2, 0)) == ()


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
