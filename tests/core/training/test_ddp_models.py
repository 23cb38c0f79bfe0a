"""Several ranks with every kind of layer and dropout."""

from pathlib import Path
from typing import Any

import pytest

from core.config import loading, model_settings
from core.reporting import training_history
from core.training import trainer
from tests.core.training import builders

pytestmark = pytest.mark.ddp

CONFIGS = Path(__file__).resolve().parents[3] / "jobs" / "configs"

SIZES: dict[str, Any] = {"hidden_size": 8, "embedding_size": 8, "num_layers": 2}
TEXT = model_settings.LanguageModelConfig(
    kind="language_model",
    cell="lstm_peephole",
    connections="residual",
    initial_state="learned",
    layer_norm=True,
    tie_embeddings=True,
    adaptive_cutoffs=(3, 6),
    **SIZES,
)
PAIRS = model_settings.Seq2SeqConfig(
    kind="seq2seq",
    cell="lstm",
    connections="highway",
    initial_state="learned",
    layer_norm=True,
    biases="one",
    bidirectional=True,
    bidirectional_layers=1,
    attention="general",
    context="feed",
    coverage_attention=True,
    **SIZES,
)
SLIDING = {"kind": "sliding", "lookback": 7}  # longer than a window
WET: dict[str, Any] = {"dropout": 0.3, "weight_dropout": 0.3, "word_dropout": 0.1, "locked_dropout": True}


def test_two_ranks_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    text, pairs = builders.text_dataset(tmp_path / "text", 200, 40), builders.pairs_dataset(tmp_path / "pairs", 30, 6)

    def jobs(name: str) -> list[Any]:
        settings: dict[str, Any] = {"log_every_steps": 1, "epochs": 2}
        return [
            (builders.job(tmp_path / name / "text", text, TEXT, **settings), None),
            (builders.job(tmp_path / name / "feedforward", text, builders.FEEDFORWARD, **settings), None),
            (builders.job(tmp_path / name / "sliding", text, TEXT, **settings, truncation=SLIDING), None),
            (builders.job(tmp_path / name / "pairs", pairs, PAIRS, **settings), None),
        ]

    for job, _ in jobs("one"):
        builders.train(job)
    builders.on_ranks(2, tmp_path, builders.train_rank, jobs("two"))
    for kind in ("text", "feedforward", "sliding", "pairs"):
        losses_of_one, losses_of_two = (
            [
                row["loss_nats"]
                for row in training_history.read(builders.location_of(tmp_path / name / kind))
                if "loss_nats" in row
            ]
            for name in ("one", "two")
        )
        assert len(losses_of_one) > 5
        assert losses_of_two == pytest.approx(losses_of_one, rel=1e-5)


def test_dropout_masks_are_the_same_after_a_resume(tmp_path: Path) -> None:
    text, pairs = builders.text_dataset(tmp_path / "text", 200, 40), builders.pairs_dataset(tmp_path / "pairs", 30, 6)
    runs = []
    for name, stops in (("whole", [None]), ("stopped", [4, None])):
        for stop in stops:
            for kind, data, model in (("text", text, TEXT), ("pairs", pairs, PAIRS)):
                runs.append((builders.job(tmp_path / name / kind, data, model.model_copy(update=WET)), stop))
    builders.on_ranks(2, tmp_path, builders.train_rank, runs)
    for kind in ("text", "pairs"):
        assert builders.digest(tmp_path / "stopped" / kind) == builders.digest(tmp_path / "whole" / kind)


def test_the_awd_recipe_trains_on_two_ranks_and_resumes_after_a_stop(tmp_path: Path) -> None:
    """The shipped configuration with smaller sizes, and a trigger that fires early enough for averages to start."""
    smaller = ["model.hidden_size=[8,8,6]", "model.embedding_size=6", "training.num_lanes=6", "training.window=8"]
    recipe = loading.load(str(CONFIGS / "wikitext-2-awd.yaml"), smaller)
    model = recipe.model
    assert isinstance(model, model_settings.LanguageModelConfig)
    text = builders.text_dataset(tmp_path / "text", 400, 60)
    settings = {
        **recipe.training.model_dump(exclude_unset=True),
        "epochs": 6,
        "optimizer": {"kind": "asgd", "weight_decay": 1.2e-6, "non_monotone_interval": 1},
    }

    def job(name: str) -> trainer.TrainingJob:
        return builders.job(tmp_path / name, text, model, **settings)

    builders.on_ranks(
        2, tmp_path, builders.train_rank, [(job("whole"), None), (job("stopped"), 17), (job("stopped"), None)]
    )
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")
