"""Submission of a verb as a Ray job: follows its log and ends with its exit code.

The job runs the same command with every location absolute. Its working directory holds our three packages and, for
verbs with a configuration, the resolved settings. They are copied to a temporary folder, because Ray refuses a working
directory in which a file (a log, for example) changes while it is packed.
"""

import ipaddress
import logging
import os
import secrets
import shlex
import shutil
import signal
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from core import errors
from core.config import loading, schema, service_url
from core.storage import private_folders
from jobs import console, following, options, paths, rayjob, settings
from workers.cluster import authentication, signals, submission

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
# Longer than the 90 s that `train` waits for its ranks, shorter than the 120 s that a pod has.
STOP_WAIT_S = 110  # time to finish a step, or a validation, and to write a checkpoint before Ray kills the job
PACKAGES = ("core", "workers", "jobs")
SETTINGS = "submitted.yaml"
_LOCATIONS = ("RUN", "URI", "PATH")  # metavars of options and arguments that are locations
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_log = logging.getLogger(__name__)


class JobSpec(NamedTuple):
    """A job to submit.

    Attributes:
        verb: verb that the job runs.
        command: verb and arguments, after `python -m jobs`.
        files: text by name of the files in its working directory, beside our packages.
        config: configuration with the overrides applied; None for verbs without one.
        cluster: settings of the workers, as far as configuration and overrides name them.
        overrides: those of the command line.
        takes_settings: whether the verb has `--set`.
        locations: each option or argument that is a location, with its first value.
    """

    verb: str
    command: tuple[str, ...]
    files: Mapping[str, str]
    config: schema.RunConfig | None
    cluster: schema.ClusterConfig
    overrides: tuple[str, ...]
    takes_settings: bool
    locations: Mapping[str, str]


class Target(NamedTuple):
    """The machines that a job runs on, as far as its command line depends on them.

    Attributes:
        sees_this_machine: whether they see the paths of this machine.
        resolves_relative_paths: whether relative paths are meant for them: they have a folder for them to start from.
        settings_path: path of the configuration there.
        keeps_overrides: whether the configuration is sent as it is, and the overrides with the command.
    """

    sees_this_machine: bool
    resolves_relative_paths: bool = False
    settings_path: str = SETTINGS
    keeps_overrides: bool = False

    def refuses(self, text: str) -> bool:
        """Returns whether a location means something else there than here."""
        if self.resolves_relative_paths:
            return text.startswith("~")
        return not self.sees_this_machine and paths.is_machine_specific(text)

    @property
    def what_to_do(self) -> str:
        """The remedy for a location that is refused."""
        relative = "a path relative to the job's home (RAYCURRENT_HOME), or " if self.resolves_relative_paths else ""
        return f"use {relative}an absolute path or URL that is valid on the cluster"


def on_kubernetes() -> Target:
    """Returns the pods of a RayJob: they resolve relative paths, and get the configuration as a file of a ConfigMap."""
    return Target(False, resolves_relative_paths=True, settings_path=rayjob.SETTINGS_PATH, keeps_overrides=True)


def resolve_address(option: str | None) -> str:
    """Returns the URL of the job server: from the option, else Ray's environment variables, else on this machine.

    Raises:
        UsageError: it is not an HTTP URL, or it is on another machine and no token belongs to it.
    """
    given = {"--address": option, **{name: os.environ.get(name) for name in _VARIABLES}, "default": DEFAULT_ADDRESS}
    where, address = next((name, text) for name, text in given.items() if text)
    try:
        url = service_url.parse(address)
    except ValueError as error:
        raise errors.UsageError(f"{where}: {error} of a Ray job server, such as {DEFAULT_ADDRESS}") from None
    authentication.check_client(address)
    if url.scheme == "http" and not is_loopback(address):
        _log.warning("%s: token and job are sent unencrypted; use https outside a trusted network", address)
    return address.rstrip("/")


