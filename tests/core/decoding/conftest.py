"""A trained model: it copies words, for tests of attention and of quality."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from core.models import bundle
from tests.core.decoding import samples


@pytest.fixture(scope="session")
def copier() -> bundle.Bundle:
    """Returns a model that translates each word, `<unk>` too, into its counterpart (spelt backwards)."""
    return trained_copier(seed=1)


def trained_copier(seed: int) -> bundle.Bundle:
    """Trains a copier, in about a second."""
    copier = samples.seq2seq(attention="dot", context="output", bidirectional=True, hidden_size=32, embedding_size=32)
    model: Any = copier.model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else torch.nn.init.zeros_(parameter)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(90):
            length = 1 + step % 6
            words_BS = torch.rand(64, 15).argsort(1)[:, :length] + 3
            words_BS[words_BS == 3] = 0  # <unk> is trained like any other word
            source_BS = F.pad(words_BS, (0, 1), value=3)
            inputs_BT = F.pad(words_BS, (1, 0), value=2)
            features_BTF = model(source_BS, torch.full((64,), length + 1), inputs_BT)
            loss = F.cross_entropy(model.logits(features_BTF).flatten(0, 1), source_BS.flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return copier
