"""Throughput benchmarks (`make bench`): ours against plain PyTorch, all in one run, with interleaved variants."""

import platform
import sys

import torch

from core.models import compute
from tests.benchmarks import harness, ngrams, preparing, two_workers, workloads

ROUNDS = 5


def main() -> None:
    """Measures each workload against its baseline and prints a Markdown table."""
    torch.set_num_threads(1)
    has_bf16 = compute.this_cpu().has_bf16
    workloads_and_goals = [
        (
            "seq2seq training, attention, real lengths",
            "plain PyTorch, corpus order",
            workloads.seq2seq_training,
            2.0,
            5.0,
        ),
        ("translation, beam 5", "one line at a time", workloads.translation, 4.0, 10.0),
        ("scoring lines", "one line at a time", workloads.scoring, 1.5, 4.0),
        ("translation, beam 5, shortlist of 32,000 words", "the whole vocabulary", workloads.shortlist, 2.0, 2.0),
    ]
    sizes = [
        ("lstm", 2, 650, 10_000, 20, 1.0, 1.8),
        ("gru", 1, 512, 28, 32, 1.0, 2.3),
        ("lstm", 1, 512, 28, 32, 1.0, 1.9),
    ]
    ratios = []
    for precision, column in (("fp32", 0), ("bf16", 1)):
        if precision == "bf16" and not has_bf16:
            continue
        typed = compute.resolve_precision("fp32" if precision == "fp32" else "bf16", "cpu")
        for name, baseline, build, *goals in workloads_and_goals:
            ratios.append(_measure(f"{name}, {precision}", baseline, build(typed), goals[column]))
        for cell, num_layers, size, vocabulary, rows, *goals in sizes:
            name = f"language model step, {cell} {num_layers}×{size}, vocabulary of {vocabulary}, {precision}"
            variants = workloads.language_training(cell, num_layers, size, vocabulary, rows, typed)
            ratios.append(_measure(name, "plain PyTorch", variants, goals[column]))
    ratios.append(
        _measure(
            "training step with run log and metrics, LSTM 1×256",
            "the same model in a bare loop",
            workloads.bare(),
            0.95,
        )
    )
    ratios.append(_measure("scoring lines by 5-grams", "back-off in plain Python", ngrams.scoring(), 2.0))
    for tokenizer in ({"kind": "word", "min_freq": 2}, {"kind": "bpe", "max_size": 2000}):
        name = f"prepare, one corpus, {tokenizer['kind']}"
        ratios.append(_measure(name, "tokenizers' encode_batch", preparing.variants(tokenizer), 0.8))
    ratios.append(two_workers.measure(ROUNDS))
    sys.stdout.write(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n\n")
    sys.stdout.write(harness.table(ratios) + "\n")


def _measure(work: str, baseline: str, variants: workloads.Variants, goal: float) -> harness.Ratio:
    rates = harness.rates(variants, ROUNDS)
    ratio = harness.Ratio(work, baseline, rates["ours"], rates["baseline"], goal)
    sys.stderr.write(f"{work}: {ratio.ratio:.2f}\n")
    return ratio


if __name__ == "__main__":
    main()
