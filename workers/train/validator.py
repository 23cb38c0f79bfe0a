"""Validation by decoding: BLEU of translations, sample translations, and continuations of lines."""

import dataclasses
from collections.abc import Sequence

import torch

from core.config import inference_settings, model_settings, schema, training_settings
from core.data.dataset import shards
from core.decoding.generation import generator
from core.decoding.translation import translator
from core.evaluation import quality
from core.models import bundle
from core.training import collective, validation

PREFIX_TOKENS = 10
SAMPLE_TOKENS = 40


class DecodingValidator:
    """Translates lines, or continues the beginnings of lines, as `training.validation` asks.

    Every rank translates its share. References are the target tokens decoded to text, so that BLEU is that of the text
    that the model learns from, cleaned and with its unknown words.
    """

    def __init__(self, settings: training_settings.ValidationConfig, compute: schema.ComputeConfig, seed: int) -> None:
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
        num_lines = max(self._settings.bleu_lines, self._settings.samples)
        if split is None or not num_lines:
            return validation.DecodingResult()
        trained = _without_cleaning(trained)
        if trained.config.kind != "seq2seq":
            return self._continue_lines(trained, split, group, device)
        # Every world_size-th line: lines of a corpus that is sorted by length are shared out evenly.
        own = range(min(num_lines, split.num_lines))[group.rank :: group.world_size]
        sources = _texts(split, own, trained, "source")
        references = _texts(split, own, trained, "target")
        outputs = self._translate(trained, sources, dataset.target_token(corpus), device)
        shares = group.gather(list(zip(own, sources, outputs, references, strict=True)), "translated lines")
        # BLEU is not a mean over lines: rank 0 computes it from the translations of all ranks.
        result = None if shares is None else self._evaluate([row for share in shares for row in share])
        return group.broadcast(result, "the result of decoding") or validation.DecodingResult()

    def _translate(
        self, trained: bundle.Bundle, sources: Sequence[str], target_token: str | None, device: torch.device
    ) -> list[str]:
        # Greedy: a beam would make every validation several times as long.
        decoding = inference_settings.DecodingConfig(beam_size=1, target_token=target_token)
        ready = translator.Translator(trained, decoding, self._compute, str(device))
        return [translation.text for translation in ready.translate(sources)]

    def _evaluate(self, rows: list[tuple[int, str, str, str]]) -> validation.DecodingResult:
        # By line number: neither BLEU nor the samples depend on how lines were shared out.
        in_order = [validation.Sample(*texts) for _, *texts in sorted(rows)]
        lines = in_order[: self._settings.bleu_lines]
        bleu = None
        if lines:
            bleu = quality.corpus([sample.output for sample in lines], [[sample.reference for sample in lines]]).bleu
        return validation.DecodingResult(bleu, tuple(in_order[: self._settings.samples]))

    def _continue_lines(
        self, trained: bundle.Bundle, split: shards.Split, group: collective.Collective, device: torch.device
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
        for ids in _rows(split, range(min(self._settings.samples, split.num_lines)), "text"):
            start = codec.decode(ids[-PREFIX_TOKENS:] if backward else ids[:PREFIX_TOKENS])
            if start:
                length = PREFIX_TOKENS + SAMPLE_TOKENS
                reference = codec.decode(ids[-length:] if backward else ids[:length])
                samples.append(validation.Sample(start, cut(ready.generate(start), start), cut(reference, start)))
        return validation.DecodingResult(None, tuple(samples))


def _without_cleaning(trained: bundle.Bundle) -> bundle.Bundle:
    """Returns the bundle without cleaning steps: the lines of the dataset are clean already."""
    codecs = {role: dataclasses.replace(codec, cleaning=()) for role, codec in trained.codecs.items()}
    return dataclasses.replace(trained, codecs=codecs)


def _texts(split: shards.Split, lines: range, trained: bundle.Bundle, side: str) -> list[str]:
    return [trained.codecs[side].decode(ids) for ids in _rows(split, lines, side)]


def _rows(split: shards.Split, lines: range, side: str) -> list[list[int]]:
    indices_N = torch.tensor(lines, dtype=torch.int64).numpy()
    return [ids.tolist() for ids in split.rows(indices_N, side)]
