"""A word language model in plain torch, as in the example of that name: embedding, LSTM, output layer.

Dropout on embeddings, between layers and before the output layer, tied weights, clipped gradients, plain SGD; the loss
is computed from the logits of all words of the window.
"""

import itertools
import pathlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.peers import sides

State = tuple[Tensor, Tensor]


class Model(nn.Module):
    """Language model over tensors (T, B)."""

    def __init__(self, vocabulary_size: int, size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.Embedding(vocabulary_size, size)
        self.layers = nn.LSTM(size, size, num_layers, dropout=dropout)
        self.decoder = nn.Linear(size, vocabulary_size)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def initial_state(self, num_lanes: int) -> State:
        """Returns the zero state."""
        zeros = self.decoder.weight.new_zeros(self.layers.num_layers, num_lanes, self.layers.hidden_size)
        return zeros, zeros.clone()

    def forward(self, tokens_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Returns log-probabilities (T B, V) and the state after the window."""
        hidden_TBH, state = self.layers(self.dropout(self.encoder(tokens_TB)), state)
        logits_TBV = self.decoder(self.dropout(hidden_TBH))
        return F.log_softmax(logits_TBV.flatten(0, 1), dim=1), state


def language_training(settings: sides.Settings) -> sides.Run:
    """Trains on the lanes of a text, with the state carried; a round is some windows."""
    model = _build(settings).train()
    state = model.initial_state(settings["lanes"])
    windows = endless_windows(read_lanes(settings, "train", settings["lanes"]), settings["window"])

    def run() -> sides.Round:
        nonlocal state
        num_tokens = 0
        for inputs_TB, targets_TB in itertools.islice(windows, settings["steps"]):
            model.zero_grad()
            log_probs_NV, state = model(inputs_TB, (state[0].detach(), state[1].detach()))
            loss = F.nll_loss(log_probs_NV, targets_TB.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.add_(parameter.grad, alpha=-settings["learning_rate"])
            loss.item()  # added up for the log
            num_tokens += targets_TB.numel()
        return sides.Round(num_tokens)

    return run


def scoring(settings: sides.Settings) -> sides.Run:
    """Evaluates the loss of a text in ten lanes, with the state carried."""
    model = _build(settings).eval()
    lanes_TB = read_lanes(settings, "test", 10, settings["num_lines"])

    def run() -> sides.Round:
        state, total, num_tokens = model.initial_state(lanes_TB.shape[1]), 0.0, 0
        with torch.no_grad():
            for inputs_TB, targets_TB in windows_of(lanes_TB, settings["window"]):
                log_probs_NV, state = model(inputs_TB, state)
                total += len(inputs_TB) * F.nll_loss(log_probs_NV, targets_TB.flatten()).item()
                num_tokens += targets_TB.numel()
        return sides.Round(num_tokens)

    return run


def read_lanes(settings: sides.Settings, split: str, num_lanes: int, num_lines: int | None = None) -> Tensor:
    """Returns a text as ids (T, B): a column for each lane; a line ends with a token of its own."""
    folder = pathlib.Path(settings["corpus"])
    words = (folder / "vocabulary").read_text(encoding="utf-8").split("\n")[:-1]
    ids = {word: number for number, word in enumerate(words[: settings["vocabulary_size"] - 2], start=2)}
    lines = (folder / split).read_text(encoding="utf-8").split("\n")[:-1][:num_lines]
    stream = torch.tensor([token for line in lines for token in (*(ids.get(word, 0) for word in line.split()), 1)])
    length = len(stream) // num_lanes
    return stream[: length * num_lanes].view(num_lanes, length).t().contiguous()


def windows_of(lanes_TB: Tensor, window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields inputs and targets of the windows of one pass."""
    for start in range(0, len(lanes_TB) - 1, window):
        stop = min(start + window, len(lanes_TB) - 1)
        yield lanes_TB[start:stop], lanes_TB[start + 1 : stop + 1]


def endless_windows(lanes_TB: Tensor, window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the windows of one pass after the other."""
    while True:
        yield from windows_of(lanes_TB, window)


def _build(settings: sides.Settings) -> Model:
    sizes = settings["sizes"]
    return Model(settings["vocabulary_size"], sizes[0], len(sizes), settings["model"]["output_dropout"])


if __name__ == "__main__":
    torch.manual_seed(1)
    sides.serve(
        {"language_training": language_training, "scoring": scoring},
        {"torch": torch.__version__},
    )
