"""Settings of learning from several corpora at once (multi-task learning)."""

from collections.abc import Sequence
from typing import Literal

from core.config import section


class MultitaskConfig(section.Section):
    """Treatment of conflicting gradients of corpora.

    With anything but the defaults the gradient of each corpus is computed on its own, which costs memory of the size
    of the weights, and an all-reduce, for each.
    """

    projection: Literal["none", "pcgrad"] = section.identity(
        "none",
        "pcgrad: projection of each gradient onto the normal plane of those that it conflicts with (Yu et al. 2020)",
    )
    detached: dict[str, tuple[str, ...]] = section.identity(
        {}, "prefixes of names of weights that a corpus does not train, such as encoder, by corpus"
    )
    record_cosines: bool = section.schedule(
        False, "cosine similarities between the gradients of corpora, in the run log"
    )

    @property
    def separates(self) -> bool:
        """True where the gradient of each corpus is needed on its own."""
        return self.projection != "none" or bool(self.detached) or self.record_cosines


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divides a whole number in proportion to weights: at least 1 each, and all of it where that is enough.

    Each share differs from the exact one by less than 1, but for those that are raised to 1.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    # At least 1: a corpus with a share of 0 would never be trained on.
    result = [max(1, int(share)) for share in exact]
    # What is left goes to the largest remainders; of equal ones to the first.
    by_remainder = sorted(range(len(weights)), key=lambda number: result[number] - exact[number])
    for number in by_remainder[: max(0, total - sum(result))]:
        result[number] += 1
    return result
