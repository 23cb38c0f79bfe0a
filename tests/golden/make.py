"""The golden roots: small runs that release 0.1 made, kept so that every later version can be held to them.

    python -m tests.golden.make --release CHECKOUT

writes `texts/`, `roots/`, `documents.json` and `keys.json` anew, by the commands of that checkout, each in a process
of its own; nothing of the packages beside this file is used. The committed files are those of commit b34c148, on
which all promises about stored files rest: do not make them anew with a later version.

    texts/         corpora from the small grammar below, and a noisy sine; no real text
    configs/       the settings of each run, as release 0.1 spells them
    roots/KIND/    a run: dataset, checkpoints, record, settings, and in outputs/ for each use of the run that fills a
                   folder of parts the finished folder NAME and the half-done one NAME-half
    documents.json what each command printed
    keys.json      the names of all fields that release 0.1 writes and prints

A half-done folder is the finished one without its manifest and without all parts but the first (of each lane), which
is what a driver leaves that is killed there; `forecast` writes its output once, so there is only the finished folder.
Series training and n-gram counting save a checkpoint only at the end, so these runs cannot be resumed; the others
were ended by `training.max_steps` before their last epoch.

All was made below `/tmp/raycurrent-golden`, so this path is what the files say where they name one. Nothing that is
compared depends on it: a root may be copied anywhere, with `--set root=…` for the verbs that read settings. Names of
hosts and processes are replaced in the files, which no hash covers.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIGS, TEXTS, ROOTS = HERE / "configs", HERE / "texts", HERE / "roots"
DOCUMENTS, KEYS = HERE / "documents.json", HERE / "keys.json"
PLACE = Path("/tmp/raycurrent-golden")
HALF = "-half"
PLAN, MANIFEST, COMMITS = "_PLAN.json", "_MANIFEST.json", "_commits"

Document = dict[str, Any]
Run = Callable[[Sequence[str]], Document]
Keys = dict[str, dict[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class Use:
    """A command that uses a run: its name here, its words, and the folder of parts that it fills, if it fills one."""

    name: str
    words: tuple[str, ...]
    folder: str = ""
    has_half: bool = True

    def command(self, root: Path, texts: Path, folder: str = "") -> list[str]:
        """Returns the command line for a root, with the output in another folder if one is named."""
        output = f"{root}/outputs/{folder or self.folder}/"
        return [word.format(root=root, texts=texts, output=output) for word in self.words]


def settings(*settings: str) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


_TRANSLATE = ("translate", "--run", "{root}", "--input", "{texts}/source.txt", "--output", "{output}")
_SCORE_PAIRS = ("score", "--run", "{root}", "--input", "{texts}/source.txt", "--targets", "{texts}/target.txt")
_SCORE = ("score", "--run", "{root}", "--input", "{texts}/source.txt", "--output", "{output}")
_BY_LINE = settings("scoring.unit=line", "scoring.lanes=1", "scoring.cache=null")
_SEARCH = settings("decoding.method=greedy", "decoding.temperature=1", "decoding.top_k=null", "decoding.top_p=null")
_BACK = ("translate", "--run", "{root}", "--input", "{texts}/target.txt", "--output", "{output}")
_FORECAST = ("forecast", "--run", "{root}", "--input", "{texts}/series.csv", "--output", "{output}")

USES: Mapping[str, tuple[Use, ...]] = {
    "translation": (
        Use("translate", _TRANSLATE, "translated"),
        Use("score", (*_SCORE_PAIRS, "--output", "{output}"), "scored"),
    ),
    "two-corpora": (
        Use("translate-drawn", _TRANSLATE, "drawn"),
        Use("translate-back", (*_BACK, *_SEARCH, *settings("decoding.target_token=<2en>")), "back"),
        Use("score", (*_SCORE_PAIRS, "--output", "{output}"), "scored"),
    ),
    "language-model": (
        Use("score-stream", _SCORE, "scored-stream"),
        Use("score-line", (*_SCORE, *_BY_LINE), "scored-line"),
        Use("generate", ("generate", "--run", "{root}", "--prefix", "the old cat")),
    ),
    "ngram": (
        Use("score-stream", _SCORE, "scored-stream"),
        Use("score-line", (*_SCORE, *_BY_LINE), "scored-line"),
        Use("generate", ("generate", "--run", "{root}", "--prefix", "the old cat")),
    ),
    "series": (Use("forecast", _FORECAST, "forecasts", has_half=False),),
}
NOT_RESUMABLE = ("ngram", "series")
# The settings with which a run is over at once, and yet writes a row of every kind.
_SHORT = {
    "translation": ("max_steps=2", "validate_every_steps=1", "log_every_steps=1"),
    "two-corpora": ("max_steps=2", "validate_every_steps=1", "log_every_steps=1"),
    "language-model": ("max_steps=2", "validate_every_steps=1", "log_every_steps=1"),
    "ngram": (),
    "series": ("max_steps=40",),
}


def sources(kind: str, texts: Path) -> tuple[str, ...]:
    """Returns the overrides by which a run of this kind finds its corpus in a folder of texts."""
    pairs = f"tsv=[{texts}/pairs.tsv]"
    corpus_settings = {
        "translation": (f"corpus.train.{pairs}",),
        "two-corpora": (f"corpora.en_fr.train.{pairs}", f"corpora.fr_en.train.{pairs}"),
        "series": (f"corpus.train.csv=[{texts}/series.csv]",),
    }
    return settings(*corpus_settings.get(kind, (f"corpus.train.text=[{texts}/english.txt]",)))


def exercise(run: Run, kind: str, root: Path, texts: Path) -> dict[str, Document]:
    """Makes a run that is short and good for nothing, with all files that a run has.

    Returns:
        What each command printed, by name.
    """
    config = [str(CONFIGS / f"{kind}.yaml"), *settings(f"root={root}"), *sources(kind, texts)]
    config += settings(*(f"training.{setting}" for setting in _SHORT[kind]))
    made = {}
    if kind == "series":  # which has no pipeline
        made["prepare"] = run(["prepare", *config])
        made["train"] = run(["train", *config])
    else:
        made["pipeline"] = run(["pipeline", *config])
        made["prepare again"] = run(["prepare", *config])
        made["train again"] = run(["train", *config])
    for use in USES[kind]:
        made[use.name] = run(use.command(root, texts))
    if kind == "series":
        made["report"] = run(["report", str(root)])
    made["inspect"] = run(["inspect", str(root)])
    if kind == "translation":
        made["evaluate"] = run(
            ["evaluate", "--hypotheses", f"{texts}/target.txt", "--references", f"{texts}/target.txt"]
        )
    return made


def keys(root: Path, documents: Mapping[str, Document]) -> Keys:
    """Lists the names of all fields in the JSON files of a root, and in documents that were printed.

    Names stand below each other with dots between them, elements of lists are taken together, and for names that a
    user, a text or a number chose stands `*`. Settings are left out: theirs are the names of the schema.
    """
    files: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.json*")):
        if not path.is_file() or path.name.startswith("tokenizer"):
            continue
        name = _VARYING.sub("*", path.relative_to(root).as_posix())
        if path.suffix == ".jsonl":
            for row in map(json.loads, path.read_text().splitlines()):
                files.setdefault(f"{name} {row.get('kind', '')}".strip(), set()).update(_names(row, ""))
        else:
            files.setdefault(name, set()).update(_names(json.loads(path.read_text()), ""))
    return {
        "files": {name: sorted(fields) for name, fields in sorted(files.items())},
        "documents": {name: sorted(set(_names(document, ""))) for name, document in documents.items()},
    }


_VARYING = re.compile(r"(?<=step-)[0-9]+|(?<=-)[0-9a-f]{16}|[0-9]{4,}|(?<=/e)[0-9]+(?=-)|(?<=-e)[0-9]+")
_SETTINGS = {"settings", "config", "decoding", "scoring", "forecasting", "compute", "chosen"}
_CHOSEN = {"en_fr", "fr_en", "x", "y"}


def _names(value: object, prefix: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{prefix}.{_neutral(name)}".lstrip(".")
            yield path
            if name not in _SETTINGS:
                yield from _names(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner, prefix)


def _neutral(name: str) -> str:
    verb, _, task = name.partition(".")
    if name in _CHOSEN or task in _CHOSEN:
        return f"{verb}.*" if task else "*"
    return _VARYING.sub("*", name)


def records(folder: Path) -> list[Document]:
    """Reads the commit records of a folder of parts, in order of their names."""
    return [json.loads(path.read_text()) for path in sorted((folder / COMMITS).glob("*.json"))]


def _halve(finished: Path) -> None:
    """Copies a finished folder and takes from the copy what a driver had not yet made when it was killed."""
    half = finished.with_name(finished.name + HALF)
    shutil.copytree(finished, half)
    (half / MANIFEST).unlink()
    for path in (half / COMMITS).glob("*.json"):
        if not path.stem.endswith("-000000"):
            for file in json.loads(path.read_text())["record"]["files"]:
                (half / file["name"]).unlink()
            path.unlink()


_SUBJECTS = {"the cat": "le chat", "the old dog": "le vieux chien", "my aunt": "ma tante", "the king": "le roi",
             "the old cat": "le vieux chat", "our neighbour": "notre voisin"}  # fmt: skip
_VERBS = {"sees": "voit", "likes": "aime", "finds": "trouve", "wants": "veut", "does not see": "ne voit pas"}
_OBJECTS = {"a house": "une maison", "the red apple": "la pomme rouge", "his garden": "son jardin",
            "the bread": "le pain", "two birds": "deux oiseaux", "a green door": "une porte verte"}  # fmt: skip
_ENDS = {"": "", "today": "aujourd'hui", "in the town": "dans la ville"}
_NUM_LINES = 20


def write_texts(folder: Path) -> None:
    """Writes every corpus, and the lines that are translated and scored: each pair once, in an order of chance."""
    pairs = [
        (" ".join(filter(None, (s, v, o, e))), " ".join(filter(None, (fs, fv, fo, fe))))
        for s, fs in _SUBJECTS.items()
        for v, fv in _VERBS.items()
        for o, fo in _OBJECTS.items()
        for e, fe in _ENDS.items()
    ]
    random.Random(1).shuffle(pairs)
    folder.mkdir(parents=True)
    _write(folder / "pairs.tsv", ("\t".join(pair) for pair in pairs[:400]))
    _write(folder / "english.txt", (english for english, _ in pairs[:400]))
    chosen = random.Random(2).sample(pairs[:400], _NUM_LINES)
    _write(folder / "source.txt", (english for english, _ in chosen))
    _write(folder / "target.txt", (french for _, french in chosen))
    noise = random.Random(3)
    values = [math.sin(0.1 * t) + noise.gauss(0, 0.1) for t in range(300)]
    rows = [f"{t},{value:.6f},{math.cos(0.1 * t):.6f}" for t, value in enumerate(values)]
    _write(folder / "series.csv", ["t,x,y", *rows])


def _write(path: Path, lines: Iterator[str] | list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class _Release:
    """The commands of a checkout."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout.resolve()

    def __call__(self, words: Sequence[str]) -> Document:
        """Runs a command and returns what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "PROMETHEUS", "PY"))}
        environment = {**kept, "PYTHONPATH": str(self._checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jobs", *words]
        done = subprocess.run(
            command, cwd=self._checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        document: Document = json.loads(done.stdout)
        print(" ".join(words), flush=True)
        return document


def _make_root(run: Run, kind: str) -> dict[str, Document]:
    """Makes one golden root below `PLACE` and returns what its commands printed."""
    root, texts, config = PLACE / kind, PLACE / "texts", str(CONFIGS / f"{kind}.yaml")
    made = {"prepare": run(["prepare", config]), "train": run(["train", config])}
    for use in USES[kind]:
        made[use.name] = run(use.command(root, texts))
        if use.folder and use.has_half:
            _halve(root / "outputs" / use.folder)
    made["inspect"] = run(["inspect", str(root)])
    return made


# What locks and starts say of the process that they are of.
_OWNER = {"host": "golden", "machine": "golden", "pid": 1, "born": "1"}


def _neutralize(root: Path) -> None:
    """Takes from a root what says where and by whom it was made, none of which a hash covers."""
    shutil.rmtree(root / "outputs" / "metrics", ignore_errors=True)
    for path in root.glob("metrics/final-*.prom"):
        path.rename(path.with_name("final-golden.prom"))
    for path in [*root.rglob("_lock/epoch-*.json"), *root.glob("epochs/*.json")]:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **{key: _OWNER[key] for key in _OWNER.keys() & content.keys()}}))


def main() -> None:
    """Makes all golden files anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True, help="a checkout of the release that makes them")
    run = _Release(parser.parse_args().release)
    PLACE.mkdir()  # fails if the folder exists, whose runs would be resumed
    with contextlib.ExitStack() as leaving:
        leaving.callback(shutil.rmtree, PLACE)
        write_texts(PLACE / "texts")
        documents = {kind: _make_root(run, kind) for kind in USES}
        field_names = {}
        for kind in USES:
            printed = exercise(run, kind, PLACE / "keys" / kind, PLACE / "texts")
            field_names[kind] = keys(PLACE / "keys" / kind, printed)
        for old in (TEXTS, ROOTS):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(PLACE / "texts", TEXTS)
        for kind in USES:
            _neutralize(PLACE / kind)
            run(["inspect", str(PLACE / kind)])
            shutil.copytree(PLACE / kind, ROOTS / kind)
    for path, content in ((DOCUMENTS, documents), (KEYS, field_names)):
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
