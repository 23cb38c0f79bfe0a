"""What the commands of the command line share: their options, the checked `Job` that each returns, its session.

Everything here works without torch and Ray; a session imports them when a job opens it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from core import errors
from core.config import loading, schema
from core.storage import location
from jobs import console, paths, run_state, settings

if TYPE_CHECKING:
    from workers.cluster import session as sessions

Report = dict[str, Any]

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file of settings")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="another value for a setting; repeatable")
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="print the resolved settings as YAML and stop")]
Run = Annotated[str, typer.Option("--run", metavar="RUN", help="root of a run, or one checkpoint folder")]
Input = Annotated[str, typer.Option("--input", metavar="URI", help="text, Parquet or JSONL; - for standard input")]
Output = Annotated[str, typer.Option("--output", metavar="URI", help=".txt, .jsonl, .parquet, .arrow, folder/, or -")]
Column = Annotated[str | None, typer.Option("--column", help="of Parquet and JSONL: the column that holds the text")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what an earlier run with other settings wrote")]


class Job(NamedTuple):
    """What the command line asks for, checked and ready to start.

    Attributes:
        call: does the work and returns the report; takes the descriptor of the real stdout.
        streams: stdout carries result lines, so the report goes to stderr.
    """

    call: Callable[[int], Report]
    streams: bool = False


def of_config(
    path: str, overrides: list[str] | None, print_config: bool, call: Callable[[schema.RunConfig], Report]
) -> Job | str:
    """A job that a file of settings describes."""
    resolved = paths.absolute(loading.load(path, overrides or []))
    if print_config:
        return loading.dump(resolved)
    return Job(lambda _: call(resolved))


def of_run(
    run: str,
    overrides: list[str] | None,
    print_config: bool,
    call: Callable[[location.Location, settings.Use, int], Report],
    streams: bool = False,
) -> Job | str:
    """A job that uses a trained run."""
    place = paths.locate(run, "--run")
    use = settings.of_run(place, overrides or [])
    if print_config:
        return loading.dump(use)
    return Job(lambda stdout: call(place, use, stdout), streams)


def absolute(text: str, where: str) -> str:
    """Returns an absolute location; a dash stands for a standard stream, and a slash at the end for a folder."""
    if text == "-":
        return text
    return str(paths.locate(text, where)) + ("/" if text.endswith("/") else "")


def reads(job: Job | str, texts: Mapping[str, str | None]) -> Job | str:
    """The job, once something is at every location that it reads: looked up before anything heavy is loaded."""
    for where, text in texts.items():
        if isinstance(job, Job) and text not in (None, "-") and not location.Location.parse(text, where).exists():
            raise errors.UsageError(f"{where}: there is nothing at {text}; check the path")
    return job


@contextlib.contextmanager
def session_of(config: schema.RunConfig, root: location.Location | None = None) -> Iterator["sessions.Session"]:
    """A session for a run, or for several below one root; their metrics lie below it, under its name."""
    from workers.telemetry import tensorboard

    tensorboard.check_installed(config.telemetry)
    place, name = (location.Location.parse(config.root, "root"), config.name) if root is None else (root, root.name)
    with _session(config.cluster, config.telemetry, [place], place.join("metrics"), name) as session:
        yield session


@contextlib.contextmanager
def _session(
    where: schema.ClusterConfig,
    telemetry: schema.TelemetryConfig,
    shared: Sequence[location.Location],
    metrics: location.Location | None,
    name: str,
) -> Iterator["sessions.Session"]:
    """Opens a session; an interruption ends with the code of the signal that it received."""
    from workers.cluster import session as sessions

    with sessions.Session(where, shared, metrics, telemetry, name) as session:
        try:
            yield session
        except errors.InterruptedRunError as error:
            console.complain(str(error))
            raise typer.Exit(run_state.exit_code(error, session.signal)) from error


@contextlib.contextmanager
def session_of_use(use: settings.Use, run: location.Location, output: str) -> Iterator["sessions.Session"]:
    """A session for the use of a run; its metrics lie beside what it writes, for it may only read the run."""
    if output == "-":
        with _session(use.cluster, use.telemetry, [run], None, run.name) as session:
            yield session
        return
    folder = location.Location.parse(output, "--output").parent
    with _session(use.cluster, use.telemetry, [run, folder], folder.join("metrics"), run.name) as session:
        yield session
