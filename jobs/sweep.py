"""The verb `sweep`: the pipeline for every combination of some settings, and a page that compares the runs.

Each combination is a run of its own, with a root below that of the sweep, made by a process of its own: a run that
fails, or that uses all memory, leaves the others alone.
"""

import collections
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Annotated, Any, NamedTuple

import typer

from core import errors
from core.config import grid, loading, schema
from core.storage import location, root_layout, run_lock, streams
from jobs import config_checks, console, json_documents, options, paths, run_state

PAGE = "comparison.html"
_POLL_S = 0.1
# Where a run is done has no effect on its results: a run that is done elsewhere is done.
_WITHOUT_EFFECT = ("root", "cluster.address", "cluster.num_workers", "telemetry.")
_log = logging.getLogger(__name__)

Grid = Annotated[
    list[str],
    typer.Option(
        "--grid",
        metavar="SECTION.KEY=VALUE,VALUE",
        help="values of a setting; repeatable: all combinations; quote a value with commas: [0.9,0.98],[0.9,0.999]",
    ),
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, help="runs at the same time, each a process of its own")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the combinations, and start nothing")]


class Run(NamedTuple):
    """The run of a combination.

    Attributes:
        combination: its values.
        config: its settings.
        command: the command line that makes it, after the interpreter.
    """

    combination: grid.Combination
    config: schema.RunConfig
    command: list[str]

    @property
    def root(self) -> location.Location:
        """The root of the run."""
        return location.Location.parse(self.config.root, "root")


class Outcome(NamedTuple):
    """Exit code of a run, and the message of one that failed."""

    exit_code: int
    error: str = ""


def job(config: str, grids: Sequence[str], overrides: Sequence[str], parallel: int, dry_run: bool) -> options.Job:
    """Returns the job of a command line, after checking every combination.

    Raises:
        UsageError: see `grid.parse`, `grid.combinations` and `plan`.
    """
    combinations = grid.combinations([grid.parse(text) for text in grids])
    base = paths.absolute(loading.load(config, overrides))
    runs = plan(config, base, overrides, combinations)

    def call(stdout: int) -> options.Report:
        if dry_run:
            _print_combinations(runs)
            return {"verb": "sweep", "root": base.root, "combinations": [_describe(run) for run in runs]}
        return execute(runs, location.Location.parse(base.root, "root"), parallel, stdout)

    return options.Job(call, only_prints=dry_run)


def plan(
    path: str, base: schema.RunConfig, overrides: Sequence[str], combinations: Sequence[grid.Combination]
) -> list[Run]:
    """Returns the runs of all combinations, each with checked settings, before any of them starts.

    Args:
        path: the configuration file.
        base: its settings, with `overrides`.
        overrides: those of all runs.
        combinations: the values of each run.

    Raises:
        UsageError: a combination is not valid, two have the same settings, or the root cannot hold several runs.
    """
    if base.root.startswith("memory://"):
        raise errors.UsageError("root: each run is a process of its own, which does not see this memory; use a folder")
    if location.Location.parse(base.root, "root").join(root_layout.SETTINGS).exists():
        raise errors.UsageError(f"root: {base.root} is the root of a run; name another one for the sweep")
    runs: list[Run] = []
    known: dict[str, str] = {}
    for combination in combinations:
        own = [*overrides, *grid.overrides(combination, base.name, base.root)]
        try:
            resolved = paths.absolute(loading.load(path, own))
            config_checks.check_pipeline(resolved)
        except errors.UsageError as error:
            message = str(error)
            for override in combination.overrides:
                message = message.replace(f"--set {override}", f"--grid {override}")
            raise errors.UsageError(message) from error
        same = resolved.model_copy(update={"name": base.name, "root": base.root})
        first = known.setdefault(loading.fingerprint(same), combination.name)
        if first != combination.name:
            raise errors.UsageError(
                f"--grid: {first} and {combination.name} have the same settings; remove one of the values"
            )
        settings = [word for override in own for word in ("--set", override)]
        runs.append(Run(combination, resolved, ["-m", "jobs", "pipeline", path, *settings]))
    return runs


def execute(runs: Sequence[Run], root: location.Location, parallel: int, stdout: int) -> dict[str, Any]:
    """Makes all runs that are not done yet, then the page that compares those that are; returns the report.

    Raises:
        LockedError: another sweep uses the root.
        typer.Exit: a run failed, with its exit code, after the report was printed; or a signal ended the sweep.
    """
    with run_lock.RunLock(root, "sweep"):
        done = [run.combination.name for run in runs if is_done(run)]
        todo = [run for run in runs if run.combination.name not in done]
        if done:
            console.note(f"sweep: {len(done)} of {len(runs)} combinations are done already")
        outcomes = _Processes(todo, parallel, len(runs)).run()
        outcomes |= dict.fromkeys(done, Outcome(0))
        page = _compare([run for run in runs if outcomes[run.combination.name].exit_code == 0], root)
    rows = [
        {**_describe(run), **_result(run, outcomes[run.combination.name]), "already_done": run.combination.name in done}
        for run in runs
    ]
    failed = [row for row in rows if row["exit_code"]]
    report = {"verb": "sweep", "root": str(root), "html": page, "failed": len(failed), "combinations": rows}
    _print_results(rows, page)
    if failed:
        with streams.open_stdout(stdout) as out:
            out.write(json_documents.encode(report))
        raise typer.Exit(failed[0]["exit_code"])
    return report


