"""Laws of typed sentences: each line is answered at once, commands change settings, nothing typed ends the dialogue."""

import io
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from core import errors
from jobs import api, typed
from tests.golden import make

TRANSLATION, LANGUAGE = str(make.ROOTS / "translation"), str(make.ROOTS / "language-model")
REPOSITORY = make.HERE.parents[1]
Said = Callable[[], str]


def answers(verb: typed.Verb, model: api.Model, lines: list[str | BaseException], is_shown: bool = False) -> list[str]:
    """Returns what a dialogue writes on stdout; an exception in the list is raised in place of a line."""
    typed_lines = iter([*lines, EOFError()])

    def read() -> str:
        line = next(typed_lines)
        if isinstance(line, BaseException):
            raise line
        return line

    out = io.StringIO()
    typed.Dialogue(verb, lambda: model, out, is_shown).run(read)
    return out.getvalue().splitlines()


@pytest.fixture(scope="module")
def translation() -> api.Model:
    return api.load(TRANSLATION)


@pytest.fixture(scope="module")
def language() -> api.Model:
    return api.load(LANGUAGE)


def test_each_line_has_its_translation_and_empty_lines_have_none(translation: api.Model) -> None:
    expected = [row.text for row in translation.translate(["the old cat", "a dog"], num_best=1)]
    assert answers("translate", translation, [":n 1", "the old cat", "", "  ", "a dog"]) == expected


def test_commands_change_the_beam_and_the_number_of_translations_shown(translation: api.Model) -> None:
    (row,) = translation.translate(["the old cat"], beam_size=10, num_best=3)
    assert len(row.alternatives) == 2
    shown = answers("translate", translation, [":beam 10", ":n 3", "the old cat"])
    assert shown[0] == f"1  {row.score_nats:.2f}  {row.text}"
    assert [line.split("  ", 2)[2] for line in shown[1:]] == [other.text for other in row.alternatives]


def test_any_setting_of_the_section_can_be_changed(language: api.Model) -> None:
    expected = language.generate("the old", num_tokens=9, temperature=0.5, seed=3).text
    shown = answers("generate", language, [":tokens 9", ":temperature 0.5", ":seed 3", "the old"])
    assert shown == expected.split("\n")


