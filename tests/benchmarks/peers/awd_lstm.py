"""The AWD-LSTM recipe as a plain loop in torch.

Dropout of whole words of the embedding, one mask for all steps of a window between layers (variational), DropConnect on
the recurrent weights, AR and TAR, clipped gradients, SGD; the loss is computed from the logits of the whole window.

Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.peers import sides, word_language_model

State = list[tuple[Tensor, Tensor]]


class Model(nn.Module):
    """Language model over tensors (T, B)."""

    def __init__(self, settings: sides.Settings) -> None:
        super().__init__()
        self.rates = settings["model"]
        sizes = [settings["embedding_size"], *settings["sizes"]]
        self.embedding = nn.Embedding(settings["vocabulary_size"], sizes[0])
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layers = [nn.LSTM(below, size) for below, size in itertools.pairwise(sizes)]
        self.modules_of_layers = nn.ModuleList(self.layers)
        self.bias = nn.Parameter(torch.zeros(settings["vocabulary_size"]))
        # The weights that are trained; those of the layers are what is left of them in a window.
        self.recurrent = nn.ParameterList(
            nn.Parameter(dict(layer.named_parameters())["weight_hh_l0"].detach().clone()) for layer in self.layers
        )
        for layer in self.layers:
            del layer.weight_hh_l0

    def initial_state(self, num_lanes: int) -> State:
        """Returns the zero state."""
        zeros = [self.bias.new_zeros(1, num_lanes, weight.shape[1]) for weight in self.recurrent]
        return [(hidden, hidden.clone()) for hidden in zeros]

    def forward(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Returns logits (T B, V), outputs of the top layer after and before dropout, and the state after them."""
        words_V1 = self.embedding.weight.new_empty(self.embedding.num_embeddings, 1)
        kept = words_V1.bernoulli_(1 - self.rates["word_dropout"]) / (1 - self.rates["word_dropout"])
        x_TBH = locked_dropout(F.embedding(tokens_TB, self.embedding.weight * kept), self.rates["embedding_dropout"])
        after = []
        for number, (layer, weight, initial) in enumerate(zip(self.layers, self.recurrent, state, strict=True)):
            layer.weight_hh_l0 = F.dropout(weight, self.rates["weight_dropout"])
            x_TBH, final = layer(x_TBH, initial)
            after.append(final)
            if number < len(state) - 1:
                x_TBH = locked_dropout(x_TBH, self.rates["dropout"])
        dropped_TBH = locked_dropout(x_TBH, self.rates["output_dropout"])
        return F.linear(dropped_TBH.flatten(0, 1), self.embedding.weight, self.bias), dropped_TBH, x_TBH, after


def locked_dropout(x_TBH: Tensor, rate: float) -> Tensor:
    """Drops units by a mask that is the same at all steps."""
    mask_BH = x_TBH.new_empty(1, *x_TBH.shape[1:]).bernoulli_(1 - rate) / (1 - rate)
    return x_TBH * mask_BH


def language_training(settings: sides.Settings) -> sides.Run:
    """Trains on the lanes of a text, with the state carried; a round is some windows."""
    model = Model(settings).train()
    optimizer = torch.optim.SGD(model.parameters(), settings["learning_rate"])
    state = model.initial_state(settings["lanes"])
    lanes_TB = word_language_model.read_lanes(settings, "train", settings["lanes"])
    windows = word_language_model.endless_windows(lanes_TB, settings["window"])

    def run() -> sides.Round:
        nonlocal state
        num_tokens = 0
        for inputs_TB, targets_TB in itertools.islice(windows, settings["steps"]):
            optimizer.zero_grad()
            logits_NV, dropped_TBH, raw_TBH, state = model(inputs_TB, state)
            loss = F.cross_entropy(logits_NV, targets_TB.flatten())
            loss = loss + settings["activation_regularization"] * dropped_TBH.square().mean()
            loss = loss + settings["temporal_activation_regularization"] * raw_TBH.diff(dim=0).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
            state = [(hidden.detach(), cell.detach()) for hidden, cell in state]
            loss.item()  # added up for the log
            num_tokens += targets_TB.numel()
        return sides.Round(num_tokens)

    return run


if __name__ == "__main__":
    torch.manual_seed(1)
    sides.serve({"language_training": language_training}, {"torch": torch.__version__})
