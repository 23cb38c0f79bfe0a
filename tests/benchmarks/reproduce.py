"""`make reproduce`: the README's figures on the real corpora, by the commands that a user would type.

    python -m tests.benchmarks.reproduce --data FOLDER [--runs FOLDER] [--only multi30k wikitext-2 …]

Prints a Markdown table; the runs stay where they are and a second call goes on from what is there.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

from core.evaluation import quality

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "jobs" / "configs"
TIME_MACHINE = {
    "rnn": ("perplexity of the last epoch", "≤ 1.1", ()),
    "gru": ("perplexity of the last epoch", "≤ 1.1", ()),
    "lstm": ("perplexity of the last epoch", "≤ 1.1", ()),
    "rnn, random sampling": ("mean perplexity of the last 10 epochs", "≤ 1.6", ("training.sampling=random",)),
}
# the documents' own translations of these lines; the fourth is not among the 600 pairs
PRINTED = {"go .": "va !", "i lost .": "j'ai perdu .", "i'm home .": "je suis chez moi .", "he's calm .": None}


class Figure(NamedTuple):
    """One row of the table."""

    what: str
    found: str
    asked: str


def jobs(*arguments: str, stdin: str | None = None) -> str:
    """Runs a verb and returns its standard output.

    Raises:
        CalledProcessError: it failed; its standard error was shown.
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


def train(config: str, root: pathlib.Path, settings: list[str]) -> dict[str, Any]:
    """Prepares and trains; returns train's report."""
    arguments = [str(CONFIGS / config), f"--set=root={root}", *(f"--set={setting}" for setting in settings)]
    jobs("prepare", *arguments)
    report: dict[str, Any] = json.loads(jobs("train", *arguments))
    return report


def recorded(root: pathlib.Path) -> list[dict[str, Any]]:
    """The rows that training steps left in the run record, in order."""
    segments = sorted((root / "metrics").glob("e*.jsonl"), key=lambda path: path.stem.split("-")[1])
    rows = [json.loads(line) for path in segments for line in path.read_text().splitlines()]
    return [row for row in rows if row["kind"] == "step"]


def time_machine(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Learns 10,000 characters by heart with each cell."""
    figures = []
    for name, (what, asked, settings) in TIME_MACHINE.items():
        root = runs / f"time-machine-{name.replace(', ', '-').replace(' ', '-')}"
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        report = train("time-machine.yaml", root, [source, f"model.cell={name.split(',')[0]}", *settings])
        rows = recorded(root)  # an epoch each
        mean = statistics.mean(math.exp(row["loss_nats"]) for row in rows[-10:])
        found = mean if settings else math.exp(rows[-1]["loss_nats"])
        figures.append(Figure(f"The Time Machine, {name} 512: {what}", f"{found:.3f} ({report['precision']})", asked))
        if not settings:
            for prefix in ("time traveller", "traveller"):
                text = json.loads(jobs("generate", "--run", str(root), "--prefix", prefix))["text"]
                figures.append(Figure(f"{name}: goes on from “{prefix}”", f"“{text}”", "text of the book"))
    return figures


def fra_eng(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """The textbook's encoder–decoder on its 600 pairs."""
    root = runs / "fra-eng-first-600"
    report = train("fra-eng-first-600.yaml", root, [f"corpus.train.tsv=[{data / 'fra-eng' / 'fra.txt.xz'}]"])
    figures = [Figure("fra-eng, first 600: loss, nats a token", f"{report['loss_nats']:.3f}", "≤ 0.23")]
    translated = jobs(
        "translate", "--run", str(root), "--input", "-", "--output", "-", stdin="".join(f"{line}\n" for line in PRINTED)
    )
    for (line, printed), text in zip(PRINTED.items(), translated.splitlines(), strict=True):
        bleu = f", BLEU(k=2) {quality.documents_bleu(text, printed, 2):.2f}" if printed else ""
        figures.append(Figure(f"“{line}”", f"“{text}”{bleu}", "1.00" if printed else "reported"))
    return figures


def multi30k_sources(data: pathlib.Path) -> list[str]:
    """Settings that say where the files are."""
    return [
        f"corpus.{split}.{side}=[{data / 'multi30k' / f'{name}.{language}.gz'}]"
        for split, name in (("train", "train"), ("valid", "val"), ("test", "test_2016_flickr"))
        for side, language in (("source", "en"), ("target", "de"))
    ]


def multi30k(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """English to German, two workers."""
    root, folder = runs / "multi30k", data / "multi30k"
    report = train("multi30k.yaml", root, multi30k_sources(data))
    hypotheses = runs / "multi30k.hypotheses.txt"
    source, reference = (str(folder / f"test_2016_flickr.{language}.gz") for language in ("en", "de"))
    translated = json.loads(
        jobs("translate", "--run", str(root), "--input", source, "--output", str(hypotheses), "--overwrite")
    )
    found = json.loads(jobs("evaluate", "--hypotheses", str(hypotheses), "--references", reference))
    minutes = report["elapsed_s"] / 60
    return [
        Figure("Multi30k en→de: minutes of training, 2 workers", f"{minutes:.1f} ({report['precision']})", "≤ 30"),
        Figure("… seconds of translating 1,000 lines, beam 5", f"{translated['elapsed_s']:.0f}", "reported"),
        Figure("… BLEU on test_2016_flickr", f"{found['bleu']:.1f} ({found['signatures']['bleu']})", "≥ 37.5"),
        Figure("… chrF, TER", f"{found['chrf']:.1f}, {found['ter']:.1f}", "reported"),
    ]


def wikitext_2(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """The same words counted and learnt."""
    figures = []
    for name, asked in (("wikitext-2-kneser-ney", "reported"), ("wikitext-2", "below the 5-gram's, in ≤ 60 minutes")):
        sources = [
            f"--set=corpus.{split}.text=[{data / 'wikitext-2' / f'wiki.{split}.tokens.xz'}]"
            for split in ("train", "valid", "test")
        ]
        arguments = [str(CONFIGS / f"{name}.yaml"), f"--set=root={runs / name}", *sources]
        stages = json.loads(jobs("pipeline", *arguments))["stages"]
        minutes = stages["train"]["elapsed_s"] / 60
        figures.append(
            Figure(f"{name}: test perplexity", f"{stages['score']['perplexity']:.2f} ({minutes:.1f} minutes)", asked)
        )
    return figures


def main() -> None:
    """Makes the figures that are asked for and prints them."""
    makers = {"time-machine": time_machine, "fra-eng": fra_eng, "multi30k": multi30k, "wikitext-2": wikitext_2}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/reproduce"))
    parser.add_argument("--only", nargs="*", choices=list(makers), default=list(makers))
    chosen = parser.parse_args()
    figures = [figure for name in chosen.only for figure in makers[name](chosen.data.resolve(), chosen.runs.resolve())]
    sys.stdout.write("| what | found | asked |\n| --- | --- | --- |\n")
    sys.stdout.writelines(f"| {figure.what} | {figure.found} | {figure.asked} |\n" for figure in figures)


if __name__ == "__main__":
    main()
