"""Plain PyTorch baselines: straightforward implementations, left unoptimized for comparison."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from core.models import seq2seq
from core.models import state as states


class AttentionSeq2Seq(nn.Module):
    """GRU encoder and decoder with additive attention, stepped as in the textbook.

    The query is the previous top state, the context enters the recurrent layers concatenated with the embedding, and
    keys are projected again at every step.

    Source: Zhang et al., Dive into Deep Learning (2021), "Bahdanau Attention".
    """

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.target_embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.encoder = nn.GRU(embedding_size, hidden_size, num_layers, batch_first=True)
        self.decoder = nn.GRU(embedding_size + hidden_size, hidden_size, num_layers, batch_first=True)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.energy = nn.Linear(hidden_size, 1, bias=False)
        self.output = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, source_BS: torch.Tensor, source_lengths_B: torch.Tensor, inputs_BT: torch.Tensor) -> torch.Tensor:
        values_BSH, state = self.encoder(self.source_embedding(source_BS))
        padding_BS = torch.arange(source_BS.shape[1])[None, :] >= source_lengths_B[:, None]
        outputs = []
        for embedded_BE in self.target_embedding(inputs_BT).unbind(1):
            features_BSH = torch.tanh(self.query(state[-1])[:, None] + self.key(values_BSH))
            energies_BS = self.energy(features_BSH).squeeze(-1).masked_fill(padding_BS, -1e9)
            context_BH = (energies_BS.softmax(-1)[:, None] @ values_BSH).squeeze(1)
            output_B1H, state = self.decoder(torch.cat([context_BH, embedded_BE], -1)[:, None], state)
            outputs.append(output_B1H)
        logits_BTV: torch.Tensor = self.output(torch.cat(outputs, 1))
        return logits_BTV


class LanguageModel(nn.Module):
    """Embedding, PyTorch's stacked LSTM or GRU, and a linear output layer; computes all logits at once."""

    def __init__(self, cell: str, vocabulary_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, hidden_size)
        recurrent = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.layers = recurrent(hidden_size, hidden_size, num_layers, batch_first=True)
        self.output = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, inputs_BT: torch.Tensor, state: object = None) -> tuple[torch.Tensor, object]:
        hidden_BTH, state = self.layers(self.embedding(inputs_BT), state)
        return self.output(hidden_BTH), state


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, logits_BTV: torch.Tensor, targets_BT: torch.Tensor
) -> None:
    """Takes a training step: cross entropy over all positions but padding (0), backward, clipping, update."""
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=0)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def padded_batches(lines: list[tuple[list[int], list[int]]], batch_lines: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields batches in corpus order, padded with 0: (source_BS, source_lengths_B, targets_BT)."""
    for start in range(0, len(lines), batch_lines):
        batch = lines[start : start + batch_lines]
        sources = [torch.tensor(source) for source, _ in batch]
        targets = [torch.tensor(target) for _, target in batch]
        yield (
            nn.utils.rnn.pad_sequence(sources, batch_first=True),
            torch.tensor([len(source) for source in sources]),
            nn.utils.rnn.pad_sequence(targets, batch_first=True),
        )


@torch.inference_mode()
def beam(
    model: seq2seq.Seq2Seq,
    source: Sequence[int],
    beam_size: int,
    lengths: range,
    bos: int,
    eos: int,
    blocked: Sequence[int],
) -> list[int]:
    """Searches one line by beam search: each hypothesis is a Python list, each step one batch of the unfinished ones.

    `lengths` is the range of lengths allowed, `<eos>` included.
    """
    memory = model.encode(torch.tensor([list(source)]), torch.tensor([len(source)]))
    unfinished: list[tuple[list[int], float]] = [([], 0.0)]
    state = model.initial_state(memory)
    finished: list[tuple[list[int], float]] = []
    for length in range(1, lengths.stop):
        tokens = torch.tensor([hypothesis[-1] if hypothesis else bos for hypothesis, _ in unfinished])
        rows = memory.select(torch.zeros(len(unfinished), dtype=torch.int64))
        features, state, _ = model.step(tokens, rows, state)
        log_probs = torch.log_softmax(model.logits(features), dim=-1)
        log_probs[:, [*blocked, eos] if length < lengths.start else list(blocked)] = -torch.inf
        totals = log_probs + torch.tensor([score for _, score in unfinished])[:, None]
        values, indices = totals.flatten().topk(beam_size - len(finished))
        continued, parents = [], []
        for value, index in zip(values.tolist(), indices.tolist(), strict=True):
            row, token = divmod(index, totals.shape[1])
            hypothesis = [*unfinished[row][0], token]
            if token == eos or length == lengths.stop - 1:
                finished.append((hypothesis, value / length))
            else:
                continued.append((hypothesis, value))
                parents.append(row)
        unfinished = continued
        if not unfinished:
            break
        state = states.select(state, torch.tensor(parents))
    return max(finished, key=lambda hypothesis: hypothesis[1])[0]
