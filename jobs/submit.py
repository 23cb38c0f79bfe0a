"""Hands a verb to a cluster as a Ray job, follows its log, and ends as the job ends.

The job is the same command with every location absolute. With it go our three packages and, where the verb has a
file of settings, that file as resolved here: a copy in a folder of its own, because a file that changes while it is
packed (a log, say) makes Ray refuse the package.
"""

import ipaddress
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from core import errors
from core.config import loading
from jobs import console, options, paths, settings
from workers.cluster import authentication, signals, submission

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 110  # a run that is stopped finishes its step, or a validation, and writes a checkpoint
PACKAGES = ("core", "workers", "jobs")
SETTINGS = "submitted.yaml"
_LOCATIONS = ("RUN", "URI", "PATH")
_EXIT = re.compile(r"exit=(\d+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_log = logging.getLogger(__name__)


class Order(NamedTuple):
    """A job to be handed over.

    Attributes:
        verb: what it does.
        command: its command line, after the interpreter.
        files: the text of files in its folder, beside our packages.
    """

    verb: str
    command: tuple[str, ...]
    files: Mapping[str, str]


def address_of(given: str | None) -> str:
    """Returns the address of the job server: the one given, else that of Ray's variables, else this machine's.

    Raises:
        UsageError: it is no HTTP address, or one of another machine without a token.
    """
    found = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    url = urllib.parse.urlsplit(found)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query:
        raise errors.UsageError(f"--address: {found!r} is no job server; write http://HOST:8265")
    if not is_loopback(found):
        if not authentication.has_token():
            raise errors.UsageError(
                f"--address: {found} is another machine, and there is no token: a cluster that takes jobs from anybody "
                "runs anybody's code; point RAY_AUTH_TOKEN_PATH to the token of the cluster"
            )
        if url.scheme == "http":
            _log.warning("the token and the job travel to %s unencrypted; use https beyond a trusted network", found)
    return found.rstrip("/")


def is_loopback(address: str) -> bool:
    """Is this machine, or a port forwarded from it, at the other end?"""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plan(command: Any, arguments: Sequence[str], is_local: bool) -> Order:
    """Reads the command line of a verb as the verb would, and returns the order for it.

    Args:
        command: the verb, as the command line knows it.
        arguments: what follows the verb.
        is_local: the cluster sees the paths of this machine.

    Raises:
        UsageError: the command line or the settings are wrong, or a path means nothing on the cluster.
    """
    given = command.make_context(f"submit {command.name}", list(arguments)).params
    if given.get("print_config"):
        raise errors.UsageError("--print-config: shows settings and starts no job; leave `submit` out")
    files: dict[str, str] = {}
    words: list[str] = [command.name]
    trailing: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name)
        if command.name == "demo" and parameter.name == "set_":
            value = _of_demo(list(value or ()), is_local)
        if value in (None, False, (), []):
            continue
        if parameter.metavar == "CONFIG":
            files[SETTINGS] = _settings(value, list(given.get("set_") or ()), is_local)
            values = [SETTINGS]
        elif parameter.name == "set_" and "config" in given:
            continue
        else:
            values = _values(parameter, value, is_local)
        if parameter.param_type_name == "argument":
            trailing += values
        elif parameter.is_flag:
            words.append(parameter.opts[0])
        else:
            words += [f"{parameter.opts[0]}={text}" for text in values]
    return Order(command.name, (*words, *(["--", *trailing] if trailing else [])), files)


def _values(parameter: Any, value: Any, is_local: bool) -> list[str]:
    """The values of an option or argument, locations made absolute."""
    texts = [str(text) for text in value] if isinstance(value, list | tuple) else [str(value)]
    if parameter.metavar in _LOCATIONS:
        where = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        return [_location(text, where, is_local) for text in texts]
    return texts


def _of_demo(overrides: list[str], is_local: bool) -> list[str]:
    """The overrides of the demo, with its root among them: it has one even where none is given."""
    root, _ = settings.of_demo(overrides)
    others = [override for override in overrides if not override.startswith("root=")]
    return [f"root={_location(root, 'root', is_local)}", *others]


def _location(text: str, where: str, is_local: bool) -> str:
    if text == "-":
        raise errors.UsageError(f"{where}: a job has no standard input and output of its own; name a file or a store")
    if not is_local and paths.is_of_this_machine(text):
        raise errors.UsageError(
            f"{where}: {text!r} is relative to this machine, and the job runs on another; "
            "write an absolute path or URL as the cluster sees it"
        )
    return options.absolute(text, where)


def _settings(path: str, overrides: list[str], is_local: bool) -> str:
    """The settings of a run as text, every location absolute."""
    config = loading.load(path, overrides)
    resolved = paths.absolute(config)
    if not is_local:
        for change in loading.changed(config, resolved):
            raise errors.UsageError(
                f"{change.name}: {change.old!r} is relative to this machine, and the job runs on another; "
                "write it absolute, as the cluster sees it"
            )
    return loading.dump(resolved)


