"""Checks of a command line before torch is loaded: the kind of the run, and that options and settings fit together."""

import logging
from collections.abc import Iterable, Sequence

from core import errors
from core.config import inference_settings, mixture_settings, schema
from core.data.text import extensions
from core.storage import commit, location, root_layout, run_lock, streams
from jobs import input_names, paths, settings

# The kinds that a verb is for; `score` is for all of them but series.
_KINDS = {
    "translate": ("seq2seq",),
    "generate": ("language_model", "ngram"),
    "forecast": ("autoregressive",),
    "export": ("ngram",),
    "score": ("seq2seq", "language_model", "ngram"),
}
_NAMES = {
    "translate": "a seq2seq",
    "generate": "a language_model",
    "forecast": "an autoregressive model",
    "export": "an ngram model",
    "score": "a model of text",
}
_log = logging.getLogger(__name__)
_VERBS = {"seq2seq": "translate or score", "autoregressive": "forecast"}


def check_kind(verb: str, run: location.Location, is_first: bool = True) -> None:
    """Checks that a run is of a kind that a verb is for.

    Raises:
        UsageError: it is of another kind.
    """
    kind = settings.kind_of(run)
    # Of a damaged checkpoint it is unknown; whoever opens it says so.
    if kind is not None and kind not in _KINDS.get(verb, (kind,)):
        used, which = _VERBS.get(kind, "score or generate"), "this run" if is_first else run
        raise errors.UsageError(f"--run: {verb} needs {_NAMES[verb]}; {which} is of kind {kind}: use {used}")


def check_trained(run: location.Location) -> None:
    """Checks that the root of a run has checkpoints; whether they verify, whoever opens one says.

    Raises:
        UsageError: it has none.
    """
    if run.join(root_layout.SETTINGS).exists() and not run.join(root_layout.CHECKPOINTS).list_names():
        raise errors.UsageError(f"{run}: has no checkpoint; train first, or name the root of a trained run")


def check_prompt(run: location.Location, prefix: str | None, ending: str | None) -> None:
    """Checks that a prompt is the one that the model of a run needs: a prefix, or an ending if it reads backward.

    Raises:
        UsageError: it is not.
    """
    if (prefix is None) == (ending is None):
        raise errors.UsageError(
            "--prefix, --ending: give exactly one: the beginning of the text, or its end to a model that reads backward"
        )
    backward = settings.reads_backward(run)
    if backward is not None and backward == (ending is None):
        given, needed = ("prefix", "ending") if backward else ("ending", "prefix")
        direction = "backward" if backward else "forward"
        raise errors.UsageError(f"--{given}: this run's model reads {direction}; give it a --{needed} instead")


def check_mixture(
    scoring: inference_settings.ScoringConfig, runs: Sequence[location.Location], input_: input_names.Names
) -> None:
    """Checks that the settings of a mixture fit its runs and the input, and that its held-out file exists.

    Raises:
        UsageError: names the setting, or a run that cannot be mixed.
    """
    inference_settings.check_mixture(scoring, len(runs))
    for run in runs if len(runs) > 1 else ():
        if (kind := settings.kind_of(run)) not in ("language_model", "ngram", None):
            raise errors.UsageError(f"--run: {run} is a {kind}, and only language models are mixed; score it alone")
    if input_ == "-":
        refuse_fit(scoring.mixture)
    if scoring.mixture.kind == "linear" and scoring.mixture.fit_on is not None:
        where = "scoring.mixture.fit_on"
        path = paths.locate(scoring.mixture.fit_on, where)
        if not path.exists():
            raise errors.UsageError(f"{where}: {path} does not exist; check the path")
        streams.refuse_device(path, where)


def refuse_fit(mixture: mixture_settings.MixtureConfig) -> None:
    """Refuses a fit where there is no output folder that would hold the fitted weights.

    Raises:
        UsageError: the weights would have to be fitted.
    """
    if mixture.kind == "linear" and mixture.fit_on is not None:
        raise errors.UsageError(
            "scoring.mixture.fit_on: weights are fitted for an output file; score one, and give its mixture_weights as "
            "scoring.mixture.weights for standard input"
        )


def check_scoring(kind: str | None, scoring: inference_settings.ScoringConfig, compute: schema.ComputeConfig) -> None:
    """Checks that a model of a kind can be scored with.

    Raises:
        UsageError: names the setting.
    """
    for name in ("cache", "dynamic"):
        if kind == "ngram" and getattr(scoring, name) is not None:
            raise errors.UsageError(f"scoring.{name}: an n-gram model has no hidden states; leave it out")
    if scoring.dynamic is not None and compute.precision == "int8":
        raise errors.UsageError(
            "scoring.dynamic: quantized weights cannot be updated; use compute.precision: fp32 or bf16"
        )
    if kind == "seq2seq" and scoring.unit == "stream":
        raise errors.UsageError("scoring.unit: translations are scored line by line; use line")
    if scoring.unit_or_line == "line" and scoring.lanes > 1:
        raise errors.UsageError("scoring.lanes: only a stream has lanes; use unit: stream")


