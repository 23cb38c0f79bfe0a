"""Command line, `python -m jobs VERB …`: the verbs and their options; `execution` runs them.

Each command first checks everything that can be checked without torch and Ray, and returns an `options.Job` that does
the work. So a wrong setting is reported within a second or two, and `--help` loads nothing heavy.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from core import errors
from core.config import loading, schema
from core.storage import location, run_lock
from jobs import arpa_commands as arpa
from jobs import config_checks, console, execution, options, paths, run_checks, run_session, settings
from jobs import submission_commands as submission
from jobs import sweep as sweeps

app = typer.Typer(
    help="Distributed training and batch inference for recurrent sequence models.",
    # A shell completes the first word of a line, so `python -m jobs` cannot be completed.
    add_completion=console.program() == console.CONSOLE_COMMAND,
    pretty_exceptions_enable=False,  # `_run` prints tracebacks
)


@app.command(cls=options.Command)
def prepare(
    config: options.Config, set_: options.Overrides = None, print_config: options.PrintConfig = False
) -> options.Job | str:
    """Tokenize corpora and write them as an Arrow dataset."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import prepare as verb

        with (
            run_session.open_session(resolved, verb="prepare") as session,
            run_lock.RunLock(location.Location.parse(resolved.root), "prepare"),
        ):
            return verb.run(resolved, session, console.reporter())

    return options.job_from_config(config, set_, print_config, call, config_checks.check_prepare)


@app.command(cls=options.Command)
def train(
    config: options.Config,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="fail if the run has a checkpoint, instead of resuming from it")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be trained, and stop before the first step")
    ] = False,
) -> options.Job | str:
    """Train a model on a dataset, resuming from the newest checkpoint."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import train as verb

        if dry_run:
            return verb.dry_run(resolved, fresh)
        with run_session.open_session(resolved, verb="train") as session:
            return verb.run(resolved, session, console.reporter(), fresh)

    return options.job_from_config(config, set_, print_config, call, config_checks.check_train)


@app.command(cls=options.Command)
def translate(
    runs: options.Runs,
    input_: options.TypedInputs = None,
    output: options.TypedOutput = None,
    column: options.Column = None,
    prefixes: options.Prefixes = None,
    format_: options.Format = None,
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Translate files, standard input, or typed sentences, with a trained model or an ensemble."""
    if not input_ or output is None:
        if not print_config:
            of_files = {"--run": runs[1:], "--column": column, "--prefixes": prefixes, "--format": format_}
            options.check_typed(input_, output, {**of_files, "--overwrite": overwrite})
        return options.typed_job("translate", runs[0], set_, print_config)
    files = options.files(input_, output, prefixes, "--prefixes", format_)
    others = [paths.locate(text, "--run") for text in runs[1:]]

    def call(root: location.Location, inference: settings.InferenceSettings, stdout: int) -> options.Report:
        from jobs import translate as verb

        with run_session.open_inference_session(inference, root, files.output, "translate") as session:
            request = verb.Request(
                run=root,
                input=files.input,
                output=files.output,
                decoding=inference.decoding,
                compute=inference.compute,
                cluster=inference.cluster,
                column=column,
                prefixes=files.aligned,
                others=others,
                overwrite=overwrite,
                stdout=stdout,
                format=files.format,
            )
            return verb.run(request, session, console.reporter())

    def check(inference: settings.InferenceSettings) -> None:
        run_checks.check_translate(others, inference.decoding, files)

    job = options.job_from_run(runs[0], set_, print_config, call, "translate", files.output == "-", check=check)
    return options.check_files(job, files, "--prefixes", others, column)


