"""Scoring by an n-gram model, against back-off in plain Python."""

import numpy as np

from core.config import inference_settings, ngram_settings, schema
from core.data import ngram_counts
from core.data.tokens import tokenizer
from core.decoding.scoring import scorer
from core.models import bundle
from core.models.ngram import ngram_model, smoothing
from core.storage import private_folders
from tests.benchmarks import harness, workloads

_SIZE, _ORDER, _EOS = 10_000, 5, 3


def scoring() -> workloads.Variants:
    """Returns scoring of lines by a 5-gram model of 400,000 words with Zipfian frequencies, and one by dictionaries."""
    columns = workloads.ZipfPairs(30_000, _SIZE).columns
    stream = np.concatenate([np.append(_EOS, row) for row in columns["source"]])
    counts = ngram_counts.count(stream, 0, len(stream), _ORDER, _SIZE)
    config = ngram_settings.NgramConfig(kind="ngram", order=_ORDER)
    with private_folders.scratch() as folder:
        model = smoothing.estimate(config, _SIZE, [counts], tuple(stream[:_ORDER].tolist()), folder).model
    codec = tokenizer.Codec((), workloads.words(_SIZE))
    packed = bundle.Bundle(model, config, {"text": codec}, "eos", "fp32")
    ours = scorer.Scorer(packed, inference_settings.ScoringConfig(), schema.ComputeConfig())
    lines = [" ".join(f"w{token - workloads.RESERVED}" for token in row[:-1]) for row in columns["target"][:4000]]
    probabilities, backoffs = _dictionaries(model)

    def run_ours() -> harness.Done:
        return harness.Done(sum(row.num_tokens for row in ours.score_lines(lines)))

    def run_baseline() -> harness.Done:
        num_tokens = 0
        for ids in codec.encode_lines(lines[:400]):
            row = (_EOS, *ids, _EOS)
            for end in range(1, len(row)):
                weight = 1.0
                for start in range(max(0, end - _ORDER + 1), end + 1):
                    ngram = row[start : end + 1]
                    if ngram in probabilities:
                        np.log(weight * probabilities[ngram])
                        break
                    weight *= backoffs.get(ngram[:-1], 1.0)
                num_tokens += 1
        return harness.Done(num_tokens)

    return {"ours": run_ours, "baseline": run_baseline}


def _dictionaries(
    model: ngram_model.Ngram,
) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]:
    """Returns the probabilities and back-off weights of a model by n-gram."""
    probabilities: dict[tuple[int, ...], float] = {}
    backoffs: dict[tuple[int, ...], float] = {}
    ngrams: list[tuple[int, ...]] = [()]
    for level in range(1, _ORDER + 1):
        keys = range(_SIZE) if level == 1 else model.keys(level).tolist()
        ngrams = [(*ngrams[key // _SIZE], key % _SIZE) for key in keys]
        probabilities.update(zip(ngrams, model.probability(level).tolist(), strict=True))
        if level < _ORDER:
            backoffs.update(zip(ngrams, model.backoff(level, slice(None)).tolist(), strict=True))
    return probabilities, backoffs
