"""The verb `evaluate`: BLEU, chrF and TER of translations with their signatures, an error analysis, and comparisons."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from core import errors
from core.config import evaluation_settings
from core.data.text import cleaning, corpus
from core.decoding.lines import inputs
from core.evaluation import bleu_tokenizers, corpus_evaluation, improvement, quality, significance
from core.storage import location, private_folders
from jobs import paths, run_checks
from workers.fanout import progress_display

_PART_LINES = 4096
_TEXT_COLUMN = "text"
_MANY_TOKENIZED = 100  # lines, as sacreBLEU has it
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


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The lines of a file, read anew by each iteration.

    Attributes:
        path: the file as the user named it.
        scanned: its parts.
    """

    path: str
    scanned: inputs.Input

    def __len__(self) -> int:
        return self.scanned.num_lines

    def __iter__(self) -> Iterator[str]:
        for part in inputs.parts([self.scanned]):
            for row in inputs.read(part):
                # A line left out would shift all after it against the references.
                if isinstance(row, corpus.BadLine):
                    raise errors.DataError(f"{row.where}: {row.reason}; every line is compared, correct the file")
                yield row[0]


class _Texts(NamedTuple):
    """All files."""

    systems: list[_Lines]
    references: list[_Lines]


def run(request: Request, reporter: progress_display.Reporter) -> Report:
    """Compares translations with references, and the systems with each other.

    In JSONL and Parquet files the column `text` is read, as `translate` writes it. The report has the figures of the
    first system in itself, and those of all under "systems". Memory grows with the number of lines only where systems
    or confidence intervals are compared, which have a limit of lines.

    Raises:
        DataError: there is no line, the numbers of lines differ, or a line is not valid text.
        UsageError: a file is missing, or a test of differences is asked for a single system.
    """
    check(request)
    with private_folders.scratch() as scratch:
        texts = _scan_all(request, location.Location.parse(str(scratch)))
        _check_counts(request, texts)
        first = texts.systems[0]
        evaluations = [_start(request)] + ([_start(request, request.cleaning)] if request.cleaning else [])
        with reporter.stage("evaluate", len(first), "lines") as stage:
            notes = _read_pieces(texts, evaluations, request, stage.advance)
        report: Report = {
            "verb": "evaluate",
            "hypotheses": _url(request.hypotheses[0], "--hypotheses"),
            "references": [_url(reference, "--references") for reference in request.references],
            "lines": len(first),
            **_figures(evaluations[0], request),
            "tokenize": request.settings.tokenize,
            "lowercase": request.settings.lowercase,
            "empty_hypotheses": notes.num_empty[0],
            "empty_references": sum(notes.num_empty[1:]),
        }
        if notes.is_cleaned:
            cleaned = {**_scores(evaluations[1]), **_analysis(evaluations[1])}
            report["cleaned"] = {"cleaning": list(request.cleaning), **cleaned}
            _log.info(
                "BLEU %.1f against the references as written, %.1f against references cleaned as the training data "
                "(%s)", report["bleu"], cleaned["bleu"], ", ".join(request.cleaning),
            )  # fmt: skip
        if len(texts.systems) > 1 or request.confidence:
            report |= _compare_systems(texts, request)
        if warnings := _warnings(request, texts, notes):
            report["warnings"] = warnings
    return report


def check(request: Request) -> None:
    """Checks a request without reading its files.

    Raises:
        UsageError: a test of differences is asked for a single system, or the tokenizer is not installed.
    """
    run_checks.check_significance(len(request.hypotheses), request.test, request.confidence)
    bleu_tokenizers.check_installed(request.settings, request.tokenize_from)


def _check_counts(request: Request, texts: _Texts) -> None:
    """Checks that all files have equally many lines, and not more than a comparison may have."""
    for system in texts.systems:
        try:
            quality.check_counts(len(system), list(map(len, texts.references)))
        except errors.DataError as error:
            raise errors.DataError(f"{system.path}: {error}") from error
    if len(texts.systems) > 1 or request.confidence:
        method, option = _method(request)
        significance.check_memory(len(texts.systems[0]), method, option)


def _method(request: Request) -> tuple[significance.Method, str]:
    """Returns the test of differences, and the option that asked for it."""
    return request.test or "bootstrap", "--significance" if len(request.hypotheses) > 1 else "--confidence"


def _start(request: Request, cleaning: Sequence[str] = ()) -> corpus_evaluation.CorpusEvaluation:
    return corpus_evaluation.CorpusEvaluation(len(request.references), request.settings, request.d2l_bleu_k, cleaning)


class _Notes(NamedTuple):
    """Counts of the lines of the first system and of the references.

    Attributes:
        num_empty: number of empty lines of each file, the system first.
        num_tokenized: number of lines of the system that end in a period behind a space.
        is_cleaned: whether cleaning changes a reference.
    """

    num_empty: list[int]
    num_tokenized: int
    is_cleaned: bool


