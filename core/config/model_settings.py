"""Settings of the models."""

from typing import Literal, Self

import pydantic

from core.config import section


class RecurrentConfig(section.Section):
    """What language models and sequence-to-sequence models share."""

    cell: Literal["rnn", "gru", "lstm"] = section.identity("lstm", "the recurrent cell")
    num_layers: int = section.identity(1, "recurrent layers", ge=1, le=8)
    hidden_size: int = section.identity(256, "units of a layer; of an encoder: in each direction", ge=1, le=65536)
    embedding_size: int = section.identity(256, "units of an embedding", ge=1, le=65536)
    dropout: section.Float = section.identity(0.0, "between recurrent layers", ge=0, lt=1)
    embedding_dropout: section.Float = section.identity(0.0, "on embeddings", ge=0, lt=1)
    output_dropout: section.Float = section.identity(0.0, "before the output layer", ge=0, lt=1)
    initialization: Literal["torch", "xavier", "normal"] = section.identity(
        "torch",
        "torch: the library's own; xavier: uniform, biases zero, untied embeddings N(0, 1); normal: N(0, 0.01), biases "
        "zero",
    )


class LanguageModelConfig(RecurrentConfig):
    """A recurrent language model."""

    kind: Literal["language_model"] = section.identity(..., "language_model")
    input: Literal["embedding", "one_hot"] = section.identity("embedding", "one_hot: as the documents feed characters")
    tie_embeddings: bool = section.identity(False, "the output layer uses the embedding's weights")


class Seq2SeqConfig(RecurrentConfig):
    """A recurrent encoder and decoder."""

    kind: Literal["seq2seq"] = section.identity(..., "seq2seq")
    bidirectional: bool = section.identity(False, "the encoder reads in both directions")
    decoder_num_layers: int | None = section.identity(
        None, "layers of the decoder; null: as many as the encoder", ge=1, le=8
    )
    decoder_hidden_size: int | None = section.identity(
        None, "units of a decoder layer; null: as wide as the encoder's output", ge=1, le=65536
    )
    bridge: Literal["final", "mean"] = section.identity(
        "final", "the decoder starts from the encoder's final states, or from the mean of its outputs"
    )
    attention: Literal["none", "additive", "dot"] = section.identity("none", "how the decoder looks at the source")
    context: Literal["input", "output"] = section.identity(
        "output",
        "input: the context (without attention: the encoder's last state) enters every decoder step beside the "
        "embedding (Bahdanau; Cho); output: it joins after the recurrent layers (Luong; without attention none does)",
    )
    tie_embeddings: Literal["none", "target", "all"] = section.identity(
        "none", "target: output layer and target embedding are one; all: the source embedding too (shared vocabulary)"
    )

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.bridge == "final" and (self.decoder_num_layers or self.num_layers) > self.num_layers:
            raise ValueError("bridge: final states of fewer encoder layers cannot start more decoder layers; use mean")
        return self


ModelConfig = LanguageModelConfig | Seq2SeqConfig
