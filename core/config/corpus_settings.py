"""Settings of the input text: where it is, how it is cleaned, split and cut into tokens and shards."""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pydantic

from core.config import section


class SourceConfig(section.Section):
    """Where the lines of one split come from: exactly one of the six forms.

    Every form takes files, wildcards, folders (the files in it, hidden ones left out; in a store, with a `/` at the
    end) and members of an archive, `zip://folder/name.txt::archive.zip`, as fsspec writes them; an archive that holds
    a single file may be named alone. Endings .gz, .xz, .bz2 and .zst are decompressed.

    Locations are operational: what a dataset is made of is the text, wherever it lies, and `prepare` compares that.
    """

    text: tuple[str, ...] = section.operational((), "text files, a line each")
    tsv: tuple[str, ...] = section.operational((), "files with tab-separated pairs")
    table: tuple[str, ...] = section.operational(
        (), "JSONL (.jsonl, .ndjson) and Parquet (.parquet) files, a row for each line or pair"
    )
    columns: tuple[int, int] | tuple[str, ...] = section.identity(
        (0, 1),
        "of tsv: the columns of source and target, counted from 0; of table: the name of the column of text, "
        "or those of source and target (a line break or tab in a value is read as a space)",
    )
    csv: tuple[str, ...] = section.operational(
        (), "of series: CSV files with a header line, or Parquet files, one after the other in time; no wildcards"
    )
    source: tuple[str, ...] = section.operational((), "source sides of line-aligned files")
    target: tuple[str, ...] = section.operational((), "target sides, in the order of the source sides")

    @property
    def files(self) -> frozenset[str]:
        """What the source names, whatever its form."""
        return frozenset((*self.text, *self.tsv, *self.table, *self.csv, *self.source, *self.target))

    @property
    def places(self) -> tuple[int, int] | None:
        """Of pairs in one file: where source and target stand in a tab-separated line."""
        if self.tsv:
            return int(self.columns[0]), int(self.columns[1])
        return (0, 1) if self.table and len(self.columns) == 2 else None

    @pydantic.model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [name for name in ("text", "tsv", "table", "csv", "source") if getattr(self, name)]
        if len(forms) != 1 or bool(self.source) != bool(self.target):
            raise ValueError("name exactly one of: text, tsv, table, csv, or source together with target")
        named = all(isinstance(column, str) for column in self.columns)
        if self.table and not (named and len(self.columns) in (1, 2)):
            raise ValueError("columns: a table needs the name of one column of text, or of source and target")
        if not self.table and named:
            raise ValueError("columns: only a table has columns with names; of tsv, count them from 0")
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


_PAIR_FORMS = "tsv, a table and two columns, or source and target"


def _is_text(source: SourceConfig) -> bool:
    """Whether a source gives lines of text, not pairs."""
    return bool(source.text) or bool(source.table and len(source.columns) == 1)


CleaningStep = Literal[
    "nfc",
    "nfkc",
    "controls",
    "spaces",
    "all_spaces",
    "lower",
    "letters",
    "digits",
    "punctuation",
    "strip",
]


