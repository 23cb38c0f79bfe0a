"""`make reproduce`: the README's figures on the real corpora, by the commands that a user would type.

    python -m tests.benchmarks.reproduce --data FOLDER [--runs FOLDER] [--only multi30k wikitext-2 …]

Prints a Markdown table; the runs stay where they are and a second call goes on from what is there. Ends with 1 where a
model that has learnt the book by heart does not go on with it.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.data.text import cleaning
from core.evaluation import quality

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "jobs" / "configs"
TIME_MACHINE = {
    "rnn": ("perplexity of the last epoch", "≤ 1.1", ()),
    "gru": ("perplexity of the last epoch", "≤ 1.1", ()),
    "lstm": ("perplexity of the last epoch", "≤ 1.1", ()),
    "rnn, random sampling": ("mean perplexity of the last 10 epochs", "≤ 1.6", ("training.sampling=random",)),
}
# Widths at which LSTMs of one to four layers have as many weights, 0.30 million, over the book's 28 characters.
WIDTHS = {1: 256, 2: 152, 3: 119, 4: 101}
TRUNCATIONS = {
    "fixed, 35 tokens": ("training.truncation=fixed",),
    "variable, 35 tokens": ("training.truncation=variable",),
    "random within 35 tokens": ("training.truncation=random",),
    "none, a step a pass": ("training.truncation=none", "training.log_every_steps=1"),
}
LIGHTER = tuple(f"model.{part}=0.3" for part in ("dropout", "embedding_dropout", "output_dropout"))
# Models that learn the same captions each in its own way; the last goes on, without BPE-dropout, from one that had it.
TEACHERS: dict[str, tuple[str, ...]] = {
    "multi30k": (),
    "multi30k-lighter": (*LIGHTER, "seed=2"),
    "multi30k-words": (*LIGHTER, "model.word_dropout=0.1", "seed=4"),
    "multi30k-subwords": (
        *LIGHTER,
        "training.epochs=5",
        "training.learning_rate=7e-4",
        "training.schedule.warmup_steps=50",
    ),
}
BEGINNING = ("multi30k-subwords-begun", (*LIGHTER, "training.bpe_dropout=0.1", "training.epochs=30"))
TOGETHER = ("multi30k-distilled", "multi30k-words", "multi30k-subwords")  # the best on the validation captions
ABLATION = {
    "as configured": (),
    "without attention": ("model.attention=none", "model.context=input"),
    "encoder in one direction": ("model.bidirectional=false",),
    "two layers": ("model.num_layers=2",),
}
UNREGULARISED = (
    "training.epochs=4",
    "model.dropout=0",
    "model.locked_dropout=false",
    *(f"model.{part}_dropout=0" for part in ("word", "embedding", "output", "weight")),
)
WIKITEXT_2 = {
    "wikitext-2-kneser-ney-3": ("wikitext-2-kneser-ney.yaml", ("model.order=3",), "reported"),
    "wikitext-2-kneser-ney-4": ("wikitext-2-kneser-ney.yaml", ("model.order=4",), "reported"),
    "wikitext-2-kneser-ney": ("wikitext-2-kneser-ney.yaml", (), "reported"),
    "wikitext-2-plain-rnn": (
        "wikitext-2.yaml",
        ("model.cell=rnn", "training.learning_rate=5e-4", *UNREGULARISED),
        "reported",
    ),
    "wikitext-2-plain-lstm": ("wikitext-2.yaml", UNREGULARISED, "reported"),
    "wikitext-2": ("wikitext-2.yaml", (), "below the 5-gram's, in ≤ 60 minutes"),
}
SEARCHES = {
    "greedy": ("decoding.beam_size=1",),
    "beam 5": (),
    "beam 10": ("decoding.beam_size=10",),
    "beam 5, mean of 3 checkpoints": ("decoding.average_checkpoints=3",),
}
PRECISIONS = {
    precision: (f"compute.precision={precision}", "cluster.address=none", "cluster.num_workers=1")
    for precision in ("fp32", "bf16", "int8")
}
# the documents' own translations of these lines; the fourth is not among the 600 pairs
PRINTED = {"go .": "va !", "i lost .": "j'ai perdu .", "i'm home .": "je suis chez moi .", "he's calm .": None}


class Figure(NamedTuple):
    """One row of the table; `holds` is false where what must be true is not."""

    what: str
    found: str
    asked: str
    holds: bool = True


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


def book(data: pathlib.Path) -> str:
    """The Time Machine as a model reads it: cleaned, its lines joined with nothing between them."""
    lines = (data / "timemachine" / "timemachine.txt").read_text().splitlines()
    return "".join(cleaning.clean(line, ("letters", "lower")) for line in lines)


def continued(data: pathlib.Path, name: str, root: pathlib.Path) -> list[Figure]:
    """What a model adds to two beginnings, and whether it is text of the book."""
    figures, whole = [], book(data)
    for prefix in ("time traveller", "traveller"):
        text = json.loads(jobs("generate", "--run", str(root), "--prefix", prefix))["text"]
        holds = text.removeprefix(prefix) in whole
        found = f"“{text}”: {'is' if holds else 'is not'} text of the book"
        figures.append(Figure(f"{name}: goes on from “{prefix}”", found, "text of the book", holds))
    return figures


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
            figures += continued(data, name, root)
    return figures


def depth(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Layers against width at equal numbers of weights: the whole book, its last tenth held out."""
    figures = []
    for num_layers, width in WIDTHS.items():
        whole = ["corpus.limit.tokens=null", "corpus.line_end=space", "corpus.split={valid: 0.1, by: tail}"]
        shape = [f"model.num_layers={num_layers}", f"model.hidden_size={width}"]
        pace = ["training.epochs=20", "training.optimizer=adam", "training.learning_rate=2e-3"]
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        report = train("time-machine.yaml", runs / f"depth-{num_layers}", [source, *whole, *shape, *pace])
        found = f"{report['best_validation']['perplexity']:.3f} ({report['elapsed_s']:.0f} s)"
        what = f"The Time Machine, LSTM {num_layers}×{width}: best validation perplexity of 20 epochs"
        figures.append(Figure(what, found, "reported"))
    return figures


