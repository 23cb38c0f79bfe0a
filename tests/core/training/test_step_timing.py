"""Timing of a training step."""

import time
from typing import Any

import pytest

from core.config import loading, schema
from core.training import step, step_timing

TEXT = (
    "name: x\nroot: x\ncorpus: {kind: text, train: {text: [a]}}\n"
    "model: {kind: language_model, hidden_size: 8, embedding_size: 8}\n"
)
PAIRS = (
    "name: x\nroot: x\ncorpus: {kind: pairs, train: {tsv: [a]}}\n"
    "model: {kind: seq2seq, hidden_size: 8, embedding_size: 8, attention: dot}\ntraining: {batch_tokens: 200}\n"
)


def _config(text: str, *overrides: str) -> schema.RunConfig:
    return loading.parse(text, "here", ["compute.precision=fp32", "compute.matmul=default", *overrides])


@pytest.mark.parametrize(("text", "sizes"), [(TEXT, {"text": 50}), (PAIRS, {"source": 50, "target": 60})])
def test_a_step_of_either_kind_is_timed(text: str, sizes: dict[str, int]) -> None:
    assert 0 < step_timing.seconds_per_step(_config(text), sizes, (7, 9), seconds=0.0) < 5


def test_the_timed_batch_is_a_workers_share() -> None:
    sizes = {"source": 50, "target": 60}
    batches = [
        step_timing.make_batch(_config(PAIRS, f"cluster.num_workers={workers}"), sizes, (10, 8)) for workers in (1, 2)
    ]
    assert [batch.num_own for batch in batches] == [20 * 8, 10 * 8]


def test_time_in_which_other_processes_compute_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    train_step = step.Learner.train_step

    def interrupted(*arguments: Any) -> step.StepResult:
        time.sleep(0.3)
        return train_step(*arguments)

    monkeypatch.setattr(step.Learner, "train_step", interrupted)
    assert 0 < step_timing.seconds_per_step(_config(TEXT), {"text": 50}, (7, 9), seconds=0.0) < 0.3
