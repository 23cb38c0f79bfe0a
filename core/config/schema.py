"""A whole run's settings: typed, frozen and described. `section` says what the roles of a setting mean."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from core.config import corpus_settings, inference_settings, model_settings, section, training_settings


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

    precision: Literal["auto", "fp32", "bf16", "int8"] = section.operational(
        "auto",
        "auto: bf16 where the device has it; kept by a resume and by inference from the run; int8: inference on a CPU",
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
    tensorboard: bool = section.operational(
        False, "event files for TensorBoard, too, in tensorboard/, with each checkpoint; needs the extra of that name"
    )


class RunConfig(section.Section):
    """A whole run: what `jobs` reads from one YAML file."""

    name: str = section.identity(..., "identifies the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    root: str = section.operational(..., "folder or URL that everything of this run lies below", min_length=1)
    seed: int = section.identity(1, "of every random choice", ge=0, lt=1 << 63)
    corpus: corpus_settings.CorpusConfig | None = section.identity(None, "the input text")
    corpora: dict[str, corpus_settings.TaskCorpusConfig] = section.identity(
        {}, "instead of corpus: several, by name, that one model learns from at the same time; each is a task"
    )
    tokenizer: corpus_settings.TokenizerConfig = section.identity(
        corpus_settings.TokenizerConfig(), "how text becomes token ids"
    )
    sharding: corpus_settings.ShardingConfig = section.identity(
        corpus_settings.ShardingConfig(), "how preparing is cut into parts"
    )
    model: model_settings.ModelConfig = section.identity(..., "the model", discriminator="kind")
    training: training_settings.TrainingConfig = section.identity(
        training_settings.TrainingConfig(), "how it is trained"
    )
    decoding: inference_settings.DecodingConfig = section.operational(
        inference_settings.DecodingConfig(), "how it is decoded"
    )
    generation: inference_settings.GenerationConfig = section.operational(
        inference_settings.GenerationConfig(), "generation of text"
    )
    scoring: inference_settings.ScoringConfig = section.operational(
        inference_settings.ScoringConfig(), "how text is scored"
    )
    forecasting: inference_settings.ForecastingConfig = section.operational(
        inference_settings.ForecastingConfig(), "how series are forecast"
    )
    cluster: ClusterConfig = section.operational(ClusterConfig(), "where the work runs")
    compute: ComputeConfig = section.operational(ComputeConfig(), "how numbers are computed")
    telemetry: TelemetryConfig = section.operational(TelemetryConfig(), "what is exported")

    @property
    def tasks(self) -> dict[str, corpus_settings.CorpusConfig]:
        """The corpora by name; a single one has an empty name."""
        assert self.corpus is not None or self.corpora, "the schema asks for one of them"
        return dict(self.corpora) if self.corpus is None else {"": self.corpus}

    @property
    def corpus_kind(self) -> str:
        """The kind of the corpus, or of all corpora."""
        return next(iter(self.tasks.values())).kind

    def of_dataset(self, stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings that decide a dataset, in the words of a program that has `stored` those of an older one.

        Where its sources lie is not among them, nor how much of each corpus goes into a batch.
        """
        deciding = section.deciding(self) if stored is None else section.deciding_then(self, stored)
        names = ("corpora" if self.corpora else "corpus", "tokenizer", "sharding", "seed")
        found = {name: deciding[name] for name in names if name in deciding}
        for corpus in found.get("corpora", {}).values():
            corpus.pop("weight", None)
        return {"corpus": found["corpus"]} if self.corpus_kind == "series" else found

    @pydantic.model_validator(mode="after")
    def _corpora_fit(self) -> Self:
        if (self.corpus is None) == (not self.corpora):
            raise ValueError("corpus: name one, or several as corpora; not both")
        multitask = self.training.multitask
        if self.corpus is not None:
            if multitask.separates:
                raise ValueError("training.multitask: means nothing with a single corpus; name several as corpora")
            return self
        corpus_settings.check_together(self.corpora)
        if self.model.kind in ("ngram", "autoregressive"):
            raise ValueError(f"corpora: a {self.model.kind} learns from a single corpus; name it as corpus")
        if self.tokenizer.load and any(corpus.target_token is not None for corpus in self.corpora.values()):
            raise ValueError("tokenizer.load: a ready tokenizer knows no target_token; have one learned")
        if any(corpus.target_token in self.tokenizer.symbols for corpus in self.corpora.values()):
            raise ValueError("tokenizer.symbols: a target_token is no part of a text; give the symbol another name")
        if unknown := sorted(multitask.detached.keys() - self.corpora.keys()):
            raise ValueError(f"training.multitask.detached: {unknown[0]!r} is none of {', '.join(self.corpora)}")
        return self

    @pydantic.model_validator(mode="after")
    def _sections_fit(self) -> Self:
        kind = self.corpus_kind
        if (self.model.kind == "seq2seq") != (kind == "pairs"):
            raise ValueError(f"model.kind: a {self.model.kind} does not learn from a corpus of {kind}")
        if (self.model.kind == "autoregressive") != (kind == "series"):
            raise ValueError(f"model.kind: a {self.model.kind} does not learn from a corpus of {kind}")
        if kind == "series" and self.training.batch_lines is None:
            raise ValueError("training: a series needs batch_lines, the examples of a batch")
        if foreign := self.training.foreign(kind):
            raise ValueError(f"training.{foreign}: means nothing for a corpus of {kind}; drop it")
        has_validation = any(corpus.valid is not None or corpus.split.valid > 0 for corpus in self.tasks.values())
        if not has_validation and (asking := self.training.needs_validation):
            raise ValueError(f"training.{asking}: needs validation lines; name corpus.valid, or set corpus.split.valid")
        if self.compute.precision == "int8":
            raise ValueError("compute.precision: nothing is trained in int8; give it to translate or score by --set")
        is_adaptive = isinstance(self.model, model_settings.LanguageModelConfig) and self.model.adaptive_cutoffs
        if is_adaptive and self.training.label_smoothing:
            raise ValueError("training.label_smoothing: an adaptive output layer has none; drop it or adaptive_cutoffs")
        batches = (self.training.batch_tokens, self.training.batch_lines)
        if kind == "pairs" and batches == (None, None):
            raise ValueError("training: pairs need batch_tokens or batch_lines")
        if kind == "text" and batches != (None, None):
            raise ValueError("training: text is batched by num_lanes and window; drop batch_tokens and batch_lines")
        if self.training.bpe_dropout and self.tokenizer.kind != "bpe" and not self.tokenizer.load:
            raise ValueError("training.bpe_dropout: only merges can be left out; use tokenizer.kind: bpe")
        if self.model.kind == "seq2seq" and self.model.tie_embeddings == "all" and not self.tokenizer.shared:
            raise ValueError("model.tie_embeddings: all needs tokenizer.shared: true")
        if self.model.kind == "ngram" and self.training != training_settings.TrainingConfig():
            raise ValueError("training: an ngram is counted, not trained step by step; leave the section out")
        weights = [corpus.weight for corpus in self.corpora.values()] or [1.0]
        fewest = min(settings.num_lanes for settings in self.training.shared_out(weights))
        if self.model.kind == "language_model" and self.cluster.workers.stop - 1 > fewest:
            of_each = " of each corpus" if self.corpora else ""
            raise ValueError(f"training.num_lanes: every worker needs a lane{of_each}; use more lanes or fewer workers")
        return self
