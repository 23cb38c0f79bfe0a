"""Validation by decoding: BLEU of translations, sample translations, and continuations of lines."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from core.config import evaluation_settings, inference_settings, model_settings, schema, training_settings
from core.data.dataset import shards
from core.data.text import selection
from core.decoding.generation import generator
from core.decoding.translation import translator
from core.evaluation import bleu_tokenizers, quality
from core.models import bundle
from core.training import collective, validation

PREFIX_TOKENS = 10
SAMPLE_TOKENS = 40


class _Lines(NamedTuple):
    """Numbers of the lines of a split that are translated for BLEU, and of those that are shown."""

    bleu: list[int]
    samples: list[int]


class DecodingValidator:
    """Translates lines, or continues the beginnings of lines, as `training.validation` asks.

    Lines of all lengths are drawn, the same ones at each validation. Every rank translates its share. References are
    the target tokens decoded to text, so that BLEU is that of the text that the model learns from, cleaned and with its
    unknown words.

    Raises:
        UsageError: the tokenizer of BLEU is not installed on this node.
    """

    def __init__(
        self,
        settings: training_settings.ValidationConfig,
        evaluation: evaluation_settings.EvaluationConfig,
        compute: schema.ComputeConfig,
        seed: int,
    ) -> None:
        # Here, not after the steps before the first validation.
        if settings.bleu_lines:
            bleu_tokenizers.check_installed(evaluation)
        self._evaluation = evaluation
        self._lines: dict[str, _Lines] = {}  # by corpus
        # "auto" is the precision in the bundle, which is that of training.
        self._settings, self._seed = settings, seed
        self._compute = schema.ComputeConfig(precision="auto", matmul=compute.matmul)

    def decode(
        self,
        trained: bundle.Bundle,
        dataset: shards.Dataset,
        corpus: str,
        group: collective.Collective,
        device: torch.device,
    ) -> validation.DecodingResult:
        """See `core.training.validation.Validator`."""
        split = dataset.split("valid", corpus)
        if split is None or not max(self._settings.bleu_lines, self._settings.samples):
            return validation.DecodingResult()
        cleaning = next(iter(trained.codecs.values())).cleaning
        trained = _without_cleaning(trained)
        if trained.config.kind != "seq2seq":
            return self._continue_lines(trained, split, corpus, group, device)
        lines = self._draw(split, corpus, "source")
        # Every world_size-th line: lines of a corpus that is sorted by length are shared out evenly.
        own = sorted({*lines.bleu, *lines.samples})[group.rank :: group.world_size]
        sources = _texts(split, own, trained, "source")
        references = _texts(split, own, trained, "target")
        outputs = self._translate(trained, sources, dataset.target_token(corpus), device)
        shares = group.gather(list(zip(own, sources, outputs, references, strict=True)), "translated lines")
        # BLEU is not a mean over lines: rank 0 computes it from the translations of all ranks.
        result = None if shares is None else self._evaluate([row for share in shares for row in share], lines, cleaning)
        return group.broadcast(result, "the result of decoding") or validation.DecodingResult()

    def _translate(
        self, trained: bundle.Bundle, sources: Sequence[str], target_token: str | None, device: torch.device
    ) -> list[str]:
        # Greedy: a beam would make every validation several times as long.
        decoding = inference_settings.DecodingConfig(beam_size=1, target_token=target_token)
        ready = translator.Translator(trained, decoding, self._compute, str(device))
        return [translation.text for translation in ready.translate(sources)]

    def _draw(self, split: shards.Split, corpus: str, column: str) -> _Lines:
        if corpus not in self._lines:
            lengths = split.lengths(0, split.num_lines)[column].tolist()
            settings = self._settings
            counts = (settings.bleu_lines, settings.samples)
            self._lines[corpus] = _Lines(*(selection.draw_by_length(lengths, count) for count in counts))
        return self._lines[corpus]

    def _evaluate(
        self, rows: list[tuple[int, str, str, str]], lines: _Lines, cleaning: Sequence[str]
    ) -> validation.DecodingResult:
        # By line number: neither BLEU nor the samples depend on how lines were shared out.
        by_number = {number: validation.Sample(*texts) for number, *texts in rows}
        bleu, signature = None, None
        if lines.bleu:
            outputs, references = (
                [getattr(by_number[number], name) for number in lines.bleu] for name in ("output", "reference")
            )
            bleu, signature = quality.corpus_bleu(outputs, references, self._evaluation, cleaning)
        return validation.DecodingResult(bleu, tuple(by_number[number] for number in lines.samples), signature)

    def _continue_lines(
        self,
        trained: bundle.Bundle,
        split: shards.Split,
        corpus: str,
        group: collective.Collective,
        device: torch.device,
    ) -> validation.DecodingResult:
        """Continues the beginnings of lines, on rank 0 alone; the other ranks do not wait for it here.

        A model that reads backward is given the ends of lines, and generates the text before them.
        """
        if group.rank != 0:
            return validation.DecodingResult()
        generation = inference_settings.GenerationConfig(method="greedy", num_tokens=SAMPLE_TOKENS)
        ready = generator.Generator(trained, generation, self._compute, self._seed, str(device))
        codec = trained.codecs["text"]
        backward = model_settings.reads_backward(trained.config)
        # The prompt is shown as the source of the sample, and not again in its texts.
        cut = str.removesuffix if backward else str.removeprefix
        samples = []
        for ids in _rows(split, self._draw(split, corpus, "text").samples, "text"):
            start = codec.decode(ids[-PREFIX_TOKENS:] if backward else ids[:PREFIX_TOKENS])
            if start:
                length = PREFIX_TOKENS + SAMPLE_TOKENS
                reference = codec.decode(ids[-length:] if backward else ids[:length])
                samples.append(validation.Sample(start, cut(ready.generate(start), start), cut(reference, start)))
        return validation.DecodingResult(None, tuple(samples))


def references(dataset: shards.Dataset, corpus: str, count: int) -> list[str]:
    """Returns target lines of a corpus's validation split, spread over it evenly; empty without such a split."""
    split = dataset.split("valid", corpus)
    if split is None:
        return []
    step = max(1, split.num_lines // count)
    rows = _rows(split, range(0, split.num_lines, step)[:count], "target")
    return [dataset.codecs["target"].decode(ids) for ids in rows]


def _without_cleaning(trained: bundle.Bundle) -> bundle.Bundle:
    """Returns the bundle without cleaning steps: the lines of the dataset are clean already."""
    codecs = {role: dataclasses.replace(codec, cleaning=()) for role, codec in trained.codecs.items()}
    return dataclasses.replace(trained, codecs=codecs)


def _texts(split: shards.Split, lines: Sequence[int], trained: bundle.Bundle, side: str) -> list[str]:
    return [trained.codecs[side].decode(ids) for ids in _rows(split, lines, side)]


def _rows(split: shards.Split, lines: Sequence[int], side: str) -> list[list[int]]:
    indices_N = torch.tensor(lines, dtype=torch.int64).numpy()
    return [ids.tolist() for ids in split.rows(indices_N, side)]
