"""Settings of decoding and scoring."""

from typing import Literal, Self

import pydantic

from core.config import section


class DecodingConfig(section.Section):
    """How translations and continuations are searched."""

    beam_size: int = section.operational(5, "hypotheses kept for each line; 1 is greedy", ge=1, le=256)
    num_best: int = section.operational(1, "translations given for each line, at most beam_size", ge=1)
    length_penalty: section.Float = section.operational(
        1.0, "exponent of the length that a score is divided by to rank", ge=0
    )
    min_length: int = section.operational(0, "fewest tokens before <eos>", ge=0)
    max_length: int = section.operational(100, "most tokens, <eos> included", ge=1)
    part_lines: int = section.operational(512, "lines of one part", ge=1)
    batch_rows: int = section.operational(256, "rows (lines times beam) that are computed together", ge=1)
    num_tokens: int = section.operational(200, "of generate: tokens to add", ge=1)
    method: Literal["greedy", "sample"] = section.operational("greedy", "of generate: the likeliest token, or a draw")
    temperature: section.Float = section.operational(1.0, "of sample: logits are divided by it", gt=0)
    top_k: int | None = section.operational(None, "of sample: among the k likeliest only", ge=1)
    top_p: section.Float | None = section.operational(None, "of sample: among the likeliest that sum to p", gt=0, le=1)

    @pydantic.model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.num_best > self.beam_size:
            raise ValueError(f"num_best: {self.num_best} translations cannot come from a beam of {self.beam_size}")
        if self.min_length >= self.max_length:
            raise ValueError("min_length: must be smaller than max_length")
        if self.batch_rows < self.beam_size:
            raise ValueError("batch_rows: one line needs beam_size rows")
        return self


class ScoringConfig(section.Section):
    """How text is scored."""

    unit: Literal["line", "stream"] = section.operational("line", "line: each line alone; stream: state carried on")
    lanes: int = section.operational(1, "of stream: runs that the text is cut into, each from the zero state", ge=1)
    part_lines: int = section.operational(2048, "lines of one part", ge=1)
    batch_tokens: int = section.operational(4096, "tokens that are computed together", ge=1)
    tokens: bool = section.operational(False, "store the score of each token")
