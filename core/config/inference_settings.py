"""Settings of decoding and scoring."""

from typing import Literal, Self

import pydantic

from core.config import section


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


class DecodingConfig(section.Section):
    """How translations and continuations are searched."""

    beam_size: int = section.operational(5, "hypotheses kept for each line; 1 is greedy", ge=1, le=256)
    num_best: int = section.operational(1, "translations given for each line, of a search at most beam_size", ge=1)
    length_penalty: section.Float = section.operational(
        1.0, "exponent of the length that a score is divided by to rank", ge=0
    )
    min_length: int = section.operational(0, "fewest tokens before <eos>", ge=0)
    max_length: int = section.operational(100, "most tokens, <eos> included", ge=1)
    part_lines: int = section.operational(512, "lines of one part", ge=1)
    batch_rows: int = section.operational(256, "rows (lines times beam) that are computed together", ge=1)
    num_tokens: int = section.operational(200, "of generate: tokens to add", ge=1)
    steps_ahead: int | None = section.operational(
        None,
        "of generate by an ngram of order 1 or 2: also the likeliest tokens so many steps on, whatever comes between",
        ge=1,
        le=10_000,
    )
    method: Literal["greedy", "sample"] = section.operational(
        "greedy", "of generate: the likeliest token, or a draw; of translate: beam search, or num_best draws"
    )
    temperature: section.Float = section.operational(1.0, "of sample: logits are divided by it", gt=0)
    top_k: int | None = section.operational(None, "of sample: among the k likeliest only", ge=1)
    top_p: section.Float | None = section.operational(None, "of sample: among the likeliest that sum to p", gt=0, le=1)
    seed: int | None = section.operational(None, "of draws; none: that of the run", ge=0, lt=1 << 63)
    average_checkpoints: int = section.operational(
        1, "mean of the weights of so many checkpoints of a run, the best by validation, else the newest", ge=1
    )
    coverage_penalty: section.Float = section.operational(
        0.0, "weight of what attention left out of the source, in ranking", ge=0
    )
    no_repeat_ngram: int | None = section.operational(
        None, "no n tokens in a row occur twice in a translation, or in what generate goes on with", ge=1
    )
    repetition_penalty: section.Float = section.operational(
        1.0,
        "log-probabilities of tokens that the translation, or the text so far, has already are multiplied by it",
        ge=1,
    )
    target_token: str | None = section.operational(
        None, "of a model of several directions: the target_token of the corpus that has the wanted one"
    )
    replace_unknown: bool = section.operational(
        False, "an unknown word becomes the source word that attention looked at most"
    )
    fusion: FusionConfig | None = section.operational(None, "a language model that has a say")
    shortlist: ShortlistConfig | None = section.operational(
        None,
        "the output layer is computed for a line's likely tokens alone: faster where the vocabulary is large; "
        "score_nats are then normalised over them",
    )
    alignments: bool = section.operational(False, "write OUTPUT.alignments, in Pharaoh format, a line each")
    attention_maps: int = section.operational(
        0, "of so many first lines: write attention to OUTPUT.attention.json", ge=0, le=1000
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
        else:
            for name in ("temperature", "top_k", "top_p"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: means nothing with method: greedy; use method: sample")
        return self


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