class CorpusConfig(section.Section):
    """The input text and what is done to it before it is cut into tokens."""

    kind: Literal["text", "pairs", "series"] = section.identity(
        ..., "text: one stream for a language model; pairs: source and target; series: columns of numbers"
    )
    train: SourceConfig = section.identity(..., "the training source")
    valid: SourceConfig | None = section.identity(None, "the validation source, if it is not split off")
    test: SourceConfig | None = section.identity(None, "the test source, if it is not split off")
    split: SplitConfig = section.identity(SplitConfig(), "shares set aside from the training source")
    cleaning: tuple[CleaningStep, ...] = section.identity((), "steps, in this order")
    filters: FiltersConfig = section.identity(FiltersConfig(), "lines and pairs that are dropped")
    line_end: Literal["none", "space", "eos"] = section.identity("eos", "of text: what stands between two lines")
    limit: LimitConfig = section.identity(LimitConfig(), "uses the beginning only")
    inputs: tuple[str, ...] = section.identity((), "of series: the columns whose last values go in")
    targets: tuple[str, ...] = section.identity((), "of series: the columns that are forecast")
    padding: Literal["drop", "zeros"] = section.identity(
        "drop", "of series: the first times, which lack values before them, are dropped, or zeros stand in"
    )
    on_bad_line: Literal["skip", "fail"] = section.identity(
        "skip", "what a line does that is no valid UTF-8 or has NUL bytes"
    )
    max_line_bytes: int = section.identity(1 << 20, "a longer line is a bad line", ge=16)
    sha256: dict[str, str] = section.operational({}, "expected SHA-256 by location; required for http(s) sources")

    @pydantic.model_validator(mode="after")
    def _kind_fits_sources(self) -> Self:
        self._check_series()
        for name in ("train", "valid", "test"):
            source: SourceConfig | None = getattr(self, name)
            if source is not None and self.kind != "series" and _is_text(source) != (self.kind == "text"):
                form = "text, or a table and one column" if self.kind == "text" else _PAIR_FORMS
                raise ValueError(f"{name}: a corpus of {self.kind} takes {form}")
            if source is not None and name != "train" and getattr(self.split, name):
                raise ValueError(f"{name}: has a source of its own, so split.{name} must be 0")
        if self.split.valid + self.split.test >= 1:
            raise ValueError("split: nothing is left to train on; valid and test must sum to less than 1")
        if self.kind == "pairs" and self.split.by == "tail":
            raise ValueError("split.by: tail is for text; use source or line")
        if self.kind != "pairs" and self.split.by not in (None, "tail"):
            raise ValueError("split.by: a stream of text or a series is split at its tail")
        if self.kind == "pairs" and self.limit.tokens:
            raise ValueError("limit.tokens: is for text; use limit.lines")
        return self

    def _check_series(self) -> None:
        """Makes sure that a series has columns and nothing of text, and that text has nothing of a series."""
        of_series = ("inputs", "targets", "padding")
        both = ("kind", "train", "valid", "test", "split")
        for name, field in type(self).model_fields.items():
            foreign = name not in both and (name in of_series) != (self.kind == "series")
            if foreign and getattr(self, name) != field.default:
                raise ValueError(f"{name}: means nothing for a corpus of {self.kind}; drop it")
        for name in ("train", "valid", "test"):
            source: SourceConfig | None = getattr(self, name)
            if source is not None and bool(source.csv) != (self.kind == "series"):
                raise ValueError(f"{name}: csv and a corpus of series belong together")
        if self.kind == "series" and not (self.inputs and self.targets):
            raise ValueError("inputs, targets: a series needs the names of the columns that go in and are forecast")


class TaskCorpusConfig(CorpusConfig):
    """One of several corpora that one model learns from at the same time."""

    weight: section.Float = section.identity(
        1.0, "share of each batch, of its tokens, lines or lanes, against the weights of the other corpora", gt=0
    )
    target_token: str | None = section.identity(
        None,
        "of pairs: stands before each source line and so tells one model into which language, such as <2de>; it is a "
        "token of its own, which no text has",
        pattern=r"^<[A-Za-z0-9_-]{1,30}>$",
    )


