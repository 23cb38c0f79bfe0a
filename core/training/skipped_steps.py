"""Steps that were skipped because their gradient was not finite."""

import torch

from core.training import progress


class SkippedSteps:
    """Counters of skipped steps on the device, read into the run's state when a decision needs them.

    All ranks have the same counts, and read them after the same steps.

    Attributes:
        longest_in_row: most skipped steps in a row up to the last reading, of streaks since the one before it.
        last_finite_step: the last step before that streak.
    """

    def __init__(self, state: progress.State, device: torch.device) -> None:
        self._state = state
        self.longest_in_row = state.num_skipped_in_row
        self.last_finite_step = state.step - state.num_skipped_in_row
        self._num_steps = 0  # since the last reading
        self._counts_5 = self._initial_counts(device)

    def add(self, is_applied: torch.Tensor) -> None:
        """Counts a step; reads nothing, so that the CPU does not wait for the device."""
        total, in_row, finite, longest, finite_before_longest = self._counts_5.unbind()
        self._num_steps += 1
        in_row = torch.where(is_applied, 0, in_row + 1)
        finite = torch.where(is_applied, self._num_steps, finite)
        finite_before_longest = torch.where(in_row > longest, finite, finite_before_longest)
        longest = torch.maximum(longest, in_row)
        self._counts_5 = torch.stack((total + ~is_applied, in_row, finite, longest, finite_before_longest))

    def read(self) -> int:
        """Brings the state up to date, and returns the number of steps that were skipped since the last reading."""
        state = self._state
        total, state.num_skipped_in_row, _, self.longest_in_row, finite = map(int, self._counts_5.tolist())
        state.num_skipped += total
        self.last_finite_step = state.step - self._num_steps + finite
        self._num_steps, self._counts_5 = 0, self._initial_counts(self._counts_5.device)
        return total

    def _initial_counts(self, device: torch.device) -> torch.Tensor:
        in_row = self._state.num_skipped_in_row
        # Since the last reading: skipped steps in all; in a row up to now; number of the last finite step, which may
        # have been before it; the most skipped in a row; number of the last finite step before those.
        return torch.tensor([0, in_row, -in_row, in_row, -in_row], device=device)
