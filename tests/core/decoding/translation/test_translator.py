"""Translation of lines."""

import itertools
import statistics
from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings, schema
from core.decoding.lines import results
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.evaluation import quality
from tests.core.decoding import conftest, samples

MODELS: list[dict[str, Any]] = [
    {"attention": "none", "context": "input"},
    {"attention": "additive", "context": "output", "bidirectional": True},
    {"attention": "dot", "context": "input", "cell": "lstm", "num_layers": 2, "bridge": "mean"},
    {"attention": "additive", "context": "output", "coverage_attention": True},
    {"attention": "general", "context": "feed", "coverage_attention": True},
]


def _translator(made: Any = None, **settings: Any) -> translator.Translator:
    decoding = inference_settings.DecodingConfig(**{"max_length": 8, **settings})
    return translator.Translator(made or samples.seq2seq(), decoding, samples.FP32)


@pytest.mark.parametrize(("model", "beam_size"), list(itertools.product(MODELS, [1, 4])))
def test_translations_do_not_depend_on_the_batch(model: dict[str, Any], beam_size: int) -> None:
    lines = samples.sentences(24)
    ready = _translator(samples.seq2seq(**model), beam_size=beam_size, num_best=beam_size, batch_rows=40)
    together = ready.translate(lines)
    alone = [ready.translate([line])[0] for line in lines]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.score_nats for row in together] == pytest.approx([row.score_nats for row in alone], abs=1e-4)
    for row, other in zip(together, alone, strict=True):
        assert [item.text for item in row.alternatives] == [item.text for item in other.alternatives]
        assert row.alignment == other.alignment


@pytest.mark.parametrize(("model", "beam_size"), list(itertools.product(MODELS, [1, 5])))
def test_scores_equal_those_of_the_scorer(model: dict[str, Any], beam_size: int) -> None:
    made = samples.seq2seq(**model)
    lines = ["", *samples.sentences(24)]
    rows = _translator(made, beam_size=beam_size).translate(lines)
    scores = scorer.Scorer(made, inference_settings.ScoringConfig(batch_tokens=50), samples.FP32).score_pairs(
        lines, [row.text for row in rows]
    )
    assert [row.score_nats for row in rows] == pytest.approx([-(row.nll_nats or 0.0) for row in scores], abs=1e-4)
    assert [row.num_tokens for row in rows] == [row.num_tokens for row in scores]


def test_greedy_search_takes_the_argmax_of_each_step() -> None:
    made = samples.seq2seq()
    source, target = made.codecs["source"], made.codecs["target"].tokenizer
    model: Any = made.model
    lines = samples.sentences(10)
    for line, row in zip(lines, _translator(made, beam_size=1).translate(lines), strict=True):
        ids = [*source.encode_lines([line])[0], source.tokenizer.eos_id]
        tokens: list[int] = [target.bos_id or 0]
        with torch.inference_mode():
            while len(tokens) < 8 and tokens[-1] != target.eos_id:
                features_BTF = model(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([tokens]))
                logits_V = model.logits(features_BTF)[0, -1]
                logits_V[[target.pad_id, target.bos_id]] = -torch.inf
                tokens.append(int(logits_V.argmax()))
        assert row.text == target.decode(tokens)


def test_a_wider_beam_finds_a_higher_total_score() -> None:
    lines = samples.sentences(30)
    totals = [
        sum(row.score_nats or 0.0 for row in _translator(beam_size=beam_size, length_penalty=0.0).translate(lines))
        for beam_size in (1, 4, 16)
    ]
    assert totals == sorted(totals)


def test_an_empty_line_has_an_empty_translation() -> None:
    rows = _translator(beam_size=2).translate(["the cat", "", "a dog"])
    assert rows[1] == results.Translation("", 0.0, 0)
    assert rows[0].num_tokens > 0
    assert rows[2].text == _translator(beam_size=2).translate(["a dog"])[0].text


def test_a_line_that_is_too_long_is_an_error_row() -> None:
    rows = _translator(beam_size=1).translate(["cat " * 12_000, "cat"])
    assert rows[0].error is not None
    assert rows[0].error.startswith("too_long")
    assert rows[1].error is None


def test_lines_with_unknown_words_are_translated() -> None:
    (row,) = _translator().translate(["the zebra"])
    assert row.error is None


def test_scores_that_are_not_finite_give_error_rows() -> None:
    made = samples.seq2seq()
    with torch.no_grad():
        samples.output(made).bias.fill_(float("nan"))
    (row,) = _translator(made).translate(["the cat"])
    assert row.error is not None
    assert row.error.startswith("not_finite")


