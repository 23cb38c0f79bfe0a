"""The unit of a score: what a perplexity is the perplexity of, without which two of them cannot be compared."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

# Stored: every tokenizer has an <unk>, so there is one way to score words that are not in the vocabulary.
UNKNOWN_WORDS = "scored as <unk>"

Unit = Literal["line", "stream", "window"]


class ScoreUnit(NamedTuple):
    """The context of scored tokens, and the tokens that are counted.

    Attributes:
        unit: line: each line alone, from the initial state; stream: the state is carried from line to line; window:
            each window of a stream alone, as in training with random sampling.
        lanes: number of lanes that a stream is cut into, each from the initial state; None by line and by window.
        eos_counted: whether the `<eos>` at the end of each line is a token, scored and counted as one.
    """

    unit: Unit
    lanes: int | None
    eos_counted: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the keys that stand beside a perplexity in documents and stored files."""
        lanes = {} if self.lanes is None else {"lanes": self.lanes}
        return {"unit": self.unit, **lanes, "eos_counted": self.eos_counted, "unknown_words": UNKNOWN_WORDS}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self | None:
        """Reads the keys of `to_json`; None where an older release did not write them."""
        if "eos_counted" not in value:
            return None
        lanes = value.get("lanes")
        unit: Unit = "stream" if value.get("unit") == "stream" else "line"
        return cls(unit, None if lanes is None else int(lanes), bool(value["eos_counted"]))