def pack(order: Order, folder: Path) -> int:
    """Copies into an empty folder what the job needs, and returns the size in bytes."""
    repository = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name, text in order.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(order: Order, address: str, python: str, resources: Mapping[str, float | None], wait: bool) -> dict[str, Any]:
    """Submits a job and, unless told otherwise, stays until it has ended.

    Returns:
        The document that the job printed; without waiting, where to find the job.

    Raises:
        ClusterError: the server does not answer, or could not run the job.
        InterruptedRunError: the caller left; the job goes on.
        typer.Exit: the job ended with another code than 0.
    """
    authentication.prepare_client()
    server = submission.Server(address)
    name = f"raycurrent-{order.verb}-{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory(prefix="rc-submit-") as text:
        size = pack(order, Path(text))
        server.submit(
            entrypoint=f"exec {shlex.join([python, '-m', 'jobs', *order.command])}",
            folder=Path(text),
            name=name,
            env_vars={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
            metadata={"verb": order.verb},
            resources=resources,
        )
    _log.info("submitted as %s to %s (%.1f MB of code and settings)", name, address, size / 1e6)
    if not wait:
        return {"verb": "submit", "submitted": order.verb, "address": address, "submission_id": name}
    flag = signals.StopFlag()
    flag.install()
    try:
        return Follower(server, name, flag, console.write_line, ask_at_terminal).follow()
    finally:
        flag.restore()


class JobLog:
    """Sorts what a job prints: lines for people, the line with its exit code, and the document after it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.exit_code: int | None = None
        self._write = write
        self._rest = ""
        self._after: list[str] = []

    def feed(self, piece: str) -> None:
        """Takes the next piece of the log, which may end within a line."""
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            self._take(line)

    def document(self) -> dict[str, Any]:
        """Returns the document of a job that ended well."""
        self._flush()
        text = "\n".join(self._after)
        try:
            found, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
        except ValueError as error:
            raise errors.ClusterError("submit: the job ended well and printed no document; look at its log") from error
        return dict(found)

    def close(self) -> None:
        """Shows whatever a job that did not end well said last."""
        self._flush()
        for line in self._after:
            self._show(line)

    def _flush(self) -> None:
        if self._rest:
            self.feed("\n")

    def _take(self, line: str) -> None:
        found = _EXIT.fullmatch(line.rstrip())
        if found:
            self.exit_code = int(found[1])
        elif self.exit_code is not None:
            self._after.append(line)
        elif line:
            self._show(line)

    def _show(self, line: str) -> None:
        self._write(console.shown(_COLOURS.sub("", line).expandtabs(), limit=2000))


class Follower:
    """Stays with a job until it ends, or until a signal and the answer to it say otherwise.

    Args:
        server: where the job is.
        name: of the job.
        flag: tells signals.
        write: takes the lines of the job.
        ask: is called at an interrupt and says `stop`, `detach` or `follow`.
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
        self._flag = flag
        self._write = write
        self._ask = ask
        self._is_stopping = False

    def follow(self) -> dict[str, Any]:
        """See `run`."""
        log = JobLog(self._write)
        for piece in self._server.log(self._name):
            log.feed(piece)
            self._look()
        while not (state := self._server.state(self._name)).has_ended:
            self._look()
            time.sleep(submission.POLL_S)
        if state.status == "SUCCEEDED" or (state.status == "STOPPED" and log.exit_code == 0):
            return log.document()
        log.close()
        raise typer.Exit(_exit_code(state, log.exit_code))

    def _look(self) -> None:
        """Does what a signal asks for, once."""
        if self._flag.signal is None or self._is_stopping:
            return
        number = self._flag.signal
        answer = self._ask() if number == signal.SIGINT else "stop"
        if answer == "follow":
            self._flag.signal = None
        elif answer == "detach":
            raise errors.InterruptedRunError(
                f"submit: left; the job goes on: ray job logs --address {self._server.address} --follow {self._name}, "
                f"and ray job stop to end it"
            )
        else:
            self._is_stopping = True
            self._write(f"submit: asked {self._name} to stop; it saves first (once more: leave it alone with that)")
            self._server.stop(self._name)


def _exit_code(state: submission.State, logged: int | None) -> int:
    """The code that the job's own command ended with."""
    if state.status == "STOPPED":
        return 128 + signal.SIGTERM if logged is None else logged
    code = state.exit_code if state.exit_code is not None else logged
    if not code:
        reason = (state.message.strip().splitlines() or ["it says no more"])[0]
        raise errors.ClusterError(f"submit: the cluster could not run the job: {console.shown(reason, 1000)}")
    return code if code > 0 else 128 - code


def ask_at_terminal() -> str:
    """Asks what a Ctrl-C means; where nobody can answer, it means what it means to every command: stop."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stop"
    console.write_line("Stop the job (it saves first), detach (it goes on), or follow? [s/d/F] ")
    answer = sys.stdin.readline().strip().lower()
    return {"s": "stop", "d": "detach"}.get(answer[:1], "follow")
