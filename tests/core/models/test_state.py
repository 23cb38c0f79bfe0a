"""Recurrent states: names, selection, detachment."""

import pytest
import torch

from core import errors
from core.models import state as states


def example() -> states.State:
    return tuple((torch.arange(8.0).view(4, 2) + layer, torch.ones(4, 2) * layer) for layer in range(2))


def test_named_state_round_trip() -> None:
    named = states.to_named(example())
    assert list(named) == ["0.h", "0.c", "1.h", "1.c"]
    back = states.from_named(dict(reversed(named.items())))
    for layer, expected in zip(back, example(), strict=True):
        assert [part.tolist() for part in layer] == [part.tolist() for part in expected]


def test_layers_of_several_models_may_have_different_parts() -> None:
    mixed = (*example(), (torch.ones(4, 3),))
    assert states.from_named(states.to_named(mixed))[2][0].shape == (4, 3)


@pytest.mark.parametrize("names", [("0.x",), ("0.c",), ("1.h",), ("0.h", "1.c"), ("h",)])
def test_names_that_do_not_form_a_state_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(errors.IntegrityError, match="recurrent state"):
        states.from_named({name: torch.zeros(1, 1) for name in names})


def test_selected_rows_may_repeat() -> None:
    chosen = states.select(example(), torch.tensor([3, 0, 3]))
    assert chosen[0][0].tolist() == [[6, 7], [0, 1], [6, 7]]


def test_detached_state_has_equal_values_without_gradient() -> None:
    grown = ((torch.ones(1, 2, requires_grad=True) * 3,),)
    cut = states.detach(grown)
    assert cut[0][0].tolist() == [[3, 3]]
    assert not cut[0][0].requires_grad


def test_zero_state_has_the_given_parts_and_sizes() -> None:
    zero = states.zeros(2, (2, 3), 5, torch.zeros(1))
    assert [[part.shape for part in layer] for layer in zero] == [[(5, 2), (5, 2)], [(5, 3), (5, 3)]]
    assert not any(part.any() for layer in zero for part in layer)
