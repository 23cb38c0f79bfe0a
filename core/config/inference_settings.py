"""Settings of inference: translation, generation, scoring, forecasting."""

from typing import Any, Literal, Self

import pydantic

from core.config import section

OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")


class FusionConfig(section.Section):
    """A language model that has a say in the choice of a translation."""

    run: str = section.operational(..., "root of the language model's run, or one checkpoint folder", min_length=1)
    weight: section.Float = section.operational(0.2, "what its log-probabilities are multiplied by", gt=0)
    when: Literal["search", "after"] = section.operational(
        "search", "search: at each token (shallow fusion); after: the beam's finished translations are ranked anew"
    )


class ShortlistConfig(section.Section):
    """The target tokens that a line may use, learnt once from the run's training pairs."""

    candidates: int = section.operational(
        50, "target tokens for each source token: its likeliest translations by IBM model 1", ge=1
    )
    always: int = section.operational(200, "so many of the most frequent target tokens besides", ge=1)


def _top_k() -> Any:
    return section.operational(None, "tokens to draw among, the k most likely ones; null: all", ge=1)


def _top_p() -> Any:
    return section.operational(
        None, "probability mass to draw from, that of the fewest most likely tokens; null: all", gt=0, le=1
    )


def _seed() -> Any:
    return section.operational(None, "seed of sampling; null: that of the run", ge=0, lt=1 << 63)


def _average_checkpoints() -> Any:
    return section.operational(
        1, "checkpoints of a run whose mean weights are used: the best by validation, else the newest", ge=1
    )


def _no_repeat_ngram() -> Any:
    return section.operational(None, "length of n-grams that may occur only once in an output; null: any", ge=1)


def _repetition_penalty() -> Any:
    return section.operational(1.0, "factor of the log-probabilities of tokens that occurred before", ge=1)


class DecodingConfig(section.Section):
    """Translation by beam search, or by sampling."""

    method: Literal["beam", "sample"] = section.operational(
        "beam", "beam: beam search; sample: num_best random translations"
    )
    beam_size: int = section.operational(5, "hypotheses kept for each line; 1: greedy search", ge=1, le=256)
    num_best: int = section.operational(1, "translations of each line; of beam search at most beam_size", ge=1)
    length_penalty: section.Float = section.operational(
        1.0, "exponent of the length by which scores are divided for ranking", ge=0
    )
    min_length: int = section.operational(0, "fewest tokens before <eos>", ge=0)
    max_length: int = section.operational(100, "most tokens, <eos> included", ge=1)
    part_lines: int = section.operational(512, "lines of a part", ge=1)
    batch_rows: int = section.operational(256, "rows (lines times hypotheses) computed together", ge=1)
    temperature: section.Float = section.operational(1.0, "divisor of the logits before sampling", gt=0)
    top_k: int | None = _top_k()
    top_p: section.Float | None = _top_p()
    seed: int | None = _seed()
    average_checkpoints: int = _average_checkpoints()
    coverage_penalty: section.Float = section.operational(
        0.0, "weight, in ranking, of the source words that attention left out", ge=0
    )
    no_repeat_ngram: int | None = _no_repeat_ngram()
    repetition_penalty: section.Float = _repetition_penalty()
    target_token: str | None = section.operational(None, "target_token of the wanted direction, for a model of several")
    replace_unknown: bool = section.operational(
        False, "replacement of each unknown word by the source word with the most attention"
    )
    fusion: FusionConfig | None = section.operational(None, "fusion with a language model; null: none")
    shortlist: ShortlistConfig | None = section.operational(
        None,
        "restriction of the output layer to the likely tokens of each line, faster with a large vocabulary; "
        "score_nats are then normalised over them; null: none",
    )
    alignments: bool = section.operational(False, "alignments in Pharaoh format, in OUTPUT.alignments")
    attention_maps: int = section.operational(
        0, "first lines whose attention is written to OUTPUT.attention.json", ge=0, le=1000
    )

    @property
    def rows_of_a_line(self) -> int:
        """Hypotheses of a line that are computed together."""
        return self.num_best if self.method == "sample" else self.beam_size

    @pydantic.model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.num_best > self.beam_size and self.method != "sample":
            raise ValueError(f"num_best: {self.num_best} translations cannot come from a beam of {self.beam_size}")
        if self.min_length >= self.max_length:
            raise ValueError("min_length: must be smaller than max_length")
        if self.batch_rows < self.rows_of_a_line:
            raise ValueError("batch_rows: one line needs beam_size rows, num_best where they are drawn")
        if self.coverage_penalty and self.fusion is not None and self.fusion.when == "after":
            raise ValueError("coverage_penalty: what is ranked anew knows of no coverage; use fusion.when: search")
        if self.method == "sample":
            for name in ("coverage_penalty", "fusion"):
                if getattr(self, name):
                    raise ValueError(f"{name}: ranks the translations of a search; draws are not ranked, leave it out")
        _check_sampling(self, self.method)
        return self


