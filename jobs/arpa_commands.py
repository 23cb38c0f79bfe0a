"""Commands for n-gram models in the ARPA format: `export`, `import`."""

from typing import Annotated

import typer

from core import errors
from core.storage import root_layout, streams
from jobs import options, paths, run_checks

ArpaOutput = Annotated[
    str, typer.Option("--output", metavar="URI", help="ARPA file to write; one that ends in .gz is compressed")
]
ArpaInput = Annotated[
    str, typer.Option("--input", metavar="URI", help="ARPA file of SRILM, KenLM or others, compressed or not")
]
NewRun = Annotated[str, typer.Option("--run", metavar="RUN", help="root of the new run, which score and generate take")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the file if it exists")]


def export(run: options.Run, output: ArpaOutput, overwrite: Overwrite = False) -> options.Job:
    """Write the n-gram model of a run as an ARPA file, which SRILM, KenLM and others read."""
    root, file = paths.locate(run, "--run"), paths.writable(output, "--output")
    if str(file).endswith("/") or (file.is_local and file.path.is_dir()):
        raise errors.UsageError(f"--output: {file} is a folder; name a file")
    run_checks.check_kind("export", root)
    run_checks.check_trained(root)
    if file.exists() and not overwrite:
        raise run_checks.taken_error(str(file))

    def call(_: int) -> options.Report:
        from jobs import arpa as verb

        return verb.export(root, file, overwrite)

    return options.Job(call)


def import_(input_: ArpaInput, run: NewRun) -> options.Job:
    """Make a run of an n-gram model in an ARPA file, for score, generate and export."""
    file, root = paths.locate(input_, "--input"), paths.writable(run, "--run")
    streams.refuse_device(file, "--input")
    if not file.exists():
        raise errors.UsageError(f"--input: {file} does not exist; check the path")
    if root.join(root_layout.CHECKPOINTS).list_names():
        raise errors.LockedError(f"--run: {root} has a model already; name another root")
    run_checks.refuse_in_use(root)

    def call(_: int) -> options.Report:
        from jobs import arpa as verb

        return verb.import_(file, root)

    return options.Job(call)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to a command line."""
    app.command("export", cls=options.Command)(export)
    app.command("import", cls=options.Command)(import_)
