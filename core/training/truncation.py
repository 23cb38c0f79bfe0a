"""Where gradients are cut in time.

With a fixed truncation gradients stop at the border of a window: the state goes on into the next window as a
number, its history does not. Without truncation a lane is one window, so that nothing is cut.

Source: document 000 sections 8.7.1.2 and 8.7.1.1.
"""

from core.config import training_settings
from core.models import state as states


def cut(state: states.State) -> states.State:
    """The state as plain numbers: the next window starts from it, and no gradient goes back through it."""
    return states.detach(state)


def window(training: training_settings.TrainingConfig, lane_length: int) -> int:
    """How many tokens of a lane gradients run through, and so one step takes."""
    return lane_length if training.truncation == "none" else training.window
