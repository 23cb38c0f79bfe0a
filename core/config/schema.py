"""Every setting of a run: typed, frozen and described. `section` says what the roles of a setting mean."""

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


class RecurrentConfig(section.Section):
    """What language models and sequence-to-sequence models share."""

    cell: Literal["rnn", "gru", "lstm"] = section.identity("lstm", "the recurrent cell")
    num_layers: int = section.identity(1, "recurrent layers", ge=1, le=8)
    hidden_size: int = section.identity(256, "units of a layer; of an encoder: in each direction", ge=1, le=65536)
    embedding_size: int = section.identity(256, "units of an embedding", ge=1, le=65536)
    dropout: section.Float = section.identity(0.0, "between recurrent layers", ge=0, lt=1)
    embedding_dropout: section.Float = section.identity(0.0, "on embeddings", ge=0, lt=1)
    output_dropout: section.Float = section.identity(0.0, "before the output layer", ge=0, lt=1)
    initialization: Literal["torch", "xavier", "normal"] = section.identity(
        "torch",
        "torch: the library's own; xavier: uniform, biases zero, untied embeddings N(0, 1); normal: N(0, 0.01), biases "
        "zero",
    )


class LanguageModelConfig(RecurrentConfig):
    """A recurrent language model."""

    kind: Literal["language_model"] = section.identity(..., "language_model")
    input: Literal["embedding", "one_hot"] = section.identity("embedding", "one_hot: as the documents feed characters")
    tie_embeddings: bool = section.identity(False, "the output layer uses the embedding's weights")


class Seq2SeqConfig(RecurrentConfig):
    """A recurrent encoder and decoder."""

    kind: Literal["seq2seq"] = section.identity(..., "seq2seq")
    bidirectional: bool = section.identity(False, "the encoder reads in both directions")
    decoder_num_layers: int | None = section.identity(
        None, "layers of the decoder; null: as many as the encoder", ge=1, le=8
    )
    decoder_hidden_size: int | None = section.identity(
        None, "units of a decoder layer; null: as wide as the encoder's output", ge=1, le=65536
    )
    bridge: Literal["final", "mean"] = section.identity(
        "final", "the decoder starts from the encoder's final states, or from the mean of its outputs"
    )
    attention: Literal["none", "additive", "dot"] = section.identity("none", "how the decoder looks at the source")
    context: Literal["input", "output"] = section.identity(
        "output",
        "input: the context (without attention: the encoder's last state) enters every decoder step beside the "
        "embedding (Bahdanau; Cho); output: it joins after the recurrent layers (Luong; without attention none does)",
    )
    tie_embeddings: Literal["none", "target", "all"] = section.identity(
        "none", "target: output layer and target embedding are one; all: the source embedding too (shared vocabulary)"
    )

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.bridge == "final" and (self.decoder_num_layers or self.num_layers) > self.num_layers:
            raise ValueError("bridge: final states of fewer encoder layers cannot start more decoder layers; use mean")
        return self


ModelConfig = LanguageModelConfig | Seq2SeqConfig


class EarlyStopConfig(section.Section):
    """Ends training when validation stops getting better."""

    metric: Literal["perplexity"] = section.schedule("perplexity", "what is watched")
    patience: int = section.schedule(5, "so many validations without a better value", ge=1)


