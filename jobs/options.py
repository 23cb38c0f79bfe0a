"""Shared parts of the commands: common options, the `Job` that a command returns, and checks before it.

Nothing here imports torch or Ray; a job does, when it is called.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import typer

from core import errors
from core.config import evaluation_settings, loading, schema, section
from core.data.text import characters
from core.storage import location, streams
from jobs import input_names, json_documents, log, paths, run_checks, settings

_log = logging.getLogger(__name__)

Report = dict[str, Any]

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="configuration, a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override of a setting; repeatable")
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="print the resolved settings as YAML and exit")]
Run = Annotated[str, typer.Option("--run", metavar="RUN", help="root of a run, or a checkpoint folder")]
Runs = Annotated[
    list[str],
    typer.Option(
        "--run", metavar="RUN", help="root of a run, or a checkpoint folder; repeat for an ensemble or a mixture"
    ),
]
_INPUT_HELP = "text, Parquet or JSONL file, folder or glob; repeatable; - for standard input"
_OUTPUT_HELP = (
    ".txt, .jsonl, .parquet or .arrow file, folder/, or - for standard output; of several inputs a folder with a file "
    "for each"
)
Inputs = Annotated[list[str], typer.Option("--input", metavar="URI", help=_INPUT_HELP)]
Output = Annotated[str, typer.Option("--output", metavar="URI", help=_OUTPUT_HELP)]
TypedInputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="URI", help=f"{_INPUT_HELP}; without it, type sentences on a terminal"),
]
TypedOutput = Annotated[str | None, typer.Option("--output", metavar="URI", help=_OUTPUT_HELP)]
Format = Annotated[
    input_names.Format | None,
    typer.Option("--format", help="of several inputs: format of the files in the output folder; default: jsonl"),
]
Column = Annotated[str | None, typer.Option("--column", help="column with the text, for Parquet and JSONL")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an output that was made with other settings")]

Prefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--prefixes",
        metavar="URI",
        help="text file with the beginning of each line's translation; of several inputs, files of their names",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--targets",
        metavar="URI",
        help="translations of the input, to score with a translation model; of several inputs, files of their names",
    ),
]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="beginning of the text")]
Ending = Annotated[
    str | None, typer.Option("--ending", metavar="TEXT", help="end of the text, for a model that reads backward")
]

# Of `evaluate`.
Hypotheses = Annotated[
    list[str],
    typer.Option(
        "--hypotheses",
        metavar="URI",
        help="translations to evaluate, one per line; repeatable: each system is compared with the first",
    ),
]
References = Annotated[
    list[str], typer.Option("--references", metavar="URI", help="reference translations, one per line; repeatable")
]
RunOfTranslations = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="run that made the translations: its evaluation settings are the default, and the references are also "
        "compared after the cleaning of its training data",
    ),
]
Tokenize = Annotated[
    evaluation_settings.BleuTokenizer | None,
    typer.Option(
        "--tokenize", help="tokenizer of BLEU; default 13a: zh, ja-mecab and char are for text without spaces"
    ),
]
Lowercase = Annotated[
    bool | None, typer.Option("--lowercase/--no-lowercase", help="BLEU and chrF without regard to case; default: with")
]
Significance = Annotated[
    Literal["bootstrap", "randomization"] | None,
    typer.Option(
        "--significance",
        help="test of the differences between systems: paired bootstrap resampling, or paired approximate "
        "randomization; default, of several --hypotheses: bootstrap",
    ),
]
Confidence = Annotated[bool, typer.Option("--confidence", help="95 % confidence intervals, by bootstrap resampling")]
D2lBleuK = Annotated[
    int | None,
    typer.Option(
        "--d2l-bleu-k", min=1, help="longest n-grams, in tokens, of the BLEU of Dive into Deep Learning; default 2"
    ),
]
DocumentsK = Annotated[int | None, typer.Option("--documents-k", min=1, hidden=True)]


def _verbosity(
    quiet: Annotated[bool, typer.Option("--quiet", help="write warnings and errors only to stderr")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="write the debug log, too, to stderr")] = False,
) -> None:
    if quiet and verbose:
        raise errors.UsageError("--quiet, --verbose: contradict each other; leave one of them out")
    log.set_verbosity("quiet" if quiet else "verbose" if verbose else "normal")


class Command(typer.core.TyperCommand):
    """A verb: its own options, and those that every verb has."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        app = typer.Typer(add_completion=False)
        app.command()(_verbosity)
        shared = typer.main.get_command(app).params
        self._shared = [str(parameter.name) for parameter in shared]
        self.params = [*self.params, *shared]

    def invoke(self, ctx: Any) -> Any:
        """Applies the shared options before the verb does anything."""
        _verbosity(**{name: ctx.params.pop(name) for name in self._shared})
        return super().invoke(ctx)


class Job(NamedTuple):
    """Work that a command asks for, checked and ready to start.

    Attributes:
        call: does the work and returns the report; its argument is the descriptor of the real stdout.
        streams: whether stdout carries result lines, so that the report goes to stderr.
        only_prints: whether the report is all that the job makes, so that it is lost if stdout cannot be written.
    """

    call: Callable[[int], Report]
    streams: bool = False
    only_prints: bool = False


def job_from_config(
    path: str,
    overrides: list[str] | None,
    print_config: bool,
    call: Callable[[schema.RunConfig], Report],
    check: Callable[[schema.RunConfig], None] = lambda _: None,
) -> Job | str:
    """Returns the job of a configuration file; with `print_config` the resolved settings as YAML instead.

    `check` refuses what cannot be done, before anything heavy is loaded, as is a root that another command works on.
    """
    resolved = paths.absolute(loading.load(path, overrides or []))
    _log.debug("settings: %s", json_documents.encode(section.non_default_settings(resolved), one_line=True).strip())
    if print_config:
        return loading.dump(resolved)
    check(resolved)
    run_checks.refuse_in_use(location.Location.parse(resolved.root, "root"))
    return Job(lambda _: call(resolved))


