"""Nothing in a step waits for the device: reading a tensor of torch's `meta` device, which has no values, raises."""

import importlib
from typing import Any

import pytest
import torch

from core.config import model_settings, training_settings
from core.models import factory, language_model, seq2seq
from core.training import batches, gradients, losses, optimizers, step

META = torch.device("meta")
LANGUAGE: dict[str, Any] = {"kind": "language_model", "hidden_size": 6, "embedding_size": 6, "num_layers": 2}
PAIRS: dict[str, Any] = {"kind": "seq2seq", "hidden_size": 6, "embedding_size": 6, "bidirectional": True}
WINDOW = batches.TextContent(torch.arange(12).view(3, 4), torch.arange(12) + 1)
PAIR = batches.PairsContent(
    source_BS=torch.tensor([[4, 5, 3], [6, 3, 1]]),
    source_lengths_B=torch.tensor([3, 2]),
    inputs_BT=torch.tensor([[2, 7, 8], [2, 1, 1]]),
    valid_N=torch.tensor([0, 1, 2, 3]),
    targets_N=torch.tensor([7, 8, 3, 3]),
)
MODELS = {
    "LSTM": {**LANGUAGE, "cell": "lstm", "dropout": 0.2, "output_dropout": 0.2},
    "GRU, tied, locked dropout": {
        **LANGUAGE,
        "cell": "gru",
        "tie_embeddings": True,
        "locked_dropout": True,
        "dropout": 0.2,
    },
    "DropConnect": {**LANGUAGE, "cell": "lstm", "weight_dropout": 0.5, "word_dropout": 0.1},
    "learned initial state": {**LANGUAGE, "cell": "rnn", "initial_state": "learned"},
    "feed-forward": {**LANGUAGE, "cell": "feedforward", "num_layers": 1, "context": 3},
    "one-hot": {**LANGUAGE, "cell": "lstm", "input": "one_hot"},
    "no attention": {**PAIRS, "cell": "gru"},
    "context of the output": {**PAIRS, "cell": "lstm", "attention": "general", "context": "output"},
    "input feeding": {**PAIRS, "cell": "lstm", "attention": "dot", "context": "feed"},
    "context of the input": {**PAIRS, "cell": "gru", "attention": "additive", "context": "input"},
    "coverage": {**PAIRS, "cell": "gru", "attention": "additive", "coverage_attention": True, "bridge": "mean"},
}


@pytest.fixture(autouse=True)
def _fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's fused Adam runs on `meta`, but the check of its device does not list it."""
    checks = importlib.import_module("torch.optim.optimizer")
    listed = checks._get_fused_kernels_supported_devices()
    monkeypatch.setattr(checks, "_get_fused_kernels_supported_devices", lambda: [*listed, "meta"])


def _content(model: factory.Model) -> batches.Content:
    return WINDOW if isinstance(model, language_model.LanguageModel) else PAIR


def _build(settings: dict[str, Any]) -> factory.Model:
    config: Any = {"language_model": model_settings.LanguageModelConfig, "seq2seq": model_settings.Seq2SeqConfig}
    sizes = {"text": 20} if settings["kind"] == "language_model" else {"source": 20, "target": 20}
    with META:
        return factory.build(config[settings["kind"]](**settings), sizes, 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_reads_nothing_from_the_device(name: str) -> None:
    """Forward, backward, norm, clipping, the decision to skip, the update, and the state for the next window."""
    model = _build(MODELS[name])
    training = training_settings.TrainingConfig(clip_norm=1.0, label_smoothing=0.1, batch_lines=2)
    learned = losses.build(model, training).train()
    optimizer = optimizers.build(model, training)
    learner = step.Learner(learned, learned, optimizer, META, "fp32", gradients.limits(training))
    batch = batches.Batch(_content(model), 4, 4, 0, 0.0)
    carries_state = isinstance(model, language_model.LanguageModel)
    result = learner.train_step([batch], [None], carries_state)
    result = learner.train_step([batch, batch], result.states, carries_state)
    assert {result.sums_K3.device, result.gradient_norm.device, result.is_applied.device} == {META}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_a_validation_reads_nothing_from_the_device(name: str) -> None:
    model = _build(MODELS[name])
    objective = losses.Objective(model).eval()
    content = batches.to_device(_content(model), META)
    scores = objective.score(content, None)
    assert {scores.nll.device, scores.num_right.device} == {META}


@pytest.mark.parametrize("name", [name for name, settings in MODELS.items() if settings["kind"] == "seq2seq"])
def test_a_decoding_step_reads_nothing_from_the_device(name: str) -> None:
    model = _build(MODELS[name]).eval()
    assert isinstance(model, seq2seq.Seq2Seq)
    with torch.inference_mode():
        memory = model.encode(PAIR.source_BS.to(META), PAIR.source_lengths_B)
        state = model.initial_state(memory)
        for _ in range(2):
            tokens_B = torch.zeros(2, dtype=torch.int64, device=META)
            features_BF, state, _ = model.step(tokens_B, memory, state)
            scores, _ = torch.log_softmax(model.logits(features_BF), dim=-1).topk(3)
    assert scores.device == META