def is_done(run: Run) -> bool:
    """Returns whether a run ended well with these very settings, so that no process need look at it again."""
    settings = run.root.join(root_layout.SETTINGS)
    try:
        if run_state.read(run.root).get("exit_code") != 0 or not run.root.join(root_layout.REPORT_HTML).exists():
            return False
        stored = loading.parse_stored(settings.read_bytes(), str(settings))
    # A damaged file fails its own run, which says so: the others are still made.
    except (errors.IntegrityError, errors.UsageError, errors.NotFoundError):
        return False
    # Of settings that changed after the first start the pipeline knows which stages they concern.
    return all(change.name.startswith(_WITHOUT_EFFECT) for change in loading.changed(stored, run.config))


class _Processes:
    """Runs in processes, some at the same time; a signal is handed on to them, and they save what they have.

    Args:
        runs: to make.
        parallel: processes at the same time.
        num_combinations: of the sweep, for messages.
    """

    def __init__(self, runs: Sequence[Run], parallel: int, num_combinations: int) -> None:
        self._pending = collections.deque(runs)
        self._parallel = parallel
        self._num_combinations = num_combinations
        self._num_begun = num_combinations - len(runs)
        self._running: dict[str, _Process] = {}
        self._signals: list[int] = []
        self._num_handed_on = 0

    def run(self) -> dict[str, Outcome]:
        """Makes all runs, and returns how each ended, by the name of its combination.

        Raises:
            typer.Exit: a signal ended the sweep.
        """
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return dict(self._outcomes())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._running.values():  # none, unless an error of ours ended the loop
                process.send(signal.SIGTERM)

    def _outcomes(self) -> Iterator[tuple[str, Outcome]]:
        while self._running or (self._pending and not self._signals):
            while self._pending and len(self._running) < self._parallel and not self._signals:
                self._begin(self._pending.popleft())
            for number in self._signals[self._num_handed_on :]:
                self._num_handed_on += 1
                for process in self._running.values():
                    process.send(number)
            for name, process in list(self._running.items()):
                outcome = process.outcome()
                if outcome is not None:
                    del self._running[name]
                    yield name, outcome
            time.sleep(_POLL_S)
        if self._signals:
            console.print_error("sweep: interrupted; run the same command again to resume")
            raise typer.Exit(128 + self._signals[0])

    def _begin(self, run: Run) -> None:
        self._num_begun += 1
        console.note(f"sweep: {self._num_begun} of {self._num_combinations}: {_words(run.combination.values)}")
        self._running[run.combination.name] = _Process(run)

    def _receive(self, number: int, _: FrameType | None) -> None:
        # Handed on by the loop: processes of their own session do not get the Ctrl-C of the terminal themselves.
        self._signals.append(number)


class _Process:
    """The process of a run; each line of its log is shown with the name of the run."""

    def __init__(self, run: Run) -> None:
        self._name = run.combination.name
        self._last_line = ""
        verbosity = [] if console.shows_notes() else ["--quiet"]
        self._process = subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, *run.command, *verbosity],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # its report is in its root
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._relay, name="sweep-log", daemon=True)
        self._thread.start()

    def send(self, number: int) -> None:
        """Sends a signal."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def outcome(self) -> Outcome | None:
        """Returns how the process ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self._thread.join(timeout=5)
        # A process that a signal killed has the negative number of it; shells have 128 and the number.
        return Outcome(code if code >= 0 else 128 - code, self._last_line if code else "")

    def _relay(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.rstrip("\n")
            if text.startswith("exit="):  # its last line; the outcome says it
                continue
            console.write_line(f"{self._name} | {text}")
            self._last_line = text or self._last_line


def _compare(done: Sequence[Run], root: location.Location) -> str | None:
    """Writes the page that compares the runs that are done; returns its location, or None if there is none."""
    if not done:
        return None
    from jobs import report

    page = root.join(PAGE)
    report.run([run.root for run in done], console.reporter(), page)
    return str(page)


def _describe(run: Run) -> dict[str, Any]:
    return {"name": run.combination.name, "settings": run.combination.values, "root": run.config.root}


def _result(run: Run, outcome: Outcome) -> dict[str, Any]:
    if outcome.exit_code:
        return {"exit_code": outcome.exit_code, "error": outcome.error}
    content = run.root.join(root_layout.REPORT_JSON).read_json()
    headline = content.get("headline") or {}  # pages of older releases have none
    figures = {name: headline[name] for name in ("label", "value", "measured_on") if name in headline}
    return {"exit_code": 0, "headline": figures}


def _print_combinations(runs: Sequence[Run]) -> None:
    console.note(f"sweep: {len(runs)} combinations")
    for run in runs:
        console.note(f"  {_words(run.combination.values)}  {run.config.root}")


def _print_results(rows: Sequence[Mapping[str, Any]], page: str | None) -> None:
    for row in rows:
        words = _words(row["settings"])
        if row["exit_code"]:
            console.print_error(f"failed: {words}: exit code {row['exit_code']}: {row['error']}")
            continue
        headline = row["headline"]
        figure = (
            f": {headline['label']} {float(headline['value']):.4g} ({headline['measured_on']})"
            if headline.get("value") is not None
            else ""
        )
        console.note(f"done: {words}{figure}")
    if page is not None:
        console.note(f"page: {page}")


def _words(values: Mapping[str, str]) -> str:
    return " ".join(f"{setting}={value}" for setting, value in values.items())
