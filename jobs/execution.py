"""Execution of a command line: runs the parsed verb, prints its report or its error, returns the exit code."""

import contextlib
import os
import signal
import traceback
from collections.abc import Sequence
from types import FrameType

import typer

from core import errors
from core.storage import streams
from jobs import console, json_documents, log, options


def _execute(job: options.Job) -> None:
    """Executes a job and prints its report to stdout; whatever else is printed goes to stderr."""
    stdout = console.redirect_stdout()
    text = json_documents.encode(job.call(stdout), one_line=job.streams)
    console.note("exit=0")  # before the report, which `submit` expects after it
    if job.streams:
        console.write_line(text.rstrip())
        return
    try:
        with streams.open_stdout(stdout) as out:
            out.write(text)
    except (errors.ClosedOutputError, errors.StorageError) as error:
        if job.only_prints:
            raise
        console.print_error(f"warning: {error}; the results are committed")


def _run(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Runs a command line and returns the exit code; prints the error if it is not 0.

    A command returns a job, or settings as text (`--print-config`); typer itself returns an exit code after `--help`.
    """
    try:
        job = app(args=arguments, prog_name=console.program(), standalone_mode=False)  # else typer ends the process
        if isinstance(job, options.Job):
            _execute(job)
        elif isinstance(job, str):
            # Not through sys.stdout, whose encoding may be ASCII. A reader that has seen enough (`| head`) may go.
            with contextlib.suppress(errors.ClosedOutputError), streams.open_stdout(1) as out:
                out.write(job)
        else:
            return int(job or 0)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        if "unexpected extra argument" in message:
            # Mostly a glob that the shell expanded: the first match is the value of the option, the others are extra.
            message += "; put a glob in quotes"
        console.print_error(f"command line: {message}; see {console.program()} --help")
        return errors.UsageError.exit_code
    except errors.RaycurrentError as error:
        console.print_error(str(error))
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt as interrupt:
        console.print_error("interrupted: committed work is kept; run the same command again to resume")
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except BrokenPipeError:
        # Python flushes stdout again at its end, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception:  # noqa: BLE001 (an unexpected exception is a bug: print its traceback)
        console.write_line(errors.without_credentials(traceback.format_exc()).rstrip())
        return 1
    return 0


def _interrupt(number: int, _: FrameType | None) -> None:
    """Ends a process outside a session; a session installs its own handlers, which save a checkpoint first."""
    raise KeyboardInterrupt(number)


def main(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Runs a command line and returns its exit code.

    The last line of the log is `exit=` with the code, which `submit` reads; `--help`, `--print-config` and the success
    of a command with `--quiet` have none.
    """
    log.set_up_logging()
    signal.signal(signal.SIGTERM, _interrupt)  # by default it would end the process silently
    code = _run(app, arguments)
    if code:  # 0 was written before the report
        console.write_line(f"exit={code}")
        from workers.cluster import final_errors

        final_errors.end_job(code)
    return code