def is_loopback(address: str) -> bool:
    """Returns whether an address is on the loopback interface: on this machine, or forwarded from a port of it."""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plan(command: Any, arguments: Sequence[str], target: Target) -> JobSpec:
    """Parses the command line of a verb as the verb itself would, and returns the job to submit.

    Args:
        command: the click command of the verb.
        arguments: its command line, without the verb.
        target: the machines that resolve its locations.

    Raises:
        UsageError: the command line or the settings are wrong, or a path is meaningless there.
    """
    parsed = command.make_context(f"submit {command.name}", list(arguments)).params
    if parsed.get("print_config"):
        raise errors.UsageError("--print-config: prints settings and starts no job; use it without `submit`")
    overrides = tuple(parsed.get("set_") or ())
    if command.name in settings.SECTIONS:
        settings.check_overrides(overrides, command.name)
    files: dict[str, str] = {}
    config: schema.RunConfig | None = None
    locations: dict[str, str] = {}
    words: list[str] = [command.name]
    trailing: list[str] = []
    for parameter in command.params:
        value = parsed.get(parameter.name)
        if command.name == "demo" and parameter.name == "set_":
            value = _demo_overrides(list(value or ()), target)
        if value in (None, False, (), []):
            continue
        if parameter.metavar == "CONFIG":
            config, files[SETTINGS] = _settings(value, list(overrides), target)
            values = [target.settings_path]
        elif parameter.name == "set_" and "config" in parsed and not target.keeps_overrides:
            continue  # the settings file has the overrides applied
        else:
            values = _values(parameter, value, target)
            # Of settings alone: what else is written like a URL with a password may be text for a model.
            if parameter.name == "set_" and any(errors.without_credentials(text) != text for text in values):
                raise errors.UsageError("--set: a URL holds credentials, which the cluster would show; leave them out")
            if parameter.metavar in _LOCATIONS:
                locations[str(parameter.name)] = values[0]
        if parameter.param_type_name == "argument":
            # Behind `--`, where a value that begins with a dash is not taken for an option.
            trailing += values
        elif parameter.is_flag:
            words.append(parameter.opts[0])
        else:
            # In one word, for the same reason.
            words += [f"{parameter.opts[0]}={text}" for text in values]
    words += ["--", *trailing] if trailing else []
    cluster = _cluster(command.name, config, overrides)
    return JobSpec(command.name, tuple(words), files, config, cluster, overrides, "set_" in parsed, locations)


def _cluster(verb: str, config: schema.RunConfig | None, overrides: Sequence[str]) -> schema.ClusterConfig:
    """Returns the settings of the workers; those of a run that is elsewhere are not known."""
    if verb == "demo":
        config = settings.load_demo_configs(overrides)[1][0]
    if config is not None:
        return config.cluster
    return loading.section_from(schema.ClusterConfig(), overrides, "cluster")


def _values(parameter: Any, value: Any, target: Target) -> list[str]:
    """Returns the values of an option or argument as text, locations as the target resolves them."""
    texts = [str(text) for text in value] if isinstance(value, list | tuple) else [str(value)]
    if parameter.metavar in _LOCATIONS:
        where = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        return [_location(text, where, target) for text in texts]
    return texts


def _demo_overrides(overrides: list[str], target: Target) -> list[str]:
    """Returns the overrides of the demo with its root, or its default root, as the target resolves it."""
    root, _ = settings.load_demo_configs(overrides)
    others = [override for override in overrides if not override.startswith("root=")]
    return [f"root={_location(root, 'root', target)}", *others]


def _location(text: str, where: str, target: Target) -> str:
    if text == "-":
        raise errors.UsageError(f"{where}: a Ray job has no standard input or output; use a file or an object store")
    if target.refuses(text):
        raise errors.UsageError(
            f"{where}: {text!r} is relative to this machine, but the job runs on another; {target.what_to_do}"
        )
    path = options.absolute(text, where)  # also checks URLs
    return text if target.resolves_relative_paths else path


