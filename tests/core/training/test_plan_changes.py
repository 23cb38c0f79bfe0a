"""Changes of the plan on a resume: what is counted from the change on, and the learning rate before and after."""

from pathlib import Path
from typing import Any

import pytest

from core.config import training_settings
from core.reporting import training_history
from core.telemetry import metrics
from core.training import collective, plan_changes, progress, schedules, trainer, validation
from tests.core.training import builders

# The figures of a run with a constant rate, of which six validations in all are no better than the best before.
LOSSES = (2.09, 2.41, 2.76, 2.98, 1.98, 2.47, 2.05, 2.05)
PLATEAU: dict[str, Any] = {"kind": "plateau", "patience": 0, "decay_factor": 0.5}


def _config(**settings: Any) -> training_settings.TrainingConfig:
    return training_settings.TrainingConfig(**{"learning_rate": 0.5, "epochs": 9, **settings})


def _saved(config: training_settings.TrainingConfig) -> dict[str, Any]:
    return {"training": config.model_dump(mode="json")}


def _state(*losses: float, bleus: tuple[float, ...] = ()) -> progress.State:
    scores = bleus or (None,) * len(losses)
    pairs = enumerate(zip(losses, scores, strict=True), start=1)
    history = [progress.Validation(step, loss, 0.5, 10, bleu) for step, (loss, bleu) in pairs]
    corpus = progress.CorpusState(epoch=len(losses))
    return progress.State(step=10 * len(losses), corpora=[corpus], history=history)


def _rate(state: progress.State, config: training_settings.TrainingConfig) -> float:
    keys = state.selection_keys(config.best_by)
    return schedules.learning_rate(config, state.step, state.epochs_done, keys, state.plateau_start)


def _after(state: progress.State, old: dict[str, Any], new: dict[str, Any], *losses: float) -> float:
    """Returns the learning rate after a change of the plan and further validations."""
    config = _config(**new)
    followed = plan_changes.follow(state, _saved(_config(**old)), config)
    followed.history.extend(_state(*losses).history)
    return _rate(followed, config)


def test_a_plateau_that_is_switched_on_counts_from_then_on() -> None:
    new = {"schedule": PLATEAU}
    assert _after(_state(*LOSSES), {}, new) == 0.5
    assert _after(_state(*LOSSES), {}, new, 2.2, 2.1) == 0.5
    assert _after(_state(*LOSSES), {}, new, 2.2, 2.3) == 0.25


@pytest.mark.parametrize("change", [{"patience": 1}, {"decay_factor": 0.1}])
def test_the_decays_before_a_change_of_a_plateau_stay(change: dict[str, Any]) -> None:
    """Losses 2, 3 with a factor of one half have halved the rate, whatever patience and factor are now."""
    assert _after(_state(2.0, 3.0), {"schedule": PLATEAU}, {"schedule": PLATEAU | change}) == 0.25


def test_a_new_learning_rate_is_the_rate_from_the_change_on() -> None:
    assert _after(_state(2.0, 3.0), {"schedule": PLATEAU}, {"schedule": PLATEAU, "learning_rate": 0.4}) == 0.4


def test_a_plateau_that_is_not_changed_counts_from_the_beginning() -> None:
    longer = {"schedule": PLATEAU, "epochs": 20}
    assert _after(_state(*LOSSES), {"schedule": PLATEAU}, longer) == pytest.approx(0.5 * 0.5**6)


def test_another_metric_counts_from_the_change_on() -> None:
    """By perplexity 2.0, 3.0 has decayed once; the BLEUs 30, 20 of before do not count again."""
    by_bleu = {"early_stop": {"metric": "bleu", "patience": 9}, "validation": {"bleu_lines": 5}}
    state = _state(2.0, 3.0, bleus=(30.0, 20.0))
    config = _config(schedule=PLATEAU, **by_bleu)
    assert _rate(plan_changes.follow(state, _saved(_config(schedule=PLATEAU)), config), config) == 0.25


def test_a_run_of_release_01_keeps_its_decays_by_perplexity() -> None:
    """It followed perplexity, also with early stopping by BLEU, and stored the name of its schedule."""
    config = _config(schedule=PLATEAU, early_stop={"metric": "bleu", "patience": 9}, validation={"bleu_lines": 5})
    flat = {"schedule": "plateau", "decay_patience": 0, "decay_factor": 0.5, "optimizer": "adam"}
    saved = {"training": {**config.model_dump(mode="json", exclude={"schedule", "optimizer", "truncation"}), **flat}}
    state = _state(2.0, 3.0, 1.0, bleus=(30.0, 20.0, 10.0))
    assert _rate(plan_changes.follow(state, saved, config), config) == 0.25
    assert plan_changes.describe(state, saved, config) is None


