"""Averaged SGD (ASGD), with the non-monotonic trigger of AWD-LSTM (NT-ASGD).

The weights that are validated and saved are the mean of those after each step, which has less noise than the last
ones. Averaging starts when validations stop improving; until then the optimizer is plain SGD.

Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; Merity, Keskar and Socher 2018,
Regularizing and Optimizing LSTM Language Models.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from core.training import schedules

# Names of tensors in a checkpoint's optimizer state.
_SHADOW, _COUNT = "shadow", "num_averaged"


class AveragedSGD(torch.optim.SGD):
    """SGD that, once `is_averaging`, keeps the mean of the weights after each of its steps.

    The optimizer has a second copy of each parameter, its shadow: the running mean during training, the raw weights
    inside `averaged_weights`; `swap` exchanges the two.
    """

    is_averaging = False  # not stored: it follows from the validations so far

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Takes a step of SGD, and adds the new weights to the mean; does neither where `found_inf` is 1."""
        loss = super().step(closure)
        if self.is_averaging:
            found_inf = getattr(self, "found_inf", None)
            num_added = 1.0 if found_inf is None else 1.0 - found_inf
            for parameter in self._parameters():
                state = self.state[parameter]
                if _SHADOW not in state:
                    state[_SHADOW] = torch.zeros_like(parameter)
                    # A tensor, as checkpoints store no other state of an optimizer.
                    state[_COUNT] = torch.zeros((), device=parameter.device)
                state[_COUNT] += num_added
                # mean ← mean + (weights − mean) / count; the first step may have been skipped, and the count be 0.
                state[_SHADOW].lerp_(parameter, num_added / state[_COUNT].clamp(min=1.0))
        return loss

    @property
    def has_averages(self) -> bool:
        """True once averaging has begun, in this start of the run or in an earlier one."""
        return any(_SHADOW in state for state in self.state.values())

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their shadows, where there are any."""
        for parameter in self._parameters():
            shadow = self.state[parameter].get(_SHADOW) if parameter in self.state else None
            if shadow is not None:
                # In place: tied layers and DDP refer to this very tensor.
                weights = parameter.clone()
                parameter.copy_(shadow)
                shadow.copy_(weights)

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]


@contextlib.contextmanager
def averaged_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Puts the averages, if the optimizer keeps any, into the model for the duration of a `with` block.

    Checkpoints are written inside: the bundle then holds the averages, for inference, and the optimizer's shadows the
    weights that training continues from.
    """
    swap(optimizer)
    try:
        yield
    finally:
        swap(optimizer)


def swap(optimizer: torch.optim.Optimizer) -> None:
    """Exchanges weights and averages; leaves an optimizer without averages alone."""
    if isinstance(optimizer, AveragedSGD):
        optimizer.swap()


def is_triggered(history: Sequence[schedules.Key], non_monotone_interval: int | None) -> bool:
    """Returns whether averaging has started.

    It starts when a validation is worse than the best of those more than `non_monotone_interval` validations before
    it; without an interval at once.

    Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models, algorithm 1.
    """
    if non_monotone_interval is None:
        return True
    best: schedules.Key | None = None
    for earlier, value in zip(history, history[non_monotone_interval + 1 :], strict=False):
        best = earlier if best is None else min(best, earlier)
        if value > best:
            return True
    return False
