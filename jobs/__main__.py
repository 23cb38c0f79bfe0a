"""`python -m jobs VERB …`: reads the command line, starts the job, prints its report, ends with its exit code.

A command checks everything that can be checked without torch and Ray and returns a `options.Job`; only then is a
job started. So a wrong setting is told within a second or two, and `--help` loads nothing heavy.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from core import errors
from core.config import loading, schema
from core.storage import location, run_lock
from jobs import console, json_documents, options, paths, settings

app = typer.Typer(
    help="Distributed training and batch inference for recurrent sequence models.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def prepare(
    config: options.Config, set_: options.Overrides = None, print_config: options.PrintConfig = False
) -> options.Job | str:
    """Turn corpora into an Arrow dataset."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import prepare as verb

        with (
            options.session_of(resolved) as session,
            run_lock.RunLock(location.Location.parse(resolved.root), "prepare"),
        ):
            return verb.run(resolved, session, console.reporter())

    return options.of_config(config, set_, print_config, call)


@app.command()
def train(
    config: options.Config,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="refuse to go on from a checkpoint")] = False,
) -> options.Job | str:
    """Train a model on a dataset; run again, go on where it stopped."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import train as verb

        with options.session_of(resolved) as session:
            return verb.run(resolved, session, console.reporter(), fresh)

    return options.of_config(config, set_, print_config, call)


@app.command()
def translate(
    runs: Annotated[
        list[str],
        typer.Option("--run", metavar="RUN", help="root of a run, or one checkpoint folder; repeated: an ensemble"),
    ],
    input_: options.Input,
    output: options.Output,
    column: options.Column = None,
    prefixes: Annotated[
        str | None, typer.Option("--prefixes", metavar="URI", help="text: what each line's translation begins with")
    ] = None,
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Translate a file, or standard input, with a trained model."""
    source, target = options.absolute(input_, "--input"), options.absolute(output, "--output")
    begun = None if prefixes is None else str(paths.locate(prefixes, "--prefixes"))
    others = [paths.locate(text, "--run") for text in runs[1:]]

    def call(place: location.Location, use: settings.Use, stdout: int) -> options.Report:
        from jobs import translate as verb

        with options.session_of_use(use, place, target) as session:
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
                others=others,
                prefixes=begun,
            )

    job = options.of_run(runs[0], set_, print_config, call, streams=target == "-")
    for other in others:
        options.reads(job, {"--run": str(other)})
    return options.reads(job, {"--input": source, "--prefixes": begun})


