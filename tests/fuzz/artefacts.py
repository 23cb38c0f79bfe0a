"""Readers of our own files: a function for each that takes the bytes of one file of a root and reads them as we do.

Where a manifest holds the hash of the file, the harness writes the right one for any bytes: a hash shows damage, not
who made the file, so that the code behind it must stand hostile bytes, too.
"""

import functools
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

from core import errors
from core.config import loading
from core.data import ngram_counts
from core.data.dataset import arrow_file, shards
from core.data.series import dataset as series_dataset
from core.data.tokens import tokenizer, tokenizer_trial
from core.decoding.lines import results
from core.decoding.translation import shortlist
from core.models import bundle, weights
from core.models import state as states
from core.reporting import content as report_content
from core.reporting import training_history
from core.storage import commit, location, run_lock
from core.training import checkpoint
from jobs import report, run_state

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "roots"
ROWS, SIZES = [[5, 6, 7], [], [300], [1, 2]], {"text": 301}


@functools.cache
def scratch() -> pathlib.Path:
    """Returns a folder of this process that is removed at its end."""
    holder = tempfile.TemporaryDirectory(prefix="raycurrent-fuzz-")
    _HOLDERS.append(holder)
    return pathlib.Path(holder.name)


_HOLDERS: list[Any] = []


@functools.cache
def root(name: str, reader: str) -> pathlib.Path:
    """Returns a copy of a golden root for one reader, which damages nothing of another's."""
    return pathlib.Path(shutil.copytree(GOLDEN / name, scratch() / reader / name))


def place(path: pathlib.Path) -> location.Location:
    """Returns the location of a path."""
    return location.Location.parse(str(path))


def files(pattern: str) -> list[bytes]:
    """Returns the contents of the golden files that match, each once."""
    return list(dict.fromkeys(path.read_bytes() for path in sorted(GOLDEN.glob(pattern))))


def checkpoint_folder(name: str, reader: str) -> pathlib.Path:
    """Returns the newest checkpoint of a copied root."""
    return sorted(root(name, reader).glob("checkpoints/*"))[-1]


def with_hash(folder: pathlib.Path, file: str, data: bytes) -> None:
    """Writes a file of a checkpoint, and its hash into the manifest."""
    (folder / file).write_bytes(data)
    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_bytes())
    for record in manifest["files"]:
        if record["name"] == file:
            record["sha256"], record["size_bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    path.write_text(json.dumps(manifest))


def shard(data: bytes) -> object:
    """Opens a shard of the rows above, with the right hash of any bytes."""
    path = scratch() / "part-00000.arrow"
    path.write_bytes(data)
    expected = arrow_file.Expected("x", len(data), hashlib.sha256(data).hexdigest(), 4, {"text": 6}, SIZES)
    found = arrow_file.open_shard(place(path), expected, verify=True)
    return [found.sides["text"].values.sum(), found.lines.sum()]


def dataset_index(data: bytes) -> object:
    """Opens a dataset with this index."""
    folder = root("language-model", "index") / "dataset"
    (folder / "index.json").write_bytes(data)
    opened = shards.Dataset.open(place(folder), verify=False)
    return [opened.corpora, opened.split("train"), opened.index.by_corpus()]


def series_index(data: bytes) -> object:
    """Opens a dataset of series with this index."""
    folder = root("series", "index") / "dataset"
    (folder / "index.json").write_bytes(data)
    return series_dataset.open_dataset(place(folder)).described_splits()


def series_table(data: bytes) -> object:
    """Opens a dataset of series with these rows, with the right hash of any bytes."""
    folder = root("series", "table") / "dataset"
    index = json.loads((GOLDEN / "series" / "dataset" / "index.json").read_bytes())
    record = index["splits"]["valid"]
    (folder / record["name"]).write_bytes(data)
    record["sha256"], record["size_bytes"] = hashlib.sha256(data).hexdigest(), len(data)
    (folder / "index.json").write_text(json.dumps(index))
    return series_dataset.open_dataset(place(folder)).described_splits()


def statistics(data: bytes) -> object:
    """Reports a run with these word statistics."""
    folder = root("language-model", "statistics")
    (path,) = folder.glob("dataset/statistics-*.json")
    path.write_bytes(data)
    # As a forger would: else nothing behind the hash would be reached.
    index = json.loads((folder / "dataset" / "index.json").read_text())
    index["statistics"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (folder / "dataset" / "index.json").write_text(json.dumps(index))
    return _report(folder)


def part_store(data: bytes) -> object:
    """Reads an output folder whose manifest, plan and commit record are these bytes, and removes it."""
    folder = scratch() / "output"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / commit.RECORDS).mkdir(parents=True)
    for name in (commit.MANIFEST, commit.PLAN, f"{commit.RECORDS}/part-000000.json"):
        (folder / name).write_bytes(data)
    store = commit.PartStore(place(folder), {"beam_size": 5})
    actions: tuple[Callable[[], object], ...] = (
        store.begin,
        lambda: store.committed("part-000000"),
        store.manifest,
        lambda: store.remove(lambda: None),
    )
    for action in actions:
        try:
            action()
        except errors.LockedError:  # another plan, as it should be
            continue
    return None


def checkpoint_manifest(data: bytes) -> object:
    """Selects the checkpoint of a run, for inference and for a resume, with this manifest."""
    folder = checkpoint_folder("language-model", "manifest")
    (folder / "MANIFEST.json").write_bytes(data)
    run = place(root("language-model", "manifest"))
    found: list[object] = [bundle.select_checkpoint(run)]
    found += [checkpoint.readable(run), checkpoint.find_best(run), checkpoint.find_newest(run)]
    return [*found, checkpoint.read(place(folder))]


def progress(data: bytes) -> object:
    """Reads the training state of a checkpoint, with the right hash of any bytes."""
    folder = checkpoint_folder("translation", "progress")
    with_hash(folder, checkpoint.PROGRESS, data)
    state, settings = checkpoint.load_state(checkpoint.read(place(folder)))
    return [state.to_json(), state.epochs_done, settings, state.selection_keys("bleu")]


def tensors(data: bytes) -> object:
    """Reads the optimizer's and the hidden state of a checkpoint, with the right hash of any bytes."""
    read = weights.from_bytes(data, "x.safetensors")
    weights.check_finite(read, "x.safetensors")
    return states.from_named(read)


def model_weights(data: bytes) -> object:
    """Loads a bundle with these weights, with the right hash of any bytes."""
    return _bundle("language-model", bundle.WEIGHTS_FILE, data)


def model_settings(data: bytes) -> object:
    """Loads a bundle with these settings, with the right hashes of any bytes."""
    folder = checkpoint_folder("series", "settings") / "bundle"
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict):
        if isinstance(settings.get("files"), dict) and bundle.WEIGHTS_FILE in settings["files"]:
            weights_file = (folder / bundle.WEIGHTS_FILE).read_bytes()
            settings["files"][bundle.WEIGHTS_FILE] = commit.sha256_hex(weights_file)
        data = _with_digest(settings)
    (folder / bundle.SETTINGS_FILE).write_bytes(data)
    return bundle.load(place(folder))


