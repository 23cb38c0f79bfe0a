"""The verb `evaluate`: BLEU, chrF and TER of translations with their signatures, and an error analysis."""

import logging
import tempfile
from collections.abc import Sequence
from typing import Any

from core import errors
from core.data.text import corpus
from core.decoding.lines import inputs
from core.evaluation import error_analysis, quality
from core.storage import location
from jobs import paths
from workers.fanout import progress_display

_PART_LINES = 4096
_TEXT_COLUMN = "text"
D2L_BLEU_K = 2  # longest n-grams of `quality.d2l_bleu` by default, as in Dive into Deep Learning

_log = logging.getLogger(__name__)


def run(
    hypotheses: str, references: Sequence[str], reporter: progress_display.Reporter, d2l_bleu_k: int = D2L_BLEU_K
) -> dict[str, Any]:
    """Compares translations with references.

    In JSONL and Parquet files the column `text` is read, as `translate` writes it.

    Raises:
        DataError: the numbers of lines differ, or a line is not valid text.
        UsageError: a file is missing.
    """
    with reporter.stage("evaluate", 1 + len(references), "files") as stage:
        lines = _read(hypotheses, "--hypotheses")
        stage.advance()
        against = []
        for reference in references:
            against.append(_read(reference, "--references"))
            stage.advance()
    scores = quality.corpus(lines, against)
    # Defined for one reference: each gives a value of its own.
    d2l_bleu = [quality.mean_d2l_bleu(lines, reference, d2l_bleu_k) for reference in against]
    return {
        "verb": "evaluate",
        "hypotheses": str(paths.locate(hypotheses, "--hypotheses")),
        "references": [str(paths.locate(reference, "--references")) for reference in references],
        "lines": len(lines),
        "bleu": scores.bleu,
        "chrf": scores.chrf,
        "ter": scores.ter,
        "signatures": scores.signatures,
        "d2l_bleu": d2l_bleu,
        "d2l_bleu_k": d2l_bleu_k,
        # The names of release 0.1, kept for one version.
        "documents_bleu": d2l_bleu,
        "documents_bleu_k": d2l_bleu_k,
        "by_length": [bucket._asdict() for bucket in error_analysis.by_length(lines, against)],
        "faults": error_analysis.faults(lines, against[0]).to_json(),
    }


def ngram_order(d2l_bleu_k: int | None, documents_k: int | None) -> int:
    """Returns the value of `--d2l-bleu-k`, or of `--documents-k`, its deprecated name.

    Raises:
        UsageError: both are given.
    """
    if documents_k is None:
        return d2l_bleu_k or D2L_BLEU_K
    if d2l_bleu_k is not None:
        raise errors.UsageError("--documents-k: --d2l-bleu-k is given, too; keep --d2l-bleu-k")
    _log.warning("--documents-k: is deprecated; use --d2l-bleu-k")
    return documents_k


def _read(text: str, where: str) -> list[str]:
    path = paths.locate(text, where)
    column = None if inputs.form_of(path) == "text" else _TEXT_COLUMN
    with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
        scanned = inputs.scan(path, column, _PART_LINES, location.Location.parse(scratch), where)
        lines: list[str] = []
        for part in inputs.parts([scanned]):
            for row in inputs.read(part):
                # A line left out would shift all after it against the references.
                if isinstance(row, corpus.BadLine):
                    raise errors.DataError(f"{row.where}: {row.reason}; every line is compared, correct the file")
                lines.append(row[0])
    return lines
