"""The guards of `guards.toml`: what each prevents, its text, the change that takes it away, and its test."""

import pathlib
import tomllib
from typing import NamedTuple

FILE = pathlib.Path(__file__).with_name("guards.toml")


class Guard(NamedTuple):
    """A guard, the change that takes it away, and the test that fails without it.

    Attributes:
        what: the promise that it keeps.
        file: its file, relative to the repository.
        old: its text, which the file has once.
        new: the text in its place that takes it away.
        test: the id of a test for pytest.
    """

    what: str
    file: str
    old: str
    new: str
    test: str

    def remove_from(self, text: str) -> str:
        """Returns the text of the file without the guard.

        Raises:
            ValueError: the guard is not in the text, or more than once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: has {count} times {self.old!r}; it must be there once")
        return text.replace(self.old, self.new)


def load(path: pathlib.Path = FILE) -> list[Guard]:
    """Returns the guards in the order of the file."""
    return [Guard(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["guard"]]
