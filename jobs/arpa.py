"""N-gram models of runs as ARPA files, and runs of models in ARPA files."""

import contextlib
import gzip
import logging
import time
from typing import Any, BinaryIO, cast

from core import errors
from core.data.text import compression
from core.data.tokens import tokenizer, vocabulary
from core.models import bundle as bundles
from core.models.ngram import arpa, ngram_model
from core.storage import location, private_folders, run_lock
from core.training import checkpoint, progress, run_log

_log = logging.getLogger(__name__)
_RESERVED = ("<unk>", "<eos>")


def export(root: location.Location, output: location.Location, overwrite: bool) -> dict[str, Any]:
    """Writes the model of a run, and returns the report.

    Raises:
        UsageError: the run is none of an n-gram model, or the format cannot hold it.
        LockedError: the file exists, and is not to be replaced.
    """
    started_s = time.monotonic()
    selected = bundles.select_checkpoint(root)
    bundle = bundles.load(selected.bundle)
    if not isinstance(bundle.model, ngram_model.Ngram):
        raise errors.UsageError(f"--run: {root} has a model of kind {bundle.config.kind}; ARPA is for kind ngram")
    if output.exists() and not overwrite:
        raise errors.LockedError(f"--output: {output} exists; name another file, or use --overwrite")
    codec = bundle.codecs["text"]
    names = [codec.tokenizer.token(token) for token in range(codec.tokenizer.vocabulary_size)]
    if codec.cleaning:
        _log.warning("the words are those of cleaned text (%s): clean what you score", ", ".join(codec.cleaning))
    with private_folders.scratch() as folder:
        path = folder / "model.arpa"
        with contextlib.ExitStack() as stack:
            opened: BinaryIO = stack.enter_context(path.open("wb"))
            if output.name.endswith(".gz"):
                # Without a time: equal models give equal bytes.
                opened = cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", 6, opened, mtime=0)))
            num_ngrams = arpa.write(bundle.model, names, codec.tokenizer.eos_id, opened)
        output.replace_by_file(path)
        size_bytes = path.stat().st_size
    return {
        "verb": "export",
        "run": str(root),
        "checkpoint": str(selected.checkpoint),
        "output": str(output),
        "unit": bundle.model.config.unit,
        "ngrams": num_ngrams,
        "size_bytes": size_bytes,
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def import_(file: location.Location, root: location.Location) -> dict[str, Any]:
    """Makes a run of the model in an ARPA file, and returns the report.

    Raises:
        DataError: the file is not a valid ARPA file.
        LockedError: the root has a model already.
    """
    started_s = time.monotonic()
    with run_lock.RunLock(root, "import"):
        if checkpoint.folders(root):
            raise errors.LockedError(f"--run: {root} has a model already; name another root")
        with file.open() as opened, compression.unpack(file, "", opened) as (_, buffers):
            imported = arpa.read(buffers, str(file))
        counts = vocabulary.Counts()
        counts.add(imported.words)
        made = tokenizer.from_counts("word", counts, 1, None, _RESERVED)
        model = ngram_model.Ngram(imported.config, made.vocabulary_size, imported.stored)
        bundle = bundles.Bundle(model, imported.config, {"text": tokenizer.Codec((), made)}, "eos", "fp32")
        fencing_number = checkpoint.take_fencing_number(root, world_size=1)
        state = progress.State(step=1, corpora=[progress.CorpusState(epoch=1)])
        snapshot = checkpoint.Snapshot(bundle, {}, None, state, {"imported_from": str(file)}, None)
        saved = checkpoint.save(root, fencing_number, snapshot, run_log.RunLog(root, fencing_number))
    return {
        "verb": "import",
        "run": str(root),
        "checkpoint": str(saved.folder),
        "input": str(file),
        "order": imported.config.order,
        "unit": imported.config.unit,
        "vocabulary_size": made.vocabulary_size,
        "ngrams": [len(model.probability(level)) for level in range(1, imported.config.order + 1)],
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }
