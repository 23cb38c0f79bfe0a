"""A character language model as textbooks write it: one-hot input, torch's LSTM, output layer, SGD.

Source: Zhang et al., Dive into Deep Learning (2021), section 8.6 "Concise Implementation of Recurrent Neural Networks".
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.peers import sides, word_language_model


class Model(nn.Module):
    """Language model over tensors (T, B)."""

    def __init__(self, vocabulary_size: int, size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.layers = nn.LSTM(vocabulary_size, size)
        self.output = nn.Linear(size, vocabulary_size)

    def forward(self, tokens_TB: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns logits (T B, V) and the state after the window."""
        hidden_TBH, state = self.layers(F.one_hot(tokens_TB, self.vocabulary_size).float(), state)
        return self.output(hidden_TBH.flatten(0, 1)), state


def language_training(settings: sides.Settings) -> sides.Run:
    """Trains on the lanes of a text, with the state carried; a round is some windows."""
    model = Model(settings["vocabulary_size"], settings["sizes"][0])
    optimizer = torch.optim.SGD(model.parameters(), settings["learning_rate"])
    lanes_TB = word_language_model.read_lanes(settings, "train", settings["lanes"])
    windows = word_language_model.endless_windows(lanes_TB, settings["window"])
    state = None

    def run() -> sides.Round:
        nonlocal state
        num_tokens = 0
        for inputs_TB, targets_TB in itertools.islice(windows, settings["steps"]):
            logits_NV, state = model(inputs_TB, None if state is None else (state[0].detach(), state[1].detach()))
            loss = F.cross_entropy(logits_NV, targets_TB.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
            num_tokens += targets_TB.numel()
        return sides.Round(num_tokens)

    return run


if __name__ == "__main__":
    torch.manual_seed(1)
    sides.serve({"language_training": language_training}, {"torch": torch.__version__})