@app.command(cls=options.Command)
def score(
    runs: options.Runs,
    input_: options.Inputs,
    output: options.Output,
    targets: options.Targets = None,
    column: options.Column = None,
    format_: options.Format = None,
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Score text (perplexity), or given translations (log-probabilities), with a trained model or a mixture."""
    files = options.files(input_, output, targets, "--targets", format_)
    others = [paths.locate(text, "--run") for text in runs[1:]]

    def call(root: location.Location, inference: settings.InferenceSettings, stdout: int) -> options.Report:
        from jobs import score as verb

        with run_session.open_inference_session(inference, root, files.output, "score") as session:
            request = verb.Request(
                run=root,
                input=files.input,
                output=files.output,
                scoring=inference.scoring,
                compute=inference.compute,
                cluster=inference.cluster,
                targets=files.aligned,
                column=column,
                others=others,
                overwrite=overwrite,
                stdout=stdout,
                format=files.format,
            )
            return verb.run(request, session, console.reporter())

    def check(inference: settings.InferenceSettings) -> None:
        all_runs = [paths.locate(runs[0], "--run"), *others]
        run_checks.check_score(all_runs, inference.scoring, inference.compute, files)

    job = options.job_from_run(runs[0], set_, print_config, call, "score", files.output == "-", check=check)
    return options.check_files(job, files, "--targets", others, column)


@app.command(cls=options.Command)
def generate(
    run: options.Run,
    prefix: options.Prefix = None,
    ending: options.Ending = None,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Generate text with a language model: after a prefix, or before an ending with a backward model.

    On a terminal, without either, each typed line is continued.
    """
    if prefix is None and ending is None:
        if not print_config and not options.is_terminal():
            raise errors.UsageError(
                "--prefix: is missing; give the beginning of the text, or --ending, its end, to a model that reads "
                "backward; on a terminal, type lines without it"
            )
        return options.typed_job("generate", run, set_, print_config)
    prefix, ending = options.text_argument(prefix, "--prefix"), options.text_argument(ending, "--ending")

    def call(root: location.Location, inference: settings.InferenceSettings, _: int) -> options.Report:
        from jobs import generate as verb

        return verb.run(
            root, prefix, inference.generation, inference.compute, inference.cluster, settings.seed_of(root), ending
        )

    def check(_: settings.InferenceSettings) -> None:
        run_checks.check_prompt(paths.locate(run, "--run"), prefix, ending)

    return options.job_from_run(run, set_, print_config, call, "generate", only_prints=True, check=check)


@app.command(cls=options.Command)
def forecast(
    run: options.Run,
    input_: Annotated[str, typer.Option("--input", metavar="URI", help="CSV file with a header line, or Parquet file")],
    output: Annotated[
        str, typer.Option("--output", metavar="URI", help=".txt, .jsonl, .parquet or .arrow file, or folder/")
    ],
    overwrite: options.Overwrite = False,
    set_: options.Overrides = None,
    print_config: options.PrintConfig = False,
) -> options.Job | str:
    """Forecast numeric series, one or several steps ahead, and measure the errors."""
    source, target = options.absolute(input_, "--input"), options.absolute(output, "--output")
    run_checks.check_forecast(source, target)

    def call(root: location.Location, inference: settings.InferenceSettings, _: int) -> options.Report:
        from jobs import forecast as verb

        return verb.run(root, source, target, inference.forecasting, inference.cluster, console.reporter(), overwrite)

    def check(inference: settings.InferenceSettings) -> None:
        run_checks.check_forecasting(paths.locate(run, "--run"), inference.forecasting, target)

    job = options.job_from_run(run, set_, print_config, call, "forecast", check=check)
    return options.check_inputs_exist(job, {"--input": source})


@app.command(cls=options.Command)
def init(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="text, pairs (tab-separated, table, two aligned files), or CSV")
    ],
    output: Annotated[str, typer.Option("--output", metavar="FILE", help="configuration to write")] = "run.yaml",
    kind: Annotated[
        Literal["pairs", "text", "series"] | None,
        typer.Option("--kind", help="kind of corpus; by default the files decide"),
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=1, help="budget for training")] = None,
    overwrite: options.Overwrite = False,
) -> options.Job:
    """Look at files, and write a commented configuration for them."""
    if paths.writable(output, "--output").path.exists() and not overwrite:
        raise run_checks.taken_error(output)

    def call(_: int) -> options.Report:
        from jobs import init as verb

        return verb.run(files, output, kind, minutes, overwrite, console.reporter())

    job = options.Job(call)
    for file in files:
        # Wildcards and members of archives are resolved with the corpus.
        if not set("*?[:").intersection(file):
            options.check_inputs_exist(job, {"FILE": file})
    return job