def _settings(path: str, overrides: list[str], target: Target) -> tuple[schema.RunConfig, str]:
    """Returns the settings of a run, and as YAML in the form that the job gets."""
    config = loading.load(path, overrides)
    resolved = paths.absolute(config)
    for change in loading.changed(config, resolved):
        for text in [change.old] if isinstance(change.old, str) else _texts(change.old):
            if target.refuses(text):
                raise errors.UsageError(
                    f"{change.name}: {change.old!r} is relative to this machine, but the job runs on another; "
                    f"{target.what_to_do}"
                )
    # As the user wrote it: the job applies the same overrides, and resolves the same paths.
    return config, Path(path).read_text(encoding="utf-8") if target.keeps_overrides else loading.dump(resolved)


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts in a value of settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def pack(spec: JobSpec, folder: Path) -> int:
    """Copies our packages and the files of a job into an empty folder; returns the total size in bytes."""
    repository = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name, text in spec.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(spec: JobSpec, address: str, python: str, resources: Mapping[str, float | None], wait: bool) -> dict[str, Any]:
    """Submits a job and, with `wait`, follows it until it ends.

    Returns:
        The document that the job printed; without `wait`, its address and submission id.

    Raises:
        ClusterError: the server does not answer, or could not run the job.
        InterruptedRunError: the user detached; the job continues.
        typer.Exit: the job ended with an exit code other than 0.
    """
    authentication.prepare_client(address)
    server = submission.Server(address)
    name = f"raycurrent-{spec.verb}-{secrets.token_hex(6)}"
    with private_folders.scratch() as folder:
        size = pack(spec, folder)
        server.submit(
            # `exec`, so that signals reach the driver and not a shell around it.
            entrypoint=f"exec {shlex.join([python, '-m', 'jobs', *spec.command])}",
            folder=folder,
            name=name,
            env_vars={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            metadata={"verb": spec.verb},
            resources=resources,
        )
    _log.info("submitted as %s to %s (%.1f MB of code and settings)", name, address, size / 1e6)
    if not wait:
        return {"verb": "submit", "submitted": spec.verb, "address": address, "submission_id": name}
    return follow(server, name)


def follow(server: submission.Server, name: str) -> dict[str, Any]:
    """Follows a job until it ends; see `run`."""
    flag = signals.StopFlag()
    flag.install()
    try:
        return Follower(server, name, flag, console.write_line, following.ask_at_terminal).follow()
    finally:
        flag.restore()


class Follower:
    """Follows a job until it ends; a signal stops the job, or detaches from it.

    Args:
        server: job server.
        name: submission id of the job.
        flag: flag that signal handlers set.
        write: called with each line of the log of the job.
        ask: called at an interrupt (Ctrl-C); returns `stop`, `detach` or `follow`.
    """

    def __init__(
        self,
        server: submission.Server,
        name: str,
        flag: signals.StopFlag,
        write: Callable[[str], None],
        ask: Callable[[], str],
    ) -> None:
        self._server = server
        self._name = name
        self._write = write
        self._interruptions = following.Interruptions(
            flag,
            write,
            ask,
            name=name,
            stop=lambda: server.stop(name),
            how_to_follow=f"ray job logs --address {server.address} --follow {name}",
            how_to_stop="ray job stop",
        )

    def follow(self) -> dict[str, Any]:
        """See `run`."""
        log = following.JobLog(self._write)
        for piece in self._server.log(self._name):
            log.feed(piece)
            self._interruptions.handle()
        # The log may end before the state is final.
        while not (state := self._server.state(self._name)).has_ended:
            self._interruptions.handle()
            time.sleep(submission.POLL_S)
        if state.status == "SUCCEEDED" or (state.status == "STOPPED" and log.exit_code == 0):
            return log.document()
        log.close()
        raise typer.Exit(_exit_code(state, log.exit_code))


def _exit_code(state: submission.State, logged: int | None) -> int:
    """Returns the exit code of the command of a job.

    Raises:
        ClusterError: the command did not run.
    """
    if state.status == "STOPPED":
        # Ray does not know the exit code of a stopped job.
        return 128 + signal.SIGTERM if logged is None else logged
    code = state.exit_code if state.exit_code is not None else logged
    if not code:
        reason = (state.message.strip().splitlines() or ["no reason given"])[0]
        raise errors.ClusterError(f"submit: the cluster could not run the job: {console.sanitize(reason, 1000)}")
    return code if code > 0 else 128 - code  # negative: killed by a signal, as subprocess reports it