def check_together(corpora: Mapping[str, TaskCorpusConfig]) -> None:
    """Makes sure that one model can learn from several corpora.

    Raises:
        ValueError: they differ in what a model has one of, or what one holds out, another trains on.
    """
    first_name, first = next(iter(corpora.items()))
    for name, corpus in corpora.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
            raise ValueError(f"corpora: {name!r} is no name of a corpus; use small letters, digits and _")
        for setting in ("kind", "cleaning", "line_end"):
            if getattr(corpus, setting) != getattr(first, setting):
                raise ValueError(f"corpora.{name}.{setting}: is not that of {first_name}; one model needs one")
        if corpus.target_token is not None and corpus.kind != "pairs":
            raise ValueError(f"corpora.{name}.target_token: stands before the source of a pair; drop it")
        if (corpus.target_token is None) != (first.target_token is None):
            raise ValueError("corpora: some have a target_token and others none; give one to each of them")
    for (one_name, one), (name, other) in itertools.combinations(corpora.items(), 2):
        is_split = any(corpus.split != SplitConfig(by=corpus.split.by) for corpus in (one, other))
        by_line = one.kind == "text" or one.split.by == "line"
        if is_split and one.train.files & other.train.files and not (one.split == other.split and by_line):
            same = "shares" if one.kind == "text" else "shares and by: line"
            raise ValueError(
                f"corpora.{name}.split: its lines are also those of {one_name}; give both the same {same}, so that "
                "neither trains on what the other holds out"
            )


Symbol = Annotated[str, pydantic.Field(pattern=r"^<[A-Za-z0-9_-]{1,30}>$")]


class TokenizerConfig(section.Section):
    """How text becomes token ids."""

    kind: Literal["char", "word", "bpe", "unigram", "wordpiece"] = section.identity(
        "word",
        "char; word (at spaces); bpe and unigram (on bytes, any text comes back exactly); wordpiece (of letters, "
        "words cut at spaces)",
    )
    load: tuple[str, ...] = section.identity(
        (),
        "a ready tokenizer.json of the tokenizers library (wildcards allowed), in place of learning one: one file, or "
        "of pairs that share none the source's and the target's; it must reserve <unk>, <pad>, <bos>, <eos> (of text "
        "<unk> and, with line_end: eos, <eos>) in this order as special tokens with ids from 0",
    )
    min_freq: int = section.identity(1, "rarer words become <unk> (char, word)", ge=1)
    max_size: int | None = section.identity(None, "most entries, reserved ones included; subwords require it", ge=8)
    symbols: tuple[Symbol, ...] = section.identity(
        (),
        "names such as [<num>, <url>] that are one token each wherever they stand in the text, and have an entry even "
        "if they are rare; their ids follow the reserved ones",
    )
    shared: bool = section.identity(False, "of pairs: one vocabulary for both sides")
    sample_bytes: int = section.identity(
        1 << 26, "subwords are learnt from a seeded sample of at most so many bytes a side", ge=1024
    )

    @property
    def counts_words(self) -> bool:
        """Whether the vocabulary comes from counts of all words or characters."""
        return self.kind in ("char", "word") and not self.load

    @pydantic.model_validator(mode="after")
    def _subwords_have_a_size(self) -> Self:
        if self.load and (self.min_freq > 1 or self.max_size is not None or self.kind != "word" or self.symbols):
            raise ValueError("load: the vocabulary is that of the file; leave out kind, min_freq, max_size and symbols")
        if len({*self.symbols, "<unk>", "<pad>", "<bos>", "<eos>"}) < len(self.symbols) + 4:
            raise ValueError("symbols: name each once, and none of <unk>, <pad>, <bos>, <eos>, which are reserved")
        if self.kind not in ("char", "word") and self.max_size is None:
            raise ValueError(f"max_size: {self.kind} needs the size of its vocabulary, for example 5000")
        if self.kind in ("bpe", "unigram") and self.max_size is not None and self.max_size < 300:
            raise ValueError(f"max_size: byte-level {self.kind} starts from 256 bytes; use at least 300")
        return self


class ShardingConfig(section.Section):
    """How the work of preparing is cut into parts."""

    statistics: bool = section.operational(
        True, "word statistics of the training split, for the report: n-grams, Zipf exponents, lengths, coverage"
    )
    part_size_bytes: int = section.identity(1 << 24, "bytes of text of one part, and so of one shard", ge=1024)
