"""Model factory: builds a model from its settings and initializes its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core import errors
from core.config import model_settings
from core.models import language_model, recurrent_layer, seq2seq

Model = language_model.LanguageModel | seq2seq.Seq2Seq


def build(model: model_settings.NetworkConfig, vocabulary_sizes: Mapping[str, int], pad_id: int | None) -> Model:
    """Returns a model with weights initialized from torch's default generator, which the caller seeds.

    Args:
        model: settings.
        vocabulary_sizes: of `text` for a language model, of `source` and `target` for pairs.
        pad_id: id of the padding token, whose embedding gets no gradient.

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
        initialize(built, model.initialization)
    if model.embedding_initialization is not None:
        initialize_embeddings(built, model.embedding_initialization)
    # Last: it replaces what the general scheme has given the recurrent matrices.
    initialize_recurrent(built, model.recurrent_initialization, model.forget_bias)
    return built


def initialize(model: nn.Module, scheme: str) -> None:
    """Initializes all weights in place by a scheme; biases become zero.

    `xavier` and `he`: uniform, with the fan-in and fan-out of the whole matrix, all gates together; `orthogonal`: each
    gate is an orthogonal matrix; `normal`: N(0, 0.01²), embeddings included. In the other schemes embeddings that are
    not tied to the output layer are N(0, 1). Learned initial states become zero, layer normalization the identity.

    Source: Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural networks; He et al.
    2015, Delving deep into rectifiers; Saxe et al. 2014, Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks (orthogonal); Zhang et al., Dive into Deep Learning (2021), sections 8.5 (normal) and 9.7
    (`xavier_init_weights`, which leaves embeddings out).
    """
    untied_embeddings = {id(embedding.weight) for embedding in _untied_embeddings(model)}
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    initial_states = {id(module.start) for module in model.modules() if hasattr(module, "start")}
    gate_heights = {id(layer.weight_hh): layer.hidden_size for layer in recurrent_layers(model)}
    gate_heights |= {id(layer.weight_ih): layer.hidden_size for layer in recurrent_layers(model)}
    # In the order of parameters, which is that of the random draws.
    for parameter in model.parameters():
        if id(parameter) in norms:
            nn.init.ones_(parameter)
        # A learned initial state has two dimensions (part, H), but is not a matrix.
        elif parameter.dim() < 2 or id(parameter) in initial_states:
            nn.init.zeros_(parameter)
        elif id(parameter) in untied_embeddings and scheme != "normal":
            nn.init.normal_(parameter)
        else:
            # A matrix outside the recurrent layers is one block.
            _initialize_matrix(parameter, scheme, gate_heights.get(id(parameter), parameter.shape[0]))


def initialize_embeddings(model: nn.Module, scheme: str) -> None:
    """Initializes in place the embeddings that are not tied to the output layer; that of padding is zero.

    `scaled`: N(0, 1/E), so that vectors of any size E have about length 1; at 300 entries that is the deviation of
    U(−0.1, 0.1), the choice of other toolkits. `normal`: N(0, 1), as in torch. The decisions in core/README.md have
    figures of both.
    """
    for embedding in _untied_embeddings(model):
        with torch.no_grad():
            std = embedding.embedding_dim**-0.5 if scheme == "scaled" else 1.0
            nn.init.normal_(embedding.weight, std=std)
            if embedding.padding_idx is not None:
                embedding.weight[embedding.padding_idx].fill_(0.0)


def _untied_embeddings(model: nn.Module) -> list[nn.Embedding]:
    """Returns the embeddings that are not tied to an output layer."""
    # By identity: a tied embedding is the same parameter as the output layer's weight.
    output_weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [embedding for embedding in embeddings if id(embedding.weight) not in output_weights]


def initialize_recurrent(model: nn.Module, scheme: str, forget_bias: float | None) -> None:
    """Initializes the recurrent matrices by a scheme of their own (`same`: not at all), and the forget gate's bias.

    `identity` makes the recurrent matrix of each gate the identity. `forget_bias` is the sum of the forget gate's
    biases: 1 or more lets gradients pass through the memory cell from the beginning.

    Source: Le et al. 2015, A simple way to initialize recurrent networks of rectified linear units (identity);
    Jozefowicz et al. 2015, An empirical exploration of recurrent network architectures (forget bias).
    """
    for layer in recurrent_layers(model):
        if scheme != "same":
            _initialize_matrix(layer.weight_hh, scheme, layer.hidden_size)
        # The settings accept a forget bias for LSTMs alone: an MGU's gate is the share to forget, not to keep.
        gate = layer.kind.forget_gate
        if forget_bias is not None and gate is not None:
            rows = slice(gate * layer.hidden_size, (gate + 1) * layer.hidden_size)
            with torch.no_grad():
                # Torch has two biases, whose sum counts: all of it in one, none in the other.
                layer.bias_ih[rows] = forget_bias
                if layer.weights.bias_G is not None:
                    layer.weights.bias_G[rows] = 0.0


def recurrent_layers(model: nn.Module) -> list[recurrent_layer.Layer]:
    """Returns all recurrent layers of a model."""
    return [module for module in model.modules() if isinstance(module, recurrent_layer.Layer)]


def _initialize_matrix(matrix: Tensor, scheme: str, gate_height: int) -> None:
    """Initializes a matrix in place; orthogonal and identity ones in blocks of `gate_height` rows."""
    if scheme == "xavier":
        nn.init.xavier_uniform_(matrix)
    elif scheme == "he":
        nn.init.kaiming_uniform_(matrix, nonlinearity="relu")
    elif scheme == "normal":
        nn.init.normal_(matrix, std=0.01)
    else:
        with torch.no_grad():
            for block in torch.split(matrix, gate_height):
                nn.init.orthogonal_(block) if scheme == "orthogonal" else nn.init.eye_(block)
