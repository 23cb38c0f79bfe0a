"""Settings that have no effect beside others.

They look as if they had one. In a configuration file each is warned of, not refused: the settings of a run that was
started with one have to stay as they are. An override of a verb that uses a run is refused, see `loading.section_from`.
"""

from collections.abc import Iterator

from core.config import inference_settings, model_settings, schema, section

# The sections of settings of inference that a kind of corpus uses; forecasts are made of series alone.
_SECTIONS_OF_KIND = {
    "text": ("generation", "scoring"),
    "pairs": ("decoding", "scoring", "evaluation"),
    "series": ("forecasting",),
}
_INFERENCE = ("decoding", "generation", "scoring", "forecasting", "evaluation")


def of_run(config: schema.RunConfig) -> Iterator[str]:
    """Yields a sentence for each setting of a run that has no effect, its name first."""
    kind = config.corpus_kind
    for name in _INFERENCE:
        if name not in _SECTIONS_OF_KIND[kind]:
            yield from (f"{name}.{setting}: {why}" for setting, why in _all_of(getattr(config, name), kind))
        else:
            yield from (f"{name}.{setting}: {why}" for setting, why in of_section(getattr(config, name)))
    for name in ("tokenizer", "sharding") if kind == "series" else ():
        yield from (f"{name}.{setting}: {why}" for setting, why in _all_of(getattr(config, name), kind))
    yield from _of_corpus(config)
    yield from _of_training(config)
    if isinstance(config.model, model_settings.LanguageModelConfig | model_settings.Seq2SeqConfig):
        yield from (f"model.{setting}: {why}" for setting, why in _of_model(config.model))


def of_section(settings: section.Section) -> Iterator[tuple[str, str]]:
    """Yields the settings of a section of inference that have no effect beside its others, each with the reason."""
    if isinstance(settings, inference_settings.DecodingConfig) and settings.method == "sample":
        for name in ("beam_size", "length_penalty"):
            if _is_set(settings, name):
                yield name, "has no effect with method: sample; use method: beam, or leave it out"
    if isinstance(settings, inference_settings.ScoringConfig):
        dynamic = settings.dynamic
        if dynamic is not None and dynamic.rule == "sgd":
            for name in ("epsilon", "statistics_lanes", "statistics_windows"):
                if _is_set(dynamic, name):
                    yield f"dynamic.{name}", "has no effect with rule: sgd; use rule: rms, or leave it out"
        if settings.unit == "line" and settings.lanes > 1:
            yield "lanes", "has no effect with unit: line; use unit: stream, or leave it out"


def _of_corpus(config: schema.RunConfig) -> Iterator[str]:
    for name, corpus in config.corpora_by_name.items():
        prefix = f"corpora.{name}" if name else "corpus"
        if corpus.filters.too_long == "cut" and corpus.filters.max_length is None:
            yield f"{prefix}.filters.too_long: has no effect without max_length; set it, or leave it out"
        if corpus.filters.max_ratio is not None and corpus.kind == "text":
            yield f"{prefix}.filters.max_ratio: has no effect for a corpus of text; leave it out"
        if corpus.limit.vocabulary == "before" and corpus.limit.lines is None and corpus.limit.tokens is None:
            yield f"{prefix}.limit.vocabulary: has no effect without a limit; set lines or tokens, or leave it out"
    tokenizer = config.tokenizer
    if tokenizer.shared and config.corpus_kind == "text":
        yield "tokenizer.shared: has no effect for a corpus of text; leave it out"
    if tokenizer.counts_words and _is_set(tokenizer, "sample_bytes"):
        yield f"tokenizer.sample_bytes: has no effect with kind: {tokenizer.kind}; leave it out"
    if tokenizer.kind not in ("char", "word") and tokenizer.min_freq > 1:
        yield f"tokenizer.min_freq: has no effect with kind: {tokenizer.kind}; leave it out"


def _of_training(config: schema.RunConfig) -> Iterator[str]:
    training = config.training
    for name in ("num_lanes", "window") if config.corpus_kind == "pairs" else ():
        if _is_set(training, name):
            yield f"training.{name}: has no effect for a corpus of pairs; leave it out"
    if training.clip_by == "layer" and training.clip_norm is None:
        yield "training.clip_by: has no effect without clip_norm; set it, or leave it out"


def _of_model(model: model_settings.LanguageModelConfig | model_settings.Seq2SeqConfig) -> Iterator[tuple[str, str]]:
    num_layers, is_tied, has_embedding = model.num_layers, bool(model.tie_embeddings), True
    if isinstance(model, model_settings.Seq2SeqConfig):
        num_layers = max(num_layers, model.decoder_num_layers or 1)
        is_tied = model.tie_embeddings != "none"
    else:
        has_embedding = model.input == "embedding"
    for name in ("dropout", "connections") if num_layers == 1 else ():
        if _is_set(model, name) and getattr(model, name) != "direct":
            yield name, "has no effect with one layer; use more num_layers, or leave it out"
    if model.locked_dropout and not (
        (model.dropout and num_layers > 1) or model.embedding_dropout or model.output_dropout
    ):
        yield "locked_dropout", "has no effect without a dropout rate; set one, or leave it out"
    if not model.scale_tied and not is_tied:
        yield "scale_tied", "has no effect without tie_embeddings; set it, or leave it out"
    if not has_embedding and _is_set(model, "embedding_size"):
        yield "embedding_size", "has no effect with input: one_hot; leave it out"


def _all_of(settings: section.Section, kind: str) -> Iterator[tuple[str, str]]:
    for name in type(settings).model_fields:
        if _is_set(settings, name):
            yield name, f"has no effect for a corpus of {kind}; leave it out"


def _is_set(settings: section.Section, name: str) -> bool:
    """Returns whether a setting has another value than its default."""
    return bool(getattr(settings, name) != type(settings).model_fields[name].default)
