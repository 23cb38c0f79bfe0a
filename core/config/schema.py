"""Settings of a whole run, typed, frozen and described; `section` explains the roles."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from core.config import (
    corpus_settings,
    evaluation_settings,
    inference_settings,
    mixture_settings,
    model_settings,
    node_labels,
    section,
    service_url,
    training_settings,
)


class WorkerRange(section.Section):
    """An elastic number of workers."""

    min: int = section.operational(1, "fewest workers", ge=1)
    max: int = section.operational(1, "most workers", ge=1)

    @pydantic.model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max < self.min:
            raise ValueError("max: must not be smaller than min")
        return self


class ClusterConfig(section.Section):
    """The Ray cluster, and the workers of a stage."""

    address: str = section.operational(
        "auto",
        "Ray cluster: auto (that of RAY_ADDRESS or of the surrounding job, else a local one), local, none (no Ray: in "
        "this process), or host:port",
    )
    num_workers: int | WorkerRange = section.operational(2, "workers of a stage; {min, max} for elastic training")
    use_gpu: bool = section.operational(False, "one GPU per worker")
    cpus_per_worker: int = section.operational(1, "cores and threads of a worker", ge=1)
    label_selector: node_labels.LabelSelector = section.operational(
        {},
        "labels of the nodes on which workers train or run a model, such as {ray.io/accelerator-type: A100}; a "
        "condition may also be !A100, in(A100, H100) or !in(A100, H100)",
    )
    max_failures: int = section.operational(3, "restarts of the training workers; retries of a part", ge=0)
    start_timeout_s: section.Float = section.operational(
        300.0, "seconds that a local cluster may take to start, on a busy machine minutes", gt=0, le=86400
    )
    cache_size_bytes: int = section.operational(
        1 << 35,
        "most bytes of a node's copies of shards and n-gram models in an object store, which its workers share; in the "
        "folder that RAYCURRENT_CACHE names there, else TMPDIR",
        ge=1 << 26,
    )
    part_timeout_s: section.Float = section.operational(
        3600.0, "seconds before a part is given to another worker", gt=0
    )
    collective_timeout_s: section.Float = section.operational(
        120.0, "seconds of silence of a rank before its worker group is ended", gt=0
    )

    @property
    def device(self) -> str:
        """The device type of the workers: `cuda` or `cpu`."""
        return "cuda" if self.use_gpu else "cpu"

    @property
    def workers(self) -> range:
        """The allowed numbers of workers, smallest to largest."""
        if isinstance(self.num_workers, WorkerRange):
            return range(self.num_workers.min, self.num_workers.max + 1)
        return range(self.num_workers, self.num_workers + 1)

    @pydantic.model_validator(mode="after")
    def _check_address(self) -> Self:
        host, _, port = self.address.rpartition("://")[2].rpartition(":")
        has_port = bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16
        if "@" in self.address:
            raise ValueError("address: holds credentials; write host:port, and point RAY_AUTH_TOKEN_PATH to the token")
        if self.address not in ("auto", "local", "none") and not has_port:
            raise ValueError(f"address: {self.address!r} is not auto, local, none or host:port; use one of these")
        return self

    @pydantic.model_validator(mode="after")
    def _check_label_selector(self) -> Self:
        if self.label_selector and self.address in ("local", "none"):
            raise ValueError(
                f"label_selector: has no effect with address: {self.address}, whose one node has no labels; remove it"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_num_workers(self) -> Self:
        # Not by a limit of the field: its other form, {min, max}, has limits of its own.
        if self.workers.start < 1:
            raise ValueError("num_workers: must be at least 1")
        return self


class ComputeConfig(section.Section):
    """Numerical precision and libraries."""

    precision: Literal["auto", "fp32", "bf16", "int8"] = section.operational(
        "auto",
        "precision of computation; auto: bf16 where the device supports it, kept by a resume and by inference from the "
        "run; int8: for inference on a CPU",
    )
    matmul: Literal["auto", "default", "onednn"] = section.operational(
        "auto", "library of fp32 matrix products on a CPU; auto: onednn on an AMD CPU without AMX, else default"
    )


class TelemetryConfig(section.Section):
    """Export of metrics."""

    metrics_port: int = section.operational(0, "port of the metrics exporter; 0: any free port", ge=0, le=65535)
    metrics_host: str = section.operational("127.0.0.1", "address of the metrics exporter")
    pushgateway: service_url.ServiceUrl | None = section.operational(
        None, "http://host:port of a Pushgateway for the final metrics; null: none"
    )
    pushgateway_credentials: str | None = section.operational(
        None,
        "file with user:password for the Pushgateway, on every node; null: RAYCURRENT_PUSHGATEWAY_CREDENTIALS, if set",
    )
    linger_s: section.Float = section.operational(
        0.0, "seconds the exporter stays up after the run, for a last scrape", ge=0
    )
    tensorboard: bool = section.operational(
        False, "TensorBoard event files in tensorboard/, with each checkpoint; needs the extra of that name"
    )


class RunConfig(section.Section):
    """A whole run, as one YAML file has it."""

    name: str = section.identity(..., "name of the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    root: str = section.operational(
        ..., "folder or URL of the run: dataset, checkpoints, outputs, report", min_length=1
    )
    seed: int = section.identity(1, "seed of all random choices", ge=0, lt=1 << 63)
    corpus: corpus_settings.CorpusConfig | None = section.identity(None, "corpus to learn from")
    corpora: dict[str, corpus_settings.WeightedCorpusConfig] = section.identity(
        {}, "several corpora, by name, that one model learns from at the same time, instead of corpus"
    )
    tokenizer: corpus_settings.TokenizerConfig = section.identity(corpus_settings.TokenizerConfig(), "tokenizer")
    sharding: corpus_settings.ShardingConfig = section.identity(
        corpus_settings.ShardingConfig(), "division of data preparation into parts"
    )
    model: model_settings.ModelConfig = section.identity(..., "model", discriminator="kind")
    training: training_settings.TrainingConfig = section.identity(training_settings.TrainingConfig(), "training")
    decoding: inference_settings.DecodingConfig = section.operational(
        inference_settings.DecodingConfig(), "translation"
    )
    generation: inference_settings.GenerationConfig = section.operational(
        inference_settings.GenerationConfig(), "generation of text"
    )
    scoring: inference_settings.ScoringConfig = section.operational(
        inference_settings.ScoringConfig(), "scoring of text"
    )
    forecasting: inference_settings.ForecastingConfig = section.operational(
        inference_settings.ForecastingConfig(), "forecasting of series"
    )
    evaluation: evaluation_settings.EvaluationConfig = section.schedule(
        evaluation_settings.EvaluationConfig(), "evaluation of translations"
    )
    cluster: ClusterConfig = section.operational(ClusterConfig(), "cluster and workers")
    compute: ComputeConfig = section.operational(ComputeConfig(), "precision and libraries")
    telemetry: TelemetryConfig = section.operational(TelemetryConfig(), "export of metrics")

    @property
    def corpora_by_name(self) -> dict[str, corpus_settings.CorpusConfig]:
        """The corpora by name; a single one has an empty name."""
        assert self.corpus is not None or self.corpora, "the schema asks for one of them"
        return dict(self.corpora) if self.corpus is None else {"": self.corpus}

    @property
    def corpus_kind(self) -> str:
        """The kind of the corpus, or of all corpora."""
        return next(iter(self.corpora_by_name.values())).kind

    def of_dataset(self, stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the settings that identify a dataset, in the form of `stored`, perhaps of an older release.

        The locations of sources and the weights of corpora are not among them.
        """
        content = section.result_settings(self) if stored is None else section.result_settings_as_stored(self, stored)
        names = ("corpora" if self.corpora else "corpus", "tokenizer", "sharding", "seed")
        settings = {name: content[name] for name in names if name in content}
        for corpus in settings.get("corpora", {}).values():
            # Weights divide the batches of training; the shards are the same.
            corpus.pop("weight", None)
        # A series has neither tokens nor parts, and its split needs no seed.
        return {"corpus": settings["corpus"]} if self.corpus_kind == "series" else settings

    @pydantic.model_validator(mode="after")
    def _check_corpora(self) -> Self:
        if (self.corpus is None) == (not self.corpora):
            raise ValueError("corpus: name one, or several as corpora; not both")
        multitask = self.training.multitask
        if self.corpus is not None:
            if multitask.separates:
                raise ValueError("training.multitask: has no effect with a single corpus; name several as corpora")
            return self
        corpus_settings.check_together(self.corpora)
        if self.model.kind in ("ngram", "autoregressive"):
            raise ValueError(f"corpora: a {self.model.kind} learns from a single corpus; name it as corpus")
        # The ids of a given file are fixed: a further reserved token would shift those after it.
        if self.tokenizer.load and any(corpus.target_token is not None for corpus in self.corpora.values()):
            raise ValueError("tokenizer.load: a given tokenizer has no target_token; train one instead")
        target_tokens = {corpus.target_token for corpus in self.corpora.values()}
        if ambiguous := [symbol for symbol in self.tokenizer.symbols if symbol in target_tokens]:
            raise ValueError(f"tokenizer.symbols: {ambiguous[0]} is also a target_token; rename the symbol")
        if unknown := sorted(multitask.detached.keys() - self.corpora.keys()):
            raise ValueError(f"training.multitask.detached: {unknown[0]!r} is not one of {', '.join(self.corpora)}")
        return self

    @pydantic.model_validator(mode="after")
    def _check_feedforward(self) -> Self:
        if not isinstance(self.model, model_settings.LanguageModelConfig) or self.model.cell != "feedforward":
            return self
        if self.training.truncation.kind != "fixed":
            raise ValueError(
                f"training.truncation: {self.training.truncation.kind} is of recurrences, and model.cell: feedforward "
                "has none; remove it"
            )
        if self.training.temporal_activation_regularization:
            raise ValueError(
                "training.temporal_activation_regularization: is of recurrences, and model.cell: feedforward has none; "
                "remove it"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _check_sections(self) -> Self:
        kind = self.corpus_kind
        # Checks across sections are here, since a section does not see the others.
        needed = {"seq2seq": "pairs", "autoregressive": "series"}.get(self.model.kind, "text")
        if kind != needed:
            raise ValueError(
                f"model.kind: {self.model.kind} cannot be trained on a corpus of kind {kind}; use kind {needed}"
            )
        if kind == "series" and self.training.batch_lines is None:
            raise ValueError("training: a series needs batch_lines, the number of examples of a batch; add it")
        if inapplicable := self.training.first_inapplicable(kind):
            raise ValueError(f"training.{inapplicable}: has no effect for a corpus of {kind}; remove it")
        has_validation = any(
            corpus.valid is not None or corpus.split.valid > 0 for corpus in self.corpora_by_name.values()
        )
        # Fails here, not at the first validation, after hours of training.
        if not has_validation and (required_by := self.training.setting_requiring_validation):
            raise ValueError(
                f"training.{required_by}: needs validation lines; name corpus.valid, or set corpus.split.valid"
            )
        if not mixture_settings.is_default(self.scoring.mixture):
            raise ValueError("scoring.mixture: mixes several runs, which score alone has; set it there with --set")
        if self.compute.precision == "int8":
            raise ValueError("compute.precision: int8 is for inference only; set it for translate or score with --set")
        is_adaptive = isinstance(self.model, model_settings.LanguageModelConfig) and self.model.adaptive_cutoffs
        if is_adaptive and self.training.label_smoothing:
            raise ValueError(
                "training.label_smoothing: does not work with adaptive softmax; remove it, or model.adaptive_cutoffs"
            )
        batches = (self.training.batch_tokens, self.training.batch_lines)
        if kind == "pairs" and batches == (None, None):
            raise ValueError("training: pairs need batch_tokens or batch_lines; add one")
        if kind == "text" and batches != (None, None):
            raise ValueError("training: text is batched by num_lanes and window; remove batch_tokens and batch_lines")
        if self.training.bpe_dropout and self.tokenizer.kind != "bpe" and not self.tokenizer.load:
            raise ValueError("training.bpe_dropout: drops merges, which only BPE has; use tokenizer.kind: bpe")
        if self.model.kind == "seq2seq" and self.model.tie_embeddings == "all" and not self.tokenizer.shared:
            raise ValueError("model.tie_embeddings: all needs tokenizer.shared: true")
        if self.model.kind == "ngram" and self.training != training_settings.TrainingConfig():
            raise ValueError("training: an ngram is counted, not trained in steps; leave the section out")
        line_end = next(iter(self.corpora_by_name.values())).line_end
        if self.model.kind == "ngram" and self.model.unit == "line" and line_end != "eos":
            raise ValueError("model.unit: line needs lines that end in <eos>; use corpus.line_end: eos")
        # Each corpus gets its share of the lanes, and every rank needs one of each corpus.
        weights = [corpus.weight for corpus in self.corpora.values()] or [1.0]
        fewest = min(settings.num_lanes for settings in self.training.split_by_weight(weights))
        # The most workers of an elastic range: growing into a rank without a lane would end the run.
        if self.model.kind == "language_model" and self.cluster.workers.stop - 1 > fewest:
            of_each = " of each corpus" if self.corpora else ""
            raise ValueError(f"training.num_lanes: every worker needs a lane{of_each}; use more lanes or fewer workers")
        return self

    @pydantic.model_validator(mode="after")
    def _check_embeddings(self) -> Self:
        sides = ("source", "target") if self.corpus_kind == "pairs" else ("text",)
        if unknown := [side for side in self.training.embeddings if side not in sides]:
            raise ValueError(
                f"training.embeddings: {unknown[0]} is not a side of a corpus of {self.corpus_kind}; "
                f"it has {', '.join(sides)}"
            )
        return self