@pytest.mark.parametrize("model", [{}, *MODELS[-2:]])
def test_bf16_scores_differ_from_fp32_by_a_few_roundings_on_average(model: dict[str, Any]) -> None:
    """Averages over models and lines: the error of a single row depends on the CPU's own bf16 arithmetic."""
    lines, bf16 = samples.sentences(10), schema.ComputeConfig(precision="bf16", matmul="default")
    differences = []
    for seed in range(10):
        made = samples.seq2seq(seed=seed, **model)
        rounded = translator.Translator(made, inference_settings.DecodingConfig(max_length=8), bf16).translate(lines)
        for row, exact in zip(rounded, _translator(made).translate(lines), strict=True):
            if row.text == exact.text:
                assert row.score_nats is not None
                assert exact.score_nats is not None
                differences.append(abs(row.score_nats / exact.score_nats - 1))
    assert len(differences) > 80
    assert statistics.mean(differences) < 4 * torch.finfo(torch.bfloat16).eps  # measured without AMX: 0.3 to 0.4 eps


def test_translation_with_a_language_model_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="use score or generate"):
        _translator(samples.language_model())


INT8 = schema.ComputeConfig(precision="int8", matmul="default")


def test_int8_translations_do_not_depend_on_the_batch() -> None:
    lines = samples.sentences(16)
    ready = translator.Translator(samples.seq2seq(), inference_settings.DecodingConfig(max_length=8, beam_size=4), INT8)
    together = ready.translate(lines)
    alone = [ready.translate([line])[0] for line in lines]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.score_nats for row in together] == pytest.approx([row.score_nats for row in alone], abs=1e-4)
    exact = _translator(beam_size=4).translate(lines)
    for row, other in zip(together, exact, strict=True):
        if row.text == other.text:
            assert row.score_nats == pytest.approx(other.score_nats, rel=0.05)
    assert sum(row.text == other.text for row, other in zip(together, exact, strict=True)) >= 12


def test_bf16_and_int8_lose_less_than_a_fifth_of_a_bleu_point() -> None:
    """Lines with repeated words, which the copy model was not trained on, leave room for errors.

    A single model may gain or lose half a point by chance; the mean of eight has a standard error of 0.06.
    """
    lines = samples.sentences(300, longest=6)
    references = [" ".join(word[::-1] for word in line.split()) for line in lines]
    decoding = inference_settings.DecodingConfig(max_length=16, beam_size=4)
    bleu: dict[str, list[float]] = {"fp32": [], "bf16": [], "int8": []}
    for seed in range(1, 9):
        copier = conftest.trained_copier(seed)
        for precision, values in bleu.items():
            compute = schema.ComputeConfig.model_validate({"precision": precision, "matmul": "default"})
            rows = translator.Translator(copier, decoding, compute).translate(lines)
            values.append(quality.corpus([row.text for row in rows], [references]).bleu)
    exact = statistics.mean(bleu["fp32"])
    assert 80 < exact < 100
    assert statistics.mean(bleu["bf16"]) == pytest.approx(exact, abs=0.2)
    assert statistics.mean(bleu["int8"]) == pytest.approx(exact, abs=0.2)


def test_int8_on_a_gpu_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="int8 is for CPUs"):
        translator.Translator(samples.seq2seq(), inference_settings.DecodingConfig(), INT8, "cuda")


def test_translations_begin_with_their_prefix() -> None:
    lines, prefixes = samples.sentences(6), ["god tac", "", "eht", "a", "", "gib"]
    rows = _translator(num_best=2, beam_size=4).translate(lines, prefixes)
    for row, prefix in zip(rows, prefixes, strict=True):
        assert row.text.startswith(prefix)
        assert all(other.text.startswith(prefix) for other in row.alternatives)
    free = _translator(beam_size=4).translate(lines)
    assert [rows[index].text for index in (1, 4)] == [free[index].text for index in (1, 4)]
    (row,) = _translator().translate(["the cat"], ["a a a a a a a a"])
    assert row.error == "prefix_too_long: 8 tokens"


def test_samples_depend_on_line_and_seed_alone() -> None:
    lines = samples.sentences(8)
    ready = _translator(method="sample", num_best=3, seed=5)
    together = ready.translate(lines)
    assert together[5].text == ready.translate([lines[5]])[0].text
    assert [row.text for row in ready.translate(lines[::-1])] == [row.text for row in together][::-1]
    assert [row.text for row in _translator(method="sample", seed=6).translate(lines)] != [row.text for row in together]
    scores = scorer.Scorer(samples.seq2seq(), inference_settings.ScoringConfig(), samples.FP32).score_pairs(
        lines, [row.text for row in together]
    )
    assert [row.score_nats for row in together] == pytest.approx([-(row.nll_nats or 0.0) for row in scores], abs=1e-4)
