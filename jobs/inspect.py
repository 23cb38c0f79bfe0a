"""Inspection of datasets, checkpoints, runs and output folders.

Describes an artefact from its manifest, and verifies size and SHA-256 of every file that the manifest lists.
"""

from collections.abc import Mapping
from typing import Any

from core import errors
from core.data.dataset import dataset_index, shards
from core.data.series import dataset as series_dataset
from core.decoding.lines import outputs
from core.decoding.translation import shortlist
from core.models import bundle
from core.storage import commit, control_files, location, root_layout
from jobs import run_checks
from workers.fanout import progress_display

Description = dict[str, Any]


def run(path: location.Location, reporter: progress_display.Reporter) -> Description:
    """Describes an artefact and verifies its files.

    Raises:
        UsageError: the path does not exist, or is not an artefact of Raycurrent.
        IntegrityError: a file is missing, damaged, or inconsistent with the others; the message names it.
    """
    path = run_checks.artefact_at(path)
    with reporter.stage("inspect", None, "artefacts") as stage:
        description = _inspect(path, stage)
    return {"path": str(path), "verified": True, **description}


def _inspect(path: location.Location, stage: progress_display.Stage) -> Description:
    # Before outputs: the folder of a dataset has a plan, too.
    if path.join(dataset_index.NAME).exists():
        description = _describe_dataset(path)
    elif path.join(bundle.CHECKPOINT_MANIFEST).exists():
        description = _describe_checkpoint(path)
    elif path.join(commit.PLAN).exists() or path.join(commit.MANIFEST).exists():
        description = _describe_output(path)
    elif path.join(root_layout.SETTINGS).exists() or path.join(root_layout.CHECKPOINTS).exists():
        return _describe_run(path, stage)
    elif path.parent.join(path.name + outputs.MANIFEST).exists():
        description = _describe_file(path)
    else:
        description = _describe_output(path.parent.join(path.name + outputs.PARTS))
    stage.advance()
    return description


def _describe_series(folder: location.Location) -> Description:
    dataset = series_dataset.open_dataset(folder)
    return {
        "kind": "dataset",
        "of": "series",
        "fingerprint": dataset.fingerprint,
        "splits": dataset.described_splits(),
        "columns": {"inputs": list(dataset.inputs), "targets": list(dataset.targets)},
    }


def _describe_dataset(folder: location.Location) -> Description:
    if series_dataset.is_series(folder):
        return _describe_series(folder)
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
        **({"tasks": by_corpus} if (by_corpus := content.by_corpus()) else {}),  # the stored key
        "drops": content.drops,
        "repairs": content.repairs,
        "lines_read": content.lines_read,
        "vocabulary_sizes": {column: record.vocabulary_size for column, record in content.tokenizers.items()},
    }


def _describe_checkpoint(folder: location.Location) -> Description:
    manifest = commit.read_manifest(
        folder, bundle.CHECKPOINT_MANIFEST, bundle.CHECKPOINT_FORMAT, bundle.CHECKPOINT_VERSION
    )
    records = _records(manifest, folder.join(bundle.CHECKPOINT_MANIFEST))
    commit.verify(folder, records)
    # Loaded as well: that each file is intact does not show that they fit together.
    loaded = bundle.load(folder.join(bundle.FOLDER))
    parameters = bundle.stored_tensors(loaded.model).values()
    return {
        "kind": "checkpoint",
        "model": loaded.config.kind,
        "step": manifest.get("step"),
        "fencing_number": manifest.get("epoch"),  # under its stored name
        "epoch": manifest.get("epoch"),  # the name of before 0.2, until 0.3
        "validation": manifest.get("validation"),
        "precision": loaded.precision,
        "fingerprint": loaded.fingerprint,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "files": len(records),
        "size_bytes": sum(record.size_bytes for record in records),
    }


def _describe_output(folder: location.Location) -> Description:
    """Describes a folder of parts; of an unfinished dataset or output only the number of committed parts."""
    if not folder.join(commit.MANIFEST).exists():
        done = [name for name in folder.join(commit.RECORDS).list_names() if name.endswith(".json")]
        return {"kind": "unfinished", "complete": False, "parts_done": len(done)}
    content = control_files.read(folder.join(commit.MANIFEST), control_files.MAX_MANIFEST_BYTES)
    records = _records(content, folder.join(commit.MANIFEST))
    commit.verify(folder, records)
    # Users name these files, so that their names may have any characters. The file of a single input is not in the
    # folder of its parts, but beside it.
    match content.get("merged"):
        case {"name": str(name), "sha256": str(sha256)}:
            commit.verify_file(folder.parent, name, sha256)
        case [*entries]:
            for entry in entries:
                commit.verify_file(folder, entry["name"], entry["sha256"])
    summary = {name: value for name, value in content.items() if name not in ("files", "shards", "plan")}
    return {"kind": "output", "complete": True, "shards": len(records), "manifest": summary}


def _describe_file(file: location.Location) -> Description:
    """Describes a merged file whose parts were not kept."""
    where = file.parent.join(file.name + outputs.MANIFEST)
    content = commit.read_manifest(file.parent, where.name, outputs.FORMAT, outputs.VERSION)
    with control_files.parsing(str(where)):
        # Users name these files, so that their names may have any characters.
        for entry in (content["merged"], *(content.get("sidecars") or ())):
            commit.verify_file(file.parent, entry["name"], entry["sha256"])
    summary = {name: value for name, value in content.items() if name not in ("plan", "settings")}
    return {"kind": "output", "complete": True, "manifest": summary}


def _describe_run(root: location.Location, stage: progress_display.Stage) -> Description:
    """Describes and verifies everything below the root of a run: dataset, checkpoints, shortlists, outputs."""
    has_dataset = root.join(root_layout.DATASET, dataset_index.NAME).exists()
    description: Description = {
        "kind": "run",
        "dataset": _inspect(root.join(root_layout.DATASET), stage) if has_dataset else None,
        "checkpoints": {},
        "shortlists": {},
        "outputs": {},
    }
    for name in root.join(root_layout.CHECKPOINTS).list_names():
        folder = root.join(root_layout.CHECKPOINTS, name)
        if folder.join(bundle.CHECKPOINT_MANIFEST).exists():
            description["checkpoints"][name] = _inspect(folder, stage)
    # No manifest lists shortlists: their names hold their hashes.
    for name in (name for name in root.join(shortlist.FOLDER).list_names() if name.endswith(".safetensors")):
        table = shortlist.read(root.join(shortlist.FOLDER, name))
        sizes = {"source": len(table.candidates_SC), "target": len(table.frequent_V)}
        description["shortlists"][name] = {"candidates": table.candidates_SC.shape[1], "vocabulary_sizes": sizes}
        stage.advance()
    for name in root.join(root_layout.OUTPUTS).list_names():
        folder = root.join(root_layout.OUTPUTS, name)
        if folder.join(commit.PLAN).exists() or folder.join(commit.MANIFEST).exists():
            description["outputs"][name] = _inspect(folder, stage)
    return description


def _records(manifest: Mapping[str, Any], where: location.Location) -> list[commit.FileRecord]:
    files = manifest.get("files")
    if not isinstance(files, list):
        raise errors.IntegrityError(f"{where}: does not list its files; restore the manifest")
    return [commit.FileRecord.from_json(file, str(where)) for file in files]