class TrainingConfig(section.Section):
    """How the model is trained."""

    epochs: int = section.schedule(10, "passes over the training data", ge=1)
    max_steps: int | None = section.schedule(None, "ends earlier, after so many steps", ge=1)
    batch_tokens: int | None = section.identity(
        None, "of pairs: tokens of a batch over all ranks, the longer side of each pair", ge=1
    )
    batch_lines: int | None = section.identity(None, "of pairs: lines of a batch over all ranks", ge=1)
    num_lanes: int = section.identity(32, "of text: continuous token streams of a batch, over all ranks", ge=1)
    window: int = section.identity(35, "of text: tokens of a lane in one step", ge=1)
    sampling: Literal["sequential", "random"] = section.identity(
        "sequential", "sequential: lanes carry their state on; random: shuffled windows from the zero state"
    )
    truncation: Literal["fixed", "none"] = section.identity(
        "fixed", "fixed: gradients stop at the window; none: they run through a whole lane or target line"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = section.identity("adam", "the optimiser")
    learning_rate: section.Float = section.schedule(1e-3, "at its highest", gt=0)
    momentum: section.Float = section.schedule(0.0, "of sgd", ge=0, lt=1)
    betas: tuple[section.Float, section.Float] = section.schedule((0.9, 0.999), "of adam and adamw")
    epsilon: section.Float = section.schedule(1e-8, "of adam and adamw", gt=0)
    weight_decay: section.Float = section.schedule(0.0, "L2 penalty (sgd, adam); decoupled (adamw)", ge=0)
    schedule: Literal["constant", "step", "cosine", "inverse_sqrt", "plateau"] = section.schedule(
        "constant", "how the learning rate falls after the warm-up"
    )
    warmup_steps: int = section.schedule(0, "steps in which the rate rises linearly from 0", ge=0)
    decay_factor: section.Float = section.schedule(
        0.1, "of step and plateau: what the rate is multiplied by", gt=0, lt=1
    )
    decay_every_epochs: int = section.schedule(1, "of step: epochs between two decays", ge=1)
    decay_patience: int = section.schedule(1, "of plateau: validations without a better value before a decay", ge=0)
    final_rate: section.Float = section.schedule(0.0, "of cosine: the last rate, as a share of the highest", ge=0, le=1)
    clip_norm: section.Float | None = section.schedule(
        1.0, "largest global norm of the gradient; null: no clipping", gt=0
    )
    label_smoothing: section.Float = section.schedule(
        0.0, "share of the target's probability spread evenly", ge=0, lt=1
    )
    accumulate: int = section.identity(1, "micro-batches of one step", ge=1)
    validate_every_steps: int | None = section.schedule(None, "null: at the end of each epoch", ge=1)
    early_stop: EarlyStopConfig | None = section.schedule(None, "null: train to the end")
    checkpoint_every_steps: int = section.operational(
        500, "steps between two checkpoints; validations and the end add theirs", ge=1
    )
    keep_checkpoints: int = section.operational(3, "the newest so many are kept, and the best", ge=1)
    log_every_steps: int = section.operational(10, "steps between two rows of the run record", ge=1)
    init_from: str | None = section.identity(None, "starts from the weights of another run's root")

    @pydantic.model_validator(mode="after")
    def _one_batch_size(self) -> Self:
        if self.batch_tokens is not None and self.batch_lines is not None:
            raise ValueError("batch_tokens and batch_lines exclude each other; keep one")
        return self


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


class WorkerRange(section.Section):
    """An elastic number of workers."""

    min: int = section.operational(1, "fewest", ge=1)
    max: int = section.operational(1, "most", ge=1)

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError("max: must not be smaller than min")
        return self


class ClusterConfig(section.Section):
    """Where the work runs."""

    address: str = section.operational("auto", "auto, local, none (this process) or host:port")
    num_workers: int | WorkerRange = section.operational(2, "workers of a stage, or {min, max} for elastic training")
    use_gpu: bool = section.operational(False, "a GPU for each worker")
    cpus_per_worker: int = section.operational(1, "cores, and threads, of a worker", ge=1)
    max_failures: int = section.operational(3, "restarts of a training group; attempts of a part less one", ge=0)
    part_timeout_s: section.Float = section.operational(
        3600.0, "a part that takes longer is given to another worker", gt=0
    )
    collective_timeout_s: section.Float = section.operational(
        120.0, "a rank that is silent for longer ends the group", gt=0
    )

    @property
    def workers(self) -> range:
        """The allowed numbers of workers, smallest to largest."""
        if isinstance(self.num_workers, WorkerRange):
            return range(self.num_workers.min, self.num_workers.max + 1)
        return range(self.num_workers, self.num_workers + 1)

    @pydantic.model_validator(mode="after")
    def _has_workers(self) -> Self:
        if self.workers.start < 1:
            raise ValueError("num_workers: must be at least 1")
        return self


class ComputeConfig(section.Section):
    """How numbers are computed."""

    precision: Literal["auto", "fp32", "bf16"] = section.operational(
        "auto", "auto: bf16 where the device has it; kept by a resume and by inference from the run"
    )
    matmul: Literal["auto", "default", "onednn"] = section.operational(
        "auto", "which library multiplies fp32 matrices on a CPU; auto: onednn on an AMD CPU without AMX"
    )


class TelemetryConfig(section.Section):
    """What is exported."""

    metrics_port: int = section.operational(0, "port of the metrics exporter; 0: any free one", ge=0, le=65535)
    metrics_host: str = section.operational("127.0.0.1", "address that it listens on")
    pushgateway: str | None = section.operational(None, "http://host:port that the final metrics are pushed to")
    linger_s: section.Float = section.operational(
        0.0, "the exporter stays so long after the end, to be scraped once more", ge=0
    )


class RunConfig(section.Section):
    """A whole run: what `jobs` reads from one YAML file."""

    name: str = section.identity(..., "identifies the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    root: str = section.operational(..., "folder or URL that everything of this run lies below", min_length=1)
    seed: int = section.identity(1, "of every random choice", ge=0, lt=1 << 63)
    corpus: CorpusConfig = section.identity(..., "the input text")
    tokenizer: TokenizerConfig = section.identity(TokenizerConfig(), "how text becomes token ids")
    sharding: ShardingConfig = section.identity(ShardingConfig(), "how preparing is cut into parts")
    model: ModelConfig = section.identity(..., "the model", discriminator="kind")
    training: TrainingConfig = section.identity(TrainingConfig(), "how it is trained")
    decoding: DecodingConfig = section.operational(DecodingConfig(), "how it is decoded")
    scoring: ScoringConfig = section.operational(ScoringConfig(), "how text is scored")
    cluster: ClusterConfig = section.operational(ClusterConfig(), "where the work runs")
    compute: ComputeConfig = section.operational(ComputeConfig(), "how numbers are computed")
    telemetry: TelemetryConfig = section.operational(TelemetryConfig(), "what is exported")

    @pydantic.model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if (self.model.kind == "seq2seq") != (self.corpus.kind == "pairs"):
            raise ValueError(f"model.kind: a {self.model.kind} does not learn from a corpus of {self.corpus.kind}")
        batches = (self.training.batch_tokens, self.training.batch_lines)
        if self.corpus.kind == "pairs" and batches == (None, None):
            raise ValueError("training: pairs need batch_tokens or batch_lines")
        if self.corpus.kind == "text" and batches != (None, None):
            raise ValueError("training: text is batched by num_lanes and window; drop batch_tokens and batch_lines")
        if self.model.kind == "seq2seq" and self.model.tie_embeddings == "all" and not self.tokenizer.shared:
            raise ValueError("model.tie_embeddings: all needs tokenizer.shared: true")
        if self.corpus.kind == "text" and self.cluster.workers.stop - 1 > self.training.num_lanes:
            raise ValueError("training.num_lanes: every worker needs a lane; use more lanes or fewer workers")
        return self
