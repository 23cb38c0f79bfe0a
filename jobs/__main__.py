"""`python -m jobs VERB …`: reads the command line, starts the job, prints its report, ends with its exit code.

A command checks everything that can be checked without torch and Ray and returns a `Job`; only then is a job
started. So a wrong setting is told within a second or two, and `--help` loads nothing heavy.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from core import errors
from core.config import loading, schema
from core.storage import commit, location
from jobs import console, document, paths, record, settings

if TYPE_CHECKING:
    from workers import cluster

Report = dict[str, Any]

app = typer.Typer(
    help="Distributed training and batch inference for recurrent sequence models.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


@app.command()
def prepare(config: Config, set_: Overrides = None, print_config: PrintConfig = False) -> Job | str:
    """Turn corpora into an Arrow dataset."""

    def call(resolved: schema.RunConfig) -> Report:
        from jobs import prepare as verb

        with _session_of(resolved) as session, commit.RunLock(location.Location.parse(resolved.root), "prepare"):
            return verb.run(resolved, session, console.reporter())

    return _of_config(config, set_, print_config, call)


@app.command()
def train(
    config: Config,
    set_: Overrides = None,
    print_config: PrintConfig = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="refuse to go on from a checkpoint")] = False,
) -> Job | str:
    """Train a model on a dataset; run again, go on where it stopped."""

    def call(resolved: schema.RunConfig) -> Report:
        from jobs import train as verb

        with _session_of(resolved) as session:
            return verb.run(resolved, session, console.reporter(), fresh)

    return _of_config(config, set_, print_config, call)


@app.command()
def translate(
    run: Run,
    input_: Input,
    output: Output,
    column: Column = None,
    overwrite: Overwrite = False,
    set_: Overrides = None,
    print_config: PrintConfig = False,
) -> Job | str:
    """Translate a file, or standard input, with a trained model."""
    source, target = _location(input_, "--input"), _location(output, "--output")

    def call(place: location.Location, use: settings.Use, stdout: int) -> Report:
        from jobs import translate as verb

        with _session_of_use(use, place, target) as session:
            return verb.run(
                run=place,
                input=source,
                output=target,
                column=column,
                decoding=use.decoding,
                compute=use.compute,
                cluster=use.cluster,
                session=session,
                reporter=console.reporter(),
                overwrite=overwrite,
                stdout=stdout,
            )

    job = _of_run(run, set_, print_config, call, streams=target == "-")
    return _reads(job, {"--input": source})


@app.command()
def score(
    run: Run,
    input_: Input,
    output: Output,
    targets: Annotated[str | None, typer.Option("--targets", metavar="URI", help="given translations to score")] = None,
    column: Column = None,
    overwrite: Overwrite = False,
    set_: Overrides = None,
    print_config: PrintConfig = False,
) -> Job | str:
    """Score text (perplexity), or given translations, with a trained model."""
    source, target = _location(input_, "--input"), _location(output, "--output")
    sides = None if targets is None else _location(targets, "--targets")

    def call(place: location.Location, use: settings.Use, stdout: int) -> Report:
        from jobs import score as verb

        with _session_of_use(use, place, target) as session:
            return verb.run(
                run=place,
                input=source,
                targets=sides,
                output=target,
                column=column,
                scoring=use.scoring,
                compute=use.compute,
                cluster=use.cluster,
                session=session,
                reporter=console.reporter(),
                overwrite=overwrite,
                stdout=stdout,
            )

    job = _of_run(run, set_, print_config, call, streams=target == "-")
    return _reads(job, {"--input": source, "--targets": sides})


@app.command()
def generate(
    run: Run,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="what the text begins with")],
    set_: Overrides = None,
    print_config: PrintConfig = False,
) -> Job | str:
    """Go on from a prefix with a language model."""

    def call(place: location.Location, use: settings.Use, _: int) -> Report:
        from jobs import generate as verb

        return verb.run(place, prefix, use.decoding, use.compute, use.cluster, settings.seed_of(place))

    return _of_run(run, set_, print_config, call)


@app.command()
def evaluate(
    hypotheses: Annotated[str, typer.Option("--hypotheses", metavar="URI", help="translations, a line each")],
    references: Annotated[list[str], typer.Option("--references", metavar="URI", help="references; repeatable")],
) -> Job:
    """Compare translations with references: BLEU, chrF, TER."""
    places = [paths.locate(text, "--references") for text in references]
    place = paths.locate(hypotheses, "--hypotheses")

    def call(_: int) -> Report:
        from jobs import evaluate as verb

        return verb.run(str(place), [str(reference) for reference in places], console.reporter())

    return Job(call)


@app.command()
def pipeline(config: Config, set_: Overrides = None, print_config: PrintConfig = False) -> Job | str:
    """Prepare, train, translate and score, evaluate, and report."""

    def call(resolved: schema.RunConfig) -> Report:
        from jobs import pipeline as verb

        with _session_of(resolved) as session:
            return verb.run(resolved, session, console.reporter())

    return _of_config(config, set_, print_config, call)


@app.command()
def demo(set_: Overrides = None, print_config: PrintConfig = False) -> Job | str:
    """Run the pipeline on generated text: a translation model and a language model, in a few minutes."""
    text, unresolved = settings.of_demo(set_ or [])
    root, configs = paths.writable(text, "root"), [paths.absolute(config) for config in unresolved]
    if print_config:
        return "---\n".join(loading.dump(config) for config in configs)

    def call(_: int) -> Report:
        from jobs import demo as verb

        with _session_of(configs[0], root) as session:
            return verb.run(root, configs, session, console.reporter())

    return Job(call)


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="root of a run")]) -> Job:
    """Write the HTML page of a run."""
    root = paths.writable(run, "RUN")

    def call(_: int) -> Report:
        from jobs import report as verb

        return verb.run(root, console.reporter())

    return Job(call)


@app.command()
def inspect(path: Annotated[str, typer.Argument(metavar="PATH", help="dataset, checkpoint, run or output")]) -> Job:
    """Say what a dataset, checkpoint, run or output folder holds, and verify it."""
    place = paths.locate(path, "PATH")
    if not place.exists() and not place.parent.exists():
        raise errors.UsageError(f"PATH: there is nothing at {place}; check the name")

    def call(_: int) -> Report:
        from jobs import inspect as verb

        return verb.run(place, console.reporter())

    return Job(call)


def _of_config(
    path: str, overrides: list[str] | None, print_config: bool, call: Callable[[schema.RunConfig], Report]
) -> Job | str:
    """A job that a file of settings describes."""
    resolved = paths.absolute(loading.load(path, overrides or []))
    if print_config:
        return loading.dump(resolved)
    return Job(lambda _: call(resolved))


def _of_run(
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


def _location(text: str, where: str) -> str:
    """An absolute location; a dash stands for a standard stream, and a slash at the end for a folder."""
    if text == "-":
        return text
    return str(paths.locate(text, where)) + ("/" if text.endswith("/") else "")


def _reads(job: Job | str, texts: Mapping[str, str | None]) -> Job | str:
    """The job, once something is at every location that it reads: looked up before anything heavy is loaded."""
    for where, text in texts.items():
        if isinstance(job, Job) and text not in (None, "-") and not location.Location.parse(text, where).exists():
            raise errors.UsageError(f"{where}: there is nothing at {text}; check the path")
    return job


@contextlib.contextmanager
def _session_of(config: schema.RunConfig, root: location.Location | None = None) -> Iterator["cluster.Session"]:
    place = root or location.Location.parse(config.root, "root")
    with _session(config.cluster, config.telemetry, [place], place.join("metrics"), config.name) as session:
        yield session


@contextlib.contextmanager
def _session(
    where: schema.ClusterConfig,
    telemetry: schema.TelemetryConfig,
    shared: Sequence[location.Location],
    metrics: location.Location | None,
    name: str,
) -> Iterator["cluster.Session"]:
    """Opens a session; an interruption ends with the code of the signal that it received."""
    from workers import cluster

    with cluster.Session(where, shared, metrics, telemetry, name) as session:
        try:
            yield session
        except errors.InterruptedRunError as error:
            console.complain(str(error))
            raise typer.Exit(record.exit_code(error, session.signal)) from error


@contextlib.contextmanager
def _session_of_use(use: settings.Use, run: location.Location, output: str) -> Iterator["cluster.Session"]:
    """A session for the use of a run; its metrics lie beside what it writes, for it may only read the run."""
    if output == "-":
        with _session(use.cluster, use.telemetry, [run], None, run.name) as session:
            yield session
        return
    folder = location.Location.parse(output, "--output").parent
    with _session(use.cluster, use.telemetry, [run, folder], folder.join("metrics"), run.name) as session:
        yield session


def _do(job: Job) -> None:
    """Does a job and prints its report, with everything else that anybody prints on stderr."""
    stdout = console.take_stdout()
    text = document.encode(job.call(stdout), one_line=job.streams)
    console.write_line("exit=0")
    # The work is done and committed: a reader that has gone away makes it no failure.
    with contextlib.suppress(BrokenPipeError):
        if job.streams:
            sys.stderr.write(text)
            return
        with os.fdopen(stdout, "w", encoding="utf-8") as out:
            out.write(text)


def _run(arguments: Sequence[str] | None) -> int:
    """Runs a command line and returns the exit code; says why it is not 0.

    A command returns a job, or the settings as text; the library itself returns an exit code where it shows help.
    """
    try:
        job = app(args=arguments, prog_name="python -m jobs", standalone_mode=False)
        if isinstance(job, Job):
            _do(job)
        elif isinstance(job, str):
            sys.stdout.write(job)
            sys.stdout.flush()
        else:
            return int(job or 0)
    except typer.TyperException as error:
        complaint = " ".join(error.format_message().split()).rstrip(".")
        console.complain(f"command line: {complaint}; see python -m jobs --help")
        return errors.UsageError.exit_code
    except errors.RaycurrentError as error:
        console.complain(str(error))
        return error.exit_code
    except typer.Exit as leaving:
        return leaving.exit_code
    except KeyboardInterrupt:
        console.complain("interrupted: nothing was lost that had been committed; run the same command again to go on")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception:  # noqa: BLE001 (what nobody expected is a bug: shown whole)
        traceback.print_exc()
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; the last line of the log of a job, or of a mistake, is `exit=` with the code."""
    console.set_up_logging()
    code = _run(arguments)
    if code:
        console.write_line(f"exit={code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
