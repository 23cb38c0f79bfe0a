"""Commands of the benchmarks on real corpora, as a user would type them."""

import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def jobs(*arguments: str, stdin: str | None = None) -> str:
    """Runs a verb and returns its standard output.

    Raises:
        CalledProcessError: the verb failed; its standard error was shown.
    """
    sys.stderr.write(f"$ python -m jobs {' '.join(arguments)}\n")
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    return done.stdout
