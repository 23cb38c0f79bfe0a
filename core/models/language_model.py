"""Neural language model.

The joint probability of a text is factorized by the chain rule, p(x_1 … x_T) = Π_t p(x_t | x_1 … x_{t−1}). A recurrent
state summarizes the tokens before, or a feed-forward network sees the last few of them.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from core.config import model_settings
from core.models import adaptive_softmax, feedforward, recurrent_stack
from core.models import state as states


class Outputs(NamedTuple):
    """Outputs of a language model for one window."""

    features_BTF: Tensor  # input of the output layer
    raw_BTH: Tensor  # outputs of the top layer, before output dropout: for activation regularization
    state: states.State  # after the last token


class LanguageModel(nn.Module):
    """Embedding or one-hot input, recurrent layers or a feed-forward one, output layer.

    `forward` returns features, the input of the output layer. A loss is computed from them in slices, with
    `output_weight_VF` and `output_bias_V`, so that the logits (B, T, V) of a whole window are never in memory. With
    `adaptive_cutoffs` there is no such matrix: `adaptive` computes the loss, and `logits` returns log-probabilities;
    else `adaptive` is None.

    Source: Mikolov et al. 2010, Recurrent neural network based language model; Zhang et al., Dive into Deep Learning
    (2021), sections 8.1 "Sequence Models", 8.4 "Recurrent Neural Networks" and 8.5 (from scratch).
    """

    def __init__(self, config: model_settings.LanguageModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        one_hot = config.input == "one_hot"
        input_size = vocabulary_size if one_hot else config.embedding_size
        self.stack: recurrent_stack.Stack | feedforward.FeedForward = (
            feedforward.FeedForward(config)
            if config.cell == "feedforward"
            else recurrent_stack.Stack(recurrent_stack.StackConfig.from_settings(config), input_size)
        )
        self.feature_size = config.embedding_size if config.tie_embeddings else self.stack.output_size
        if self.feature_size != self.stack.output_size:
            # A tied output layer is as wide as the embedding, so that other hidden sizes are mapped to it.
            self.readout = nn.Linear(self.stack.output_size, self.feature_size)
        self.adaptive: adaptive_softmax.AdaptiveSoftmax | None = None
        if config.adaptive_cutoffs:
            self.adaptive = adaptive_softmax.AdaptiveSoftmax(
                self.feature_size, vocabulary_size, config.adaptive_cutoffs
            )
        else:
            self.output = nn.Linear(self.feature_size, vocabulary_size)
        # Last, because a tied embedding shares the weights of the output layer.
        if config.tie_embeddings:
            self.embedding: nn.Module = (
                recurrent_stack.TiedEmbedding(self.output, None, config.scale_tied)
                if self.adaptive is None
                else adaptive_softmax.TiedAdaptiveEmbedding(self.adaptive, config.scale_tied)
            )
        elif not one_hot:
            self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first token of a text, for `batch_size` rows."""
        return self.stack.initial_state(batch_size)

    def forward(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of every position, input of the output layer, and the state after the last."""
        outputs = self.outputs(tokens_BT, state)
        return outputs.features_BTF, outputs.state

    def outputs(self, tokens_BT: Tensor, state: states.State) -> Outputs:
        """Returns what `forward` does, and the recurrent outputs, which activation regularization needs."""
        y_BTH, state = self.stack(self.embed_input(tokens_BT), state)
        return Outputs(self.compute_features(y_BTH), y_BTH, state)

    def step(self, tokens_B: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features after one more token of each row, (B, F), and the new state."""
        y_BH, state = self.stack.step(self.stack.project(self.embed_input(tokens_B)), state)
        return self.compute_features(y_BH), state

    def embed_input(self, tokens: Tensor) -> Tensor:
        """Returns the recurrent layers' input for tokens (B, T) or (B,): embeddings, in training after dropout."""
        x = recurrent_stack.drop_words(
            self.embed(tokens), tokens, self.vocabulary_size, self.config.word_dropout, self.training
        )
        return self._drop(x, self.config.embedding_dropout)

    def compute_features(self, y: Tensor) -> Tensor:
        """Returns the output layer's input from the recurrent layers' output, in training after dropout."""
        if self.feature_size != self.stack.output_size:
            y = self.readout(y)
        return self._drop(y, self.config.output_dropout)

    def embed(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings of tokens, or their one-hot vectors."""
        if self.config.input == "one_hot":
            # The first matrix product with a one-hot row selects a row of the weights, as an embedding would.
            return F.one_hot(tokens, self.vocabulary_size).to(next(self.parameters()).dtype)
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def logits(self, features: Tensor) -> Tensor:
        """Returns the logits of all tokens; those of an adaptive output layer are log-probabilities already."""
        if self.adaptive is not None:
            return self.adaptive.log_probs(features)
        logits: Tensor = self.output(features)
        return logits

    @property
    def output_weight_VF(self) -> Tensor:
        """Weights of the output layer, with tied embeddings also those of the embedding; not with an adaptive one."""
        assert self.adaptive is None, "an adaptive output layer has no single matrix: use logits() or adaptive.nll()"
        return self.output.weight

    @property
    def output_bias_V(self) -> Tensor:
        """Bias of the output layer; not with an adaptive one."""
        assert self.adaptive is None, "an adaptive output layer has no single bias: use logits() or adaptive.nll()"
        return self.output.bias

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return recurrent_stack.drop(x, rate, self.training, self.config.locked_dropout)