def job_from_run(
    run: str,
    overrides: list[str] | None,
    print_config: bool,
    call: Callable[[location.Location, settings.InferenceSettings, int], Report],
    verb: str,
    streams: bool = False,
    only_prints: bool = False,
    check: Callable[[settings.InferenceSettings], None] = lambda _: None,
) -> Job | str:
    """Returns a job that uses a trained run; with `print_config` its inference settings as YAML instead.

    `check` refuses settings that do not fit the command line, before anything heavy is loaded.
    """
    root = paths.locate(run, "--run")
    inference = settings.load_run_settings(root, overrides or [], verb)
    _log.debug("settings: %s", json_documents.encode(section.non_default_settings(inference), one_line=True).strip())
    if print_config:
        return loading.dump(inference)
    run_checks.check_kind(verb, root)
    run_checks.check_trained(root)
    check(inference)
    return Job(lambda stdout: call(root, inference, stdout), streams, only_prints)


def typed_job(
    verb: Literal["translate", "generate"], run: str, overrides: list[str] | None, print_config: bool
) -> Job | str:
    """Returns the job that answers lines typed on a terminal; see `job_from_run`."""

    def call(root: location.Location, inference: settings.InferenceSettings, stdout: int) -> Report:
        from jobs import typed

        return typed.run(verb, root, inference, stdout)

    return job_from_run(run, overrides, print_config, call, verb, streams=True)


def machine_job(path: str | None, starts_ray: bool) -> Job:
    """Returns the job that describes this machine, and the disk of a path, by default that of the current folder."""
    root = paths.locate("." if path is None else path, "PATH")

    def call(_: int) -> Report:
        from jobs import machine

        return machine.run(root, starts_ray)

    return Job(call)


def absolute(text: str, where: str) -> str:
    """Returns an absolute location; keeps `-` (a standard stream) and a slash at the end (a folder)."""
    if text == "-":
        return text
    # A location has no slash at its end; here it says that a folder is wanted.
    return str(paths.locate(text, where)) + ("/" if text.endswith("/") else "")


def check_inputs_exist(job: Job | str, inputs: Mapping[str, str | list[str] | None]) -> Job | str:
    """Returns the job unchanged, after checking its inputs, before anything heavy is loaded.

    Args:
        job: settings to print (text) need no inputs.
        inputs: the location, or several, by option; None if the option is absent, `-` for standard input.

    Raises:
        UsageError: an input does not exist, or is a device.
    """
    for option, texts in inputs.items():
        for text in texts if isinstance(texts, list) else [texts]:
            if isinstance(job, Job) and text is not None and text != "-":
                path = location.Location.parse(text, option)
                if not path.exists():
                    raise errors.UsageError(f"{option}: {text} does not exist; check the path")
                streams.refuse_device(path, option)
    return job


def files(
    inputs: list[str], output: str, aligned: list[str] | None, option: str, format_: input_names.Format | None
) -> input_names.Files:
    """Returns the files of a command line; `option` has those that are aligned with the inputs."""
    others = input_names.absolute(aligned, option) if aligned else None
    return input_names.Files(input_names.absolute(inputs, "--input"), absolute(output, "--output"), others, format_)


def check_files(
    job: Job | str, files: input_names.Files, option: str, others: Sequence[location.Location], column: str | None
) -> Job | str:
    """Returns the job unchanged, after checking its files and further runs, before anything heavy is loaded.

    Raises:
        UsageError: an input or a run does not exist, an input has no partner, or the output does not fit the inputs.
        LockedError: another command is writing the output.
    """
    if isinstance(job, Job):
        check_inputs_exist(job, {"--run": list(map(str, others))})
        named = input_names.find(files.input, files.aligned, option)
        input_names.check_output(named, files.output, files.format)
        run_checks.check_standard_streams(not named.inputs, files.output, column)
        run_checks.check_column(named, column)
        run_checks.check_output_is_no_input(files.output, [path for each in named.inputs for path in each.files])
        if not named.are_several:
            run_checks.check_extension(files.output)
        run_checks.refuse_output_in_use(files.output, named.are_several or files.output.endswith("/"))
    return job


def is_terminal() -> bool:
    """Returns whether somebody can type sentences."""
    return sys.stdin is not None and sys.stdin.isatty()


def check_typed(input_: list[str] | None, output: str | None, only_of_files: Mapping[str, object]) -> None:
    """Checks that sentences can be typed, where no input or no output is named.

    Args:
        input_: the value of `--input`.
        output: the value of `--output`.
        only_of_files: values of options that have no meaning for typed sentences.

    Raises:
        UsageError: there is no terminal, or an option needs a file.
    """
    if input_:
        raise errors.UsageError("--output: is missing; name a file or folder/, or - for standard output")
    if output is not None or not is_terminal():
        raise errors.UsageError(
            "--input: is missing; name a file with --output, or - for both; on a terminal, type sentences without them"
        )
    for option, value in only_of_files.items():
        if value:
            raise errors.UsageError(
                f"{option}: is for files, not for typed sentences; name a file with --input, or leave it out"
            )


def text_argument(text: str | None, option: str) -> str | None:
    """Returns an argument that is text for a model, after checking it as text from files is checked.

    Raises:
        UsageError: its bytes are not valid UTF-8.
    """
    # The shell hands over any bytes; those that are not valid UTF-8 arrive as halves of surrogate pairs.
    if text is not None and characters.problem_of(text) is not None:
        raise errors.UsageError(f"{option}: has bytes that are not valid UTF-8; set the terminal to UTF-8")
    return text