class GenerationConfig(section.Section):
    """Generation of text by a language model, from a prefix or towards an ending."""

    method: Literal["sample", "greedy"] = section.operational(
        "sample", "sample: random tokens; greedy: always the most likely token"
    )
    temperature: section.Float = section.operational(
        0.8, "divisor of the logits before sampling; below 1: likely tokens more often", gt=0
    )
    top_k: int | None = _top_k()
    top_p: section.Float | None = _top_p()
    seed: int | None = _seed()
    num_tokens: int = section.operational(200, "tokens to add", ge=1)
    steps_ahead: int | None = section.operational(
        None,
        "steps after which the most likely tokens are reported too, by an ngram of order 1 or 2; null: none",
        ge=1,
        le=10_000,
    )
    no_repeat_ngram: int | None = _no_repeat_ngram()
    repetition_penalty: section.Float = _repetition_penalty()
    average_checkpoints: int = _average_checkpoints()

    @pydantic.model_validator(mode="after")
    def _sampling_fits(self) -> Self:
        _check_sampling(self, self.method)
        return self


def _check_sampling(settings: section.Section, method: str) -> None:
    """Refuses what would have no effect: settings of sampling without sampling.

    A temperature of 1 changes nothing anywhere, and is accepted.
    """
    for name in OF_SAMPLING if method != "sample" else ():
        value = getattr(settings, name)
        if value != type(settings).model_fields[name].default and (name, value) != ("temperature", 1.0):
            raise ValueError(f"{name}: has no effect with method: {method}; use method: sample, or leave it out")


class CacheConfig(section.Section):
    """A neural cache: what followed a like state before is likely to follow again (Grave et al. 2017)."""

    size: int = section.operational(2000, "so many of the last tokens are remembered", ge=1)
    theta: section.Float = section.operational(
        0.66, "how much the likeness of states counts; 0: every remembered token alike", ge=0
    )
    weight: section.Float = section.operational(
        0.13, "share of the cache in the mixture, the paper's lambda", ge=0, lt=1
    )


class DynamicConfig(section.Section):
    """Dynamic evaluation: the weights go on learning from what was scored (Krause et al. 2018)."""

    rule: Literal["sgd", "rms"] = section.operational(
        "rms", "rms: steps are scaled by the gradients of training text, read from the run's dataset; sgd: they are not"
    )
    learning_rate: section.Float = section.operational(5e-4, "of a step, one after each window; of sgd about 0.1", ge=0)
    decay: section.Float = section.operational(0.02, "share of the way back to the trained weights", ge=0, le=1)
    epsilon: section.Float = section.operational(1e-3, "of rms: added to what a step is divided by", gt=0)
    window: int = section.operational(5, "tokens that a step learns from", ge=1)
    statistics_windows: int = section.operational(200, "of rms: windows of training text that are measured", ge=1)


class ScoringConfig(section.Section):
    """How text is scored."""

    unit: Literal["line", "stream"] = section.operational("line", "line: each line alone; stream: state carried on")
    lanes: int = section.operational(1, "of stream: runs that the text is cut into, each from the zero state", ge=1)
    part_lines: int = section.operational(2048, "lines of one part", ge=1)
    batch_tokens: int = section.operational(4096, "tokens that are computed together", ge=1)
    tokens: bool = section.operational(False, "store the score of each token")
    average_checkpoints: int = section.operational(
        1,
        "mean of the weights of so many checkpoints of a run, as decoding.average_checkpoints has it; "
        "set both alike to score with the weights that translate or generate",
        ge=1,
    )
    target_token: str | None = section.operational(
        None, "of translations by a model of several directions: the target_token of the corpus that has the wanted one"
    )
    cache: CacheConfig | None = section.operational(None, "of stream: a neural cache; null: none")
    dynamic: DynamicConfig | None = section.operational(None, "of stream: dynamic evaluation; null: none")

    @pydantic.model_validator(mode="after")
    def _only_streams_remember(self) -> Self:
        for name in ("cache", "dynamic"):
            if getattr(self, name) is not None and self.unit == "line":
                raise ValueError(f"{name}: a line alone has nothing before it to remember; use unit: stream")
        return self


class ForecastingConfig(section.Section):
    """How series are forecast."""

    method: Literal["recursive", "direct"] = section.operational(
        "recursive",
        "recursive: each forecast goes in as if it had been seen; direct: by the model's own output for that step",
    )
    horizons: tuple[int, ...] = section.operational((1, 4, 16, 64), "steps ahead that are forecast from every time")

    @pydantic.model_validator(mode="after")
    def _horizons_ahead(self) -> Self:
        if not self.horizons or min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons):
            raise ValueError("horizons: name different numbers of steps, 1 or more")
        return self
