"""Sentences typed on a terminal: each is translated, or continued, as soon as it is entered, by a model loaded once."""

import contextlib
import gc
import importlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO

from core import errors
from core.config import yaml_reader
from core.storage import location
from jobs import console, settings

if TYPE_CHECKING:  # it loads torch, which takes seconds
    from jobs import api

Verb = Literal["translate", "generate"]
PROMPT = "> "
# Short names of the settings that one changes most, by verb.
SHORT_NAMES: Mapping[Verb, Mapping[str, str]] = {
    "translate": {"beam": "beam_size", "n": "num_best"},
    "generate": {"tokens": "num_tokens"},
}
_SECTIONS: Mapping[Verb, str] = {"translate": "decoding", "generate": "generation"}
_HELP: Mapping[Verb, str] = {
    "translate": """A line is translated. A line that begins with a colon is a command:
  :beam 10       hypotheses of beam search
  :n 3           translations shown, each with its log-probability
  :NAME VALUE    any other setting of decoding, such as :length_penalty 0.8
  :help          this text
Ctrl-C drops the line, Ctrl-D ends.""",
    "generate": """A line is continued. A line that begins with a colon is a command:
  :temperature 0.5   divisor of the logits before sampling
  :tokens 100        tokens to add
  :seed 7            another seed gives another text
  :NAME VALUE        any other setting of generation, such as :top_p 0.9
  :help              this text
Ctrl-C drops the line, Ctrl-D ends.""",
}


def run(verb: Verb, root: location.Location, inference: settings.InferenceSettings, stdout: int) -> dict[str, Any]:
    """Answers typed lines until the end of the input, and returns the report.

    Args:
        verb: what is done with a line.
        root: root of a run, or one checkpoint folder.
        inference: the run's settings, with those of the command line.
        stdout: descriptor of the real standard output, which the answers go to.
    """
    started_s = time.monotonic()
    if os.isatty(stdout):
        # Line editing needs a terminal as standard output, which stderr may not be.
        os.dup2(stdout, 1)
    with contextlib.suppress(ImportError):  # line editing and history, where the platform has them
        import readline  # noqa: F401
    # torch takes seconds to import: meanwhile the first line is typed.
    importing = threading.Thread(target=_import_api)
    importing.start()

    def load() -> "api.Model":
        importing.join()
        from jobs import api

        return api.Model(root, inference, inference.cluster.device)

    dialogue = Dialogue(verb, load, os.fdopen(os.dup(stdout), "w", encoding="utf-8"), is_shown=os.isatty(stdout))
    console.note(f"{root}: type a line; :help for help, Ctrl-D to end")
    dialogue.run(lambda: input(PROMPT))
    report: dict[str, Any] = {"verb": verb, "run": str(root)}
    if dialogue.model is not None:
        report |= {"checkpoint": dialogue.model.checkpoint, "step": dialogue.model.step}
    return {**report, "lines": dialogue.num_answers, "elapsed_s": round(time.monotonic() - started_s, 3)}


def _import_api() -> None:
    # What libraries create while they are imported stays, and need not be searched for garbage.
    gc.disable()
    try:
        importlib.import_module("jobs.api")
    finally:
        gc.enable()


class Dialogue:
    """Typed lines and their answers.

    Args:
        verb: what is done with a line.
        load: loads the model that does it; called once there is a line.
        out: takes the answers; all else is written to stderr.
        is_shown: whether `out` is a terminal, so that control characters in answers are escaped.
    """

    def __init__(self, verb: Verb, load: "Callable[[], api.Model]", out: TextIO, is_shown: bool) -> None:
        self.num_answers = 0
        self.model: api.Model | None = None
        self._verb: Verb = verb
        self._load = load
        self._out = out
        self._is_shown = is_shown
        self._chosen: dict[str, Any] = {}  # settings that commands have changed

    def run(self, read: Callable[[], str]) -> None:
        """Answers what `read` returns until it raises an EOFError; a KeyboardInterrupt drops the line.

        Raises:
            RaycurrentError: the model cannot be loaded.
        """
        while True:
            try:
                line = read()
            except EOFError:
                console.write_line("")
                return
            except KeyboardInterrupt as interrupt:
                _drop_line(interrupt)
                continue
            except UnicodeDecodeError:
                console.write_line("line: is not valid UTF-8; type it again")
                continue
            if not line.strip():
                continue
            if self.model is None:
                self.model = self._load()
            try:
                if line.startswith(":"):
                    self._obey(self.model, line[1:])
                else:
                    self._answer(self.model, line)
            except KeyboardInterrupt as interrupt:
                _drop_line(interrupt)
            except (errors.UsageError, errors.DivergedError) as error:
                console.print_error(str(error))

    def _obey(self, model: "api.Model", command: str) -> None:
        """Changes a setting, or prints the help.

        Raises:
            UsageError: there is no such setting, or its value is wrong.
        """
        name, _, value = command.strip().partition(" ")
        if name in ("help", "h", "?", ""):
            console.write_line(_HELP[self._verb])
            return
        setting = SHORT_NAMES[self._verb].get(name, name)
        if not value.strip():
            raise errors.UsageError(f":{name}: has no value; write :{name} VALUE, or :help")
        chosen = {**self._chosen, setting: yaml_reader.read_override(f"{setting}={value}").data}
        try:
            model.settings_of(_SECTIONS[self._verb], chosen)
        except errors.UsageError as error:
            # Its beginning is the option that a command line would have.
            message = str(error).partition(f"{_SECTIONS[self._verb]}.{setting}: ")[2] or str(error)
            raise errors.UsageError(f":{name}: {message}") from error
        self._chosen = chosen

    def _answer(self, model: "api.Model", line: str) -> None:
        row: api.Translation | api.Generation
        if self._verb == "translate":
            (row,) = model.translate([line], **self._chosen)
            texts = _ranked(row)
        else:
            row = model.generate(line, **self._chosen)
            texts = row.text.split("\n")
        if row.error is not None:
            console.print_error(f"{self._verb}: {row.error}")
            return
        for text in texts:
            self._out.write((console.sanitize(text, limit=len(text) + 1) if self._is_shown else text) + "\n")
        self._out.flush()
        self.num_answers += 1


def _drop_line(interrupt: KeyboardInterrupt) -> None:
    """Ends a line that Ctrl-C dropped; a signal that ends the process is raised again."""
    if interrupt.args:
        raise interrupt
    console.write_line("")


def _ranked(row: "api.Translation") -> list[str]:
    """Returns a translation as it is; of several, each with its rank and log-probability."""
    if not row.alternatives:
        return [row.text]
    scored = [(row.score_nats, row.text), *((other.score_nats, other.text) for other in row.alternatives)]
    return [f"{rank}  {score:.2f}  {text}" for rank, (score, text) in enumerate(scored, 1)]
