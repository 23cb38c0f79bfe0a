"""A recording `kubectl`: a program on the PATH that logs its arguments and input, and plays back answers."""

import json
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = """#!{python} -ISE
import fcntl, json, pathlib, re, sys, time
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
text = " ".join(words)
stdin = "" if sys.stdin is None or "--filename" not in words or "-" not in words else sys.stdin.read()
with open(folder / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(folder / "calls", "a") as calls:
        calls.write(json.dumps([words, stdin]) + "\\n")
    answers = json.loads((folder / "answers").read_text())
    for rule in answers:
        if re.search(rule["pattern"], text):
            # The last answer of a rule is repeated.
            answer = rule["answers"].pop(0) if len(rule["answers"]) > 1 else rule["answers"][0]
            break
    else:
        answer = {{"stderr": "error: unexpected call: " + text, "code": 1}}
    (folder / "answers").write_text(json.dumps(answers))
sys.stdout.write(answer.get("stdout", ""))
sys.stdout.flush()
sys.stderr.write(answer.get("stderr", ""))
time.sleep(answer.get("seconds", 0))
sys.exit(answer.get("code", 0))
"""


class Call(NamedTuple):
    """A call of the program."""

    words: list[str]
    stdin: str

    @property
    def documents(self) -> Any:
        """The JSON document on its standard input."""
        return json.loads(self.stdin)


class Kubectl:
    """The program, in a folder of its own.

    Args:
        folder: empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "kubectl"
        path.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self._rules: list[dict[str, Any]] = []

    def answer(self, pattern: str, *answers: object, code: int = 0, stderr: str = "", seconds: float = 0) -> None:
        """Adds answers to calls whose words, joined by spaces, have this pattern; documents are sent as JSON."""
        texts = [text if isinstance(text, str) else json.dumps(text) for text in answers or ("",)]
        played = [{"stdout": text, "code": code, "stderr": stderr, "seconds": seconds} for text in texts]
        self._rules.append({"pattern": pattern, "answers": played})
        (self.folder / "answers").write_text(json.dumps(self._rules))

    def calls(self, *first: str) -> Iterator[Call]:
        """Yields the calls whose words contain these words in a row."""
        path = self.folder / "calls"
        for line in path.read_text().splitlines() if path.exists() else []:
            call = Call(*json.loads(line))
            starts = range(len(call.words) - len(first) + 1)
            if any(tuple(call.words[start : start + len(first)]) == first for start in starts):
                yield call

    def verbs(self) -> list[str]:
        """Returns verb and object of each call, without options: `get rayjobs.ray.io`, `create`, `logs`."""
        return [_verb(call.words) for call in self.calls()]


def _verb(words: Sequence[str]) -> str:
    plain: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = word in ("--namespace", "--context") and not skip
            continue
        plain.append(word)
    return " ".join(plain[:2]) if plain[0] in ("get", "delete") else plain[0]


def rayjob(name: str, status: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """Returns a RayJob as an API server sends it."""
    labels = {"app.kubernetes.io/name": "raycurrent", "app.kubernetes.io/component": "train"}
    return {
        "metadata": {"name": name, "uid": "uid-1", "labels": labels, "annotations": {}, **metadata},
        "spec": {"backoffLimit": 2},
        "status": dict(status or {}),
    }


def pod(name: str, phase: str, **status: Any) -> dict[str, Any]:
    """Returns a pod as an API server sends it; its UID is its name."""
    return {"metadata": {"name": name, "uid": name, "creationTimestamp": name}, "status": {"phase": phase, **status}}


def items(*documents: dict[str, Any]) -> dict[str, Any]:
    """Returns a list as an API server sends it."""
    return {"items": list(documents)}
