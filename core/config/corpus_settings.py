"""Settings of the corpus: sources, splits, cleaning, filters, tokenizer, shards."""

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

import pydantic

from core.config import section, series_settings

SPLITS: Final = ("train", "valid", "test")


class SourceConfig(section.Section):
    """Source of one split, in exactly one of the forms text, tsv, table, csv, or source with target.

    Each form takes files, wildcards, folders (their files, but for hidden ones; in an object store with a `/` at the
    end) and members of an archive in fsspec's notation, `zip://folder/name.txt::archive.zip`; an archive of a single
    file may be named alone. Endings .gz, .xz, .bz2 and .zst are decompressed. A pipe is copied by `prepare`, once.

    Locations are operational: a dataset is identified by its text, wherever that is, and `prepare` compares the text.
    """

    text: tuple[str, ...] = section.operational((), "text files")
    tsv: tuple[str, ...] = section.operational((), "files of tab-separated pairs")
    table: tuple[str, ...] = section.operational(
        (), "JSONL (.jsonl, .ndjson) and Parquet (.parquet) files with one line or pair per row"
    )
    columns: tuple[int, int] | tuple[str, ...] = section.identity(
        (0, 1),
        "columns of source and target: numbers from 0 for tsv, names for table, where a single name is the text "
        "(line breaks and tabs in values are read as spaces)",
    )
    csv: tuple[str, ...] = section.operational(
        (), "CSV files with a header line, or Parquet files (.parquet), of a series, in order of time"
    )
    source: tuple[str, ...] = section.operational((), "source files of line-aligned pairs")
    target: tuple[str, ...] = section.operational(
        (), "target files of line-aligned pairs, in the order of the source files"
    )

    @property
    def files(self) -> frozenset[str]:
        """All locations of the source, whatever its form."""
        return frozenset((*self.text, *self.tsv, *self.table, *self.csv, *self.source, *self.target))

    @property
    def column_indices(self) -> tuple[int, int] | None:
        """Columns of source and target in a tab-separated line, for pairs in one file."""
        if self.tsv:
            return int(self.columns[0]), int(self.columns[1])
        # A staged table has its two columns as tab-separated lines, in this order.
        return (0, 1) if self.table and len(self.columns) == 2 else None

    @pydantic.model_validator(mode="after")
    def _check_form(self) -> Self:
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
        # A likely mistake, from which a model learns to copy.
        if set(self.source) & set(self.target):
            raise ValueError("the same file is named as source and as target")
        return self


class SplitConfig(section.Section):
    """Validation and test splits taken from the training source."""

    valid: section.Float = section.identity(0.0, "fraction of the lines for validation", ge=0, lt=1)
    test: section.Float = section.identity(0.0, "fraction of the lines for testing", ge=0, lt=1)
    by: Literal["source", "line", "tail"] | None = section.identity(
        None,
        "rule of the split. source: by a hash of the cleaned source side, so that equal sources are never divided "
        "(default of pairs); line: by a hash of the line number; tail: the last lines (default of text)",
    )


class FiltersConfig(section.Section):
    """Filters of lines and pairs; dropped ones are counted by reason."""

    min_length: int = section.identity(1, "fewest tokens of a side, without <eos>; 0: empty lines are kept", ge=0)
    max_length: int | None = section.identity(None, "most tokens of a side, with <eos>; null: any number", ge=1)
    max_ratio: section.Float | None = section.identity(
        None, "largest length ratio of the longer to the shorter side of a pair; null: any", ge=1
    )
    too_long: Literal["drop", "cut"] = section.identity("drop", "treatment of lines beyond max_length")
    duplicates: Literal["keep", "drop"] = section.identity(
        "keep", "treatment of equal lines or pairs; drop: the first is kept"
    )


class LimitConfig(section.Section):
    """Limits the training source to its beginning."""

    lines: int | None = section.identity(None, "first lines of the training source to use; null: all", ge=1)
    tokens: int | None = section.identity(
        None, "first tokens of the training stream to use, for text in characters or words; null: all", ge=2
    )
    vocabulary: Literal["before", "after"] = section.identity("after", "vocabulary counted before or after the limit")


_PAIR_FORMS = "tsv, a table and two columns, or source and target"


