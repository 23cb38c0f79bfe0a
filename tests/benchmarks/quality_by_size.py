"""Quality by the size of a corpus, with the configurations that `init` writes.

    python -m tests.benchmarks.quality_by_size --data FOLDER [--runs FOLDER] [--only fra-eng-1000 wikitext-2-30000 …]

Each corpus is cut to a size, given to `init`, trained by `pipeline` as `init` wrote it, and measured on a held-out set
that is the same for all its sizes. Prints a Markdown table. The runs are kept, and a second call resumes them.
"""

import argparse
import gzip
import json
import lzma
import pathlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.benchmarks import commands

NUM_TEST_LINES = 1_000
PAIRS = (1_000, 3_000, 10_000, 30_000, 100_000)
WORDS = (30_000, 100_000, 300_000, 1_000_000, 2_000_000)


class Cut(NamedTuple):
    """A corpus cut to a size.

    Attributes:
        train: the file that `init` is given.
        test: the held-out file: source lines, or text.
        references: translations of the source lines; None for text.
    """

    train: pathlib.Path
    test: pathlib.Path
    references: pathlib.Path | None


def _read(path: pathlib.Path) -> list[str]:
    with (lzma.open if path.suffix == ".xz" else gzip.open)(path, "rt", encoding="utf-8", newline="\n") as file:
        return file.read().splitlines()


def _write(path: pathlib.Path, lines: list[str]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def fra_eng(data: pathlib.Path, folder: pathlib.Path, size: int) -> Cut:
    """Cuts English–French sentences: no English sentence of the test set is trained on.

    Some English sentences have many translations; the first is the reference.
    """
    pairs = [line.split("\t") for line in _read(data / "fra-eng" / "fra.txt.xz")]
    order = random.Random(0)
    english = sorted({pair[0] for pair in pairs})
    order.shuffle(english)
    held_out: dict[str, str | None] = dict.fromkeys(english[:NUM_TEST_LINES])
    rest = []
    for source, target in pairs:
        if source not in held_out:
            rest.append((source, target))
        elif held_out[source] is None:
            held_out[source] = target
    order.shuffle(rest)
    return Cut(
        _write(folder / f"fra-eng-{size}.tsv", ["\t".join(pair) for pair in rest[:size]]),
        _write(folder / "fra-eng-test.en", list(held_out)),
        _write(folder / "fra-eng-test.fr", [target or "" for target in held_out.values()]),
    )


def multi30k(data: pathlib.Path, folder: pathlib.Path, size: int) -> Cut:
    """Cuts German–English captions; the test set is test_2016_flickr."""
    pairs = list(zip(*(_read(data / "multi30k" / f"train.{language}.gz") for language in ("de", "en")), strict=True))
    random.Random(0).shuffle(pairs)
    source, references = (
        _write(folder / f"multi30k-test.{language}", _read(data / "multi30k" / f"test_2016_flickr.{language}.gz"))
        for language in ("de", "en")
    )
    train = _write(folder / f"multi30k-{size}.tsv", ["\t".join(pair) for pair in pairs[:size]])
    return Cut(train, source, references)


def wikitext_2(data: pathlib.Path, folder: pathlib.Path, size: int) -> Cut:
    """Cuts WikiText-2 to its first lines that have so many words; the test set is its own."""
    lines, words = [], 0
    for line in _read(data / "wikitext-2" / "wiki.train.tokens.xz"):
        if words >= size:
            break
        lines.append(line)
        words += len(line.split())
    test = _write(folder / "wikitext-2-test.txt", _read(data / "wikitext-2" / "wiki.test.tokens.xz"))
    return Cut(_write(folder / f"wikitext-2-{size}.txt", lines), test, None)


CORPORA: dict[str, tuple[Callable[[pathlib.Path, pathlib.Path, int], Cut], tuple[int, ...]]] = {
    "fra-eng": (fra_eng, PAIRS),
    "multi30k": (multi30k, PAIRS[:-1]),  # it has 29,000 pairs
    "wikitext-2": (wikitext_2, WORDS),
}


def experiments() -> Iterator[str]:
    """Yields the names of all cuts."""
    for corpus, (_, sizes) in CORPORA.items():
        yield from (f"{corpus}-{size}" for size in sizes)


def measure(name: str, data: pathlib.Path, runs: pathlib.Path) -> str:
    """Trains on a cut as `init` says and returns its row of the table."""
    corpus, _, size = name.rpartition("-")
    cut = CORPORA[corpus][0](data, runs / "cuts", int(size))
    config, root = runs / f"{name}.yaml", runs / name
    promised = json.loads(commands.jobs("init", str(cut.train), "--output", str(config), "--overwrite"))
    trained = json.loads(commands.jobs("pipeline", str(config), f"--set=root={root}"))["stages"]["train"]
    output = ("--output", str(runs / f"{name}.held-out.jsonl"), "--overwrite")
    if cut.references is None:
        scored = json.loads(commands.jobs("score", "--run", str(root), "--input", str(cut.test), *output))
        quality = f"{scored['bits_per_character']:.3f} bits a character"
    else:
        quality = _bleu(cut, root, runs / f"{name}.held-out.txt")
    minutes = f"{trained['elapsed_s'] / 60:.0f} ({promised['minutes']:.0f} promised for all)"
    return f"| {corpus} | {int(size):,} | {quality} | {minutes}, {trained['precision']} |\n"


def _bleu(cut: Cut, root: pathlib.Path, output: pathlib.Path) -> str:
    """Translates the held-out lines and returns the quality of the translations."""
    commands.jobs("translate", "--run", str(root), "--input", str(cut.test), "--output", str(output), "--overwrite")
    arguments = ("evaluate", "--hypotheses", str(output), "--references", str(cut.references))
    evaluated: dict[str, Any] = json.loads(commands.jobs(*arguments))
    return f"BLEU {evaluated['bleu']:.1f}, chrF {evaluated['chrf']:.1f}"


def main() -> None:
    """Measures the chosen cuts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/quality-by-size"))
    parser.add_argument("--only", nargs="*", choices=list(experiments()), default=list(experiments()))
    arguments = parser.parse_args()
    data, runs = arguments.data.resolve(), arguments.runs.resolve()
    sys.stdout.write(
        "| corpus | pairs or words | held-out quality | minutes of training |\n| --- | --- | --- | --- |\n"
    )
    for name in arguments.only:
        sys.stdout.write(measure(name, data, runs))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
