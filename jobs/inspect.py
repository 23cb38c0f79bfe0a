"""What a dataset, checkpoint, run or output folder holds; every file that it names is read and checked."""

from collections.abc import Mapping
from typing import Any

from core import errors
from core.data import series
from core.data.dataset import dataset_index, shards
from core.decoding.translation import shortlist
from core.models import bundle
from core.storage import commit, location
from workers.fanout import progress_display

Found = dict[str, Any]

_OUTPUT_PARTS = ".parts"


def run(place: location.Location, reporter: progress_display.Reporter) -> Found:
    """Describes an artefact of ours and verifies it.

    Raises:
        UsageError: there is nothing of ours at this place.
        IntegrityError: a file is missing, damaged, or does not add up with the others; names it.
    """
    with reporter.stage("inspect", None, "artefacts") as stage:
        found = _inspect(place, stage)
    return {"path": str(place), "verified": True, **found}


def _inspect(place: location.Location, stage: progress_display.Stage) -> Found:
    if place.join(dataset_index.NAME).exists():
        found = _dataset(place)
    elif place.join(bundle.CHECKPOINT_MANIFEST).exists():
        found = _checkpoint(place)
    elif place.join(commit.PLAN).exists() or place.join(commit.MANIFEST).exists():
        found = _output(place)
    elif place.join("config.yaml").exists() or place.join("checkpoints").exists():
        return _run(place, stage)
    elif place.parent.join(place.name + _OUTPUT_PARTS).exists():
        found = _output(place.parent.join(place.name + _OUTPUT_PARTS))
    elif place.exists():
        raise errors.UsageError(
            f"{place}: is no dataset, checkpoint, run or output of ours; name a folder that holds one of these"
        )
    else:
        raise errors.UsageError(f"{place}: does not exist; check the name")
    stage.advance()
    return found


def _series(folder: location.Location) -> Found:
    dataset = series.open_dataset(folder)
    return {
        "kind": "dataset",
        "of": "series",
        "fingerprint": dataset.fingerprint,
        "splits": {name: {"rows": len(values_TC)} for name, values_TC in dataset.splits.items()},
        "columns": {"inputs": list(dataset.inputs), "targets": list(dataset.targets)},
    }


def _dataset(folder: location.Location) -> Found:
    if series.is_series(folder):
        return _series(folder)
    dataset = shards.Dataset.open(folder)
    dataset.verify()
    content = dataset.index
    return {
        "kind": "dataset",
        "of": content.kind,
        "fingerprint": content.fingerprint,
        "splits": {
            name: {"lines": content.rows(name), "tokens": content.tokens(name), "shards": len(records)}
            for name, records in content.splits.items()
        },
        **({"tasks": tasks} if (tasks := content.by_task()) else {}),
        "drops": content.drops,
        "repairs": content.repairs,
        "lines_read": content.lines_read,
        "vocabulary_sizes": {column: record.vocabulary_size for column, record in content.tokenizers.items()},
    }


def _checkpoint(folder: location.Location) -> Found:
    manifest = commit.read_manifest(
        folder, bundle.CHECKPOINT_MANIFEST, bundle.CHECKPOINT_FORMAT, bundle.CHECKPOINT_VERSION
    )
    records = _records(manifest, folder.join(bundle.CHECKPOINT_MANIFEST))
    commit.verify(folder, records)
    loaded = bundle.load(folder.join(bundle.FOLDER))
    parameters = bundle.stored_tensors(loaded.model).values()
    return {
        "kind": "checkpoint",
        "model": loaded.config.kind,
        "step": manifest.get("step"),
        "epoch": manifest.get("epoch"),
        "validation": manifest.get("validation"),
        "precision": loaded.precision,
        "fingerprint": loaded.fingerprint,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "files": len(records),
        "size_bytes": sum(record.size_bytes for record in records),
    }


def _output(folder: location.Location) -> Found:
    """Checks a folder of parts; of one that was never finished, dataset or output, there is only a count."""
    if not folder.join(commit.MANIFEST).exists():
        done = [name for name in folder.join(commit.RECORDS).list_names() if name.endswith(".json")]
        return {"kind": "unfinished", "complete": False, "parts_done": len(done)}
    content = folder.join(commit.MANIFEST).read_json()
    if not isinstance(content, dict):
        raise errors.IntegrityError(f"{folder.join(commit.MANIFEST)}: is no manifest; restore it")
    records = _records(content, folder.join(commit.MANIFEST))
    commit.verify(folder, records)
    if isinstance(merged := content.get("merged"), dict):
        commit.verify(folder.parent, [commit.FileRecord.from_json(merged, str(folder.join(commit.MANIFEST)))])
    plain = {name: value for name, value in content.items() if name not in ("files", "shards", "plan")}
    return {"kind": "output", "complete": True, "shards": len(records), "manifest": plain}


def _run(root: location.Location, stage: progress_display.Stage) -> Found:
    """Checks all that lies below a root: dataset, every checkpoint, every shortlist, every output."""
    has_dataset = root.join("dataset", dataset_index.NAME).exists()
    found: Found = {
        "kind": "run",
        "dataset": _inspect(root.join("dataset"), stage) if has_dataset else None,
        "checkpoints": {},
        "shortlists": {},
        "outputs": {},
    }
    for name in root.join(bundle.CHECKPOINTS).list_names():
        folder = root.join(bundle.CHECKPOINTS, name)
        if folder.join(bundle.CHECKPOINT_MANIFEST).exists():
            found["checkpoints"][name] = _inspect(folder, stage)
    for name in (name for name in root.join(shortlist.FOLDER).list_names() if name.endswith(".safetensors")):
        table = shortlist.read(root.join(shortlist.FOLDER, name))
        sizes = {"source": len(table.candidates_SC), "target": len(table.frequent_V)}
        found["shortlists"][name] = {"candidates": table.candidates_SC.shape[1], "vocabulary_sizes": sizes}
        stage.advance()
    for name in root.join("outputs").list_names():
        folder = root.join("outputs", name)
        if folder.join(commit.PLAN).exists() or folder.join(commit.MANIFEST).exists():
            found["outputs"][name] = _inspect(folder, stage)
    return found


def _records(manifest: Mapping[str, Any], where: location.Location) -> list[commit.FileRecord]:
    files = manifest.get("files")
    if not isinstance(files, list):
        raise errors.IntegrityError(f"{where}: does not list its files; restore it")
    return [commit.FileRecord.from_json(file, str(where)) for file in files]
