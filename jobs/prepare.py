"""`prepare`: makes an Arrow dataset of the corpora, by passes over their parts.

Each pass fans out tasks of one kind (`workers.prepare.line_tasks`); a task with a commit record is not run again.
The driver keeps a small record of each part, never lines. The index, written last, makes the dataset visible.
"""

import contextlib
import logging
import time
from typing import Any

from core import errors
from core.config import corpus_settings, schema
from core.data.dataset import dataset_index
from core.data.series import dataset as series_dataset
from core.data.text import source_files, sources
from core.evaluation import bleu_tokenizers
from core.storage import commit, location, root_layout
from core.telemetry import catalog
from jobs import config_checks
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.prepare import dataset_builder, line_tasks, pass_runner

# Cleaning steps after which a reader, or a metric, sees another text than the reference's author wrote.
_VISIBLE_STEPS = ("nfkc", "lower", "letters", "digits", "punctuation")
_log = logging.getLogger(__name__)

Report = dict[str, Any]


def plan(config: schema.RunConfig) -> dataset_builder.Plan:
    """Lists the files of all sources, without reading them; only pipes are read, and copied into the dataset's folder.

    Raises:
        DataError: a source matches no file.
        UsageError: the settings contradict each other.
    """
    corpora = config.corpora_by_name
    config_checks.check_corpora(config)
    groups = {
        name: {
            split: source_files.resolve(source, f"{source_files.setting_name(name)}.{split}", corpus.sha256)
            for split in dataset_index.SPLITS
            if (source := getattr(corpus, split)) is not None
        }
        for name, corpus in corpora.items()
    }
    staging = _folder(config).join(line_tasks.STAGING)
    # After all sources have been resolved: a missing one must not leave a folder behind.
    for name, groups_of_corpus in groups.items():
        strict = corpora[name].on_bad_line == "fail"
        for split, groups_of_split in groups_of_corpus.items():
            groups_of_corpus[split] = sources.stage_streams(groups_of_split, staging, corpora[name].sha256, strict)
    files = {
        name: {
            split: [[_describe(file, corpora[name]) for file in group] for group in groups_of_split]
            for split, groups_of_split in groups_of_corpus.items()
        }
        for name, groups_of_corpus in groups.items()
    }
    return dataset_builder.Plan(
        folder=_folder(config),
        settings=_settings(config),
        corpora=corpora,
        tokenizer=config.tokenizer,
        seed=config.seed,
        groups=groups,
        files=files,
    )


def run(config: schema.RunConfig, session: executors.Session, reporter: progress_display.Reporter) -> Report:
    """Makes the dataset of a run under its root; resumes one that was begun, and checks one that is finished.

    A dataset is identified by its text, not by the paths of its files. If a finished dataset's sources have other paths
    or sizes now, they are read again and compared; if they no longer exist, the dataset is used without them.

    Raises:
        DataError: a source is missing, damaged, misaligned or has no usable line.
        LockedError: the folder contains a dataset, finished or begun, of other settings or other text.
        IntegrityError: a file of the dataset is damaged.
        StorageError, ClusterError: the disks or the Ray cluster failed.
        InterruptedRunError: a signal stopped the run.
    """
    started_s = time.monotonic()
    folder = _folder(config)
    if config.corpus_kind == "series":
        return _prepare_series(config, folder, session, reporter)
    warnings = _cleaning_warnings(config)
    store = commit.PartStore(folder, dataset_builder.content(_settings(config)), commit.REMEDY_OF_DATASET)
    content = store.manifest(dataset_index.NAME)
    if content is not None:
        # Finished: only its sources are compared, since a dataset is written once.
        index = dataset_index.DatasetIndex.from_json(content, folder)
        _check_sources(config, index, session, reporter)
    else:
        config_checks.check_tokenizer(config)
        with session.interrupting():
            planned = plan(config)
        is_new = store.begin()  # after the plan: a missing source must not leave a folder behind
        builder = dataset_builder.DatasetBuilder(planned, session, reporter, is_new)
        index = builder.run(config.sharding)
        store.finish(index.write_table(folder), dataset_index.NAME)
        warnings += [*builder.warnings, *_bleu_warnings(config, builder)]
        session.metrics.set(catalog.LAST_SUCCESS, time.time(), stage=pass_runner.STAGE)
    _clean_up(folder)
    for warning in warnings:
        _log.warning(warning)  # not "%s": equal formats count as repetitions, and only the first would be shown
    report = _report(folder, index, started_s, already_done=content is not None)
    return {**report, "warnings": warnings} if warnings else report


def _cleaning_warnings(config: schema.RunConfig) -> list[str]:
    """Returns a sentence on cleaning that makes translations differ from references as written."""
    corpus = next(iter(config.corpora_by_name.values()))  # all corpora of a run have the same cleaning
    steps = [step for step in corpus.cleaning if step in _VISIBLE_STEPS]
    if corpus.kind != "pairs" or not steps:
        return []
    setting = "corpora.NAME.cleaning" if config.corpora else "corpus.cleaning"
    return [
        f"{setting}: {', '.join(steps)} also changes the target text, so that translations differ from references as "
        "written; the evaluation gives BLEU, chrF and TER against both, as written and cleaned: compare like with like"
    ]