def _is_text(source: SourceConfig) -> bool:
    """Returns whether a source gives lines of text, not pairs."""
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
    """A corpus: its sources, and their processing before tokenization."""

    kind: Literal["text", "pairs", "series"] = section.identity(
        ..., "text: a stream for a language model; pairs: source and target lines; series: columns of numbers"
    )
    train: SourceConfig = section.identity(..., "training source")
    valid: SourceConfig | None = section.identity(
        None, "validation source; null: none, or split from the training source"
    )
    test: SourceConfig | None = section.identity(None, "test source; null: none, or split from the training source")
    split: SplitConfig = section.identity(SplitConfig(), "splits taken from the training source")
    cleaning: tuple[CleaningStep, ...] = section.identity((), "cleaning steps, in this order")
    filters: FiltersConfig = section.identity(FiltersConfig(), "filters of lines and pairs")
    line_end: Literal["none", "space", "eos"] = section.identity(
        "eos", "separator between two lines of text: nothing, a space, or the token <eos>"
    )
    limit: LimitConfig = section.identity(LimitConfig(), "limit to the beginning of the training source")
    inputs: tuple[str, ...] = section.identity((), "input columns of a series")
    targets: tuple[str, ...] = section.identity((), "forecast columns of a series")
    padding: Literal["drop", "zeros"] = section.identity(
        "drop",
        "treatment of the first time steps of a series, which lack past values: dropped, or padded with zeros (with "
        "scaling the means)",
    )
    time: str | None = section.identity(
        None,
        "time column of a series: ISO 8601 dates and times, or numbers, rising by a constant step or by calendar "
        "months; null: none, rows count as regular",
    )
    gaps: Literal["refuse", "interpolate", "forward"] = section.identity(
        "refuse",
        "treatment of missing values of a series and, with a time column, of missing rows. interpolate: linear between "
        "the values on both sides; forward: the last value before; no forecast is compared with a filled value",
    )
    scaling: Literal["standard", "none"] | None = section.identity(
        None,
        "scaling of a series for its model. standard: by mean and standard deviation of the training split; forecasts "
        "and errors are in the units of the series; null: standard, but none for a dataset of release 0.1",
    )
    csv: series_settings.CsvConfig = section.operational(
        series_settings.CsvConfig(), "dialect of the CSV files of a series"
    )
    on_bad_line: Literal["skip", "fail"] = section.identity(
        "skip", "treatment of lines with invalid UTF-8 or NUL bytes, and of rows of a table without text"
    )
    max_line_bytes: int = section.identity(1 << 20, "most bytes of a line; a longer one is a bad line", ge=16)
    sha256: dict[str, str] = section.operational(
        {}, "expected SHA-256 of files by location; required for http(s) sources"
    )

    @pydantic.model_validator(mode="after")
    def _check_sources(self) -> Self:
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
        # Lines taken out of the middle would join tokens in the stream that are apart in the text.
        if self.kind != "pairs" and self.split.by not in (None, "tail"):
            raise ValueError("split.by: a stream of text or a series is split at its tail")
        if self.kind == "pairs" and self.limit.tokens:
            raise ValueError("limit.tokens: is for text; use limit.lines")
        return self

    def _check_series(self) -> None:
        """Checks settings that only series have or lack."""
        of_series = ("inputs", "targets", "padding", "time", "gaps", "scaling", "csv")
        both = ("kind", "train", "valid", "test", "split", "sha256")
        for name, field in type(self).model_fields.items():
            # A setting without effect is refused, since it looks as if it had one.
            foreign = name not in both and (name in of_series) != (self.kind == "series")
            if foreign and getattr(self, name) != field.default:
                raise ValueError(f"{name}: has no effect for a corpus of {self.kind}; remove it")
        for name in ("train", "valid", "test"):
            source: SourceConfig | None = getattr(self, name)
            if source is not None and bool(source.csv) != (self.kind == "series"):
                if self.kind == "series":
                    raise ValueError(f"{name}: a corpus of kind series needs csv files; name them as csv")
                raise ValueError(
                    f"{name}: csv files are for corpora of kind series; use kind: series, or another source"
                )
        if self.kind == "series" and not (self.inputs and self.targets):
            raise ValueError("inputs, targets: a series needs the names of its input and forecast columns")


class WeightedCorpusConfig(CorpusConfig):
    """One of several corpora that a model learns from at the same time."""

    weight: section.Float = section.identity(
        1.0, "weight of the corpus, proportional to its share of the tokens, lines or lanes of each batch", gt=0
    )
    target_token: str | None = section.identity(
        None,
        "tag before each source line that selects the target language, such as <2de>: a token of its own; null: none",
        pattern=r"^<[A-Za-z0-9_-]{1,30}>$",
    )


