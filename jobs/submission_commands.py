"""Commands about jobs elsewhere: `submit`."""

import sys
from typing import Annotated, Any

import typer

from core import errors
from jobs import console, options


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help="verb to run, followed by its own arguments")],
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="Ray job server, such as http://127.0.0.1:8265")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="print the submission id and return, instead of following the job")
    ] = False,
    num_cpus: Annotated[float | None, typer.Option("--num-cpus", help="CPUs to reserve for the driver")] = None,
    num_gpus: Annotated[float | None, typer.Option("--num-gpus", help="GPUs to reserve for the driver")] = None,
    python: Annotated[
        str | None,
        typer.Option("--python", help="interpreter on the cluster; default: this one for a local cluster, else python"),
    ] = None,
) -> options.Job:
    """Run another verb as a Ray job: follow its log, return its report and exit code."""
    from jobs import submit as verb_module

    group: Any = context.parent.command if context.parent else None
    if verb == "submit" or verb not in group.commands:
        raise errors.UsageError(
            f"submit: {console.sanitize(verb)!r} cannot be submitted; use another verb of {console.program()} --help"
        )
    server = verb_module.resolve_address(address)
    is_local = verb_module.is_loopback(server)
    spec = verb_module.plan(group.commands[verb], context.args, is_local)
    resources = {"entrypoint_num_cpus": num_cpus, "entrypoint_num_gpus": num_gpus}
    interpreter = python or (sys.executable if is_local else "python")
    return options.Job(lambda _: verb_module.run(spec, server, interpreter, resources, wait=not no_wait))
