"""Checks of a command line that uses a trained run, before torch is loaded: its kind, and the formats of files."""

from core import errors
from core.data.text import extensions
from core.storage import location
from jobs import input_names, settings

# The kinds that a verb is for; `score` is for all of them but series.
_KINDS = {
    "translate": ("seq2seq",),
    "generate": ("language_model", "ngram"),
    "forecast": ("autoregressive",),
    "score": ("seq2seq", "language_model", "ngram"),
}
_NAMES = {
    "translate": "a seq2seq",
    "generate": "a language_model",
    "forecast": "an autoregressive model",
    "score": "a model of text",
}
_VERBS = {"seq2seq": "translate or score", "autoregressive": "forecast"}


def check_kind(verb: str, run: location.Location) -> None:
    """Checks that a run is of a kind that a verb is for.

    Raises:
        UsageError: it is of another kind.
    """
    kind = settings.kind_of(run)
    # Of a damaged checkpoint it is unknown; whoever opens it says so.
    if kind is not None and kind not in _KINDS.get(verb, (kind,)):
        used = _VERBS.get(kind, "score or generate")
        raise errors.UsageError(f"--run: {verb} needs {_NAMES[verb]}; this run is of kind {kind}: use {used}")


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
