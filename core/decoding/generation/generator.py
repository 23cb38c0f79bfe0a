"""Text generation: continues a prefix with a language model, or writes what precedes an ending with a backward one."""

from typing import Literal, NamedTuple

import torch

from core import errors
from core.config import inference_settings, model_settings, schema
from core.data.text import cleaning
from core.decoding import device as devices
from core.decoding import repetition, sampling
from core.models import bundle as bundles
from core.models import language_model
from core.models.ngram import ngram_model

NUM_SHOWN_TOKENS = 10


class EmptyPromptError(errors.UsageError):
    """A prompt has no token that the model could start from."""


class Continuation(NamedTuple):
    """A generated text.

    Attributes:
        text: the cleaned prompt with the generated text after it, or before it where the model reads backward.
        num_tokens: tokens generated.
        num_unknown: tokens of the prompt that are not in the vocabulary.
        ended: the setting that ended it: `num_tokens`, or `no_repeat_ngram` where every token would repeat an n-gram.
    """

    text: str
    num_tokens: int
    num_unknown: int
    ended: Literal["num_tokens", "no_repeat_ngram"]


class Generator:
    """A bundle ready to generate.

    Raises:
        UsageError: the bundle is not a language model.
    """

    def __init__(
        self,
        bundle: bundles.Bundle,
        generation: inference_settings.GenerationConfig,
        compute: schema.ComputeConfig,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if not isinstance(bundle.model, language_model.LanguageModel | ngram_model.Ngram):
            verb = "translate" if bundle.config.kind == "seq2seq" else "forecast"
            raise errors.UsageError(
                f"--run: generate needs a language_model; this run is a {bundle.config.kind}: use {verb}"
            )
        self._context = devices.prepare(bundle, compute, device)
        self._model = bundle.model
        self._codec = bundle.codecs["text"]
        self._backward = model_settings.reads_backward(bundle.config)
        self._settings = generation
        self._seed = seed

    def generate(self, prompt: str) -> str:
        """Returns the cleaned prompt with the generated text; the same for the same seed."""
        return self.continue_text(prompt).text

    def continue_text(self, prompt: str) -> Continuation:
        """Generates `num_tokens` tokens, each given all tokens read or generated before it.

        There are fewer where `no_repeat_ngram` leaves no token.

        The prompt is a prefix; for a model that reads backward it is an ending, read from its last token to its first,
        and the generated text precedes it. Reading the prompt warms up the hidden state. A generated `<eos>` becomes a
        line break.

        Raises:
            EmptyPromptError: the prompt is empty, and the vocabulary has no `<eos>` to start from instead.

        Source: Zhang et al., Dive into Deep Learning (2021), section 8.5.4 "Prediction".
        """
        tokenizer = self._codec.tokenizer
        prompt_ids = self._codec.encode_lines([prompt])[0]
        context = self._initial_context(prompt_ids)
        # A generator of its own, on the CPU: equal calls give equal text, whatever was drawn before.
        random = torch.Generator().manual_seed(self._seed)
        generated: list[int] = []
        ended: Literal["num_tokens", "no_repeat_ngram"] = "num_tokens"
        with self._context.inference():
            inputs_BT = torch.tensor([context], device=self._context.device)
            features_BTF, state = self._model(inputs_BT, self._model.initial_state(1))
            features_BF = features_BTF[:, -1]
            while True:
                logits_BV = self._model.logits(features_BF)
                if self._settings.repetition_penalty != 1.0 or self._settings.no_repeat_ngram is not None:
                    # The prompt is part of the history: it should not be repeated either.
                    history_BT = torch.tensor([[*context, *generated]], device=self._context.device)
                    logits_BV = repetition.penalised_log_probs(logits_BV, history_BT, self._settings)
                    if bool((logits_BV == -torch.inf).all()):
                        ended = "no_repeat_ngram"
                        break
                token_B = sampling.select_tokens(logits_BV, self._settings, random)
                generated.append(int(token_B))
                # The last token needs no further step of the network.
                if len(generated) == self._settings.num_tokens:
                    break
                features_BF, state = self._model.step(token_B, state)
        cleaned = cleaning.clean(prompt, self._codec.cleaning)
        if self._backward:
            # Generated from the last token to the first.
            text = self._decode_before(prompt_ids, generated[::-1]) + cleaned
        else:
            text = cleaned + self._decode_after(prompt_ids, generated)
        num_unknown = sum(token == tokenizer.unk_id for token in prompt_ids)
        return Continuation(text, len(generated), num_unknown, ended)

    def predict_ahead(self, prompt: str, steps: int) -> list[tuple[str, float]]:
        """Returns the most likely tokens `steps` steps after the prompt, with their probabilities.

        The tokens in between are summed over.

        Raises:
            UsageError: the model is not an n-gram of order 1 or 2, or the prompt has no token to start from.
        """
        if not isinstance(self._model, ngram_model.Ngram):
            raise errors.UsageError(
                "generation.steps_ahead: needs a model of kind ngram, of order 1 or 2; leave it out"
            )
        context = self._initial_context(self._codec.encode_lines([prompt])[0])
        # With an order of at most 2 the last token is the whole state of the model.
        probabilities_V = self._model.distribution_after(context[-1], steps).cpu()
        top = probabilities_V.topk(min(NUM_SHOWN_TOKENS, self._model.vocabulary_size))
        ranked = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(self._codec.tokenizer.token(token), probability) for token, probability in ranked if probability > 0]

    def _initial_context(self, prompt_ids: list[int]) -> list[int]:
        """Returns the tokens read before the first one is generated: the previous line's `<eos>`, then the prompt."""
        eos = self._codec.tokenizer.eos_id
        context = ([] if eos is None else [eos]) + (prompt_ids[::-1] if self._backward else prompt_ids)
        if not context:
            flag = "--ending" if self._backward else "--prefix"
            raise EmptyPromptError(f"{flag}: has no token that the model could start from; give it some text")
        return context

    def _decode_after(self, prompt_ids: list[int], generated: list[int]) -> str:
        """Returns the text of generated tokens that follow the prompt."""
        # Decoded together, so that the space between the two is right; then the prompt is cut off again, because the
        # user's own text, which still has its unknown words, is shown instead.
        first, *others = self._decode_lines([*prompt_ids, *generated])
        return "\n".join([first.removeprefix(self._codec.decode(prompt_ids)), *others])

    def _decode_before(self, prompt_ids: list[int], generated: list[int]) -> str:
        """Returns the text of generated tokens that precede the prompt."""
        # Decoded together and cut off again, as in `_decode_after`.
        *others, last = self._decode_lines([*generated, *prompt_ids])
        return "\n".join([*others, last.removesuffix(self._codec.decode(prompt_ids))])

    def _decode_lines(self, tokens: list[int]) -> list[str]:
        """Returns the text of tokens, split into lines at each `<eos>`."""
        lines: list[list[int]] = [[]]
        for token in tokens:
            if token == self._codec.tokenizer.eos_id:
                lines.append([])
            else:
                lines[-1].append(token)
        return [self._codec.decode(line) for line in lines]
