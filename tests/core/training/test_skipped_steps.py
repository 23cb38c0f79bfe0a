"""Counts of skipped steps do not depend on when they are read."""

import itertools

import pytest
import torch

from core.config import optimizer_settings, training_settings
from core.training import optimizers, progress, skipped_steps

CPU = torch.device("cpu")


def _count(applied: str, reads_after: int, before: int = 0) -> tuple[progress.State, list[tuple[int, int]]]:
    """Counts steps, `x` for a skipped one, and returns (longest_in_row, last_finite_step) of each reading."""
    state = progress.State(step=10, num_skipped_in_row=before)
    counted, readings = skipped_steps.SkippedSteps(state, CPU), []
    for number, letter in enumerate(applied, start=1):
        counted.add(torch.tensor(letter != "x"))
        state.step += 1
        if number % reads_after == 0:
            counted.read()
            readings.append((counted.longest_in_row, counted.last_finite_step))
    return state, readings


def test_counts_worked_by_hand() -> None:
    """Steps 11 to 18; the longest streak of the first four follows step 11, that of all eight step 14."""
    state, readings = _count(".xx.xxx.", reads_after=4)
    assert readings == [(2, 11), (3, 14)]
    assert (state.num_skipped, state.num_skipped_in_row) == (5, 0)
    assert _count(".xx.xxx.", reads_after=8)[1] == [(3, 14)]


def test_a_streak_that_began_before_the_reading_goes_on() -> None:
    """Steps 9 and 10 were skipped, and so is 11: three in a row after step 8."""
    state, readings = _count("x", reads_after=1, before=2)
    assert readings == [(3, 8)]
    assert state.num_skipped_in_row == 3


@pytest.mark.parametrize("reads_after", [2, 3, 6])
def test_a_late_reading_finds_the_same_streaks(reads_after: int) -> None:
    for letters in itertools.product(".x", repeat=6):
        applied = "".join(letters)
        (often, each), (seldom, late) = _count(applied, 1), _count(applied, reads_after)
        assert (often.num_skipped, often.num_skipped_in_row) == (seldom.num_skipped, seldom.num_skipped_in_row)
        for number, (longest, last_finite) in enumerate(late):
            between = each[number * reads_after : (number + 1) * reads_after]
            assert longest == max(reading[0] for reading in between)
            if longest:
                assert last_finite == next(reading[1] for reading in between if reading[0] == longest)


@pytest.mark.parametrize(
    "settings",
    [
        optimizer_settings.AdamConfig(),
        optimizer_settings.AdamConfig(kind="adamw", weight_decay=0.1),
        optimizer_settings.SgdConfig(weight_decay=0.1),
        optimizer_settings.SgdConfig(momentum=0.9),
        optimizer_settings.AsgdConfig(non_monotone_interval=None, momentum=0.5),
    ],
    ids=["adam", "adamw", "sgd", "momentum", "asgd"],
)
@pytest.mark.parametrize("skipped", [{0}, {1}, {2, 3}])
def test_a_skipped_step_is_as_if_it_had_not_been(
    settings: optimizer_settings.OptimizerConfig, skipped: set[int]
) -> None:
    """Weights and the optimizer's state have the bits of a run without the skipped steps, also if the first was one."""

    def run(leave_out: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        model = torch.nn.Linear(5, 4)
        training = training_settings.TrainingConfig(optimizer=settings, learning_rate=0.1)
        optimizer = optimizers.build(model, training)
        for number in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.3 * number + 0.1)
                if number in skipped:
                    parameter.grad.fill_(float("nan"))
            if leave_out and number in skipped:
                continue
            optimizers.prepare(optimizer, 0.1, training, [])
            optimizers.step_where(optimizer, torch.tensor(number not in skipped))
        return {**model.state_dict(), **optimizers.named_state(model, optimizer)}

    expected, actual = run(leave_out=True), run(leave_out=False)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name