def check_scored_input(kind: str | None, scoring: inference_settings.ScoringConfig, input_: input_names.Names) -> None:
    """Checks that what is read from standard input can be scored line by line.

    Raises:
        UsageError: it cannot.
    """
    if input_ == "-" and (kind == "seq2seq" or scoring.unit == "stream"):
        raise errors.UsageError("--input: only single lines are scored from standard input; write it to a file first")


def check_score(
    runs: Sequence[location.Location],
    scoring: inference_settings.ScoringConfig,
    compute: schema.ComputeConfig,
    files: input_names.Files,
) -> None:
    """Checks that runs, settings and files of `score` fit together.

    Raises:
        UsageError: they do not.
    """
    check_mixture(scoring, runs, files.input)
    check_targets(runs[0], files.aligned is not None)
    kind = settings.kind_of(runs[0])
    check_scoring(kind, scoring, compute)
    check_scored_input(kind, scoring, files.input)


def check_translate(
    others: Sequence[location.Location], decoding: inference_settings.DecodingConfig, files: input_names.Files
) -> None:
    """Checks that further runs, settings and files of `translate` fit together.

    Raises:
        UsageError: a run translates nothing, or an option or setting needs a file.
    """
    for other in others:
        check_kind("translate", other, is_first=False)
    is_folder = files.output.endswith("/") and not input_names.find(files.input, None, "--prefixes").are_several
    check_sidecars(decoding, files.output, is_folder, files.aligned is not None)


def check_sidecars(
    decoding: inference_settings.DecodingConfig, output: str, is_folder: bool, has_prefixes: bool
) -> None:
    """Checks that what is written beside an output file has one, and that prefixes have an input file.

    Raises:
        UsageError: names the setting or option.
    """
    if output == "-" and has_prefixes:
        raise errors.UsageError("--prefixes: requires an input file, not standard input; name one with --input")
    for name in ("alignments", "attention_maps"):
        if getattr(decoding, name) and (output == "-" or is_folder):
            raise errors.UsageError(f"decoding.{name}: is written next to an output file; name one with --output")


def artefact_at(path: location.Location) -> location.Location:
    """Returns the artefact at a path, or that of which the path is the manifest, index, plan or settings.

    Raises:
        UsageError: there is nothing of ours.
    """
    names = (root_layout.DATASET_INDEX, root_layout.CHECKPOINT_MANIFEST, commit.PLAN, commit.MANIFEST)
    artefact = path
    if path.name in (*names, root_layout.SETTINGS, root_layout.RUN_STATE):
        artefact = path.parent
    elif path.name.endswith(root_layout.FILE_MANIFEST):
        artefact = path.parent.join(path.name.removesuffix(root_layout.FILE_MANIFEST))
    inside = [artefact.join(name) for name in (*names, root_layout.SETTINGS, root_layout.CHECKPOINTS)]
    # The merged file of an unfinished output does not exist yet, but the folder of its parts does, beside it.
    endings = (root_layout.FILE_MANIFEST, root_layout.FILE_PARTS)
    beside = [artefact.parent.join(artefact.name + ending) for ending in endings]
    if any(each.exists() for each in (*inside, *beside)):
        return artefact
    what = "is not a dataset, checkpoint, run or output of Raycurrent" if path.exists() else "does not exist"
    raise errors.UsageError(f"PATH: {path} {what}; check the path")


def check_forecasting(run: location.Location, forecasting: inference_settings.ForecastingConfig, output: str) -> None:
    """Checks that the model of a run forecasts as far ahead as it is asked to, and that nobody writes the output.

    Raises:
        UsageError: names the setting.
        LockedError: the output is in use.
    """
    refuse_output_in_use(output, output.endswith("/"))
    if (columns := settings.columns_of_series(run)) is not None:
        inference_settings.check_forecasting(forecasting, *columns)


def check_forecast(input_: str, output: str) -> None:
    """Checks that input and output of `forecast` are files, of which only the input exists.

    Raises:
        UsageError: they are not.
    """
    if "-" in (input_, output):
        raise errors.UsageError("--input, --output: a series is read as a whole; name files, not -")
    check_extension(output)
    check_output_is_no_input(output, [paths.locate(input_, "--input")])


def check_output_is_no_input(output: str, inputs: Iterable[location.Location]) -> None:
    """Checks that no input would be overwritten.

    Raises:
        UsageError: an input is the output file, or in the output folder.
    """
    if output == "-":
        return
    target = paths.writable(output, "--output")
    for path in inputs:
        if path == target or path.url.startswith(f"{target.url.rstrip('/')}/"):
            raise errors.UsageError(f"--output: {path} is also an input; write to another path")


