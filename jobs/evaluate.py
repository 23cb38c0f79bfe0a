"""The verb `evaluate`: BLEU, chrF and TER of translations with their signatures, an error analysis, and comparisons."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from core import errors
from core.config import evaluation_settings
from core.data.text import cleaning, corpus
from core.decoding.lines import inputs
from core.evaluation import bleu_tokenizers, error_analysis, improvement, quality, significance
from core.storage import location, private_folders
from jobs import paths, run_checks
from workers.fanout import progress_display

_PART_LINES = 4096
_TEXT_COLUMN = "text"
_NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}
D2L_BLEU_K = 2  # longest n-grams of `quality.d2l_bleu` by default, as in Dive into Deep Learning

_log = logging.getLogger(__name__)

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """A comparison of translations with references.

    Attributes:
        hypotheses: files of one or several systems; the first is the baseline of the others.
        references: files of reference translations.
        settings: tokenizer and case.
        cleaning: steps that the training data of the systems went through; references are also compared after them.
        d2l_bleu_k: longest n-grams of the BLEU of Dive into Deep Learning.
        test: test of the differences between systems; None for bootstrap resampling where there are several.
        confidence: whether confidence intervals are computed for a single system; of several they always are.
        tokenize_from: option or setting that named the tokenizer, for warnings.
    """

    hypotheses: Sequence[str]
    references: Sequence[str]
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS
    cleaning: Sequence[str] = ()
    d2l_bleu_k: int = D2L_BLEU_K
    test: significance.Method | None = None
    confidence: bool = False
    tokenize_from: str = bleu_tokenizers.SETTING


class _Texts(NamedTuple):
    """The lines of all files."""

    systems: list[list[str]]
    references: list[list[str]]


def run(request: Request, reporter: progress_display.Reporter) -> Report:
    """Compares translations with references, and the systems with each other.

    In JSONL and Parquet files the column `text` is read, as `translate` writes it. The report has the figures of the
    first system in itself, and those of all under "systems".

    Raises:
        DataError: there is no line, the numbers of lines differ, or a line is not valid text.
        UsageError: a file is missing, or a test of differences is asked for a single system.
    """
    check(request)
    texts = _read_all(request, reporter)
    for path, lines in zip(request.hypotheses, texts.systems, strict=True):
        try:
            quality.check_lines(lines, texts.references)
        except errors.DataError as error:
            raise errors.DataError(f"{path}: {error}") from error
    first = texts.systems[0]
    report: Report = {
        "verb": "evaluate",
        "hypotheses": _url(request.hypotheses[0], "--hypotheses"),
        "references": [_url(reference, "--references") for reference in request.references],
        "lines": len(first),
        **_figures(first, texts.references, request),
        "tokenize": request.settings.tokenize,
        "lowercase": request.settings.lowercase,
        "empty_hypotheses": _count_empty(first),
        "empty_references": sum(map(_count_empty, texts.references)),
    }
    cleaned = _compare_with_cleaned(first, texts.references, request)
    if cleaned is not None:
        report["cleaned"] = cleaned
        _log.info(
            "BLEU %.1f against the references as written, %.1f against references cleaned as the training data (%s)",
            report["bleu"], cleaned["bleu"], ", ".join(request.cleaning),
        )  # fmt: skip
    if len(texts.systems) > 1 or request.confidence:
        report |= _compare_systems(texts, request)
    if warnings := _warnings(request, texts):
        report["warnings"] = warnings
    return report


def check(request: Request) -> None:
    """Checks a request without reading its files.

    Raises:
        UsageError: a test of differences is asked for a single system, or the tokenizer is not installed.
    """
    run_checks.check_significance(len(request.hypotheses), request.test, request.confidence)
    bleu_tokenizers.check_installed(request.settings, request.tokenize_from)


def _figures(lines: Sequence[str], references: Sequence[Sequence[str]], request: Request) -> Report:
    """Returns the figures against the references as written."""
    scores = quality.corpus(lines, references, request.settings)
    # Defined for one reference: each gives a value of its own.
    d2l_bleu = [quality.mean_d2l_bleu(lines, reference, request.d2l_bleu_k) for reference in references]
    return {
        "bleu": scores.bleu,
        "chrf": scores.chrf,
        "ter": scores.ter,
        "signatures": scores.signatures,
        "d2l_bleu": d2l_bleu,
        "d2l_bleu_k": request.d2l_bleu_k,
        # The names of release 0.1, kept for one version.
        "documents_bleu": d2l_bleu,
        "documents_bleu_k": request.d2l_bleu_k,
        **_analysis(lines, references, request),
    }


def _analysis(lines: Sequence[str], references: Sequence[Sequence[str]], request: Request) -> Report:
    buckets = error_analysis.by_length(lines, references, request.settings)
    return {
        "by_length": [bucket._asdict() for bucket in buckets],
        "faults": error_analysis.faults(lines, references[0], request.settings).to_json(),
        **error_analysis.extremes(lines, references[0], request.settings),
    }


def _compare_with_cleaned(lines: Sequence[str], references: Sequence[Sequence[str]], request: Request) -> Report | None:
    """Returns the figures against references cleaned as the training data; None where cleaning changes none of them.

    A model that was trained on cleaned text writes such text: against references as written, every capital letter or
    digit that cleaning took away counts as an error of the model.
    """
    against = [cleaning.clean_lines(reference, request.cleaning) for reference in references]
    if against == [list(reference) for reference in references]:
        return None
    scores = quality.corpus(lines, against, request.settings, request.cleaning)
    return {
        "cleaning": list(request.cleaning),
        "bleu": scores.bleu,
        "chrf": scores.chrf,
        "ter": scores.ter,
        "signatures": scores.signatures,
        "d2l_bleu": [quality.mean_d2l_bleu(lines, reference, request.d2l_bleu_k) for reference in against],
        **_analysis(lines, against, request),
    }


def _compare_systems(texts: _Texts, request: Request) -> Report:
    """Returns confidence intervals and, of several systems, the significance of their differences to the first."""
    method = request.test or "bootstrap"
    option = "--significance" if len(texts.systems) > 1 else "--confidence"
    compared = significance.compare(texts.systems, texts.references, method, request.settings, option)
    urls = [_url(path, "--hypotheses") for path in request.hypotheses]
    systems = []
    for url, lines, system in zip(urls, texts.systems, compared.systems, strict=True):
        systems.append({"hypotheses": url, **system.to_json(), "empty_hypotheses": _count_empty(lines)})
        _log.info("%s", _describe_system(url, system, compared.systems[0]))
    if len(systems) == 1:
        return {"confidence": systems[0]["confidence"], "confidence_signatures": compared.signatures}
    buckets = improvement.by_length(texts.systems, texts.references, request.settings, option)
    return {
        "systems": systems,
        "significance": {**compared.describe(), "baseline": urls[0]},
        "improvement_by_length": [bucket.to_json() for bucket in buckets],
    }


def _describe_system(url: str, system: significance.System, baseline: significance.System) -> str:
    bleu, interval = system.scores["bleu"], system.intervals["bleu"]
    sentence = f"{url}: BLEU {bleu:.1f} (95 %: {interval.mean:.1f} ± {interval.half_width:.1f})"
    if not system.p_values:
        return sentence
    differences = [
        f"{_NAMES[name]} {system.scores[name] - baseline.scores[name]:+.1f} (p = {p_value:.4f}, "
        f"{'significant' if system.is_significant(name) else 'not significant'})"
        for name, p_value in system.p_values.items()
    ]
    return f"{sentence}; difference to the first: {', '.join(differences)}"


def _warnings(request: Request, texts: _Texts) -> list[str]:
    """Returns, and logs, what makes the figures mean less than they seem to."""
    warnings = []
    for option, paths_of_option, files in (
        ("--hypotheses", request.hypotheses, texts.systems),
        ("--references", request.references, texts.references),
    ):
        for path, lines in zip(paths_of_option, files, strict=True):
            if num_empty := _count_empty(lines):
                warnings.append(f"{option}: {num_empty} of {len(lines)} lines of {path} are empty, and are compared")
    mismatch = bleu_tokenizers.mismatch(texts.references[0], request.settings, request.tokenize_from)
    warnings.extend(filter(None, (mismatch, bleu_tokenizers.ter_mismatch(texts.references[0]))))
    for warning in warnings:
        _log.warning(warning)  # not "%s": equal formats count as repetitions, and only the first would be shown
    return warnings


def _count_empty(lines: Sequence[str]) -> int:
    return sum(not line.strip() for line in lines)


def _url(text: str, where: str) -> str:
    return str(paths.locate(text, where))


def _read_all(request: Request, reporter: progress_display.Reporter) -> _Texts:
    texts = _Texts([], [])
    with reporter.stage("evaluate", len(request.hypotheses) + len(request.references), "files") as stage:
        for option, files, lines in (
            ("--hypotheses", request.hypotheses, texts.systems),
            ("--references", request.references, texts.references),
        ):
            for file in files:
                lines.append(_read(file, option))
                stage.advance()
    return texts


def _read(text: str, where: str) -> list[str]:
    path = paths.locate(text, where)
    column = None if inputs.form_of(path) == "text" else _TEXT_COLUMN
    with private_folders.scratch() as scratch:
        scanned = inputs.scan(path, column, _PART_LINES, location.Location.parse(str(scratch)), where)
        lines: list[str] = []
        for part in inputs.parts([scanned]):
            for row in inputs.read(part):
                # A line left out would shift all after it against the references.
                if isinstance(row, corpus.BadLine):
                    raise errors.DataError(f"{row.where}: {row.reason}; every line is compared, correct the file")
                lines.append(row[0])
    return lines