@app.command()
def score(
    run: options.Run,
    input_: options.Input,
    output: options.Output,
    targets: Annotated[str | None, typer.Option("--targets", metavar="URI", help="given translations to score")] = None,
    column: options.Column = None,
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Score text (perplexity), or given translations, with a trained model."""
    source, target = options.absolute(input_, "--input"), options.absolute(output, "--output")
    sides = None if targets is None else options.absolute(targets, "--targets")

    def call(place: location.Location, use: settings.Use, stdout: int) -> options.Report:
        from jobs import score as verb

        with options.session_of_use(use, place, target) as session:
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

    job = options.of_run(run, set_, print_config, call, streams=target == "-")
    return options.reads(job, {"--input": source, "--targets": sides})


@app.command()
def generate(
    run: options.Run,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="TEXT", help="what the text begins with")] = None,
    ending: Annotated[
        str | None, typer.Option("--ending", metavar="TEXT", help="what it ends with, for a model that reads backward")
    ] = None,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Go on from a prefix with a language model, or with one that reads backward towards an ending."""

    def call(place: location.Location, use: settings.Use, _: int) -> options.Report:
        from jobs import generate as verb

        return verb.run(place, prefix, use.decoding, use.compute, use.cluster, settings.seed_of(place), ending)

    return options.of_run(run, set_, print_config, call)


@app.command()
def forecast(
    run: options.Run,
    input_: Annotated[str, typer.Option("--input", metavar="URI", help="CSV with a header line, or Parquet")],
    output: options.Output,
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Forecast a numeric series, one or several steps ahead, and say how far off that was."""
    source, target = options.absolute(input_, "--input"), options.absolute(output, "--output")

    def call(place: location.Location, use: settings.Use, _: int) -> options.Report:
        from jobs import forecast as verb

        return verb.run(place, source, target, use.forecasting, use.cluster, console.reporter(), overwrite)

    return options.reads(options.of_run(run, set_, print_config, call), {"--input": source})


@app.command()
def evaluate(
    hypotheses: Annotated[str, typer.Option("--hypotheses", metavar="URI", help="translations, a line each")],
    references: Annotated[list[str], typer.Option("--references", metavar="URI", help="references; repeatable")],
    documents_k: Annotated[
        int | None, typer.Option("--documents-k", min=1, help="longest n-grams of the documents' BLEU; without it 2")
    ] = None,
) -> options.Job:
    """Compare translations with references: BLEU, chrF, TER."""
    places = [paths.locate(text, "--references") for text in references]
    place = paths.locate(hypotheses, "--hypotheses")

    def call(_: int) -> options.Report:
        from jobs import evaluate as verb

        k = documents_k or verb.DOCUMENTS_K
        return verb.run(str(place), [str(reference) for reference in places], console.reporter(), k)

    return options.Job(call)


@app.command()
def pipeline(
    config: options.Config, set_: options.Overrides = None, print_config: options.PrintConfig = False
) -> options.Job | str:
    """Prepare, train, translate and score, evaluate, and report."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import pipeline as verb

        with options.session_of(resolved) as session:
            return verb.run(resolved, session, console.reporter())

    return options.of_config(config, set_, print_config, call)


@app.command()
def demo(set_: options.Overrides = None, print_config: options.PrintConfig = False) -> options.Job | str:
    """Run the pipeline on generated text: a translation model and a language model, in a few minutes."""
    text, unresolved = settings.of_demo(set_ or [])
    root, configs = paths.writable(text, "root"), [paths.absolute(config) for config in unresolved]
    if print_config:
        return "---\n".join(loading.dump(config) for config in configs)

    def call(_: int) -> options.Report:
        from jobs import demo as verb

        with options.session_of(configs[0], root) as session:
            return verb.run(root, configs, session, console.reporter())

    return options.Job(call)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="root of a run; several are compared on one page")],
    output: Annotated[
        str | None, typer.Option("--output", metavar="URI", help="the page; of one run else RUN/report.html")
    ] = None,
) -> options.Job:
    """Write the HTML page of a run, or one that compares several."""
    place = None if output is None else paths.writable(output, "--output")
    roots = [paths.locate(run, "RUN") if place else paths.writable(run, "RUN") for run in runs]

    def call(_: int) -> options.Report:
        from jobs import report as verb

        return verb.run(roots, console.reporter(), place)

    return options.Job(call)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="dataset, checkpoint, run or output")],
) -> options.Job:
    """Say what a dataset, checkpoint, run or output folder holds, and verify it."""
    place = paths.locate(path, "PATH")
    if not place.exists() and not place.parent.exists():
        raise errors.UsageError(f"PATH: there is nothing at {place}; check the name")

    def call(_: int) -> options.Report:
        from jobs import inspect as verb

        return verb.run(place, console.reporter())

    return options.Job(call)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help="what to do there, followed by its own arguments")],
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="of the job server, as http://127.0.0.1:8265")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="print where the job is, and leave it alone")] = False,
    num_cpus: Annotated[float | None, typer.Option("--num-cpus", help="reserved for the driver of the job")] = None,
    num_gpus: Annotated[float | None, typer.Option("--num-gpus", help="reserved for the driver of the job")] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="interpreter there; this one on this machine, else python")
    ] = None,
) -> options.Job:
    """Do any of these as a Ray job on a cluster: logs followed, its own exit code returned."""
    from jobs import submit as verb_module

    group: Any = context.parent.command if context.parent else None
    if verb == "submit" or verb not in group.commands:
        raise errors.UsageError(f"submit: {console.shown(verb)!r} is no verb that can be submitted; see --help")
    place = verb_module.address_of(address)
    is_local = verb_module.is_loopback(place)
    order = verb_module.plan(group.commands[verb], context.args, is_local)
    resources = {"entrypoint_num_cpus": num_cpus, "entrypoint_num_gpus": num_gpus}
    interpreter = python or (sys.executable if is_local else "python")
    return options.Job(lambda _: verb_module.run(order, place, interpreter, resources, wait=not no_wait))


def _do(job: options.Job) -> None:
    """Does a job and prints its report, with everything else that anybody prints on stderr."""
    stdout = console.take_stdout()
    text = json_documents.encode(job.call(stdout), one_line=job.streams)
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
        if isinstance(job, options.Job):
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
    except KeyboardInterrupt as interrupt:
        console.complain("interrupted: nothing was lost that had been committed; run the same command again to go on")
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception:  # noqa: BLE001 (what nobody expected is a bug: shown whole)
        traceback.print_exc()
        return 1
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    """Ends a job that is not yet, or no longer, one to be saved first: a session handles signals itself."""
    raise KeyboardInterrupt(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; the last line of the log of a job, or of a mistake, is `exit=` with the code."""
    console.set_up_logging()
    signal.signal(signal.SIGTERM, _interrupt)
    code = _run(arguments)
    if code:
        console.write_line(f"exit={code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