def test_a_wrong_command_is_said_and_changes_nothing(
    translation: api.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = answers("translate", translation, ["the old cat"])
    commands = [":n 99", ":beam", ":beam many", ":beamsize 3", ":length_penalty -1", "the old cat"]
    capsys.readouterr()
    assert answers("translate", translation, [*commands]) == expected
    said = capsys.readouterr().err.splitlines()
    assert ":n: 99 translations cannot come from a beam of 3" in said[0]
    assert said[1] == ":beam: has no value; write :beam VALUE, or :help"
    assert ":beam: expected a whole number" in said[2]
    assert "did you mean beam_size?" in said[3]
    assert "length_penalty: must be at least 0" in said[4]


def test_an_interrupt_drops_the_line_and_a_signal_ends_the_dialogue(translation: api.Model) -> None:
    expected = answers("translate", translation, ["the old cat"])
    assert answers("translate", translation, [KeyboardInterrupt(), "the old cat"]) == expected
    with pytest.raises(KeyboardInterrupt):
        answers("translate", translation, [KeyboardInterrupt(signal.SIGTERM), "the old cat"])


def test_a_line_that_cannot_be_done_is_said_and_the_next_is_answered(
    translation: api.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = answers("translate", translation, ["the old cat"])
    bad = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert answers("translate", translation, ["\udcff", bad, "the old cat"]) == expected
    assert capsys.readouterr().err.splitlines()[-3:-1] == [
        "translate: invalid_utf8: lines[0]",
        "line: is not valid UTF-8; type it again",
    ]


def test_the_model_is_loaded_for_the_first_line_and_not_for_the_prompt(translation: api.Model) -> None:
    loaded: list[api.Model] = []

    def load() -> api.Model:
        loaded.append(translation)
        return translation

    typed_lines = iter(["", "  ", "the old cat", "a dog"])
    loaded_before: list[int] = []

    def read() -> str:
        loaded_before.append(len(loaded))
        try:
            return next(typed_lines)
        except StopIteration:
            raise EOFError from None

    typed.Dialogue("translate", load, io.StringIO(), is_shown=False).run(read)
    assert loaded_before == [0, 0, 0, 1, 1]


def test_torch_is_not_loaded_before_the_prompt() -> None:
    code = "import sys\nfrom jobs import typed\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0


def test_a_model_that_cannot_be_loaded_ends_the_dialogue() -> None:
    def load() -> api.Model:
        raise errors.UsageError("run: has no checkpoint; train first")

    with pytest.raises(errors.UsageError, match="has no checkpoint"):
        typed.Dialogue("translate", load, io.StringIO(), is_shown=False).run(lambda: "a line")


def test_help_names_the_commands(translation: api.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("translate", translation, [":help"]) == []
    assert re.search(r":beam 10.*:n 3.*Ctrl-D ends", capsys.readouterr().err, re.DOTALL)


class Terminal:
    """A command on a terminal of its own; everything that it shows is read from the other end."""

    def __init__(self, *arguments: str) -> None:
        self._shown = b""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            # A shell that runs tests in the background lets its processes ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-m", "jobs", *arguments])

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait_for_prompt(self) -> None:
        """Waits until a line can be typed.

        A key that comes within microseconds of the prompt is before readline's wait for one, which a signal then does
        not end; nobody types as fast.
        """
        self.wait_for(typed.PROMPT)
        time.sleep(0.5)

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Returns what was shown up to a text, which is taken away."""
        until_s = time.monotonic() + timeout_s
        while text.encode() not in self._shown:
            assert time.monotonic() < until_s, self._shown.decode(errors="replace")
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    self._shown += os.read(self._end, 4096)
                except OSError as error:  # the other end is closed
                    raise AssertionError(self._shown.decode(errors="replace")) from error
        before, _, self._shown = self._shown.partition(text.encode())
        return before.decode(errors="replace")

    def cpu_s(self) -> float:
        """Returns the processor time of the command so far."""
        # After the name in parentheses: user and system time are the 12th and 13th fields, in clock ticks.
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminals() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for terminal in opened:
        try:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


@pytest.mark.e2e
def test_sentences_are_answered_on_a_terminal(terminals: Callable[..., Terminal], translation: api.Model) -> None:
    (row,) = translation.translate(["the old cat"], num_best=1)
    terminal = terminals("translate", "--run", TRANSLATION, "--set", "decoding.num_best=1")
    terminal.wait_for_prompt()
    terminal.type("the old cat\n")
    terminal.wait_for(row.text)
    # In processor time, since a machine that is busy with other tests takes longer: torch's import is most of it.
    assert terminal.cpu_s() < 8
    terminal.wait_for_prompt()
    terminal.type("half a sen\x03")
    terminal.wait_for_prompt()
    terminal.type(":n 3\n")
    terminal.wait_for_prompt()
    terminal.type("the old cat\n")
    terminal.wait_for(f"1  {row.score_nats:.2f}  {row.text}")
    terminal.wait_for_prompt()
    terminal.type("\x04")
    terminal.wait_for("exit=0")
    terminal.wait_for('"lines": 2')
    assert terminal.exit_code() == 0


@pytest.mark.e2e
def test_typed_prefixes_are_continued_on_a_terminal(terminals: Callable[..., Terminal], language: api.Model) -> None:
    expected = language.generate("the old", num_tokens=12).text.split("\n")
    terminal = terminals("generate", "--run", LANGUAGE)
    terminal.wait_for_prompt()
    terminal.type(":tokens 12\n")
    terminal.wait_for_prompt()
    terminal.type("the old\n")
    terminal.wait_for("\n" + expected[0])
    terminal.wait_for_prompt()
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.wait_for("exit=143")
    assert terminal.exit_code() == 143
