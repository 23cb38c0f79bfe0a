"""Settings of learning from several corpora at once: each of them is a task of the one model."""

from collections.abc import Sequence
from typing import Literal

from core.config import section


class MultitaskConfig(section.Section):
    """What is done where the gradients of tasks disagree.

    Anything but the defaults has the gradient of each task computed on its own: a copy of the weights' size, and an
    exchange between workers, for each.
    """

    projection: Literal["none", "pcgrad"] = section.identity(
        "none", "pcgrad: what of a task's gradient runs against another task's is taken out of it before they are added"
    )
    detached: dict[str, tuple[str, ...]] = section.identity(
        {}, "by corpus: beginnings of the names of weights that it does not train, such as encoder"
    )
    record_cosines: bool = section.schedule(
        False, "the run record has the cosine of the angle between the gradients of each two tasks"
    )

    @property
    def separates(self) -> bool:
        """Whether the gradient of each task is needed on its own."""
        return self.projection != "none" or bool(self.detached) or self.record_cosines


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Shares whole things out in proportion to weights: at least one each, and all of them where there are enough.

    Each share differs from the exact one by less than 1, but for those that are raised to 1.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    found = [max(1, int(share)) for share in exact]
    # What is left goes to the largest remainders; of equal ones to the first.
    by_remainder = sorted(range(len(weights)), key=lambda number: found[number] - exact[number])
    for number in by_remainder[: max(0, total - sum(found))]:
        found[number] += 1
    return found
