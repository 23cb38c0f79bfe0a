"""Settings of inference: translation, generation, scoring, forecasting."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import pydantic

from core import errors
from core.config import mixture_settings, section, series_settings

SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "seed")
SMALLEST_TEMPERATURE = 2.0**-126  # the smallest normal 32-bit float


class FusionConfig(section.Section):
    """Fusion of a translation model with a language model."""

    run: str = section.operational(..., "root of the language model's run, or a checkpoint folder", min_length=1)
    weight: section.Float = section.operational(0.2, "weight of the language model's log-probabilities", gt=0)
    when: Literal["search", "after"] = section.operational(
        "search", "search: shallow fusion, at each token; after: rescoring of the beam's finished translations"
    )


class ShortlistConfig(section.Section):
    """Shortlist of target tokens for each line, learned once from the run's training pairs."""

    candidates: int = section.operational(
        50, "target tokens per source token, its most likely translations by IBM model 1", ge=1
    )
    always: int = section.operational(200, "most frequent target tokens, which are in every shortlist", ge=1)


def _top_k() -> Any:
    return section.operational(None, "number of most likely tokens to sample from; null: all", ge=1)


def _top_p() -> Any:
    return section.operational(
        None, "nucleus sampling: probability mass of the most likely tokens to sample from; null: all", gt=0, le=1
    )


def _seed() -> Any:
    return section.operational(None, "seed of sampling; null: that of the run", ge=0, lt=1 << 63)


def _average_checkpoints() -> Any:
    return section.operational(
        1, "checkpoints of a run whose mean weights are used: the best by validation, else the newest", ge=1
    )


def _no_repeat_ngram() -> Any:
    return section.operational(None, "length of n-grams that must not repeat; null: no restriction", ge=1)


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
    target_token: str | None = section.operational(None, "target-language token, for a multilingual model")
    replace_unknown: bool = section.operational(
        False, "replacement of each unknown word by the source word with the most attention"
    )
    fusion: FusionConfig | None = section.operational(None, "fusion with a language model; null: none")
    shortlist: ShortlistConfig | None = section.operational(
        None,
        "restriction of the output layer to the likely tokens of each line, faster with a large vocabulary; "
        "score_nats are then normalized over them; null: none",
    )
    alignments: bool = section.operational(False, "alignments in Pharaoh format, in OUTPUT.alignments")
    attention_maps: int = section.operational(
        0, "lines, drawn over all lengths, whose attention is written to OUTPUT.attention.json", ge=0, le=1000
    )

    @property
    def rows_per_line(self) -> int:
        """Hypotheses of a line that are computed together."""
        return self.num_best if self.method == "sample" else self.beam_size

    @pydantic.model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.num_best > self.beam_size and self.method != "sample":
            raise ValueError(f"num_best: {self.num_best} translations cannot come from a beam of {self.beam_size}")
        if self.min_length >= self.max_length:
            raise ValueError("min_length: must be smaller than max_length")
        # All hypotheses of a line are computed in one batch.
        if self.batch_rows < self.rows_per_line:
            raise ValueError(
                "batch_rows: one line needs beam_size rows, or num_best with method: sample; use at least as many"
            )
        if self.coverage_penalty and self.fusion is not None and self.fusion.when == "after":
            raise ValueError("coverage_penalty: rescoring has no coverage; use fusion.when: search")
        if self.method == "sample":
            for name in ("coverage_penalty", "fusion"):
                if getattr(self, name):
                    raise ValueError(f"{name}: ranks the hypotheses of beam search; with method: sample leave it out")
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
    def _check_settings(self) -> Self:
        _check_sampling(self, self.method)
        return self


def _check_sampling(settings: DecodingConfig | GenerationConfig, method: str) -> None:
    """Refuses settings of sampling that have no effect, and a temperature that is 0 or less exact as a 32-bit float.

    A temperature of 1 changes nothing anywhere, and is accepted.
    """
    if settings.temperature < SMALLEST_TEMPERATURE:
        greedy = "beam_size: 1" if isinstance(settings, DecodingConfig) else "method: greedy"
        raise ValueError(
            f"temperature: {settings.temperature:g} is below what a 32-bit float carries, {SMALLEST_TEMPERATURE:.3g}; "
            f"use {greedy} for the most likely token"
        )
    for name in SAMPLING_SETTINGS if method != "sample" else ():
        value = getattr(settings, name)
        if value != type(settings).model_fields[name].default and (name, value) != ("temperature", 1.0):
            raise ValueError(f"{name}: has no effect with method: {method}; use method: sample, or leave it out")


class CacheConfig(section.Section):
    """Neural cache of recent tokens.

    Source: Grave, Joulin and Usunier 2017, Improving Neural Language Models with a Continuous Cache.
    """

    size: int = section.operational(
        2000,
        "tokens in the cache, the last ones; used from the first one on, where the program of AWD-LSTM waits until it "
        "is full",
        ge=1,
    )
    theta: section.Float = section.operational(
        0.66, "flatness parameter: weight of the similarity of states; 0: all cached tokens count alike", ge=0
    )
    weight: section.Float = section.operational(
        0.13, "weight of the cache in the mixture, the paper's lambda", ge=0, lt=1
    )


