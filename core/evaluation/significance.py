"""Confidence intervals of quality, and whether the difference between two systems is more than chance, by sacreBLEU.

Both resample the lines of a test set; seeds are fixed (SACREBLEU_SEED, else 12345), so that figures repeat.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sacrebleu import significance

from core import errors
from core.config import evaluation_settings
from core.evaluation import quality

Method = Literal["bootstrap", "randomization"]
LEVEL = 0.05
"""Probability of a difference by chance, below which it is called significant."""

NUM_RESAMPLES = 1000  # of a bootstrap, sacreBLEU's default
_TEST_TYPES: dict[Method, Literal["bs", "ar"]] = {"bootstrap": "bs", "randomization": "ar"}
_NUM_TRIALS: dict[Method, int] = {"bootstrap": NUM_RESAMPLES, "randomization": 10_000}
# Bytes of a line in the largest arrays that sacreBLEU makes: the statistics of chrF of all resamples at once (18
# numbers of 4 bytes), or two selectors of all trials, as bytes and widened to 8 bytes.
_BYTES_OF_LINE: dict[Method, int] = {"bootstrap": NUM_RESAMPLES * 18 * 4, "randomization": 10_000 * 2 * 9}
_MOST_BYTES = 4 << 30


class Interval(NamedTuple):
    """Mean of a score over bootstrap resamples, and half the width of its 95 % interval around it."""

    mean: float
    half_width: float

    def to_json(self) -> dict[str, float]:
        """Returns mean, half width and the two ends."""
        return {**self._asdict(), "low": self.mean - self.half_width, "high": self.mean + self.half_width}


class System(NamedTuple):
    """Results of one system; dictionaries are by metric: bleu, chrf, ter.

    Attributes:
        scores: in percent, of all lines.
        intervals: 95 % confidence intervals.
        p_values: probabilities of a difference to the baseline at least as large by chance; empty for the baseline.
    """

    scores: dict[str, float]
    intervals: dict[str, Interval]
    p_values: dict[str, float]

    def is_significant(self, metric: str) -> bool:
        """Returns whether the difference to the baseline is significant."""
        return self.p_values[metric] < LEVEL

    def to_json(self) -> dict[str, Any]:
        """Returns scores, intervals, probabilities, and which of them are significant."""
        return {
            **self.scores,
            "confidence": {name: interval.to_json() for name, interval in self.intervals.items()},
            "p_values": self.p_values,
            "significant": {name: self.is_significant(name) for name in self.p_values},
        }


class Comparison(NamedTuple):
    """Results of all systems, the baseline first, and the sacreBLEU signatures, which name seed and resamples."""

    method: Method
    systems: list[System]
    signatures: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Returns the method as in a report."""
        return {
            "method": self.method,
            "resamples": _NUM_TRIALS[self.method],
            "level": LEVEL,
            "signatures": self.signatures,
        }


def compare(
    systems: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    method: Method,
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
    where: str = "--significance",
    names: Sequence[str] = ("bleu", "chrf", "ter"),
) -> Comparison:
    """Compares the systems with the first one, the baseline; of a single system, computes the intervals alone.

    Args:
        systems: translations of the same lines.
        references: one sequence of lines for each reference translation.
        method: paired bootstrap resampling, or paired approximate randomization.
        settings: tokenizer and case.
        where: option that error messages name.
        names: metrics.

    Raises:
        DataError: there is no line, the numbers of lines differ, or there are more lines than memory is meant for.

    Source: Koehn (2004), "Statistical Significance Tests for Machine Translation Evaluation"; Riezler and Maxwell
    (2005), "On Some Pitfalls in Automatic Evaluation and Significance Testing for MT".
    """
    for lines in systems:
        quality.check_lines(lines, references)
    check_memory(len(systems[0]), method, where)
    metrics = {name: metric for name, metric in quality.make_metrics(settings).items() if name in names}
    test = significance.PairedTest(
        [(str(number), list(lines)) for number, lines in enumerate(systems)],
        metrics,
        [list(reference) for reference in references],
        test_type=_TEST_TYPES[method],
        n_samples=_NUM_TRIALS[method],
        # Intervals come with a bootstrap; beside randomization they are resampled on their own.
        n_ar_confidence=NUM_RESAMPLES if method == "randomization" else -1,
    )
    signatures, by_name = test()
    # sacreBLEU names a metric by its parameters (chrF2); the order is that of ours.
    by_signature = dict(zip(signatures, metrics, strict=True))
    results = [{ours: by_name[name][number] for name, ours in by_signature.items()} for number in range(len(systems))]
    return Comparison(
        method,
        [_to_system(row) for row in results],
        {by_signature[name]: str(signature.format()) for name, signature in signatures.items()},
    )


def _to_system(row: Mapping[str, Any]) -> System:
    """Returns sacreBLEU's results by metric, which hold plain and NumPy numbers, as ours."""
    return System(
        {name: float(result.score) for name, result in row.items()},
        {name: Interval(float(result.mean), float(result.ci)) for name, result in row.items()},
        {name: float(result.p_value) for name, result in row.items() if result.p_value is not None},
    )


def most_lines(method: Method) -> int:
    """Returns how many lines a comparison has at most, for the memory that is meant for it."""
    return _MOST_BYTES // _BYTES_OF_LINE[method]


def check_memory(num_lines: int, method: Method, where: str) -> None:
    """Checks that a comparison fits into the memory that is meant for it.

    Raises:
        DataError: it does not.
    """
    if num_lines > most_lines(method):
        raise errors.DataError(
            f"{where}: {num_lines} lines would take {num_lines * _BYTES_OF_LINE[method] >> 30} GiB of memory; "
            f"compare at most {most_lines(method)} of them"
        )
