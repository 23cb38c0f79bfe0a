"""`prepare`: corpora become an Arrow dataset, by passes over parts of lines.

Each pass is a fan-out of one kind of task (`workers.sharding`); a task that is committed is not done again. The
driver holds a small record of each part, never lines; the index, written last, makes the dataset visible.
"""

import contextlib
import time
from typing import Any

from core import errors
from core.config import schema
from core.data import dataset_index, sources
from core.storage import commit, location
from core.telemetry import catalog
from jobs import console
from workers import preparing, sharding

FOLDER = "dataset"

Report = dict[str, Any]


def plan(config: schema.RunConfig) -> preparing.Plan:
    """Finds the files of all sources; reads none of them.

    Raises:
        DataError: a source names no file.
        UsageError: the settings do not fit together.
    """
    if config.corpus.limit.tokens and config.tokenizer.kind == "bpe":
        raise errors.UsageError("corpus.limit.tokens: counts characters or words; with bpe use limit.lines")
    groups = {
        name: sources.resolve(source, f"corpus.{name}", config.corpus.sha256)
        for name in dataset_index.SPLITS
        if (source := getattr(config.corpus, name)) is not None
    }
    files = {
        name: [[{"url": file.url, "size_bytes": _size(file)} for file in group] for group in found]
        for name, found in groups.items()
    }
    return preparing.Plan(_folder(config), {"settings": _settings(config), "sources": files}, groups)


def run(config: schema.RunConfig, session: preparing.Session, reporter: console.Reporter) -> Report:
    """Makes the dataset of a run below its root, or finds it made.

    Raises:
        DataError: a source is missing, damaged, misaligned or has no usable line.
        LockedError: the folder holds a dataset, whole or begun, of other settings or sources.
        IntegrityError, StorageError, ClusterError, InterruptedRunError: as their names say.
    """
    started_s = time.monotonic()
    try:
        planned = plan(config)
    except errors.DataError:
        # A finished dataset is whole in itself: its sources may be gone.
        found = _finished(_folder(config))
        if found is None or found.settings != _settings(config):
            raise
        return _report(_folder(config), found, started_s, already=True)
    store = commit.PartStore(planned.folder, planned.content)
    if (content := store.manifest(dataset_index.NAME)) is not None:
        found = dataset_index.DatasetIndex.from_json(content, str(planned.folder.join(dataset_index.NAME)))
        return _report(planned.folder, found, started_s, already=True)
    store.begin()
    passes = preparing.Passes(planned, config.corpus, config.tokenizer, config.seed, session, reporter)
    made = passes.run(config.sharding)
    store.finish(made.to_json(), dataset_index.NAME)
    _clean_up(planned.folder)
    session.recorder.set(catalog.LAST_SUCCESS, time.time(), stage=preparing.STAGE)
    return _report(planned.folder, made, started_s, already=False)


def _folder(config: schema.RunConfig) -> location.Location:
    return location.Location.parse(config.root, "root").join(FOLDER)


def _settings(config: schema.RunConfig) -> dict[str, Any]:
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("corpus", "tokenizer", "sharding")}
    return {**sections, "seed": config.seed}


def _size(file: location.Location) -> int | None:
    # A web server may not tell; such a source has its checksum in the settings.
    return None if file.url.startswith(("http://", "https://")) else file.size_bytes()


def _finished(folder: location.Location) -> dataset_index.DatasetIndex | None:
    try:
        content = commit.read_manifest(folder, dataset_index.NAME, dataset_index.FORMAT, dataset_index.FORMAT_VERSION)
    except errors.NotFoundError:
        return None
    return dataset_index.DatasetIndex.from_json(content, str(folder.join(dataset_index.NAME)))


def _clean_up(folder: location.Location) -> None:
    """Removes what only the passes needed: records first, then the files that they name."""
    for name in (commit.RECORDS, sharding.STAGING):
        place = folder.join(name)
        for left in place.list_names():
            place.join(left).remove()
        if place.is_local:
            with contextlib.suppress(OSError):
                place.path.rmdir()


def _report(folder: location.Location, made: dataset_index.DatasetIndex, started_s: float, already: bool) -> Report:
    return {
        "path": str(folder),
        "already": already,
        "kind": made.kind,
        "splits": {
            name: {"lines": made.rows(name), "tokens": made.tokens(name), "shards": len(records)}
            for name, records in made.splits.items()
        },
        "vocabulary_sizes": {column: record.vocabulary_size for column, record in made.tokenizers.items()},
        "lines_read": made.lines_read,
        "drops": made.drops,
        "seconds": round(time.monotonic() - started_s, 3),
    }
