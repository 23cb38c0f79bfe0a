"""What a rank makes of the validation split besides its loss: translations with their BLEU, samples, continuations."""

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


class Examiner:
    """Has the model translate lines, or go on from the beginnings of lines, as `training.validation` asks.

    Every rank translates its share. References are the target tokens read back as text, so that the figure is that of
    the text that the model learns from, cleaned and with its unknown words.
    """

    def __init__(self, settings: training_settings.ValidationConfig, compute: schema.ComputeConfig, seed: int) -> None:
        # The bundle says in which precision it is trained; that is the one to translate in.
        self._settings, self._seed = settings, seed
        self._compute = schema.ComputeConfig(precision="auto", matmul=compute.matmul)

    def examine(
        self,
        trained: bundle.Bundle,
        dataset: shards.Dataset,
        task: str,
        group: collective.Collective,
        device: torch.device,
    ) -> validation.Examination:
        """See `core.training.validation.Validator`."""
        split = dataset.split("valid", task)
        num_lines = max(self._settings.bleu_lines, self._settings.samples)
        if split is None or not num_lines:
            return validation.Examination()
        trained = _as_cleaned(trained)
        if trained.config.kind != "seq2seq":
            return self._continued(trained, split, group, device)
        own = range(min(num_lines, split.num_lines))[group.rank :: group.world_size]
        sources = _texts(split, own, trained, "source")
        references = _texts(split, own, trained, "target")
        outputs = self._translated(trained, sources, dataset.target_token(task), device)
        shares = group.gather(list(zip(own, sources, outputs, references, strict=True)), "translated lines")
        examined = None if shares is None else self._judged([row for share in shares for row in share])
        return group.broadcast(examined, "what a validation found") or validation.Examination()

    def _translated(
        self, trained: bundle.Bundle, sources: Sequence[str], target_token: str | None, device: torch.device
    ) -> list[str]:
        decoding = inference_settings.DecodingConfig(beam_size=1, target_token=target_token)
        ready = translator.Translator(trained, decoding, self._compute, str(device))
        return [found.text for found in ready.translate(sources)]

    def _judged(self, rows: list[tuple[int, str, str, str]]) -> validation.Examination:
        in_order = [validation.Sample(*texts) for _, *texts in sorted(rows)]
        judged = in_order[: self._settings.bleu_lines]
        bleu = None
        if judged:
            bleu = quality.corpus([sample.output for sample in judged], [[sample.reference for sample in judged]]).bleu
        return validation.Examination(bleu, tuple(in_order[: self._settings.samples]))

    def _continued(
        self, trained: bundle.Bundle, split: shards.Split, group: collective.Collective, device: torch.device
    ) -> validation.Examination:
        """How the model goes on from the beginnings of lines, on rank 0: the others have nothing to wait for.

        One that reads backward is given the ends of lines, and writes what stands before.
        """
        if group.rank != 0:
            return validation.Examination()
        decoding = inference_settings.DecodingConfig(num_tokens=SAMPLE_TOKENS)
        ready = generator.Generator(trained, decoding, self._compute, self._seed, str(device))
        codec = trained.codecs["text"]
        backward = model_settings.reads_backward(trained.config)
        cut = str.removesuffix if backward else str.removeprefix
        samples = []
        for ids in _rows(split, range(min(self._settings.samples, split.num_lines)), "text"):
            start = codec.decode(ids[-PREFIX_TOKENS:] if backward else ids[:PREFIX_TOKENS])
            if start:
                length = PREFIX_TOKENS + SAMPLE_TOKENS
                reference = codec.decode(ids[-length:] if backward else ids[:length])
                samples.append(validation.Sample(start, cut(ready.generate(start), start), cut(reference, start)))
        return validation.Examination(None, tuple(samples))


def _as_cleaned(trained: bundle.Bundle) -> bundle.Bundle:
    """Takes lines as they stand in the dataset: what was cleaned is not cleaned again."""
    codecs = {role: dataclasses.replace(codec, cleaning=()) for role, codec in trained.codecs.items()}
    return dataclasses.replace(trained, codecs=codecs)


def _texts(split: shards.Split, lines: range, trained: bundle.Bundle, side: str) -> list[str]:
    return [trained.codecs[side].decode(ids) for ids in _rows(split, lines, side)]


def _rows(split: shards.Split, lines: range, side: str) -> list[list[int]]:
    indices_N = torch.tensor(lines, dtype=torch.int64).numpy()
    return [ids.tolist() for ids in split.rows(indices_N, side)]