def _with_digest(settings: dict[str, Any]) -> bytes:
    settings["sha256"] = bundle._digest(settings)
    return json.dumps(settings).encode()


def _bundle(name: str, file: str, data: bytes) -> object:
    folder = checkpoint_folder(name, "weights") / "bundle"
    settings = json.loads((folder / bundle.SETTINGS_FILE).read_bytes())
    settings["files"][file] = commit.sha256_hex(data)
    (folder / file).write_bytes(data)
    (folder / bundle.SETTINGS_FILE).write_bytes(_with_digest(settings))
    return bundle.load(place(folder))


def shortlist_table(data: bytes) -> object:
    """Reads a table of translation candidates under the name of its hash."""
    path = scratch() / f"shortlist-{commit.sha256_hex(data)[:16]}.safetensors"
    path.write_bytes(data)
    try:
        return shortlist.read(place(path))
    finally:
        path.unlink()


def tokenizer_json(data: bytes) -> object:
    """Reads a tokenizer, without the trial of those of other programs, which has a process of its own."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    with mock.patch.object(tokenizer_trial, "problem_of", return_value="not tried here"):
        read = tokenizer.Tokenizer.from_json(text, "tokenizer.json")
    return read.decode(read.encode("a word <unk> ö")[:100])


def result_rows(data: bytes) -> object:
    """Decodes the rows of a part, as translations or scores, and writes them as lines."""
    tables = []
    for kind in ("translations", "scores", "forecasts"):
        try:
            table = results.decode(kind, data, "x.arrow")
        except errors.IntegrityError:
            continue
        tables.append([list(results.text_lines(table)), list(results.json_lines(table))])
    return tables


def ngram_table(data: bytes) -> object:
    """Decodes counts of bigrams."""
    counts = ngram_counts.decode(data, 2, "x.arrow")
    return ngram_counts.merge([counts, counts], 1 << 20)


def run_json(data: bytes) -> object:
    """Reads the state of a run, and its report from it."""
    path = root("language-model", "run") / "run.json"
    path.write_bytes(data)
    run_state.read(place(path.parent))
    return _report(path.parent)


def run_log(data: bytes) -> object:
    """Reads a segment of the run log, and the report of the run."""
    folder = root("language-model", "log")
    sorted(folder.glob("metrics/*.jsonl"))[0].write_bytes(data)
    training_history.read_history(place(folder))
    return _report(folder)


def _report(folder: pathlib.Path) -> object:
    # Drawn it takes seconds: the figures alone.
    with report._reading(place(folder)):
        return report_content.build(place(folder))


def stored_settings(data: bytes) -> object:
    """Reads the stored `config.yaml` of a root."""
    return loading.parse_stored(data, "config.yaml")


def lock(data: bytes) -> object:
    """Takes the lock of a root whose last holder's file, and heartbeat, are these bytes."""
    folder = scratch() / "locked"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / run_lock.FOLDER).mkdir(parents=True)
    for kind in ("epoch", "heartbeat"):
        (folder / run_lock.FOLDER / f"{kind}-000001.json").write_bytes(data)
    try:
        with run_lock.RunLock(place(folder), "train", ttl_s=0.0, heartbeat_s=0.001):
            return None
    except errors.LockedError:  # the holder may well be alive
        return None
