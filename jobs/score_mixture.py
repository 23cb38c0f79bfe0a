"""Mixture of several runs in `score`: which runs go together, and the weights, given or fitted."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from core import errors
from core.config import inference_settings, mixture_settings, model_settings
from core.decoding.lines import inputs, results
from core.models import bundle as bundles
from core.storage import commit, json_values, location
from jobs import paths
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.infer import mixture_fit, part_worker

_log = logging.getLogger(__name__)

# Stored: name of the commit record of fitted weights.
_RECORD = "mixture-weights"


def check(
    runs: Sequence[location.Location], members: Sequence[bundles.Bundle], scoring: inference_settings.ScoringConfig
) -> None:
    """Refuses runs that do not form a mixture.

    Raises:
        UsageError: names the run that differs from the first, and in what.
    """
    for run, member in zip(runs, members, strict=True) if len(members) > 1 else ():
        if member.config.kind not in ("language_model", "ngram"):
            raise errors.UsageError(
                f"--run: {run} is a {member.config.kind}, and only language models are mixed; score it alone"
            )
        if difference := _difference(members[0], member, scoring.mixture):
            raise errors.UsageError(f"--run: {run} has {difference} than {runs[0]}; {_remedy(scoring.mixture)}")


def rows_kind(scoring: inference_settings.ScoringConfig, num_runs: int) -> results.Kind:
    """Returns the kind of the output's rows."""
    return "rankings" if num_runs > 1 and scoring.mixture.kind == "ranking" else "scores"


def scan_fit_on(
    scoring: inference_settings.ScoringConfig, column: str | None, folder: location.Location
) -> inputs.Input | None:
    """Scans the held-out file that weights are fitted on; None without one."""
    if scoring.mixture.kind != "linear" or scoring.mixture.fit_on is None:
        return None
    where = "scoring.mixture.fit_on"
    path = paths.locate(scoring.mixture.fit_on, where)
    return inputs.scan(path, None if inputs.form_of(path) == "text" else column, scoring.part_lines, folder, where)


def plan_entry(scoring: inference_settings.ScoringConfig, fit_on: inputs.Input | None) -> dict[str, Any]:
    """Returns what a plan holds of the mixture: of a held-out file its content, wherever it lies."""
    entry = scoring.mixture.model_dump(mode="json")
    return entry if fit_on is None else {**entry, "fit_on": fit_on.identity()}


def with_weights(
    spec: part_worker.Spec,
    store: commit.PartStore,
    fit_on: inputs.Input | None,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> tuple[part_worker.Spec, dict[str, Any]]:
    """Returns the specification with the weights that all parts use, fitted if need be, and `report` on them.

    Fitted weights are committed: a call that resumes the output uses the same, to the last bit.
    """
    num_runs = len(spec.members)
    if fit_on is None:
        return spec, report(spec.scoring.mixture, num_runs)
    record = store.committed(_RECORD) or store.commit(_RECORD, _fit(spec, fit_on, session, reporter))
    fitted = mixture_settings.LinearConfig(weights=tuple(map(float, record["weights"])))
    spec = replace(spec, scoring=spec.scoring.model_copy(update={"mixture": fitted}))
    return spec, {**report(fitted, num_runs), "mixture_fit": record["fit"]}


def report(mixture: mixture_settings.MixtureConfig, num_runs: int) -> dict[str, Any]:
    """Returns the entries of the report on the mixture; none for a single run."""
    if num_runs == 1:
        return {}
    if mixture.kind == "ranking":
        _log.info("scoring.mixture: a ranking score is not a log-probability of a line; there is no perplexity")
    return {"mixture_kind": mixture.kind, "mixture_weights": list(mixture_settings.weights_of(mixture, num_runs))}


def _fit(
    spec: part_worker.Spec,
    fit_on: inputs.Input,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> dict[str, Any]:
    """Fits the weights and returns their commit record."""
    assert spec.scoring.mixture.kind == "linear", "only weights of a linear mixture are fitted"
    parts = inputs.parts([fit_on])
    with reporter.stage("fit weights", fit_on.num_lines, "lines") as stage:
        fit = mixture_fit.fit(spec, parts, spec.scoring.mixture.iterations, session, stage.advance)
    first, last = (_perplexity(nll) for nll in (fit.mean_nlls[0], fit.mean_nlls[-1]))
    _log.info(
        "scoring.mixture: weights %s, fitted on %d tokens: perplexity %.2f, with equal weights %.2f",
        ", ".join(f"{weight:.4f}" for weight in fit.weights), fit.num_tokens, last, first,
    )  # fmt: skip
    content: dict[str, Any] = {
        "lines": fit_on.num_lines,
        "tokens": fit.num_tokens,
        "iterations": len(fit.mean_nlls) - 1,
        "perplexity": json_values.number(last),
        "perplexity_of_equal_weights": json_values.number(first),
    }
    if fit.num_impossible:
        content["infinite"] = fit.num_impossible
    return {"weights": list(fit.weights), "fit": content}


def _perplexity(nll_nats: float) -> float:
    # math.exp raises an OverflowError beyond 709.
    return math.exp(nll_nats) if nll_nats < 700 else math.inf


def _difference(first: bundles.Bundle, other: bundles.Bundle, mixture: mixture_settings.MixtureConfig) -> str | None:
    """Returns what keeps two models from being mixed; None if nothing does."""
    codec, expected = other.codecs["text"], first.codecs["text"]
    if codec.tokenizer != expected.tokenizer:
        sizes = codec.tokenizer.vocabulary_size, expected.tokenizer.vocabulary_size
        return f"another tokenizer ({codec.tokenizer.kind}, {sizes[0]} entries, not {sizes[1]})"
    if codec.cleaning != expected.cleaning:
        return f"another cleaning ({', '.join(codec.cleaning) or 'none'}, not {', '.join(expected.cleaning) or 'none'})"
    if other.line_end != first.line_end:
        return f"another line_end ({other.line_end}, not {first.line_end})"
    backward = [model_settings.reads_backward(bundle.config) for bundle in (first, other)]
    if mixture.kind != "ranking" and backward[0] != backward[1]:
        return "another reading direction"
    return None


def _remedy(mixture: mixture_settings.MixtureConfig) -> str:
    ranking = "" if mixture.kind == "ranking" else ", or for both directions use scoring.mixture: ranking"
    return f"mix runs of the same tokenizer and corpus settings{ranking}"
