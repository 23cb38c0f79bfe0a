"""A recurrent language model: what comes next, given all that came before."""

from torch import Tensor, nn
from torch.nn import functional as F

from core import errors
from core.config import model_settings
from core.models import layers
from core.models import state as states


class LanguageModel(nn.Module):
    """Embedding or one-hot input, recurrent layers, output layer.

    `forward` stops before the output layer: who needs only the loss computes it slice by slice from the features,
    `output_weight_VF` and `output_bias_V`, and never holds the logits of a whole window.

    Source: document 000 sections 8.1.1.3, 8.4 and 8.5.
    """

    def __init__(self, config: model_settings.LanguageModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        if config.tie_embeddings and config.input == "one_hot":
            raise errors.UsageError(
                "model.tie_embeddings: a one-hot input has no embedding to share; use input: embedding"
            )
        self.config = config
        self.vocabulary_size = vocabulary_size
        one_hot = config.input == "one_hot"
        input_size = vocabulary_size if one_hot else config.embedding_size
        self.stack = layers.Stack(config.cell, input_size, config.hidden_size, config.num_layers, config.dropout)
        self.feature_size = config.embedding_size if config.tie_embeddings else config.hidden_size
        if self.feature_size != config.hidden_size:
            self.readout = nn.Linear(config.hidden_size, self.feature_size)
        self.output = nn.Linear(self.feature_size, vocabulary_size)
        if config.tie_embeddings:
            self.embedding: nn.Embedding = layers.TiedEmbedding(self.output)
        elif not one_hot:
            self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the zero state of so many rows."""
        return self.stack.initial_state(batch_size)

    def forward(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of every position, ready for the output layer, and the state after the last."""
        x_BTE = F.dropout(self.embed(tokens_BT), self.config.embedding_dropout, self.training)
        y_BTH, state = self.stack(x_BTE, state)
        return self._features(y_BTH), state

    def step(self, tokens_B: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features after one more token of each row, (B, F), and the new state."""
        x_BE = F.dropout(self.embed(tokens_B), self.config.embedding_dropout, self.training)
        state = self.stack.step(self.stack.layer(0).project(x_BE), state)
        return self._features(state[-1][0]), state

    def embed(self, tokens: Tensor) -> Tensor:
        """Returns the input of the lowest layer; a one-hot row times the weights is a row of the weights."""
        if self.config.input == "one_hot":
            return F.one_hot(tokens, self.vocabulary_size).to(self.stack.layer(0).weight_ih.dtype)
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def logits(self, features: Tensor) -> Tensor:
        """Applies the output layer."""
        scores: Tensor = self.output(features)
        return scores

    @property
    def output_weight_VF(self) -> Tensor:
        """Weights of the output layer; with tied embeddings the embedding itself."""
        return self.output.weight

    @property
    def output_bias_V(self) -> Tensor:
        """Bias of the output layer."""
        return self.output.bias

    def _features(self, y: Tensor) -> Tensor:
        if self.feature_size != self.config.hidden_size:
            y = self.readout(y)
        return F.dropout(y, self.config.output_dropout, self.training)
