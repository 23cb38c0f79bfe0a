"""Goes on from a prefix with a language model, or with one that reads backward from an ending towards its beginning."""

from typing import NamedTuple

import torch

from core import errors
from core.config import inference_settings, model_settings, schema
from core.data.text import cleaning
from core.decoding import device as devices
from core.decoding import repetition, sampling
from core.models import bundle as bundles
from core.models import language_model
from core.models.ngram import ngram_model

SHOWN_TOKENS = 10


class Generated(NamedTuple):
    """What was given, as the model read it, with what was added, and how much of the given the model did not know."""

    text: str
    num_tokens: int
    num_unknown: int


class Generator:
    """A bundle ready to generate.

    Raises:
        UsageError: the bundle is a seq2seq.
    """

    def __init__(
        self,
        bundle: bundles.Bundle,
        decoding: inference_settings.DecodingConfig,
        compute: schema.ComputeConfig,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if not isinstance(bundle.model, language_model.LanguageModel | ngram_model.Ngram):
            verb = "translate" if bundle.config.kind == "seq2seq" else "forecast"
            raise errors.UsageError(
                f"--run: generate needs a language_model; this run is a {bundle.config.kind}: use {verb}"
            )
        self.placed = devices.place(bundle, compute, device)
        self._model = bundle.model
        self._codec = bundle.codecs["text"]
        self._backward = model_settings.reads_backward(bundle.config)
        self._settings = decoding
        self._seed = seed

    def generate(self, given: str) -> str:
        """Returns the cleaned text that was given with what was added; the same for the same seed."""
        return self.continuation(given).text

    def continuation(self, given: str) -> Generated:
        """Reads what is given, then adds `num_tokens` tokens, each chosen given all that was read before it.

        What is given is a prefix, or to a model that reads backward an ending, which it reads from its last token on:
        what it adds stands before. The state is warmed up over what is given; a generated `<eos>` is a line break.

        Raises:
            UsageError: nothing is given, and the model has no `<eos>` to start from instead.

        Source: document 000 section 8.5.4.
        """
        tokenizer = self._codec.tokenizer
        known = self._codec.encode_lines([given])[0]
        start = self._start(known)
        random = torch.Generator().manual_seed(self._seed)
        added: list[int] = []
        with self.placed.inference():
            inputs_BT = torch.tensor([start], device=self.placed.device)
            features_BTF, state = self._model(inputs_BT, self._model.initial_state(1))
            features_BF = features_BTF[:, -1]
            while True:
                logits_BV = self._model.logits(features_BF)
                if self._settings.repetition_penalty != 1.0 or self._settings.no_repeat_ngram is not None:
                    history_BT = torch.tensor([[*start, *added]], device=self.placed.device)
                    logits_BV = repetition.follow(logits_BV, history_BT, self._settings)
                token_B = sampling.choose(logits_BV, self._settings, random)
                added.append(int(token_B))
                if len(added) == self._settings.num_tokens:
                    break
                features_BF, state = self._model.step(token_B, state)
        cleaned = cleaning.clean(given, self._codec.cleaning)
        before, after = (
            (self._text_before(known, added[::-1]), "") if self._backward else ("", self._text_after(known, added))
        )
        return Generated(before + cleaned + after, len(added), sum(token == tokenizer.unk_id for token in known))

    def ahead(self, given: str, steps: int) -> list[tuple[str, float]]:
        """Returns the likeliest tokens so many steps after what is given, whatever comes between, and how likely.

        Raises:
            UsageError: the model is no n-gram of order 1 or 2, or there is nothing to start from.
        """
        if not isinstance(self._model, ngram_model.Ngram):
            raise errors.UsageError("decoding.steps_ahead: needs a model of kind ngram, of order 1 or 2; leave it out")
        start = self._start(self._codec.encode_lines([given])[0])
        probabilities, tokens = (
            self._model.after(start[-1], steps).cpu().topk(min(SHOWN_TOKENS, self._model.vocabulary_size))
        )
        found = zip(tokens.tolist(), probabilities.tolist(), strict=True)
        return [(self._codec.tokenizer.token(token), probability) for token, probability in found if probability > 0]

    def _start(self, known: list[int]) -> list[int]:
        """The tokens that a model reads before it adds the first one: the end of the line before, then those given."""
        end = self._codec.tokenizer.eos_id
        start = ([] if end is None else [end]) + (known[::-1] if self._backward else known)
        if not start:
            flag = "--ending" if self._backward else "--prefix"
            raise errors.UsageError(f"{flag}: has no token that the model could start from; give it some text")
        return start

    def _text_after(self, known: list[int], added: list[int]) -> str:
        """The text of the added tokens, as it stands behind that of the known ones."""
        first, *others = self._lines([*known, *added])
        return "\n".join([first.removeprefix(self._codec.decode(known)), *others])

    def _text_before(self, known: list[int], added: list[int]) -> str:
        """The text of the added tokens, as it stands before that of the known ones."""
        *others, last = self._lines([*added, *known])
        return "\n".join([*others, last.removesuffix(self._codec.decode(known))])

    def _lines(self, tokens: list[int]) -> list[str]:
        """The text of tokens, cut where an `<eos>` ends a line."""
        lines: list[list[int]] = [[]]
        for token in tokens:
            if token == self._codec.tokenizer.eos_id:
                lines.append([])
            else:
                lines[-1].append(token)
        return [self._codec.decode(line) for line in lines]
