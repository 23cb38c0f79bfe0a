"""`prepare`: corpora become an Arrow dataset, by passes over parts of lines.

Each pass is a fan-out of one kind of task (`workers.prepare.sharding`); a task that is committed is not done again. The
driver holds a small record of each part, never lines; the index, written last, makes the dataset visible.
"""

import contextlib
import logging
import time
from typing import Any

from core import errors
from core.config import corpus_settings, schema
from core.data import series
from core.data.dataset import dataset_index
from core.data.text import sources
from core.storage import commit, location
from core.telemetry import catalog
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.prepare import dataset_passes, passes, sharding

FOLDER = "dataset"
_log = logging.getLogger(__name__)

Report = dict[str, Any]


def plan(config: schema.RunConfig) -> dataset_passes.Plan:
    """Finds the files of all sources; reads none of them.

    Raises:
        DataError: a source matches no file.
        UsageError: the settings do not fit together.
    """
    for task, corpus in config.tasks.items():
        if corpus.limit.tokens and not config.tokenizer.counts_words:
            where = f"{_where(task)}.limit.tokens"
            raise errors.UsageError(f"{where}: counts characters or words; with subwords use limit.lines")
    num_tokenizers = 1 if config.tokenizer.shared else len(dataset_index.COLUMNS[config.corpus_kind])
    if config.tokenizer.load and len(config.tokenizer.load) != num_tokenizers:
        raise errors.UsageError(
            f"tokenizer.load: names {len(config.tokenizer.load)} files for {num_tokenizers} vocabularies; "
            "of pairs name two, or one with shared: true"
        )
    groups = {
        task: {
            name: sources.resolve(source, f"{_where(task)}.{name}", corpus.sha256)
            for name in dataset_index.SPLITS
            if (source := getattr(corpus, name)) is not None
        }
        for task, corpus in config.tasks.items()
    }
    files = {
        task: {
            name: [[_described(file, config.tasks[task]) for file in group] for group in found]
            for name, found in sources_of_task.items()
        }
        for task, sources_of_task in groups.items()
    }
    return dataset_passes.Plan(_folder(config), _settings(config), groups, files)


def run(config: schema.RunConfig, session: executors.Session, reporter: progress_display.Reporter) -> Report:
    """Makes the dataset of a run below its root, or finds it made.

    What a dataset is made of is text, wherever it lies: of a finished one, sources that lie elsewhere than they did
    are read again and compared; those that are gone are done without.

    Raises:
        DataError: a source is missing, damaged, misaligned or has no usable line.
        LockedError: the folder holds a dataset, whole or begun, of other settings or of other text.
        IntegrityError, StorageError, ClusterError, InterruptedRunError: as their names say.
    """
    started_s = time.monotonic()
    folder = _folder(config)
    if config.corpus_kind == "series":
        return _prepare_series(config, folder, reporter)
    store = commit.PartStore(folder, dataset_passes.content(_settings(config)))
    content = store.manifest(dataset_index.NAME)
    if content is not None:
        made = dataset_index.DatasetIndex.from_json(content, str(folder.join(dataset_index.NAME)))
        _check_sources(config, made, session, reporter)
    else:
        all_passes = _passes(plan(config), config, session, reporter)
        store.begin()
        made = all_passes.run(config.sharding)
        store.finish(made.to_json(), dataset_index.NAME)
        session.metrics.set(catalog.LAST_SUCCESS, time.time(), stage=passes.STAGE)
    _clean_up(folder)
    return _report(folder, made, started_s, already_done=content is not None)


def _prepare_series(config: schema.RunConfig, folder: location.Location, reporter: progress_display.Reporter) -> Report:
    """Makes a dataset of numbers: read whole, in this process."""
    started_s = time.monotonic()
    with reporter.stage("prepare: read series", None, "datasets") as stage:
        made, already_done = series.prepare(config.tasks[""], _settings(config), folder)
        stage.advance()
    return {
        "verb": "prepare",
        "path": str(folder),
        "already_done": already_done,
        "kind": "series",
        "columns": {"inputs": list(made.inputs), "targets": list(made.targets)},
        "splits": {name: {"rows": len(values_TC)} for name, values_TC in made.splits.items()},
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def _passes(
    planned: dataset_passes.Plan,
    config: schema.RunConfig,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> dataset_passes.Passes:
    return dataset_passes.Passes(planned, config.tasks, config.tokenizer, config.seed, session, reporter)


def _check_sources(
    config: schema.RunConfig,
    made: dataset_index.DatasetIndex,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> None:
    """Makes sure that a finished dataset was made of the text that the settings name now."""
    try:
        planned = plan(config)
    except errors.DataError as error:
        _log.warning("%s; the dataset in %s is whole and does without", error, _folder(config))
        return
    planned_files = [files for found in planned.files.values() for files in found.values()]
    if [source["files"] for source in made.sources] == planned_files:
        return
    try:
        found = _passes(planned, config, session, reporter).read_again(config.sharding)
    finally:
        _clean_up(planned.folder)
    for source in made.sources:
        task, _, split = source["split"].rpartition(".")
        if found[task][split] != source["sha256"]:
            raise errors.LockedError(
                f"{_where(task)}.{split}: is not the text that the dataset in {planned.folder} was made of; "
                "use another root, or name that text"
            )


def _folder(config: schema.RunConfig) -> location.Location:
    return location.Location.parse(config.root, "root").join(FOLDER)


def _settings(config: schema.RunConfig) -> dict[str, Any]:
    """The settings that decide a dataset, as it was begun with them."""
    try:
        begun = commit.read_manifest(_folder(config), commit.PLAN, commit.PLAN_FORMAT, commit.PLAN_VERSION)
    except errors.NotFoundError:
        return config.of_dataset()
    return config.of_dataset((begun.get("plan") or {}).get("settings") or {})


def _where(task: str) -> str:
    return f"corpora.{task}" if task else "corpus"


def _described(file: sources.File, corpus: corpus_settings.CorpusConfig) -> dict[str, Any]:
    """What tells without reading that a file is the one of before."""
    # A web server may not tell the size; such a source has its checksum in the settings.
    expected = sources.expected_sha256(file, corpus.sha256)
    return {"url": file.url, "size_bytes": None if file.is_web else file.place.size_bytes(), "sha256": expected}


def _clean_up(folder: location.Location) -> None:
    """Removes what only the passes needed: records first, then the files that they name."""
    for name in (commit.RECORDS, sharding.STAGING):
        place = folder.join(name)
        for left in place.list_names():
            place.join(left).remove()
        if place.is_local:
            with contextlib.suppress(OSError):
                place.path.rmdir()


def _report(
    folder: location.Location, made: dataset_index.DatasetIndex, started_s: float, already_done: bool
) -> Report:
    return {
        "verb": "prepare",
        "path": str(folder),
        "already_done": already_done,
        "kind": made.kind,
        "splits": {
            name: {"lines": made.rows(name), "tokens": made.tokens(name), "shards": len(records)}
            for name, records in made.splits.items()
        },
        **({"tasks": tasks} if (tasks := made.by_task()) else {}),
        "vocabulary_sizes": {column: record.vocabulary_size for column, record in made.tokenizers.items()},
        "lines_read": made.lines_read,
        "drops": made.drops,
        "repairs": made.repairs,
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }
