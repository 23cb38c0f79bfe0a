"""Settings of n-gram models, and what they share with other language models."""

from typing import Any, Literal, Self

import pydantic

from core.config import section

Direction = Literal["forward", "backward"]


def direction() -> Any:
    """The setting of every language model that says from where it reads."""
    return section.identity(
        "forward",
        "backward: text is read from its end to its beginning, each token given those after it; generate then writes "
        "what stands before an --ending",
    )


class NgramConfig(section.Section):
    """A model that counts: the next token given the `order - 1` before it."""

    kind: Literal["ngram"] = section.identity(..., "ngram")
    order: int = section.identity(
        5, "tokens of the longest run that is counted, the predicted one included", ge=1, le=5
    )
    direction: Direction = direction()
    smoothing: Literal["kneser_ney", "laplace", "good_turing"] = section.identity(
        "kneser_ney",
        "kneser_ney: interpolated, modified (three discounts an order); laplace: small constants, falling back to "
        "single tokens, as the documents print it; good_turing: Katz back-off",
    )
    epsilons: tuple[section.Float, ...] = section.identity(
        (1.0,), "of laplace: the constants of orders 1, 2, …, the last for all above; 0: relative frequencies"
    )

    @pydantic.model_validator(mode="after")
    def _epsilons_are_of_laplace(self) -> Self:
        if not self.epsilons or min(self.epsilons) < 0:
            raise ValueError("epsilons: name one constant or more, none below 0")
        if self.epsilons != (1.0,) and self.smoothing != "laplace":
            raise ValueError(f"epsilons: {self.smoothing} has none; drop them, or use smoothing: laplace")
        return self
