"""Compares translations with references: BLEU, chrF and TER with their signatures, and where translations go wrong."""

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
DOCUMENTS_K = 2
"""Up to which n-grams the documents' BLEU looks where nobody says: as they print it."""


def run(
    hypotheses: str, references: Sequence[str], reporter: progress_display.Reporter, documents_k: int = DOCUMENTS_K
) -> dict[str, Any]:
    """Reads all files and compares; JSONL and Parquet give their column `text`, as `translate` writes it.

    Raises:
        DataError: the numbers of lines differ, or a line is no valid text.
        UsageError: a file is missing.
    """
    with reporter.stage("evaluate", 1 + len(references), "files") as stage:
        lines = _read(hypotheses, "--hypotheses")
        stage.advance()
        against = []
        for reference in references:
            against.append(_read(reference, "--references"))
            stage.advance()
    found = quality.corpus(lines, against)
    return {
        "verb": "evaluate",
        "hypotheses": str(paths.locate(hypotheses, "--hypotheses")),
        "references": [str(paths.locate(reference, "--references")) for reference in references],
        "lines": len(lines),
        "bleu": found.bleu,
        "chrf": found.chrf,
        "ter": found.ter,
        "signatures": found.signatures,
        "documents_bleu": [quality.documents_corpus(lines, reference, documents_k) for reference in against],
        "documents_bleu_k": documents_k,
        "by_length": [bucket._asdict() for bucket in error_analysis.by_length(lines, against)],
        "faults": error_analysis.faults(lines, against[0]).to_json(),
    }


def _read(text: str, where: str) -> list[str]:
    place = paths.locate(text, where)
    column = None if inputs.form_of(place) == "text" else _TEXT_COLUMN
    with tempfile.TemporaryDirectory(prefix="raycurrent-") as scratch:
        folder = location.Location.parse(scratch)
        found = inputs.scan(place, column, _PART_LINES, folder, where)
        lines: list[str] = []
        for piece in inputs.pieces([found]):
            for row in inputs.read(piece):
                if isinstance(row, corpus.BadLine):
                    raise errors.DataError(
                        f"{row.where}: {row.reason}; what is compared must be whole, correct the file"
                    )
                lines.append(row[0])
    return lines
