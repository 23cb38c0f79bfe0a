"""Sessions of verbs: a cluster, or this process, with the metrics of the run; see `workers.cluster.session`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from core import errors
from core.config import schema
from core.storage import location, root_layout
from jobs import console, paths, run_state, settings

if TYPE_CHECKING:
    from workers.cluster import session as sessions


@contextlib.contextmanager
def open_session(
    config: schema.RunConfig, root: location.Location | None = None, *, verb: str = "python"
) -> Iterator["sessions.Session"]:
    """Yields a session of a verb for a run, or for several below one root; the metrics are written below that root."""
    from core.evaluation import bleu_tokenizers
    from workers.telemetry import tensorboard

    tensorboard.check_installed(config.telemetry)
    bleu_tokenizers.check_installed(config.evaluation)
    if root is None:
        root, name = location.Location.parse(config.root, "root"), config.name
    else:
        name = root.name
    with _session(config.cluster, config.telemetry, [root], root.join(root_layout.METRICS), (name, verb)) as session:
        yield session


@contextlib.contextmanager
def _session(
    cluster: schema.ClusterConfig,
    telemetry: schema.TelemetryConfig,
    shared: Sequence[location.Location],
    metrics: location.Location | None,
    names: tuple[str, str],
) -> Iterator["sessions.Session"]:
    """Yields a session of a run and a verb; an interruption ends with the exit code of the signal that it received."""
    from workers.cluster import addresses

    # Both before torch and Ray are imported.
    addresses.check_reachable(cluster.address)
    if telemetry.pushgateway is not None:
        from workers.telemetry import pushgateway

        telemetry = paths.telemetry(telemetry)
        pushgateway.credentials(telemetry.pushgateway_credentials)
    from workers.cluster import session as sessions

    with sessions.Session(cluster, shared, metrics, telemetry, *names) as session:
        try:
            yield session
        except errors.InterruptedRunError as error:
            console.print_error(str(error))
            # Printed here, since the exit code is that of the signal and not that of the error.
            raise typer.Exit(run_state.exit_code(error, session.signal)) from error


@contextlib.contextmanager
def open_inference_session(
    inference: settings.InferenceSettings, run: location.Location, output: str, verb: str
) -> Iterator["sessions.Session"]:
    """Yields a session of a verb that uses a run, which is only read.

    Its metrics are written beside the output, in `metrics/`, where a port for them was asked for: who asked for a file
    gets that file, and no folder with it.
    """
    shared, metrics = [run], None
    # With standard output there is no folder for metrics.
    if output != "-":
        folder = location.Location.parse(output, "--output").parent
        shared.append(folder)
        if inference.telemetry.metrics_port:
            metrics = folder.join(root_layout.METRICS)
    with _session(inference.cluster, inference.telemetry, shared, metrics, (run.name, verb)) as session:
        yield session