def _bleu_warnings(config: schema.RunConfig, builder: dataset_builder.DatasetBuilder) -> list[str]:
    """Returns sentences on target text that the tokenizer of BLEU does not split."""
    if config.corpus_kind != "pairs":
        return []
    found_scripts = {columns.get("target") for columns in builder.scripts.values()} - {None}
    sentences = [
        bleu_tokenizers.mismatch_of_script(script, config.evaluation) for script in found_scripts if script is not None
    ]
    return sorted(sentence for sentence in sentences if sentence is not None)


def _prepare_series(
    config: schema.RunConfig,
    folder: location.Location,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> Report:
    """Makes the dataset of a series, in this process."""
    started_s = time.monotonic()
    with reporter.stage("prepare: read series", None, "datasets") as stage, session.interrupting():
        dataset, already_done = series_dataset.prepare(config.corpora_by_name[""], _settings(config), folder)
        stage.advance()
    return {
        "verb": "prepare",
        "path": str(folder),
        "already_done": already_done,
        "kind": "series",
        "columns": {"inputs": list(dataset.inputs), "targets": list(dataset.targets)},
        "splits": dataset.described_splits(),
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def _check_sources(
    config: schema.RunConfig,
    index: dataset_index.DatasetIndex,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> None:
    """Checks that a finished dataset was made from the text that the settings name now.

    Raises:
        LockedError: it was made from other text.
    """
    try:
        with session.interrupting():
            current = plan(config)
    except errors.DataError as error:
        _log.warning("%s; the dataset in %s is complete and is used without its sources", error, _folder(config))
        return
    current_files = [files for files_of_corpus in current.files.values() for files in files_of_corpus.values()]
    # Equal paths, sizes and checksums: nothing is read again.
    if [source["files"] for source in index.sources] == current_files:
        return
    try:
        hashes = dataset_builder.DatasetBuilder(current, session, reporter).hash_sources(config.sharding)
    finally:
        # Hashing, too, leaves commit records, which a finished dataset does not keep.
        _clean_up(current.folder)
    for source in index.sources:
        # `NAME.train`, or `train` of a single corpus.
        name, _, split = source["split"].rpartition(".")
        if hashes[name][split] != source["sha256"]:
            raise errors.LockedError(
                f"{source_files.setting_name(name)}.{split}: is not the text that the dataset in {current.folder} was "
                "made from; use another root, or name that text"
            )


def _folder(config: schema.RunConfig) -> location.Location:
    return location.Location.parse(config.root, "root").join(root_layout.DATASET)


def _settings(config: schema.RunConfig) -> dict[str, Any]:
    """Returns the settings that determine the dataset, in the form in which it was begun.

    A dataset that an older release began lacks settings that are newer; they are left out if they have their defaults.
    """
    try:
        begun = commit.read_manifest(_folder(config), commit.PLAN, commit.PLAN_FORMAT, commit.PLAN_VERSION)
    except errors.NotFoundError:
        return config.of_dataset()
    return config.of_dataset((begun.get("plan") or {}).get("settings") or {})


def _describe(file: source_files.File, corpus: corpus_settings.CorpusConfig) -> dict[str, Any]:
    """Returns what identifies a file without reading it."""
    # A web server need not send a size; a source on the web always has a checksum in the settings.
    sha256 = source_files.expected_sha256(file, corpus.sha256)
    return {"url": file.url, "size_bytes": None if file.is_web else file.origin.size_bytes(), "sha256": sha256}


def _clean_up(folder: location.Location) -> None:
    """Removes the commit records and intermediate files of the passes."""
    # Records first: a record whose file is gone would make the next run skip a task and then miss its file.
    for name in (commit.RECORDS, line_tasks.STAGING):
        subfolder = folder.join(name)
        subfolder.remove_names(subfolder.list_names())
        if subfolder.is_local:
            with contextlib.suppress(OSError):
                subfolder.path.rmdir()


def _report(
    folder: location.Location, index: dataset_index.DatasetIndex, started_s: float, already_done: bool
) -> Report:
    return {
        "verb": "prepare",
        "path": str(folder),
        "already_done": already_done,
        "kind": index.kind,
        "splits": {
            name: {"lines": index.rows(name), "tokens": index.tokens(name), "shards": len(records)}
            for name, records in index.splits.items()
        },
        **({"tasks": by_corpus} if (by_corpus := index.by_corpus()) else {}),  # the stored key
        "vocabulary_sizes": {column: record.vocabulary_size for column, record in index.tokenizers.items()},
        "lines_read": index.lines_read,
        "drops": index.drops,
        "repairs": index.repairs,
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }
