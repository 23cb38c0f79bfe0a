"""A recurrent language model: what comes next, given all that came before."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from core.config import model_settings
from core.models import adaptive_softmax, recurrent_stack
from core.models import state as states


class Outputs(NamedTuple):
    """What a language model makes of a window."""

    features_BTF: Tensor  # ready for the output layer
    raw_BTH: Tensor  # of the top recurrent layer, before the dropout of the output
    state: states.State  # after the last token


class LanguageModel(nn.Module):
    """Embedding or one-hot input, recurrent layers, output layer.

    `forward` stops before the output layer: who needs only the loss computes it slice by slice from the features,
    `output_weight_VF` and `output_bias_V`, and never holds the logits of a whole window. With `adaptive_cutoffs` there
    is no such matrix: `adaptive` computes the loss, and `logits` gives log-probabilities; else `adaptive` is None.

    Source: document 000 sections 8.1.1.3, 8.4 and 8.5.
    """

    def __init__(self, config: model_settings.LanguageModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        one_hot = config.input == "one_hot"
        input_size = vocabulary_size if one_hot else config.embedding_size
        self.stack = recurrent_stack.Stack(recurrent_stack.design_of(config), input_size)
        self.feature_size = config.embedding_size if config.tie_embeddings else self.stack.output_size
        if self.feature_size != self.stack.output_size:
            self.readout = nn.Linear(self.stack.output_size, self.feature_size)
        self.adaptive: adaptive_softmax.AdaptiveSoftmax | None = None
        if config.adaptive_cutoffs:
            self.adaptive = adaptive_softmax.AdaptiveSoftmax(
                self.feature_size, vocabulary_size, config.adaptive_cutoffs
            )
        else:
            self.output = nn.Linear(self.feature_size, vocabulary_size)
        if config.tie_embeddings:
            self.embedding: nn.Module = (
                recurrent_stack.TiedEmbedding(self.output, None, config.scale_tied)
                if self.adaptive is None
                else adaptive_softmax.TiedAdaptiveEmbedding(self.adaptive, config.scale_tied)
            )
        elif not one_hot:
            self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state of so many rows that have read nothing."""
        return self.stack.initial_state(batch_size)

    def forward(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of every position, ready for the output layer, and the state after the last."""
        outputs = self.outputs(tokens_BT, state)
        return outputs.features_BTF, outputs.state

    def outputs(self, tokens_BT: Tensor, state: states.State) -> Outputs:
        """Runs a window: what `forward` gives, and the recurrent outputs that regularisation looks at."""
        y_BTH, state = self.stack(self.enter(tokens_BT), state)
        return Outputs(self.leave(y_BTH), y_BTH, state)

    def step(self, tokens_B: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features after one more token of each row, (B, F), and the new state."""
        y_BH, state = self.stack.step(self.stack.layer(0).project(self.enter(tokens_B)), state)
        return self.leave(y_BH), state

    def enter(self, tokens: Tensor) -> Tensor:
        """Returns what enters the stack for tokens, (B, T) or (B,); in training with what chance leaves of it."""
        x = recurrent_stack.drop_words(
            self.embed(tokens), tokens, self.vocabulary_size, self.config.word_dropout, self.training
        )
        return self._drop(x, self.config.embedding_dropout)

    def leave(self, y: Tensor) -> Tensor:
        """Returns the features that the output layer reads, from what leaves the stack."""
        if self.feature_size != self.stack.output_size:
            y = self.readout(y)
        return self._drop(y, self.config.output_dropout)

    def embed(self, tokens: Tensor) -> Tensor:
        """Returns the input of the lowest layer; a one-hot row times the weights is a row of the weights."""
        if self.config.input == "one_hot":
            return F.one_hot(tokens, self.vocabulary_size).to(self.stack.layer(0).weight_ih.dtype)
        embedded: Tensor = self.embedding(tokens)
        return embedded

    def logits(self, features: Tensor) -> Tensor:
        """Applies the output layer; what an adaptive one gives is normalised already."""
        if self.adaptive is not None:
            return self.adaptive.log_probs(features)
        scores: Tensor = self.output(features)
        return scores

    @property
    def output_weight_VF(self) -> Tensor:
        """Weights of the output layer; with tied embeddings the embedding itself. An adaptive one has none."""
        assert self.adaptive is None, "an adaptive output layer has no single matrix: use logits() or adaptive.nll()"
        return self.output.weight

    @property
    def output_bias_V(self) -> Tensor:
        """Bias of the output layer. An adaptive one has none."""
        assert self.adaptive is None, "an adaptive output layer has no single bias: use logits() or adaptive.nll()"
        return self.output.bias

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return recurrent_stack.drop(x, rate, self.training, self.config.locked_dropout)