@app.command(cls=options.Command)
def evaluate(
    hypotheses: options.Hypotheses,
    references: options.References,
    run: options.RunOfTranslations = None,
    tokenize: options.Tokenize = None,
    lowercase: options.Lowercase = None,
    significance: options.Significance = None,
    confidence: options.Confidence = False,
    d2l_bleu_k: options.D2lBleuK = None,
    documents_k: options.DocumentsK = None,
) -> options.Job | str:
    """Evaluate translations against references: BLEU, chrF, TER, and whether several systems differ significantly."""
    hypotheses_files = [str(paths.locate(text, "--hypotheses")) for text in hypotheses]
    reference_files = [str(paths.locate(text, "--references")) for text in references]
    root = None if run is None else paths.locate(run, "--run")
    chosen, cleaning = settings.evaluation_of(root, tokenize, lowercase)
    run_checks.check_significance(len(hypotheses), significance, confidence)
    ngram_order = run_checks.ngram_order(d2l_bleu_k, documents_k)

    def call(_: int) -> options.Report:
        from jobs import evaluate as verb

        request = verb.Request(
            hypotheses=hypotheses_files,
            references=reference_files,
            settings=chosen,
            cleaning=cleaning,
            d2l_bleu_k=ngram_order or verb.D2L_BLEU_K,
            test=significance,
            confidence=confidence,
            tokenize_from="--tokenize",
        )
        return verb.run(request, console.reporter())

    files = {"--hypotheses": hypotheses_files, "--references": reference_files}
    return options.check_inputs_exist(options.Job(call, only_prints=True), files)


@app.command(cls=options.Command)
def pipeline(
    config: options.Config, set_: options.Overrides = None, print_config: options.PrintConfig = False
) -> options.Job | str:
    """Prepare, train, translate, score, evaluate and report, skipping finished stages."""

    def call(resolved: schema.RunConfig) -> options.Report:
        from jobs import pipeline as verb

        with run_session.open_session(resolved, verb="pipeline") as session:
            return verb.run(resolved, session, console.reporter())

    return options.job_from_config(config, set_, print_config, call, config_checks.check_pipeline)


@app.command(cls=options.Command)
def sweep(
    config: options.Config,
    grid: sweeps.Grid,
    set_: options.Overrides = None,
    parallel: sweeps.Parallel = 1,
    dry_run: sweeps.DryRun = False,
) -> options.Job:
    """Run the pipeline for every combination of some settings, and compare the runs."""
    return sweeps.job(config, grid, set_ or [], parallel, dry_run)


@app.command(cls=options.Command)
def demo(set_: options.Overrides = None, print_config: options.PrintConfig = False) -> options.Job | str:
    """Train a translation model and a language model on generated text, in a few minutes."""
    text, unresolved = settings.load_demo_configs(set_ or [])
    root, configs = paths.writable(text, "root"), [paths.absolute(config) for config in unresolved]
    if print_config:
        return "---\n".join(loading.dump(config) for config in configs)

    def call(_: int) -> options.Report:
        from jobs import demo as verb

        with run_session.open_session(configs[0], root, verb="demo") as session:
            return verb.run(root, configs, session, console.reporter())

    return options.Job(call)


@app.command(cls=options.Command)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="root of a run; several for a comparison")],
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="URI", help="HTML file to write; default, for one run: RUN/report.html"),
    ] = None,
) -> options.Job:
    """Write an HTML report of a run, or a comparison of several."""
    target = None if output is None else paths.writable(output, "--output")
    # Without --output the report is written into the run itself.
    roots = [paths.locate(run, "RUN") if target else paths.writable(run, "RUN") for run in runs]
    run_checks.check_report(roots, target)

    def call(_: int) -> options.Report:
        from jobs import report as verb

        return verb.run(roots, console.reporter(), target)

    return options.Job(call)


@app.command(cls=options.Command)
def inspect(
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="dataset, checkpoint, run or output folder")
    ] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="describe this machine instead, and the disk of PATH or of this folder")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="with --machine: start a local Ray cluster, too")] = False,
) -> options.Job:
    """Describe a dataset, checkpoint, run or output folder, and verify its files; or describe this machine."""
    if machine:
        return options.machine_job(path, ray)
    if path is None or ray:
        raise errors.UsageError("PATH: name what to inspect, or use --machine, with or without --ray")
    artefact = run_checks.artefact_at(paths.locate(path, "PATH"))

    def call(_: int) -> options.Report:
        from jobs import inspect as verb

        return verb.run(artefact, console.reporter())

    return options.Job(call, only_prints=True)


app.command("submit", cls=options.Command, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    submission.submit
)
arpa.add_to(app)
app.command("list", cls=options.Command)(submission.list_)
app.command("logs", cls=options.Command)(submission.logs)
app.command("stop", cls=options.Command)(submission.stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code; the entry point of `raycurrent` and of `python -m jobs`."""
    return execution.main(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
