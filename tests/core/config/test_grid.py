"""Grids of settings: how values are written, which combinations they have, and what these are named."""

import re

import pytest

from core import errors
from core.config import grid


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("training.learning_rate=1e-3,1e-4", ("1e-3", "1e-4")),
        ("model.cell = gru , lstm ", ("gru", "lstm")),
        ("training.optimizer.betas=[0.9,0.98],[0.9,0.999]", ("[0.9,0.98]", "[0.9,0.999]")),
        ("training.optimizer={kind: sgd, momentum: 0.9},adam", ("{kind: sgd, momentum: 0.9}", "adam")),
        ("corpus.train.text=['a,b.txt'],[\"c.txt\"]", ("['a,b.txt']", '["c.txt"]')),
        ("training.clip_norm=null,-1", ("null", "-1")),
        ("seed=7", ("7",)),
    ],
)
def test_values_are_separated_by_commas_outside_brackets_and_quotes(text: str, values: tuple[str, ...]) -> None:
    assert grid.parse(text).values == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs", "is not a setting with values"),
        ("training epochs=1", "is not a setting with values"),
        ("=1,2", "is not a setting with values"),
        ("training.epochs=", "a value is missing"),
        ("training.epochs=1,", "a value is missing"),
        ("training.epochs=1,,2", "is not valid YAML"),
        ("training.epochs=[1", "is not valid YAML"),
        ("training.epochs=012", "is not a plain, finite decimal number"),
        ("root=a,b", "has a root of its own"),
        ("name=a,b", "has a name of its own"),
    ],
)
def test_what_is_no_grid_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(errors.UsageError, match=message) as caught:
        grid.parse(text)
    assert str(caught.value).startswith(f"--grid {text}")


def test_combinations_are_all_of_them_in_order_with_names_that_say_what_differs() -> None:
    axes = [grid.parse("training.learning_rate=1e-3,1e-4"), grid.parse("model.cell=gru,lstm")]
    assert [combination.name for combination in grid.combinations(axes)] == [
        "learning_rate-1e-3_cell-gru",
        "learning_rate-1e-3_cell-lstm",
        "learning_rate-1e-4_cell-gru",
        "learning_rate-1e-4_cell-lstm",
    ]
    assert grid.combinations(axes)[2].overrides == ["training.learning_rate=1e-4", "model.cell=gru"]


def test_settings_with_the_same_last_name_are_told_apart() -> None:
    axes = [grid.parse("decoding.seed=1,2"), grid.parse("generation.seed=3")]
    assert grid.combinations(axes)[0].name == "decoding.seed-1_generation.seed-3"


def test_a_name_depends_on_its_values_alone() -> None:
    few = grid.combinations([grid.parse("training.optimizer.betas=[0.9,0.98]")])
    more = grid.combinations([grid.parse("training.optimizer.betas=[0.9, 0.98],[0.9,0.98],[0.9,0.999]")])
    assert more[1].name == few[0].name
    assert len({combination.name for combination in more}) == 3


def test_names_are_those_of_runs_and_folders_however_long_the_values_are() -> None:
    text = "corpus.cleaning=[spaces, lower, punctuation],[spaces, lower, punctuation, digits],[../x/y, 'ü']"
    long = grid.parse(f"model.hidden_size={','.join(str(10**number) for number in range(10, 15))}")
    names = [combination.name for combination in grid.combinations([grid.parse(text), long])]
    assert len(set(names)) == 15
    for combination in grid.combinations([grid.parse(text), long]):
        overrides = grid.overrides(
            combination, "a-run-whose-name-is-long-already-and-has-sixty-three-characters", "r/x/"
        )
        name, root = (override.partition("=")[2].strip('"') for override in overrides[-2:])
        assert len(name) <= 63
        assert root == f"r/x/{combination.name}"
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9.+_-]*", combination.name)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["seed=1", "seed=2"], "seed: is named twice"), (["seed=1,2,1"], "seed: has the value 1 twice")],
)
def test_what_would_be_done_twice_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        grid.combinations([grid.parse(text) for text in texts])