def test_early_stopping_counts_from_where_it_is_switched_on_and_another_patience_keeps_the_count() -> None:
    state = _state(1.0, 2.0, 2.0, 2.0)
    stop = {"metric": "perplexity", "patience": 2}
    switched_on = plan_changes.follow(state, _saved(_config()), _config(early_stop=stop))
    assert switched_on.early_stop_start == 4
    longer = _config(early_stop=stop | {"patience": 3})
    assert plan_changes.follow(state, _saved(_config(early_stop=stop)), longer).early_stop_start == 0


def test_where_the_plan_counts_from_is_stored() -> None:
    state = _state(1.0)
    state.plateau_start, state.early_stop_start = schedules.PlateauStart(3, 0.1), 4
    assert progress.State.from_json(state.to_json(), "here") == state
    older = {name: value for name, value in state.to_json().items() if not name.endswith(("_start", "_due"))}
    assert progress.State.from_json(older, "here").plateau_start == schedules.BEGINNING


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, None),
        ({}, {"epochs": 20}, None),
        ({}, {"log_every_steps": 3, "clip_norm": 2.0}, None),
        ({}, {"learning_rate": 0.1}, "learning rate of step 81: 0.5 before, 0.1 now (training.learning_rate)"),
        ({}, {"schedule": PLATEAU}, "learning rate of step 81: 0.5 before, 0.5 now (training.schedule)"),
        (
            {"schedule": {"kind": "cosine"}, "epochs": 16},
            {"schedule": {"kind": "cosine"}, "epochs": 16, "max_steps": 120},
            "learning rate of step 81: 0.25 before, 0.125 now (training.max_steps)",
        ),
    ],
)
def test_a_change_of_the_plan_says_the_rate_before_and_after(
    old: dict[str, Any], new: dict[str, Any], expected: str | None
) -> None:
    """Eight epochs of ten steps are done; of a cosine over 80 of 120 steps a quarter of the rate is left."""
    assert plan_changes.describe(_state(*LOSSES), _saved(_config(**old)), _config(**new)) == expected


def test_a_cosine_of_release_01_says_that_it_begins_after_the_warm_up_now() -> None:
    """80 of 160 steps: half of the rate then; now 64 of 144, (1 + cos(64/144 pi)) / 2 = 0.586824."""
    config = _config(schedule={"kind": "cosine", "warmup_steps": 16}, max_steps=160, epochs=99, learning_rate=1.0)
    flat = {"schedule": "cosine", "warmup_steps": 16, "optimizer": "adam"}
    saved = {"training": {**config.model_dump(mode="json", exclude={"schedule", "optimizer", "truncation"}), **flat}}
    line = plan_changes.describe(_state(*LOSSES), saved, config)
    assert line == "learning rate of step 81: 0.5 before, 0.586824 now (the schedules of release 0.2)"


def _rates(folder: Path) -> list[float]:
    rows = training_history.read(builders.location_of(folder))
    return [row["learning_rate"] for row in rows if row["kind"] == "step"]


def test_a_resumed_run_with_a_plateau_switched_on_starts_from_its_learning_rate(tmp_path: Path) -> None:
    """Validations of before are made worse and worse, so that counting them would leave nothing of the rate."""
    text = builders.text_dataset(tmp_path / "text")
    every: dict[str, Any] = {"validate_every_steps": 1, "log_every_steps": 1, "optimizer": {"kind": "sgd"}}
    settings = every | {"learning_rate": 8.0, "clip_norm": None}
    builders.train(builders.job(tmp_path / "run", text, max_steps=8, **settings))
    builders.train(builders.job(tmp_path / "run", text, max_steps=9, schedule=PLATEAU, **settings))
    assert _rates(tmp_path / "run") == [8.0] * 9


class _Scripted:
    """A validator with the given BLEUs."""

    def __init__(self, *bleus: float) -> None:
        self._bleus = iter(bleus)

    def decode(self, *_: object) -> validation.DecodingResult:
        return validation.DecodingResult(next(self._bleus), ())


def test_a_plateau_follows_the_metric_of_early_stopping(tmp_path: Path) -> None:
    """BLEU falls three times, each a decay; the loss falls all the while, and would give none."""
    job = builders.job(
        tmp_path / "run", builders.pairs_dataset(tmp_path / "pairs"), builders.PAIRS, learning_rate=0.02,
        schedule=PLATEAU, early_stop={"metric": "bleu", "patience": 20}, validation={"bleu_lines": 5},
        validate_every_steps=1, log_every_steps=1, max_steps=7,
    )  # fmt: skip
    scripted = _Scripted(1.0, 21.7, 16.7, 4.4, 29.0, 5.3, 30.0)
    summary = trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), builders.Watch(), scripted)
    assert summary.validation is not None
    rates = [0.02, 0.02, 0.02, 0.01, 0.005, 0.005, 0.0025]
    assert _rates(tmp_path / "run") == pytest.approx(rates)