def check_together(corpora: Mapping[str, WeightedCorpusConfig]) -> None:
    """Checks that one model can learn from several corpora.

    Raises:
        ValueError: they differ in a setting that a model has once, or one trains on lines that another holds out.
    """
    first_name, first = next(iter(corpora.items()))
    for name, corpus in corpora.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
            raise ValueError(f"corpora: {name!r} is not a valid name of a corpus; use small letters, digits and _")
        for setting in ("kind", "cleaning", "line_end"):
            if getattr(corpus, setting) != getattr(first, setting):
                raise ValueError(
                    f"corpora.{name}.{setting}: differs from that of {first_name}; one model needs the same for all"
                )
        if corpus.target_token is not None and corpus.kind != "pairs":
            raise ValueError(f"corpora.{name}.target_token: is for pairs only; remove it")
        if (corpus.target_token is None) != (first.target_token is None):
            raise ValueError("corpora: some have a target_token and others none; give one to each of them")
    for (first_name, first), (name, other) in itertools.combinations(corpora.items(), 2):
        is_split = any(corpus.split != SplitConfig(by=corpus.split.by) for corpus in (first, other))
        # By line number both divide a shared file alike; by source not, where one has source and target swapped.
        by_line = first.kind == "text" or first.split.by == "line"
        if is_split and first.train.files & other.train.files and not (first.split == other.split and by_line):
            same = "shares" if first.kind == "text" else "shares and by: line"
            raise ValueError(
                f"corpora.{name}.split: its lines are also those of {first_name}; give both the same {same}, so that "
                "neither trains on what the other holds out"
            )


# In angle brackets, so that ordinary text is not taken for one.
Symbol = Annotated[str, pydantic.Field(pattern=r"^<[A-Za-z0-9_-]{1,30}>$")]


class TokenizerConfig(section.Section):
    """The tokenizer."""

    kind: Literal["char", "word", "bpe", "unigram", "wordpiece"] = section.identity(
        "word",
        "char: characters; word: split at spaces; bpe, unigram: byte-level subwords, lossless; wordpiece: subwords of "
        "words split at spaces",
    )
    load: tuple[str, ...] = section.identity(
        (),
        "tokenizer.json files of the tokenizers library (wildcards allowed) to use instead of training one: one file, "
        "or those of source and target where pairs share none; it must have <unk>, <pad>, <bos>, <eos> (for text <unk> "
        "and, with line_end: eos, <eos>) as special tokens, in this order, with ids from 0",
    )
    min_freq: int = section.identity(
        1, "least frequency in the training split; rarer characters or words become <unk>", ge=1
    )
    max_size: int | None = section.identity(
        None, "largest vocabulary, special tokens included; required for subwords; null: unlimited", ge=8
    )
    symbols: tuple[Symbol, ...] = section.identity(
        (),
        "additional special tokens, such as [<num>, <url>], each one token wherever it occurs in the text, however "
        "rare; their ids follow those of <unk> to <eos>",
    )
    shared: bool = section.identity(False, "one vocabulary for source and target")
    sample_bytes: int = section.identity(
        1 << 26, "bytes of each side, sampled with the seed, from which subwords are learned", ge=1024
    )

    @property
    def counts_words(self) -> bool:
        """True where the vocabulary is made from counts of all words or characters."""
        return self.kind in ("char", "word") and not self.load

    @pydantic.model_validator(mode="after")
    def _check_vocabulary(self) -> Self:
        if self.load and (self.min_freq > 1 or self.max_size is not None or self.kind != "word" or self.symbols):
            raise ValueError("load: the file has the vocabulary; leave out kind, min_freq, max_size and symbols")
        if len({*self.symbols, "<unk>", "<pad>", "<bos>", "<eos>"}) < len(self.symbols) + 4:
            raise ValueError("symbols: name each once, and none of <unk>, <pad>, <bos>, <eos>, which are reserved")
        if self.kind not in ("char", "word") and self.max_size is None:
            raise ValueError(f"max_size: {self.kind} needs the size of its vocabulary, for example 5000")
        # 256 bytes and the reserved tokens, and some room for merges.
        if self.kind in ("bpe", "unigram") and self.max_size is not None and self.max_size < 300:
            raise ValueError(f"max_size: byte-level {self.kind} starts from 256 bytes; use at least 300")
        return self


class ShardingConfig(section.Section):
    """Division of data preparation into parts."""

    statistics: bool = section.operational(
        True, "statistics of the training split for the report: n-grams, Zipf exponents, lengths, coverage"
    )
    part_size_bytes: int = section.identity(1 << 24, "bytes of text of a part, and of a shard", ge=1024)
