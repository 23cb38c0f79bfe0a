"""Settings of the input text: where it is, how it is cleaned, split and cut into tokens and shards."""

from typing import Literal, Self

import pydantic

from core.config import section


class SourceConfig(section.Section):
    """Where the lines of one split come from: exactly one of the four forms.

    Locations are operational: what a dataset is made of is the text, wherever it lies, and `prepare` compares that.
    """

    text: tuple[str, ...] = section.operational(
        (), "text files, a line each; globs allowed; .gz, .xz and .bz2 are decompressed"
    )
    tsv: tuple[str, ...] = section.operational((), "files with tab-separated pairs")
    columns: tuple[int, int] = section.identity((0, 1), "of tsv: the columns of source and target, counted from 0")
    source: tuple[str, ...] = section.operational((), "source sides of line-aligned files")
    target: tuple[str, ...] = section.operational((), "target sides, in the order of the source sides")

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [name for name in ("text", "tsv", "source") if getattr(self, name)]
        if len(forms) != 1 or bool(self.source) != bool(self.target):
            raise ValueError("name exactly one of: text, tsv, or source together with target")
        if len(self.source) != len(self.target):
            raise ValueError(f"{len(self.source)} source files but {len(self.target)} target files; list them in pairs")
        if set(self.source) & set(self.target):
            raise ValueError("the same file is named as source and as target")
        return self


class SplitConfig(section.Section):
    """How validation and test lines are set aside from the training source."""

    valid: section.Float = section.identity(0.0, "share of the lines set aside for validation", ge=0, lt=1)
    test: section.Float = section.identity(0.0, "share of the lines set aside for testing", ge=0, lt=1)
    by: Literal["source", "line", "tail"] | None = section.identity(
        None,
        "source: by a hash of the cleaned source side, so that equal sources never straddle a split (default of "
        "pairs); line: by a hash of the line number; tail: the last lines (default of text)",
    )


class FiltersConfig(section.Section):
    """Which pairs or lines are dropped; each drop is counted by its reason."""

    min_length: int = section.identity(1, "fewest tokens of a side, without <eos>; 0 keeps empty lines", ge=0)
    max_length: int | None = section.identity(None, "most tokens of a side, with <eos>", ge=1)
    max_ratio: section.Float | None = section.identity(
        None, "largest quotient of the longer and the shorter side of a pair", ge=1
    )
    too_long: Literal["drop", "cut"] = section.identity("drop", "what happens beyond max_length; the documents cut")
    duplicates: Literal["keep", "drop"] = section.identity("keep", "drop: of equal lines or pairs the first stays")


class LimitConfig(section.Section):
    """Uses the beginning of the training source only."""

    lines: int | None = section.identity(None, "so many lines of the training source", ge=1)
    tokens: int | None = section.identity(None, "so many tokens of the training stream (text, char or word)", ge=2)
    vocabulary: Literal["before", "after"] = section.identity("after", "count words before or after this cut")


CleaningStep = Literal[
    "nfc", "nfkc", "controls", "spaces", "all_spaces", "lower", "letters", "digits", "punctuation", "strip"
]


class CorpusConfig(section.Section):
    """The input text and what is done to it before it is cut into tokens."""

    kind: Literal["text", "pairs"] = section.identity(
        ..., "text: one stream for a language model; pairs: source and target"
    )
    train: SourceConfig = section.identity(..., "the training source")
    valid: SourceConfig | None = section.identity(None, "the validation source, if it is not split off")
    test: SourceConfig | None = section.identity(None, "the test source, if it is not split off")
    split: SplitConfig = section.identity(SplitConfig(), "shares set aside from the training source")
    cleaning: tuple[CleaningStep, ...] = section.identity((), "steps, in this order")
    filters: FiltersConfig = section.identity(FiltersConfig(), "lines and pairs that are dropped")
    line_end: Literal["none", "space", "eos"] = section.identity("eos", "of text: what stands between two lines")
    limit: LimitConfig = section.identity(LimitConfig(), "uses the beginning only")
    on_bad_line: Literal["skip", "fail"] = section.identity(
        "skip", "what a line does that is no valid UTF-8 or has NUL bytes"
    )
    max_line_bytes: int = section.identity(1 << 20, "a longer line is a bad line", ge=16)
    sha256: dict[str, str] = section.operational({}, "expected SHA-256 by location; required for http(s) sources")

    @pydantic.model_validator(mode="after")
    def _kind_fits_sources(self) -> Self:
        for name in ("train", "valid", "test"):
            source: SourceConfig | None = getattr(self, name)
            if source is not None and bool(source.text) != (self.kind == "text"):
                form = "text" if self.kind == "text" else "tsv, or source and target"
                raise ValueError(f"{name}: a corpus of {self.kind} takes {form}")
            if source is not None and name != "train" and getattr(self.split, name):
                raise ValueError(f"{name}: has a source of its own, so split.{name} must be 0")
        if self.split.valid + self.split.test >= 1:
            raise ValueError("split: nothing is left to train on; valid and test must sum to less than 1")
        if self.kind == "pairs" and self.split.by == "tail":
            raise ValueError("split.by: tail is for text; use source or line")
        if self.kind == "text" and self.split.by not in (None, "tail"):
            raise ValueError("split.by: a stream of text is split at its tail")
        if self.kind == "pairs" and self.limit.tokens:
            raise ValueError("limit.tokens: is for text; use limit.lines")
        return self


class TokenizerConfig(section.Section):
    """How text becomes token ids."""

    kind: Literal["char", "word", "bpe"] = section.identity(
        "word", "char, word (at spaces) or bpe (byte-level, reversible)"
    )
    min_freq: int = section.identity(1, "rarer words become <unk> (char, word)", ge=1)
    max_size: int | None = section.identity(None, "most entries, reserved ones included; required by bpe", ge=8)
    shared: bool = section.identity(False, "of pairs: one vocabulary for both sides")
    sample_bytes: int = section.identity(
        1 << 26, "bpe is trained on a seeded sample of at most so many bytes a side", ge=1024
    )

    @pydantic.model_validator(mode="after")
    def _bpe_has_a_size(self) -> Self:
        if self.kind == "bpe" and self.max_size is None:
            raise ValueError("max_size: bpe needs the size of its vocabulary, for example 5000")
        if self.kind == "bpe" and self.max_size is not None and self.max_size < 300:
            raise ValueError("max_size: byte-level bpe starts from 256 bytes; use at least 300")
        return self


class ShardingConfig(section.Section):
    """How the work of preparing is cut into parts."""

    part_size_bytes: int = section.identity(1 << 24, "bytes of text of one part, and so of one shard", ge=1024)
