"""Settings of n-gram models, and the reading direction of all language models."""

import itertools
from typing import Any, Literal, Self

import pydantic

from core.config import section

Direction = Literal["forward", "backward"]


def direction() -> Any:
    """Returns the setting of the reading direction."""
    return section.identity(
        "forward",
        "reading direction; backward: from the end of the text, each token given those after it, so that generate "
        "continues an --ending towards the beginning",
    )


class NgramConfig(section.Section):
    """An n-gram model: the next token given the `order - 1` before it."""

    kind: Literal["ngram"] = section.identity(..., "ngram")
    order: int = section.identity(5, "tokens of the longest n-gram, the predicted one included", ge=1, le=5)
    direction: Direction = direction()
    unit: Literal["line", "stream"] = section.identity(
        "stream",
        "unit of the text; line: each line begins with a context of its own, and no n-gram crosses a line end (needs "
        "corpus.line_end: eos); stream: the lines are one text",
    )
    smoothing: Literal["kneser_ney", "laplace", "good_turing"] = section.identity(
        "kneser_ney",
        "smoothing. kneser_ney: interpolated modified Kneser-Ney, three discounts per order (Chen and Goodman 1999); "
        "laplace: additive constants, falling back to single tokens, as in Dive into Deep Learning, section 8.3; "
        "good_turing: Katz back-off (Katz 1987)",
    )
    epsilons: tuple[section.Float, ...] = section.identity(
        (1.0,),
        "additive constants of laplace smoothing for orders 1, 2, …, the last for all above; 0: relative frequencies",
    )
    prune: tuple[int, ...] = section.identity(
        (0,),
        "n-grams of orders 1, 2, … that occur as often as this or less are left out, the last for all above, as with "
        "KenLM's --prune: [0, 0, 1] leaves out those of three tokens and more that occur once; single tokens stay",
    )

    @pydantic.model_validator(mode="after")
    def _check_epsilons(self) -> Self:
        if not self.epsilons or min(self.epsilons) < 0:
            raise ValueError("epsilons: name one constant or more, none below 0")
        if self.epsilons != (1.0,) and self.smoothing != "laplace":
            raise ValueError(f"epsilons: {self.smoothing} has none; drop them, or use smoothing: laplace")
        return self

    @pydantic.model_validator(mode="after")
    def _check_prune(self) -> Self:
        if not self.prune or self.prune[0] != 0:
            raise ValueError("prune: the first threshold is that of single tokens, which stay; begin with 0")
        if any(low > high for low, high in itertools.pairwise(self.prune)):
            raise ValueError("prune: thresholds do not fall with the order; use e.g. [0, 1, 2]")
        if len(self.prune) > self.order:
            raise ValueError(
                f"prune: has {len(self.prune)} thresholds for {self.order} orders; give one for each or fewer"
            )
        if any(self.prune) and self.smoothing == "laplace":
            raise ValueError("prune: laplace needs all counts; drop it, or use smoothing: kneser_ney")
        return self

    def threshold(self, order: int) -> int:
        """Returns the count up to which n-grams of an order are left out."""
        return self.prune[min(order, len(self.prune)) - 1]


class ImportedNgramConfig(NgramConfig):
    """An n-gram model of an ARPA file, which does not say how it was smoothed."""

    smoothing: Literal["imported"] = section.identity(  # type: ignore[assignment]
        "imported", "smoothing; imported: that of an ARPA file"
    )
