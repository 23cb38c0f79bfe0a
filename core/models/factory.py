"""From settings to a model with its first weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core import errors
from core.config import model_settings
from core.models import language_model, recurrent_layer, seq2seq

Model = language_model.LanguageModel | seq2seq.Seq2Seq


def build(model: model_settings.NetworkConfig, vocabulary_sizes: Mapping[str, int], pad_id: int | None) -> Model:
    """Builds the model with initial weights drawn from torch's default generator, which the caller seeds.

    Args:
        model: its settings.
        vocabulary_sizes: of `text` for a language model, of `source` and `target` for pairs.
        pad_id: the id of padding, whose embedding takes no gradient.

    Raises:
        UsageError: the settings do not fit each other or the vocabularies.
    """
    built: Model
    if model.kind == "language_model":
        built = language_model.LanguageModel(model, vocabulary_sizes["text"])
    else:
        source_size, target_size = vocabulary_sizes["source"], vocabulary_sizes["target"]
        if model.tie_embeddings == "all" and source_size != target_size:
            raise errors.UsageError(
                f"model.tie_embeddings: all needs one vocabulary, but the source has {source_size} entries and the "
                f"target {target_size}; use tokenizer.shared: true"
            )
        built = seq2seq.Seq2Seq(model, source_size, target_size, pad_id)
    if model.initialization != "torch":
        initialise(built, model.initialization)
    initialise_recurrent(built, model.recurrent_initialization, model.forget_bias)
    return built


def initialise(model: nn.Module, how: str) -> None:
    """Draws the first weights anew: of all matrices but embeddings that are not shared with the output; no biases.

    `xavier` and `he`: uniform, by the size of the whole matrix, all gates together; `orthogonal`: each gate of its
    own; `normal`: standard deviation 0.01, embeddings too (else they are N(0, 1)). What is learned of the first state
    starts at zero, and normalisation at the identity.

    Source: Dive into Deep Learning, `xavier_init_weights`, which passes embeddings by; document 000 section 8.5; Glorot
    and Bengio 2010, He et al. 2015, Saxe et al. 2014 (orthogonal).
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    apart = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)} - shared
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    starts = {id(module.start) for module in model.modules() if hasattr(module, "start")}
    heights = {id(layer.weight_hh): layer.hidden_size for layer in recurrent_layers(model)}
    heights |= {id(layer.weight_ih): layer.hidden_size for layer in recurrent_layers(model)}
    for parameter in model.parameters():
        if id(parameter) in norms:
            nn.init.ones_(parameter)
        elif parameter.dim() < 2 or id(parameter) in starts:
            nn.init.zeros_(parameter)
        elif id(parameter) in apart and how != "normal":
            nn.init.normal_(parameter)
        else:
            _draw(parameter, how, heights.get(id(parameter), parameter.shape[0]))


def initialise_recurrent(model: nn.Module, how: str, forget_bias: float | None) -> None:
    """Draws the matrices from state to gates anew, and sets what the memory keeps at first.

    `identity` lets every gate see its own unit alone. `forget_bias` is the sum of the forget gate's biases.

    Source: Le et al. 2015, A simple way to initialize recurrent networks (identity); Jozefowicz et al. 2015 (forget
    bias).
    """
    for layer in recurrent_layers(model):
        if how != "same":
            _draw(layer.weight_hh, how, layer.hidden_size)
        gate = layer.kind.forget_gate
        if forget_bias is not None and gate is not None:
            own = slice(gate * layer.hidden_size, (gate + 1) * layer.hidden_size)
            with torch.no_grad():
                layer.bias_ih[own] = forget_bias
                if layer.weights.bias_G is not None:
                    layer.weights.bias_G[own] = 0.0


def recurrent_layers(model: nn.Module) -> list[recurrent_layer.Layer]:
    """Returns every recurrent layer of a model."""
    return [module for module in model.modules() if isinstance(module, recurrent_layer.Layer)]


def _draw(matrix: Tensor, how: str, height: int) -> None:
    """Draws a matrix in place; orthogonal and identity ones in blocks of `height` rows."""
    if how == "xavier":
        nn.init.xavier_uniform_(matrix)
    elif how == "he":
        nn.init.kaiming_uniform_(matrix, nonlinearity="relu")
    elif how == "normal":
        nn.init.normal_(matrix, std=0.01)
    else:
        with torch.no_grad():
            for block in torch.split(matrix, height):
                nn.init.orthogonal_(block) if how == "orthogonal" else nn.init.eye_(block)