def refuse_in_use(folder: location.Location) -> None:
    """Refuses a root or an output on this machine that another command works on.

    The lock of a store takes requests, and is asked for by the command itself.

    Raises:
        LockedError: it is in use.
    """
    if folder.is_local:
        run_lock.RunLock(folder, "check").refuse_if_in_use()


def refuse_output_in_use(output: str, is_folder: bool) -> None:
    """Refuses an output that another command is writing; see `refuse_in_use`."""
    if output != "-":
        path = paths.writable(output, "--output")
        # Of a single file, the folder of its parts is locked.
        refuse_in_use(path if is_folder else location.Location(f"{path.url}{root_layout.FILE_PARTS}"))


def check_report(runs: Sequence[location.Location], output: location.Location | None) -> None:
    """Checks that there are runs to report on, and that the page fits their number.

    Raises:
        UsageError: a location holds no run, or the page is missing or no HTML file.
    """
    check_page(len(runs), output)
    for run in runs:
        if not run.join(root_layout.SETTINGS).exists():
            raise settings.no_run_error(run, "RUN")


def check_page(num_runs: int, output: location.Location | None) -> None:
    """Checks that the page of a report fits the number of runs.

    Raises:
        UsageError: it is missing, or no HTML file.
    """
    if output is None and num_runs > 1:
        raise errors.UsageError("RUN: several runs are compared on one page; name the page with --output PAGE.html")
    if output is not None and not output.name.endswith((".html", ".htm")):
        raise errors.UsageError(f"--output: {output} must end in .html; rename it")


def check_significance(num_systems: int, test: str | None, confidence: bool) -> None:
    """Checks that a test of differences is asked for several systems.

    Raises:
        UsageError: it is asked for a single one.
    """
    if test is not None and num_systems == 1 and not confidence:
        raise errors.UsageError(
            "--significance: compares several systems; repeat --hypotheses, or use --confidence for a single one"
        )


def ngram_order(d2l_bleu_k: int | None, documents_k: int | None) -> int | None:
    """Returns the value of `--d2l-bleu-k`, or of `--documents-k`, its deprecated name.

    Raises:
        UsageError: both are given.
    """
    if documents_k is None:
        return d2l_bleu_k
    if d2l_bleu_k is not None:
        raise errors.UsageError("--documents-k: --d2l-bleu-k is given, too; keep --d2l-bleu-k")
    _log.warning("--documents-k: is deprecated; use --d2l-bleu-k")
    return documents_k


def check_standard_streams(from_stdin: bool, output: str, column: str | None) -> None:
    """Checks that standard input, if it is read, goes to standard output, as plain text.

    Raises:
        UsageError: it does not.
    """
    if not from_stdin and output != "-":
        return
    if not from_stdin or output != "-":
        raise errors.UsageError("--input, --output: standard input requires standard output; set both to -, or neither")
    if column is not None:
        raise errors.UsageError("--column: standard input is plain text; leave it out")


def check_targets(run: location.Location, is_given: bool) -> None:
    """Checks that targets are given if and only if the model of a run translates.

    Raises:
        UsageError: they are not.
    """
    kind = settings.kind_of(run)
    if kind == "seq2seq" and not is_given:
        raise errors.UsageError("--targets: a seq2seq scores given translations; name their file")
    if kind not in ("seq2seq", None) and is_given:
        raise errors.UsageError(f"--targets: a {kind} scores single lines, not translations; leave it out")


def taken_error(output: str) -> errors.LockedError:
    """Returns the error of an output that exists, and is not to be replaced."""
    return errors.LockedError(f"--output: {output} exists; name another file, or add --overwrite")


def check_extension(output: str) -> None:
    """Checks that the name of a single output file gives its format.

    Raises:
        UsageError: it does not.
    """
    known = [f".{name}" for name in input_names.Format.__args__]  # type: ignore[attr-defined]
    if output != "-" and not output.endswith(("/", *known)):
        name = output.rpartition("/")[2]
        raise errors.UsageError(
            f"--output: {name!r} has no known extension; use {', '.join(known)}, or a trailing / for a folder"
        )


def check_column(named: input_names.Named, column: str | None) -> None:
    """Checks that a column is named if and only if an input has columns.

    Raises:
        UsageError: it is not.
    """
    files = [pair for each in named.inputs for pair in zip(each.files, named.options, strict=True)]
    # Prefixes are plain text. If only some files are tables, the column is one of those.
    of_options = [(path, option) for path, option in files if option != "--prefixes"]
    tables = [pair for pair in of_options if extensions.plain_name(pair[0].name).endswith(extensions.TABLES)]
    if tables and column is None:
        path, option = tables[0]
        raise errors.UsageError(f"{option}: {path} is read as a table; name its text column with --column")
    if of_options and not tables and column is not None:
        path, option = of_options[0]
        raise errors.UsageError(f"{option}: {path} is read as plain text, which has no columns; leave out --column")