def truncation(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Where gradients are cut, 500 passes over 10,000 characters each."""
    figures = []
    for name, settings in TRUNCATIONS.items():
        root = runs / f"truncation-{name.partition(',')[0].replace(' ', '-')}"
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        report = train("time-machine.yaml", root, [source, "model.cell=rnn", "model.hidden_size=256", *settings])
        mean = statistics.mean(row["loss_nats"] for row in recorded(root)[-10:])
        found = f"{math.exp(mean):.3f} ({report['step']} steps, {report['elapsed_s']:.0f} s)"
        figures.append(
            Figure(f"The Time Machine, RNN 256, truncation {name}: perplexity at the end", found, "reported")
        )
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
        bleu = f", BLEU(k=2) {quality.d2l_bleu(text, printed, 2):.2f}" if printed else ""
        figures.append(Figure(f"“{line}”", f"“{text}”{bleu}", "1.00" if printed else "reported"))
    return figures


def multi30k_sources(data: pathlib.Path) -> list[str]:
    """Settings that say where the files are."""
    return [
        f"corpus.{split}.{side}=[{data / 'multi30k' / f'{name}.{language}.gz'}]"
        for split, name in (("train", "train"), ("valid", "val"), ("test", "test_2016_flickr"))
        for side, language in (("source", "en"), ("target", "de"))
    ]


def multi30k_quality(data: pathlib.Path, output: pathlib.Path, roots: list[pathlib.Path], *settings: str) -> Any:
    """Translates the test captions by one model or by several together; returns what evaluate says of them."""
    source, reference = (str(data / "multi30k" / f"test_2016_flickr.{language}.gz") for language in ("en", "de"))
    models = [argument for root in roots for argument in ("--run", str(root))]
    changes = [f"--set={setting}" for setting in settings]
    jobs("translate", *models, "--input", source, "--output", str(output), "--overwrite", *changes)
    return json.loads(jobs("evaluate", "--hypotheses", str(output), "--references", reference))


def by_length(what: str, quality_found: dict[str, Any]) -> Figure:
    """One row: BLEU and chrF of the lines whose references have so many words."""
    buckets = quality_found["by_length"]
    lengths = [f"{bucket['shortest']}–{bucket['longest'] or ''} ({bucket['lines']})" for bucket in buckets]
    parts = [
        f"{length}: {bucket['bleu']:.1f}, {bucket['chrf']:.1f}" for length, bucket in zip(lengths, buckets, strict=True)
    ]
    return Figure(f"{what} BLEU, chrF by words of the reference (lines)", "; ".join(parts), "reported")


def multi30k(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """English to German in half an hour of two workers."""
    report = train("multi30k.yaml", runs / "multi30k", multi30k_sources(data))
    found = multi30k_quality(data, runs / "multi30k.hypotheses.txt", [runs / "multi30k"])
    figures = multi30k_figures("Multi30k en→de", report, found, minutes=30, bleu=37.5)
    return [*figures, *varied("… one process", data, runs, "multi30k", PRECISIONS)]


def varied(
    what: str, data: pathlib.Path, runs: pathlib.Path, name: str, variants: Mapping[str, tuple[str, ...]]
) -> list[Figure]:
    """BLEU of one model by other searches, or computed otherwise."""
    figures = []
    for variant, settings in variants.items():
        bleu = multi30k_quality(data, runs / f"{name}.varied.txt", [runs / name], *settings)["bleu"]
        figures.append(Figure(f"{what}, {variant}: BLEU", f"{bleu:.2f}", "reported"))
    return figures


def multi30k_figures(
    what: str, report: dict[str, Any], found: dict[str, Any], minutes: int, bleu: float
) -> list[Figure]:
    """How long a model was trained and how well it translates."""
    took = f"{report['elapsed_s'] / 60:.1f} ({report['precision']})"
    return [
        Figure(f"{what}: minutes of training, 2 workers", took, f"≤ {minutes}"),
        Figure("… BLEU on test_2016_flickr", f"{found['bleu']:.1f} ({found['signatures']['bleu']})", f"≥ {bleu}"),
        Figure("… chrF, TER", f"{found['chrf']:.1f}, {found['ter']:.1f}", "reported"),
        by_length("…", found),
    ]


def multi30k_distilled(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Four models together, and their student."""
    sources = multi30k_sources(data)
    begun, settings = BEGINNING
    train("multi30k.yaml", runs / begun, [*sources, *settings])
    for name, settings in TEACHERS.items():
        further = [f"training.init_from={runs / begun}"] if name == "multi30k-subwords" else []
        train("multi30k.yaml", runs / name, [*sources, *settings, *further])
    roots = [runs / name for name in TEACHERS]
    figures = []
    for members in ([0], [1], [2], [3], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        chosen = [roots[number] for number in members]
        bleu = multi30k_quality(data, runs / "multi30k-ensemble.txt", chosen)["bleu"]
        names = ", ".join(root.name for root in chosen)
        figures.append(Figure(f"Multi30k en→de, {names}: BLEU", f"{bleu:.1f}", "reported"))
    figures += multi30k_student(data, runs, roots)
    found = multi30k_quality(data, runs / "multi30k-together.txt", [runs / name for name in TOGETHER])
    what = "Multi30k en→de, the student and two of the four: BLEU"
    return [*figures, Figure(what, f"{found['bleu']:.1f}", "≥ 40.5"), by_length("…", found)]


def multi30k_student(data: pathlib.Path, runs: pathlib.Path, teachers: list[pathlib.Path]) -> list[Figure]:
    """One model learns from the references and from what others together make of the training captions."""
    captions, references = (str(data / "multi30k" / f"train.{language}.gz") for language in ("en", "de"))
    taught = str(runs / "multi30k-taught.txt")
    models = [argument for root in teachers for argument in ("--run", str(root))]
    jobs("translate", *models, "--input", captions, "--output", taught, "--overwrite", "--set=cluster.num_workers=2")
    settings = [
        *multi30k_sources(data),
        f"corpus.train.source=[{captions},{captions}]",
        f"corpus.train.target=[{references},{taught}]",
        f"tokenizer.load=[{teachers[0] / 'dataset' / 'tokenizer-*.json'}]",
    ]
    student = runs / "multi30k-distilled"
    report = train("multi30k-distilled.yaml", student, settings)
    found = multi30k_quality(data, runs / "multi30k-distilled.hypotheses.txt", [student])
    figures = multi30k_figures("Multi30k en→de, a student of the four", report, found, minutes=45, bleu=39)
    return [*figures, *varied("… the student", data, runs, student.name, SEARCHES)]


def multi30k_ablation(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """One thing changed at a time: the model, eight epochs each; then the search, of the model as configured."""
    figures = []
    for number, (what, settings) in enumerate(ABLATION.items()):
        root = runs / f"multi30k-ablation-{number}"
        report = train("multi30k.yaml", root, [*multi30k_sources(data), "training.epochs=8", *settings])
        bleu = multi30k_quality(data, runs / "multi30k-ablation.txt", [root])["bleu"]
        figures.append(Figure(f"Multi30k, 8 epochs, {what}", f"{bleu:.1f} ({report['elapsed_s']:.0f} s)", "reported"))
    train("multi30k.yaml", runs / "multi30k", multi30k_sources(data))
    return [*figures, *varied("Multi30k, as configured", data, runs, "multi30k", SEARCHES)]


def fra_eng_all(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """All pairs; equal English sentences stay on one side of the split."""
    source = f"--set=corpus.train.tsv=[{data / 'fra-eng' / 'fra.txt.xz'}]"
    told = json.loads(jobs("pipeline", str(CONFIGS / "fra-eng.yaml"), f"--set=root={runs / 'fra-eng'}", source))
    training, found = told["stages"]["train"], told["stages"]["evaluate"]
    took = f"{training['elapsed_s'] / 60:.1f} ({training['precision']})"
    return [
        Figure("fra-eng, all pairs: minutes of training, 2 workers", took, "≤ 45"),
        Figure("… BLEU, chrF of the held-out lines", f"{found['bleu']:.1f}, {found['chrf']:.1f}", "reported"),
        by_length("…", found),
        Figure("… faults", json.dumps(found["faults"]), "reported"),
    ]


def wikitext_2(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """The same words counted and learnt; the last model also with a neural cache."""
    figures = []
    files = {split: data / "wikitext-2" / f"wiki.{split}.tokens.xz" for split in ("train", "valid", "test")}
    for name, (config, settings, asked) in WIKITEXT_2.items():
        sources = [f"corpus.{split}.text=[{file}]" for split, file in files.items()]
        changes = [f"--set={setting}" for setting in (f"root={runs / name}", *sources, *settings)]
        stages = json.loads(jobs("pipeline", str(CONFIGS / config), *changes))["stages"]
        training = stages["train"]
        valid = (training.get("best_validation") or training["validation"])["perplexity"]  # an n-gram has only one
        found = f"{valid:.2f}, {stages['score']['perplexity']:.2f} ({training['elapsed_s'] / 60:.1f} minutes)"
        figures.append(Figure(f"{name}: validation and test perplexity", found, asked))
    output = ("--output", str(runs / "wikitext-2-cached.jsonl"), "--overwrite", "--set=scoring.cache.size=2000")
    cached = json.loads(jobs("score", "--run", str(runs / "wikitext-2"), "--input", str(files["test"]), *output))
    return [*figures, Figure("… with a neural cache of 2,000: test", f"{cached['perplexity']:.2f}", "reported")]


def main() -> None:
    """Makes the figures that are asked for and prints them."""
    makers = {
        "time-machine": time_machine,
        "depth": depth,
        "truncation": truncation,
        "fra-eng": fra_eng,
        "fra-eng-all": fra_eng_all,
        "multi30k": multi30k,
        "multi30k-distilled": multi30k_distilled,
        "multi30k-ablation": multi30k_ablation,
        "wikitext-2": wikitext_2,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/reproduce"))
    parser.add_argument("--only", nargs="*", choices=list(makers), default=list(makers))
    chosen = parser.parse_args()
    figures = [figure for name in chosen.only for figure in makers[name](chosen.data.resolve(), chosen.runs.resolve())]
    sys.stdout.write("| what | found | asked |\n| --- | --- | --- |\n")
    sys.stdout.writelines(f"| {figure.what} | {figure.found} | {figure.asked} |\n" for figure in figures)
    sys.exit(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    main()
