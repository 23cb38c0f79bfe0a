"""Fusion of a translation model with a language model: compatibility, shallow fusion, reranking."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core import errors
from core.config import model_settings
from core.data.tokens import tokenizer, vocabulary
from core.decoding.translation import beam_search, decoders
from core.models import bundle as bundles
from core.models import language_model


def check(bundle: bundles.Bundle, target: tokenizer.Codec) -> None:
    """Checks that a bundle is a language model over the target's tokens.

    Raises:
        UsageError: it is not a forward neural language model, or has no `<eos>` or other tokens.
    """
    where = "decoding.fusion.run"
    if not isinstance(bundle.model, language_model.LanguageModel):
        raise errors.UsageError(f"{where}: fusion needs a language_model; this run is a {bundle.config.kind}")
    if model_settings.reads_backward(bundle.config):
        raise errors.UsageError(f"{where}: this language model reads backward; train one with direction: forward")
    model_tokenizer = bundle.codecs["text"].tokenizer
    if model_tokenizer.eos_id is None:
        raise errors.UsageError(f"{where}: this language model has no <eos>; train one with an <eos>")
    # Reserved tokens may differ: a vocabulary of text has no `<bos>`, for instance.
    if model_tokenizer.kind != target.tokenizer.kind or _units(model_tokenizer) != _units(target.tokenizer):
        missing = len(_units(target.tokenizer) - _units(model_tokenizer))
        raise errors.UsageError(
            f"{where}: its vocabulary differs from the target vocabulary ({missing} tokens missing); "
            "train it on the target side with the same tokenizer settings"
        )


def _units(of: tokenizer.Tokenizer) -> set[str]:
    return {of.token(token_id) for token_id in range(of.vocabulary_size)} - set(vocabulary.RESERVED)


def _target_ids(model_tokenizer: tokenizer.Tokenizer, target: tokenizer.Tokenizer) -> list[int]:
    """Returns the language model's id of each target token.

    `<bos>` becomes its `<eos>`, after which it read lines in training; so does `<pad>`, which is never read.
    """
    ids_by_token = {model_tokenizer.token(token_id): token_id for token_id in range(model_tokenizer.vocabulary_size)}
    eos = model_tokenizer.eos_id
    assert eos is not None
    # By spelling: the two vocabularies may be in different orders.
    ids = [
        ids_by_token.get(target.token(token_id), model_tokenizer.unk_id) for token_id in range(target.vocabulary_size)
    ]
    for reserved_id in (target.pad_id, target.bos_id, target.eos_id):
        assert reserved_id is not None
        # `<bos>` is read where the model has seen an `<eos>`: before the first token of a line.
        ids[reserved_id] = eos
    return ids


class TargetLanguageModel:
    """Language model over the target's tokens, for shallow fusion or for reranking."""

    def __init__(self, bundle: bundles.Bundle, target: tokenizer.Codec, weight: float, device: str) -> None:
        assert isinstance(bundle.model, language_model.LanguageModel)
        assert target.tokenizer.bos_id is not None
        self._model = bundle.model
        self._weight = weight
        self._bos = target.tokenizer.bos_id
        self._ids_V = torch.tensor(_target_ids(bundle.codecs["text"].tokenizer, target.tokenizer), device=device)

    def fuse(self, decoder: decoders.Decoder[decoders.M], ids_U: Tensor | None = None) -> decoders.FusedDecoder:
        """Returns the decoder fused with this model; `ids_U` are the vocabulary ids of its tokens, None: all."""
        ids_V = self._ids_V if ids_U is None else self._ids_V[ids_U]
        return decoders.FusedDecoder(decoder, self._model, ids_V, self._weight)

    def rerank(
        self, hypotheses: Sequence[beam_search.Hypothesis], length_penalty: float
    ) -> list[beam_search.Hypothesis]:
        """Sorts the finished hypotheses of a line by their search scores plus this model's weighted log-probability."""
        fused = []
        for hypothesis in hypotheses:
            search_score = hypothesis.search_score + self._weight * self.log_prob_nats(hypothesis.tokens)
            # Without coverage, which the settings refuse here.
            ranking_score = search_score / len(hypothesis.tokens) ** length_penalty
            fused.append((ranking_score, hypothesis._replace(search_score=search_score, ranking_score=ranking_score)))
        # Stable: of equals the order of the search stays.
        return [hypothesis for _, hypothesis in sorted(fused, key=lambda pair: -pair[0])]

    @torch.inference_mode()
    def log_prob_nats(self, tokens: Sequence[int]) -> float:
        """Returns the log-probability of a translation, its `<eos>` included."""
        # Read as in training: from an `<eos>`, which is where `_ids_V` maps `<bos>`.
        inputs_BT: Tensor = self._ids_V[torch.tensor([[self._bos, *tokens[:-1]]])]
        targets_T1 = self._ids_V[torch.tensor(tokens)][:, None]
        features_BTF, _ = self._model(inputs_BT, self._model.initial_state(1))
        log_probs_TV = self._model.logits(features_BTF)[0].float().log_softmax(1)
        return float(log_probs_TV.gather(1, targets_T1).double().sum())
