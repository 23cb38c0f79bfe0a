"""A language model beside a translation model: which of them fit, and how translations are ranked with one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core import errors
from core.config import model_settings
from core.data.tokens import tokenizer
from core.decoding.translation import beam_search, decoders
from core.models import bundle as bundles
from core.models import language_model


def check(beside: bundles.Bundle, target: tokenizer.Codec) -> None:
    """Makes sure that a language model reads and writes the tokens of the target.

    Raises:
        UsageError: it is no neural language model, has no end of line, or other tokens.
    """
    where = "decoding.fusion.run"
    if not isinstance(beside.model, language_model.LanguageModel):
        raise errors.UsageError(f"{where}: fusion needs a language_model; this run is a {beside.config.kind}")
    if model_settings.reads_backward(beside.config):
        raise errors.UsageError(f"{where}: this language model reads backward; train one with direction: forward")
    own = beside.codecs["text"].tokenizer
    if own.eos_id is None:
        raise errors.UsageError(f"{where}: this language model knows no end of a line; train one with an <eos>")
    if own.kind != target.tokenizer.kind or _units(own) != _units(target.tokenizer):
        missing = len(_units(target.tokenizer) - _units(own))
        raise errors.UsageError(
            f"{where}: it has other tokens than the translations ({missing} of theirs are unknown to it); "
            "train it on the target side with the same tokenizer settings"
        )


def _units(own: tokenizer.Tokenizer) -> set[str]:
    return {own.token(one) for one in range(own.vocabulary_size)} - set(tokenizer.RESERVED)


def _ids(own: tokenizer.Tokenizer, target: tokenizer.Tokenizer) -> list[int]:
    """Returns the language model's id of each target token; `<bos>` and `<pad>` are its end of line."""
    id_of = {own.token(one): one for one in range(own.vocabulary_size)}
    eos = own.eos_id
    assert eos is not None
    ids = [id_of.get(target.token(one), own.unk_id) for one in range(target.vocabulary_size)]
    for one in (target.pad_id, target.bos_id, target.eos_id):
        assert one is not None
        ids[one] = eos
    return ids


class Ranker:
    """A language model that says how likely a translation is as text."""

    def __init__(self, beside: bundles.Bundle, target: tokenizer.Codec, weight: float, device: str) -> None:
        assert isinstance(beside.model, language_model.LanguageModel)
        assert target.tokenizer.bos_id is not None
        self._model = beside.model
        self._weight = weight
        self._bos = target.tokenizer.bos_id
        self._ids_V = torch.tensor(_ids(beside.codecs["text"].tokenizer, target.tokenizer), device=device)

    def beside(self, base: decoders.Decoder[decoders.M], ids_U: Tensor | None = None) -> decoders.Fused:
        """Returns the decoder with this model beside it; `ids_U` are the tokens that it knows, if these are not all."""
        return decoders.Fused(base, self._model, self._ids_V if ids_U is None else self._ids_V[ids_U], self._weight)

    def ranked(self, found: Sequence[beam_search.Hypothesis], length_penalty: float) -> list[beam_search.Hypothesis]:
        """Orders finished translations of a line anew, the language model's share added to their ranks."""
        scored = [one._replace(rank=one.rank + self._weight * self.nats(one.tokens)) for one in found]
        return sorted(scored, key=lambda one: -one.rank / len(one.tokens) ** length_penalty)

    @torch.inference_mode()
    def nats(self, tokens: Sequence[int]) -> float:
        """Returns the log-probability of a translation, its `<eos>` included."""
        inputs_BT: Tensor = self._ids_V[torch.tensor([[self._bos, *tokens[:-1]]])]
        targets_T1 = self._ids_V[torch.tensor(tokens)][:, None]
        features_BTF, _ = self._model(inputs_BT, self._model.initial_state(1))
        log_probs_TV = self._model.logits(features_BTF)[0].float().log_softmax(1)
        return float(log_probs_TV.gather(1, targets_T1).double().sum())
