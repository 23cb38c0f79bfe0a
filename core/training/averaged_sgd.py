"""Averaged SGD: the weights that are validated and kept are the mean of those that training went through."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

_SHADOW, _COUNT = "shadow", "num_averaged"


class AveragedSGD(torch.optim.SGD):
    """SGD that, once `is_averaging`, keeps the mean of the weights after each of its steps.

    Besides each parameter there is its shadow: the weights that the model does not hold. That is the mean while it
    trains; `swap` exchanges the two, and `showing_averages` does so for a while.

    Source: Polyak and Juditsky 1992.
    """

    is_averaging = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes a step of SGD, and brings the result into the mean."""
        loss = super().step(closure)
        if self.is_averaging:
            for parameter in self._parameters():
                state = self.state[parameter]
                if _SHADOW not in state:
                    state[_SHADOW] = torch.zeros_like(parameter)
                    state[_COUNT] = torch.zeros((), device=parameter.device)
                state[_COUNT] += 1
                state[_SHADOW].lerp_(parameter, 1.0 / state[_COUNT])
        return loss

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their shadows, where there are any."""
        for parameter in self._parameters():
            shadow = self.state[parameter].get(_SHADOW) if parameter in self.state else None
            if shadow is not None:
                held = parameter.clone()
                parameter.copy_(shadow)
                shadow.copy_(held)

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]


@contextlib.contextmanager
def showing_averages(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While this lasts the model holds the averages, if its optimiser has any.

    A checkpoint is written in here: its bundle has the averages, and the optimiser's tensors the weights that
    training goes on from.
    """
    swap(optimizer)
    try:
        yield
    finally:
        swap(optimizer)


def swap(optimizer: torch.optim.Optimizer) -> None:
    """Exchanges weights and averages; an optimiser without averages is left alone."""
    if isinstance(optimizer, AveragedSGD):
        optimizer.swap()


def is_triggered(history: Sequence[float], interval: int | None) -> bool:
    """Whether averages have begun: some validation was worse than the best of those more than `interval` before it.

    Without an interval they begin at once.

    Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models, algorithm 1.
    """
    if interval is None:
        return True
    best = math.inf
    for before, value in zip(history, history[interval + 1 :], strict=False):
        best = min(best, before)
        if value > best:
            return True
    return False
