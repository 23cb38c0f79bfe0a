"""Goes on from a prefix with a language model."""

from typing import NamedTuple

import torch

from core import errors
from core.config import inference_settings, schema
from core.data import cleaning
from core.decoding import device as devices
from core.decoding import sampling
from core.models import bundle as bundles
from core.models import language_model, ngram


class Generated(NamedTuple):
    """A prefix as the model read it and its continuation, and how much of the prefix it did not know."""

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
        if not isinstance(bundle.model, language_model.LanguageModel | ngram.Ngram):
            verb = "translate" if bundle.config.kind == "seq2seq" else "forecast"
            raise errors.UsageError(
                f"--run: generate needs a language_model; this run is a {bundle.config.kind}: use {verb}"
            )
        self.placed = devices.place(bundle, compute, device)
        self._model = bundle.model
        self._codec = bundle.codecs["text"]
        self._settings = decoding
        self._seed = seed

    def generate(self, prefix: str) -> str:
        """Returns the cleaned prefix and its continuation; the same for the same seed."""
        return self.continuation(prefix).text

    def continuation(self, prefix: str) -> Generated:
        """Reads the prefix, then adds `num_tokens` tokens, each chosen given all before it.

        The state is warmed up over the prefix; in between, a generated `<eos>` is a line break.

        Raises:
            UsageError: the prefix is empty, and the model has no `<eos>` to start from instead.

        Source: document 000 section 8.5.4.
        """
        tokenizer = self._codec.tokenizer
        known = self._codec.encode_lines([prefix])[0]
        start = ([] if tokenizer.eos_id is None else [tokenizer.eos_id]) + known
        if not start:
            raise errors.UsageError("--prefix: has no token that the model could start from; give it some text")
        random = torch.Generator().manual_seed(self._seed)
        added: list[int] = []
        with self.placed.inference():
            inputs_BT = torch.tensor([start], device=self.placed.device)
            features_BTF, state = self._model(inputs_BT, self._model.initial_state(1))
            features_BF = features_BTF[:, -1]
            while True:
                token_B = sampling.choose(self._model.logits(features_BF), self._settings, random)
                added.append(int(token_B))
                if len(added) == self._settings.num_tokens:
                    break
                features_BF, state = self._model.step(token_B, state)
        text = cleaning.clean(prefix, self._codec.cleaning) + self._text_after(known, added)
        return Generated(text, len(added), sum(token == tokenizer.unk_id for token in known))

    def _text_after(self, known: list[int], added: list[int]) -> str:
        """The text of the added tokens, as it stands behind that of the known ones."""
        lines = [list(known)]
        for token in added:
            if token == self._codec.tokenizer.eos_id:
                lines.append([])
            else:
                lines[-1].append(token)
        first = self._codec.decode(lines[0]).removeprefix(self._codec.decode(known))
        return "\n".join([first, *map(self._codec.decode, lines[1:])])
