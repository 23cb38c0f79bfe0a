"""Feed-forward network over a fixed context: the hidden layer of a neural n-gram model.

It takes the place of a recurrent `Stack` in a language model, with the same interface, so that lanes, windows, scoring
and generation are those of recurrent models. Its state is a memory of inputs, not a summary of the text: what is more
than `context` tokens back has no influence.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.config import model_settings
from core.models import state as states

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class FeedForward(nn.Module):
    """One hidden layer over the concatenated embeddings of the last `context` tokens, h = φ(d + H x).

    With x = (C(w_{t−c+1}), …, C(w_t)), the oldest token first, the output layer computes b + U h, or with direct
    connections b + W x + U h: the outputs are then h and x side by side, and [U W] is one matrix.

    The state is the embeddings of the last `context` − 1 tokens, (B, (context − 1) · E), zeros before the text. Inside
    a window gradients reach all of a context. Between windows the state is detached, as that of a recurrent network:
    the first `context` − 1 losses of a window give no gradient to the embeddings of tokens before it, which are those
    of before the last update.

    Source: Bengio, Ducharme, Vincent and Jauvin 2003, A Neural Probabilistic Language Model, section 2.
    """

    def __init__(self, config: model_settings.LanguageModelConfig) -> None:
        super().__init__()
        assert config.context is not None, "the settings ask for it"
        (self.hidden_size,) = config.layer_sizes
        self.context, self.input_size = config.context, config.embedding_size
        self.is_direct = config.connections == "direct"
        self._activation = _ACTIVATIONS[config.nonlinearity]
        self.hidden = nn.Linear(self.context * self.input_size, self.hidden_size)
        self.output_size = self.hidden_size + self.is_direct * self.hidden.in_features

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first token: embeddings of zeros."""
        return states.zeros(1, ((self.context - 1) * self.input_size,), batch_size, like=self.hidden.weight)

    def draw_dropout(self, batch_size: int) -> None:  # noqa: ARG002
        """Returns None: the layer has no dropout of its own."""
        return

    def project(self, x_BE: Tensor) -> Tensor:
        """Returns the input of `step` unchanged: the hidden layer multiplies a whole context at once."""
        return x_BE

    def forward(self, x_BTE: Tensor, state: states.State, dropout: None = None) -> tuple[Tensor, states.State]:  # noqa: ARG002
        """Returns the outputs (B, T, output_size) for the embeddings of T tokens, and the state after the last."""
        ((past_BP,),) = state
        past_BCE = past_BP.reshape(len(past_BP), self.context - 1, self.input_size)
        joined_BNE = torch.cat((past_BCE, x_BTE), dim=1)
        length = x_BTE.shape[1]
        contexts = [joined_BNE[:, begin : begin + length] for begin in range(self.context)]
        return self._outputs(torch.cat(contexts, dim=-1)), ((joined_BNE[:, length:].flatten(1),),)

    def step(self, x_BE: Tensor, state: states.State, dropout: None = None) -> tuple[Tensor, states.State]:  # noqa: ARG002
        """Returns the output after one more token, and the new state."""
        ((past_BP,),) = state
        x_BX = torch.cat((past_BP, x_BE), dim=1)
        return self._outputs(x_BX), ((x_BX[:, self.input_size :],),)

    def _outputs(self, x: Tensor) -> Tensor:
        hidden = self._activation(self.hidden(x))
        return torch.cat((hidden, x.to(hidden.dtype)), dim=-1) if self.is_direct else hidden