class DynamicConfig(section.Section):
    """Dynamic evaluation: the weights adapt to the text that was scored.

    Source: Krause et al. 2018, Dynamic Evaluation of Neural Sequence Models.
    """

    rule: Literal["sgd", "rms"] = section.operational(
        "rms",
        "update rule; rms: scaled by the RMS gradients of training text, from the run's dataset, with the scales and "
        "defaults of the authors' program; sgd: plain",
    )
    learning_rate: section.Float = section.operational(
        5e-5, "learning rate of a step, one after each window; for sgd about 0.1", ge=0
    )
    decay: section.Float = section.operational(
        0.002,
        "decay rate of the weights towards the trained ones, in each step; for rms times a weight's RMS gradient, "
        "relative to the mean over tensors of their mean RMS gradients",
        ge=0,
        le=1,
    )
    epsilon: section.Float = section.operational(2e-5, "constant added to the denominator of a step, for rms", gt=0)
    window: int = section.operational(
        5, "tokens of a window, of the scored text and of the statistics; windows begin anew at each part", ge=1
    )
    statistics_lanes: int = section.operational(
        100, "lanes of training text whose mean gradient is one sample of the statistics, for rms", ge=1
    )
    statistics_windows: int | None = section.operational(
        None, "windows of these lanes in the statistics, for rms; null: the whole training text", ge=1
    )


class ScoringConfig(section.Section):
    """Scoring of text, or of translations."""

    unit: Literal["line", "stream"] | None = section.operational(
        None,
        "unit of scoring; line: each line on its own; stream: with the state carried from line to line; null: stream "
        "for the text of a pipeline, line otherwise",
    )
    lanes: int = section.operational(1, "lanes that a stream is cut into, each scored from the zero state", ge=1)
    part_lines: int = section.operational(2048, "lines of a part", ge=1)
    batch_tokens: int = section.operational(4096, "tokens computed together", ge=1)
    tokens: bool = section.operational(False, "scores of each token in the output")
    average_checkpoints: int = section.operational(
        1,
        "checkpoints of a run whose mean weights are used; the same number as in decoding or generation scores with "
        "the weights that translate or generate",
        ge=1,
    )
    target_token: str | None = section.operational(
        None, "target-language token of the given translations, for a multilingual model"
    )
    cache: CacheConfig | None = section.operational(None, "neural cache, for unit: stream; null: none")
    dynamic: DynamicConfig | None = section.operational(None, "dynamic evaluation, for unit: stream; null: none")
    mixture: mixture_settings.MixtureConfig = section.operational(
        mixture_settings.LinearConfig(),
        "mixture of several --run: a kind, or a kind with its settings",
        discriminator="kind",
    )

    @pydantic.model_validator(mode="after")
    def _check_stream_settings(self) -> Self:
        for name in ("cache", "dynamic"):
            if getattr(self, name) is not None and self.unit != "stream":
                raise ValueError(f"{name}: needs the text before a line; use unit: stream")
        if self.mixture.kind == "ranking":
            if self.unit == "stream":
                raise ValueError("mixture.kind: ranking is of single lines; use unit: line")
            if self.tokens:
                raise ValueError("tokens: a ranking has scores of lines alone; leave it out")
        return self

    @property
    def unit_or_line(self) -> Literal["line", "stream"]:
        """The unit, line where none is set."""
        return self.unit or "line"


def check_mixture(scoring: ScoringConfig, num_runs: int) -> None:
    """Refuses settings that do not fit the number of runs to score with.

    Raises:
        UsageError: names the setting.
    """
    mixture = scoring.mixture
    if num_runs == 1:
        if not mixture_settings.is_default(mixture):
            raise errors.UsageError("scoring.mixture: mixes several runs; repeat --run, or leave it out")
        return
    if mixture.weights and len(mixture.weights) != num_runs:
        raise errors.UsageError(
            f"scoring.mixture.weights: {len(mixture.weights)} weights for {num_runs} runs; give one for each --run"
        )
    for name in ("cache", "dynamic"):
        if getattr(scoring, name) is not None:
            raise errors.UsageError(f"scoring.{name}: adapts a single model; use one --run, or leave it out")


class ForecastingConfig(section.Section):
    """Forecasting of series."""

    method: Literal["recursive", "direct"] = section.operational(
        "recursive",
        "recursive: each forecast is an input of the next; direct: by the model's output for that step",
    )
    horizons: tuple[int, ...] = section.operational((1, 4, 16, 64), "steps ahead to forecast, from every time step")
    period: int | None = section.operational(
        None,
        "rows of a season, for the seasonal naive forecast and MASE; null: estimated from the autocorrelation of the "
        "training split; 1: no season",
        ge=1,
    )
    gaps: Literal["refuse", "interpolate", "forward"] | None = section.operational(
        None, "treatment of missing values and rows of --input, as in corpus.gaps; null: that of the training files"
    )
    csv: series_settings.CsvConfig | None = section.operational(
        None, "dialect of --input, if it is CSV; null: that of the training files"
    )

    @pydantic.model_validator(mode="after")
    def _check_horizons(self) -> Self:
        if not self.horizons or min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons):
            raise ValueError("horizons: must be different numbers of steps, at least 1")
        return self


def check_forecasting(
    forecasting: ForecastingConfig, horizon: int, inputs: Sequence[str], targets: Sequence[str]
) -> None:
    """Refuses horizons that a model cannot forecast.

    Args:
        forecasting: method and horizons.
        horizon: steps ahead that the model forecasts directly.
        inputs: its input columns.
        targets: its forecast columns.

    Raises:
        UsageError: names the setting.
    """
    largest = max(forecasting.horizons)
    if forecasting.method == "direct" and largest > horizon:
        raise errors.UsageError(
            f"forecasting.horizons: this model has outputs for {horizon} steps, not for {largest}; name fewer, use "
            f"method: recursive, or train with model.horizon: {largest}"
        )
    missing = [name for name in inputs if name not in targets]
    if forecasting.method == "recursive" and largest > 1 and missing:
        raise errors.UsageError(
            f"forecasting.method: {missing[0]} is an input but not a target, so recursive forecasts "
            "end at the next step; use horizons: [1], or method: direct"
        )
