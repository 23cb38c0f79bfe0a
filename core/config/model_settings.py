"""Settings of the models."""

import itertools
from typing import Annotated, Any, Literal, Self

import pydantic

from core.config import autoregressive_settings, ngram_settings, section

Width = Annotated[int, pydantic.Field(ge=1, le=65536)]


class RecurrentConfig(section.Section):
    """Settings that language models and sequence-to-sequence models share."""

    cell: Literal[
        "rnn", "gru", "lstm", "lstm_peephole", "lstm_coupled", "lstm_no_output", "gru_coupled", "mgu", "feedforward"
    ] = section.identity(
        "lstm",
        "recurrent cell; lstm_peephole: gates see the memory, the output gate the new one, as with use_peepholes "
        "of TensorFlow, whose forget_bias is 1; lstm_coupled: input gate = 1 - forget gate; lstm_no_output: no "
        "output gate, the memory is the output, without the tanh of Greff et al. 2017; gru_coupled: reset gate = "
        "update gate; mgu: minimal gated unit; feedforward: no recurrence, a hidden layer over the last `context` "
        "tokens (Bengio et al. 2003), for language models",
    )
    nonlinearity: Literal["tanh", "relu", "sigmoid", "identity"] = section.identity(
        "tanh", "activation function of the rnn cell, or of the feedforward layer"
    )
    gru_reset: Literal["after", "before"] = section.identity(
        "after",
        "position of the gru's reset gate: after the recurrent product, as in torch, or before it, as in Cho et al. "
        "2014 and Dive into Deep Learning, section 9.1",
    )
    biases: Literal["one", "two"] = section.identity(
        "two", "biases of each gate; two: an input and a recurrent one that are added, as in torch"
    )
    num_layers: int = section.identity(1, "number of recurrent layers", ge=1, le=8)
    hidden_size: Width | tuple[Width, ...] = section.identity(
        256, "units of each layer, or a list from the lowest, such as [512, 256]; of an encoder in each direction"
    )
    connections: Literal["none", "residual", "highway", "dense", "direct"] = section.identity(
        "none",
        "skip connections. residual: a layer's input is added to its output; highway: a learned gate mixes the two; "
        "dense: a layer's input is the outputs of all layers below; direct, with cell: feedforward: from the "
        "embeddings to the output layer",
    )
    layer_norm: bool = section.identity(False, "layer normalization of every recurrent layer's output")
    initial_state: Literal["zero", "learned"] = section.identity("zero", "initial hidden state of a text or an encoder")
    embedding_size: int = section.identity(256, "size of an embedding", ge=1, le=65536)
    dropout: section.Float = section.identity(0.0, "dropout rate between recurrent layers", ge=0, lt=1)
    embedding_dropout: section.Float = section.identity(0.0, "dropout rate of embeddings", ge=0, lt=1)
    word_dropout: section.Float = section.identity(
        0.0,
        "dropout rate of whole words; a dropped one has a zero embedding wherever it occurs in a window",
        ge=0,
        lt=1,
    )
    weight_dropout: section.Float = section.identity(
        0.0, "DropConnect rate of recurrent weights, with one mask for all steps of a window", ge=0, lt=1
    )
    output_dropout: section.Float = section.identity(0.0, "dropout rate before the output layer", ge=0, lt=1)
    locked_dropout: bool = section.identity(
        False,
        "variational dropout: one mask of dropout, embedding_dropout and output_dropout for all steps of a window",
    )
    scale_tied: bool = section.identity(
        True,
        "scaling of tied embeddings at the input by the square root of their size; false: for SGD with large rates",
    )
    initialization: Literal["torch", "xavier", "he", "orthogonal", "normal"] = section.identity(
        "torch",
        "initialization of weights. torch: torch's own; xavier, he: uniform, by the size of a matrix; orthogonal: for "
        "each gate; normal: N(0, 0.01), embeddings included. All but torch: zero biases; all but normal: untied "
        "embeddings N(0, 1)",
    )
    embedding_initialization: Literal["scaled", "normal"] | None = section.identity(
        None,
        "initialization of embeddings that are not tied. scaled: N(0, 1/E), E their size; normal: N(0, 1), as torch; "
        "null: by `initialization`",
    )
    recurrent_initialization: Literal["same", "orthogonal", "identity"] = section.identity(
        "same", "initialization of the recurrent weights; same: by `initialization`"
    )
    forget_bias: section.Float | None = section.identity(
        None, "initial bias of the forget gate of lstm cells, such as 1; null: by `initialization`"
    )

    @property
    def cell_name(self) -> str:
        """Name of the cell with its variant."""
        if self.cell == "rnn" and self.nonlinearity != "tanh":
            return f"rnn_{self.nonlinearity}"
        # The variants are cells of their own, since torch has a fused kernel for only one of them.
        return "gru_before" if self.gru_reset == "before" else self.cell

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Units of each layer, from the lowest to the highest."""
        if isinstance(self.hidden_size, int):
            return (self.hidden_size,) * self.num_layers
        return self.hidden_size

    @pydantic.model_validator(mode="after")
    def _check_layers(self) -> Self:
        sizes = self.layer_sizes
        if len(sizes) != self.num_layers:
            raise ValueError(f"hidden_size: lists {len(sizes)} sizes for {self.num_layers} layers; list one for each")
        # A layer's input and output are added element by element.
        if self.connections in ("residual", "highway") and len(set(sizes)) > 1:
            raise ValueError(
                f"connections: {self.connections} needs layers of equal width; use dense, or one hidden_size"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_cell(self) -> Self:
        if self.cell not in ("rnn", "feedforward") and self.nonlinearity != "tanh":
            raise ValueError(f"nonlinearity: has no effect with cell: {self.cell}; use cell: rnn, or remove it")
        if self.cell != "gru" and self.gru_reset != "after":
            raise ValueError(f"gru_reset: has no effect with cell: {self.cell}; use it with cell: gru, or remove it")
        if self.forget_bias is not None and not self.cell.startswith("lstm"):
            raise ValueError(f"forget_bias: cell: {self.cell} has no forget gate; use an lstm cell")
        if self.connections == "direct" and self.cell != "feedforward":
            raise ValueError("connections: direct belongs to cell: feedforward; use dense, or another kind")
        return self


# Settings of a recurrence, or of several layers of it, that a feed-forward layer does not have.
_OF_RECURRENCE = (
    *("num_layers", "biases", "layer_norm", "initial_state", "dropout", "weight_dropout", "recurrent_initialization"),
)


class LanguageModelConfig(RecurrentConfig):
    """A recurrent language model, or a feed-forward one of a fixed context."""

    kind: Literal["language_model"] = section.identity(..., "language_model")
    context: int | None = section.identity(
        None,
        "tokens that a feedforward model sees, such as 4: the model is that of an n-gram of order context + 1; only "
        "with cell: feedforward, which needs it",
        ge=1,
        le=1024,
    )
    direction: ngram_settings.Direction = ngram_settings.direction()
    input: Literal["embedding", "one_hot"] = section.identity(
        "embedding", "input of tokens: a learned embedding, or one-hot vectors"
    )
    tie_embeddings: bool = section.identity(False, "output layer with the embedding's weights")
    adaptive_cutoffs: tuple[int, ...] = section.identity(
        (),
        "first ids of the bands of rarer words of an adaptive softmax, such as [4000, 20000]; empty: full softmax",
        strict=False,  # a validator that runs before has made a list of it
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check_causal(cls, settings: Any) -> Any:
        # Before validation, which would suggest another kind of model.
        if isinstance(settings, dict) and settings.get("bidirectional"):
            raise ValueError(
                "bidirectional: a language model must not see the tokens that it predicts; remove the setting"
            )
        # After a validator the data is no longer JSON to pydantic, which then refuses a list for a tuple.
        plain = settings.items() if isinstance(settings, dict) else ()
        return {name: tuple(value) if isinstance(value, list) else value for name, value in plain} or settings

    @pydantic.model_validator(mode="after")
    def _check_output(self) -> Self:
        cutoffs = (0, *self.adaptive_cutoffs)
        if any(stop <= start for start, stop in itertools.pairwise(cutoffs)):
            raise ValueError("adaptive_cutoffs: must increase, from at least 1")
        if self.tie_embeddings and self.input == "one_hot":
            raise ValueError("tie_embeddings: a one-hot input has no embedding to share; use input: embedding")
        return self

    @pydantic.model_validator(mode="after")
    def _check_feedforward(self) -> Self:
        if self.cell != "feedforward":
            if self.context is not None:
                raise ValueError(
                    f"context: has no effect with cell: {self.cell}, which reads the whole text; remove it, or use "
                    "cell: feedforward"
                )
            return self
        if self.context is None:
            raise ValueError("context: cell: feedforward sees a fixed number of tokens; set it, such as context: 4")
        for name in _OF_RECURRENCE:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: has no effect with cell: feedforward, one layer without a recurrence; remove it"
                )
        if self.connections not in ("none", "direct"):
            raise ValueError(
                f"connections: {self.connections} is for several layers, and cell: feedforward has one; use direct"
            )
        if self.input == "one_hot":
            raise ValueError("input: cell: feedforward has embeddings; use input: embedding")
        return self


class Seq2SeqConfig(RecurrentConfig):
    """A recurrent encoder and decoder."""

    kind: Literal["seq2seq"] = section.identity(..., "seq2seq")
    bidirectional: bool = section.identity(False, "bidirectional encoder")
    bidirectional_layers: int | None = section.identity(
        None, "number of bidirectional layers, the lowest ones; null: all", ge=1, le=8
    )
    backward_hidden_size: int | None = section.identity(
        None, "units of a backward layer; null: as many as forward", ge=1, le=65536
    )
    decoder_num_layers: int | None = section.identity(
        None, "number of decoder layers; null: as many as the encoder", ge=1, le=8
    )
    decoder_hidden_size: Width | tuple[Width, ...] | None = section.identity(
        None, "units of each decoder layer, or a list; null: the size of the encoder's output"
    )
    bridge: Literal["final", "mean"] = section.identity(
        "final", "initial state of the decoder: from the encoder's final states, or from the mean of its outputs"
    )
    attention: Literal["none", "additive", "dot", "scaled_dot", "general"] = section.identity(
        "none",
        "attention of the decoder over the source. additive: Bahdanau et al. 2015; dot: Luong et al. 2015, with a "
        "linear map where sizes differ; scaled_dot: divided by the square root of the size; general: always "
        "a linear map",
    )
    coverage_attention: bool = section.identity(
        False,
        "dependence of additive or general attention on the attention that a position has received so far (Tu et al. "
        "2016; See et al. 2017)",
    )
    context: Literal["input", "output", "feed"] = section.identity(
        "output",
        "place of the context vector. input: beside the embedding of every decoder step (Bahdanau et al. 2015; without "
        "attention the encoder's last state, Cho et al. 2014); output: after the recurrent layers (Luong et al. 2015; "
        "without attention none); feed: as output, and beside the next embedding (input feeding)",
    )
    tie_embeddings: Literal["none", "target", "all"] = section.identity(
        "none",
        "shared weights of output layer and embeddings. target: the target embedding; all: the source embedding too, "
        "which needs a shared vocabulary",
    )

    @pydantic.model_validator(mode="after")
    def _check_encoder_decoder(self) -> Self:
        if self.cell == "feedforward":
            raise ValueError("cell: feedforward is for language models; use a recurrent cell")
        if not self.bidirectional and (self.bidirectional_layers or self.backward_hidden_size):
            raise ValueError("bidirectional_layers, backward_hidden_size: belong to bidirectional: true; add it")
        if self.context == "feed" and self.attention == "none":
            raise ValueError("context: feed needs attention; set attention, or choose another context")
        if self.coverage_attention and self.attention not in ("additive", "general"):
            raise ValueError(
                f"coverage_attention: attention: {self.attention} has no coverage term; use additive or general"
            )
        if (self.bidirectional_layers or 0) > self.num_layers:
            raise ValueError(f"bidirectional_layers: the encoder has {self.num_layers} layers; use at most as many")
        sizes = self.decoder_hidden_size
        if isinstance(sizes, tuple) and len(sizes) != (self.decoder_num_layers or self.num_layers):
            raise ValueError("decoder_hidden_size: give one width, or one for each decoder layer")
        if isinstance(sizes, tuple) and self.connections in ("residual", "highway") and len(set(sizes)) > 1:
            raise ValueError(
                f"connections: {self.connections} needs layers of equal width; use one decoder_hidden_size"
            )
        # Each decoder layer starts from the final state of an encoder layer.
        if self.bridge == "final" and (self.decoder_num_layers or self.num_layers) > self.num_layers:
            raise ValueError("bridge: final needs at least as many encoder layers as decoder layers; use mean")
        return self


NetworkConfig = LanguageModelConfig | Seq2SeqConfig
ModelConfig = NetworkConfig | ngram_settings.NgramConfig | autoregressive_settings.AutoregressiveConfig


def reads_backward(config: ModelConfig) -> bool:
    """Returns whether a model reads text from its end to its beginning."""
    return isinstance(config, LanguageModelConfig | ngram_settings.NgramConfig) and config.direction == "backward"
