"""Checks of a configuration before torch is loaded: its sources and other files, and what its root holds."""

from core import errors
from core.config import corpus_settings, schema
from core.data.text import archives, source_files
from core.storage import location, root_layout, streams
from jobs import run_state, settings


def check_prepare(config: schema.RunConfig) -> None:
    """Checks that the dataset of a run is there, or can be made of the sources that the settings name.

    Raises:
        DataError: a source matches no file.
        UsageError: the settings contradict each other or the sources.
    """
    # A series is read and compared with its dataset each time; any other dataset is used without its sources.
    is_series = config.corpus_kind == "series"
    if not is_series and _dataset_index(config).exists():
        return
    for name, corpus in config.corpora_by_name.items():
        for split in corpus_settings.SPLITS:
            if (source := getattr(corpus, split)) is not None:
                source_files.resolve(source, f"{source_files.setting_name(name)}.{split}", corpus.sha256)
    if not is_series:
        check_corpora(config)
        check_tokenizer(config)


def check_pipeline(config: schema.RunConfig) -> None:
    """Checks that the dataset of a run can be made or is there, and that its root holds no other run.

    Raises:
        DataError: a source matches no file.
        UsageError: the settings contradict each other or the sources, or a source is a pipe.
        LockedError: the root was started with other settings.
    """
    refuse_streams(config)
    check_prepare(config)
    run_state.refuse_other_settings(config)
    _check_beginning(config)


def check_train(config: schema.RunConfig) -> None:
    """Checks that the dataset of a run is there, and that its root holds no other run.

    Raises:
        UsageError: there is no dataset.
        LockedError: the root was started with other settings.
    """
    index = _dataset_index(config)
    if not index.exists():
        raise errors.UsageError(f"{index.parent}: has no finished dataset; run prepare first")
    run_state.refuse_other_settings(config)
    _check_beginning(config)


def _check_beginning(config: schema.RunConfig) -> None:
    """Checks that the weights and word vectors are there that training begins with; a resumed run needs neither.

    Raises:
        UsageError: they are not.
    """
    training = config.training
    if location.Location.parse(config.root, "root").join(root_layout.CHECKPOINTS).list_names():
        return
    for role, text in training.embeddings.items():
        where = f"training.embeddings.{role}"
        if not (file := location.Location.parse(text, where)).exists():
            raise errors.UsageError(f"{where}: {file} does not exist; check the path")
    if training.init_from is not None:
        where = "training.init_from"
        run = location.Location.parse(training.init_from, where)
        if run.join(root_layout.CHECKPOINT_MANIFEST).exists():
            return
        if not run.join(root_layout.SETTINGS).exists():
            raise settings.no_run_error(run, where)
        if not run.join(root_layout.CHECKPOINTS).list_names():
            raise errors.UsageError(f"{where}: {run} has no checkpoint; train it first, or name another run")


def check_corpora(config: schema.RunConfig) -> None:
    """Checks that limits and loaded tokenizers fit the corpora.

    Raises:
        UsageError: they do not.
    """
    for name, corpus in config.corpora_by_name.items():
        if corpus.limit.tokens and not config.tokenizer.counts_words:
            setting = f"{source_files.setting_name(name)}.limit.tokens"
            raise errors.UsageError(f"{setting}: counts characters or words; with subwords use limit.lines")
    num_tokenizers = 2 if config.corpus_kind == "pairs" and not config.tokenizer.shared else 1
    if config.tokenizer.load and len(config.tokenizer.load) != num_tokenizers:
        raise errors.UsageError(
            f"tokenizer.load: names {len(config.tokenizer.load)} files for {num_tokenizers} vocabularies; "
            "for pairs name two, or one with shared: true"
        )


def check_tokenizer(config: schema.RunConfig) -> None:
    """Checks that a tokenizer to be trained has room for its special tokens, and a use for each of its settings.

    Only of a dataset that is made now: older releases ignored these settings, and their datasets stay usable.

    Raises:
        DataError: a tokenizer to be loaded does not exist.
        UsageError: the settings contradict each other, or name several files as one tokenizer.
    """
    from core.data.tokens import tokenizer, tokenizer_file, vocabulary  # loaded where a dataset is made

    tokenizing = config.tokenizer
    defaults = type(tokenizing)()
    for pattern in tokenizing.load:
        tokenizer_file.find(pattern)
    if tokenizing.load:
        ignored = {"sample_bytes": "of a tokenizer that is loaded"}
    elif tokenizing.kind in ("char", "word"):
        ignored = {"sample_bytes": f"with kind {tokenizing.kind}, which counts the whole text"}
    else:
        ignored = {"min_freq": f"with kind {tokenizing.kind}, whose vocabulary max_size limits"}
    for name, why in ignored.items():
        if getattr(tokenizing, name) != getattr(defaults, name):
            raise errors.UsageError(f"tokenizer.{name}: has no effect {why}; remove it")
    if tokenizing.load or tokenizing.max_size is None:
        return
    first = next(iter(config.corpora_by_name.values()))
    target_tokens = {corpus.target_token for corpus in config.corpora.values() if corpus.target_token is not None}
    reserved = vocabulary.reserved_for(first.kind, first.line_end)
    num_added = len(reserved) + len(target_tokens) + len(tokenizing.symbols)
    smallest = tokenizer.smallest_size(tokenizing.kind, num_added)
    if tokenizing.max_size < smallest:
        raise errors.UsageError(
            f"tokenizer.max_size: {tokenizing.max_size} has no room for the {num_added} special tokens and any text; "
            f"use at least {smallest}"
        )


def refuse_streams(config: schema.RunConfig) -> None:
    """Refuses pipes as sources: the pipeline reads its sources twice, for the dataset and for the held-out lines.

    Raises:
        UsageError: a source is a pipe.
    """
    for name, corpus in config.corpora_by_name.items():
        for split in corpus_settings.SPLITS:
            source = getattr(corpus, split)
            for text in sorted(source.files) if source is not None else ():
                if streams.is_stream(location.Location.parse(archives.split(text)[1])):
                    raise errors.UsageError(
                        f"{source_files.setting_name(name)}.{split}: {text} can be read only once, and a pipeline "
                        "reads its held-out lines again; write it to a file"
                    )


def _dataset_index(config: schema.RunConfig) -> location.Location:
    return location.Location.parse(config.root, "root").join(root_layout.DATASET, root_layout.DATASET_INDEX)