def _read_pieces(
    texts: _Texts,
    evaluations: Sequence[corpus_evaluation.CorpusEvaluation],
    request: Request,
    advance: Callable[[int], None],
) -> _Notes:
    """Adds the lines of the first system to an evaluation against the references as written, and to one as cleaned.

    A model that was trained on cleaned text writes such text: against references as written, every capital letter or
    digit that cleaning took away counts as an error of the model.
    """
    files = [texts.systems[0], *texts.references]
    num_empty, num_tokenized, is_cleaned = [0] * len(files), 0, False
    remaining = zip(*files, strict=True)
    while rows := list(itertools.islice(remaining, _PART_LINES)):
        hypotheses, *references = map(list, zip(*rows, strict=True))
        evaluations[0].add(hypotheses, references)
        if len(evaluations) > 1:
            cleaned = [cleaning.clean_lines(reference, request.cleaning) for reference in references]
            evaluations[1].add(hypotheses, cleaned)
            is_cleaned = is_cleaned or cleaned != references
        for number, lines in enumerate((hypotheses, *references)):
            num_empty[number] += _count_empty(lines)
        num_tokenized += sum(line.endswith(" .") for line in hypotheses)
        advance(len(rows))
    return _Notes(num_empty, num_tokenized, is_cleaned)


def _figures(evaluated: corpus_evaluation.CorpusEvaluation, request: Request) -> Report:
    """Returns the figures against the references as written."""
    return {
        **_scores(evaluated),
        "d2l_bleu_k": request.d2l_bleu_k,
        # The names of release 0.1, kept for one version.
        "documents_bleu": evaluated.d2l_bleu(),
        "documents_bleu_k": request.d2l_bleu_k,
        **_analysis(evaluated),
    }


def _scores(evaluated: corpus_evaluation.CorpusEvaluation) -> Report:
    return {**evaluated.quality()._asdict(), "d2l_bleu": evaluated.d2l_bleu()}


def _analysis(evaluated: corpus_evaluation.CorpusEvaluation) -> Report:
    analysis = evaluated.analysis
    return {
        "by_length": [bucket._asdict() for bucket in analysis.by_length()],
        "faults": analysis.faults().to_json(),
        **analysis.extremes(),
    }


def _compare_systems(texts: _Texts, request: Request) -> Report:
    """Returns confidence intervals and, of several systems, the significance of their differences to the first."""
    method, option = _method(request)
    translations, references = list(map(list, texts.systems)), list(map(list, texts.references))
    compared = significance.compare(translations, references, method, request.settings, option)
    urls = [_url(path, "--hypotheses") for path in request.hypotheses]
    systems = []
    for url, lines, system in zip(urls, translations, compared.systems, strict=True):
        systems.append({"hypotheses": url, **system.to_json(), "empty_hypotheses": _count_empty(lines)})
        _log.info("%s", _describe_system(url, system, compared.systems[0]))
    if len(systems) == 1:
        return {"confidence": systems[0]["confidence"], "confidence_signatures": compared.signatures}
    buckets = improvement.by_length(translations, references, request.settings, option)
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


def _warnings(request: Request, texts: _Texts, notes: _Notes) -> list[str]:
    """Returns, and logs, what makes the figures mean less than they seem to."""
    first, *others = texts.systems
    counted = list(zip((first, *texts.references), notes.num_empty, strict=True))
    counted[1:1] = [(lines, _count_empty(lines)) for lines in others]
    warnings = [
        f"{'--hypotheses' if lines in texts.systems else '--references'}: {num_empty} of {len(lines)} lines of "
        f"{lines.path} are empty, and are compared"
        for lines, num_empty in counted
        if num_empty
    ]
    if notes.num_tokenized >= _MANY_TOKENIZED:
        warnings.append(
            f"--hypotheses: {notes.num_tokenized} lines of {first.path} end in a period behind a space, as tokenized "
            "text does; figures of tokenized text cannot be compared with those of others"
        )
    mismatch = bleu_tokenizers.mismatch(texts.references[0], request.settings, request.tokenize_from)
    warnings.extend(filter(None, (mismatch, bleu_tokenizers.ter_mismatch(texts.references[0]))))
    for warning in warnings:
        _log.warning(warning)  # not "%s": equal formats count as repetitions, and only the first would be shown
    return warnings


def _count_empty(lines: Iterable[str]) -> int:
    return sum(not line.strip() for line in lines)


def _url(text: str, where: str) -> str:
    return str(paths.locate(text, where))


def _scan_all(request: Request, scratch: location.Location) -> _Texts:
    return _Texts(
        [_scan(file, scratch, "--hypotheses") for file in request.hypotheses],
        [_scan(file, scratch, "--references") for file in request.references],
    )


def _scan(text: str, scratch: location.Location, where: str) -> _Lines:
    path = paths.locate(text, where)
    column = None if inputs.form_of(path) == "text" else _TEXT_COLUMN
    return _Lines(text, inputs.scan(path, column, _PART_LINES, scratch, where))
