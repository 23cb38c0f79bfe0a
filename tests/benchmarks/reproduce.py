"""Experiments of the README on the real corpora (`make reproduce`), by the commands that a user would type.

    python -m tests.benchmarks.reproduce --data FOLDER [--runs FOLDER] [--only multi30k wikitext-2 …]

Prints a Markdown table. The runs are kept, and a second call resumes them. Ends with 1 if a model that was trained to
memorize the book does not generate its text.
"""

import argparse
import json
import math
import pathlib
import resource
import statistics
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.data.text import cleaning
from core.evaluation import quality
from tests.benchmarks import commands

CONFIGS = commands.REPOSITORY / "jobs" / "configs"
TIME_MACHINE = {
    "rnn": ("perplexity of the last epoch", "≤ 1.1", ()),
    "gru": ("perplexity of the last epoch", "≤ 1.1", ()),
    "lstm": ("perplexity of the last epoch", "≤ 1.1", ()),
    "rnn, random sampling": ("mean perplexity of the last 10 epochs", "≤ 1.6", ("training.sampling=random",)),
}
# Hidden sizes with which LSTMs of one to four layers have equally many parameters, 0.30 million, for 28 characters.
WIDTHS = {1: 256, 2: 152, 3: 119, 4: 101}
TRUNCATIONS = {
    "fixed, 35 tokens": ("training.truncation=fixed",),
    "variable, 35 tokens": ("training.truncation=variable",),
    "random within 35 tokens": ("training.truncation=random",),
    "sliding, 35 tokens from every loss": ("training.truncation=sliding",),
    "none, one step per epoch": ("training.truncation=none", "training.log_every_steps=1"),
}
LIGHTER = tuple(f"model.{part}=0.3" for part in ("dropout", "embedding_dropout", "output_dropout"))
# Differently regularized models of the same captions; the last starts from `PRETRAINED`, without its BPE-dropout.
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
PRETRAINED = ("multi30k-subwords-begun", (*LIGHTER, "training.bpe_dropout=0.1", "training.epochs=30"))
ENSEMBLE = ("multi30k-distilled", "multi30k-words", "multi30k-subwords")  # the best on the validation captions
ABLATION = {
    "as configured": (),
    "without attention": ("model.attention=none", "model.context=input"),
    "unidirectional encoder": ("model.bidirectional=false",),
    "two layers": ("model.num_layers=2",),
}
UNREGULARIZED = (
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
        ("model.cell=rnn", "training.learning_rate=5e-4", *UNREGULARIZED),
        "reported",
    ),
    "wikitext-2-plain-lstm": ("wikitext-2.yaml", UNREGULARIZED, "reported"),
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
# The translations that Dive into Deep Learning prints for these lines; the fourth is not among the 600 pairs.
PRINTED = {"go .": "va !", "i lost .": "j'ai perdu .", "i'm home .": "je suis chez moi .", "he's calm .": None}


class Figure(NamedTuple):
    """One row of the table; `holds` is False where a requirement is not met."""

    name: str
    result: str
    target: str
    holds: bool = True


def train(config: str, root: pathlib.Path, settings: list[str]) -> dict[str, Any]:
    """Prepares and trains; returns the report of `train`."""
    arguments = [str(CONFIGS / config), f"--set=root={root}", *(f"--set={setting}" for setting in settings)]
    commands.jobs("prepare", *arguments)
    report: dict[str, Any] = json.loads(commands.jobs("train", *arguments))
    return report


def training_steps(root: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the run log's rows of training steps, in order."""
    segments = sorted((root / "metrics").glob("e*.jsonl"), key=lambda path: path.stem.split("-")[1])
    rows = [json.loads(line) for path in segments for line in path.read_text().splitlines()]
    return [row for row in rows if row["kind"] == "step"]


def book(data: pathlib.Path) -> str:
    """Returns The Time Machine as a model reads it: cleaned, its lines joined without separator."""
    lines = (data / "timemachine" / "timemachine.txt").read_text().splitlines()
    return "".join(cleaning.clean(line, ("letters", "lower")) for line in lines)


def continuations(data: pathlib.Path, name: str, root: pathlib.Path) -> list[Figure]:
    """Generates from two prefixes, and checks that the continuations are in the book."""
    figures, whole = [], book(data)
    for prefix in ("time traveller", "traveller"):
        text = json.loads(commands.jobs("generate", "--run", str(root), "--prefix", prefix))["text"]
        holds = text.removeprefix(prefix) in whole
        result = f"“{text}”, {'found' if holds else 'not found'} in the book"
        figures.append(Figure(f"{name}: continuation of “{prefix}”", result, "text of the book", holds))
    return figures


def time_machine(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Trains each cell to memorize 10,000 characters."""
    figures = []
    for name, (measure, target, settings) in TIME_MACHINE.items():
        root = runs / f"time-machine-{name.replace(', ', '-').replace(' ', '-')}"
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        report = train("time-machine.yaml", root, [source, f"model.cell={name.split(',')[0]}", *settings])
        rows = training_steps(root)  # one for each epoch
        mean = statistics.mean(math.exp(row["loss_nats"]) for row in rows[-10:])
        perplexity = mean if settings else math.exp(rows[-1]["loss_nats"])
        result = f"{perplexity:.3f} ({report['precision']})"
        figures.append(Figure(f"The Time Machine, {name} 512: {measure}", result, target))
        if not settings:
            figures += continuations(data, name, root)
    return figures


def depth(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Compares depths at equal numbers of parameters, on the whole book with its last tenth held out."""
    figures = []
    for num_layers, width in WIDTHS.items():
        whole = ["corpus.limit.tokens=null", "corpus.line_end=space", "corpus.split={valid: 0.1, by: tail}"]
        shape = [f"model.num_layers={num_layers}", f"model.hidden_size={width}"]
        pace = ["training.epochs=20", "training.optimizer=adam", "training.learning_rate=2e-3"]
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        report = train("time-machine.yaml", runs / f"depth-{num_layers}", [source, *whole, *shape, *pace])
        result = f"{report['best_validation']['perplexity']:.3f} ({report['elapsed_s']:.0f} s)"
        name = f"The Time Machine, LSTM {num_layers}×{width}: best validation perplexity of 20 epochs"
        figures.append(Figure(name, result, "reported"))
    return figures


def truncation(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Compares truncations of backpropagation through time, 500 epochs over 10,000 characters each, and their cost."""
    figures = []
    for name, settings in TRUNCATIONS.items():
        root = runs / f"truncation-{name.partition(',')[0].replace(' ', '-')}"
        source = f"corpus.train.text=[{data / 'timemachine' / 'timemachine.txt'}]"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = train("time-machine.yaml", root, [source, "model.cell=rnn", "model.hidden_size=256", *settings])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = training_steps(root)
        mean = statistics.mean(row["loss_nats"] for row in rows[-10:])
        # Of the whole commands: processor time, unlike seconds, does not depend on what else the machine does.
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost = f"{1e6 * cpu_s / rows[-1]['num_tokens']:.1f} CPU-µs a token"
        result = f"{math.exp(mean):.3f} ({report['step']} steps, {report['elapsed_s']:.0f} s, {cost})"
        figures.append(Figure(f"The Time Machine, RNN 256, truncation {name}: final perplexity", result, "reported"))
    return figures


def fra_eng(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Trains the encoder–decoder of Dive into Deep Learning on its 600 pairs."""
    root = runs / "fra-eng-first-600"
    report = train("fra-eng-first-600.yaml", root, [f"corpus.train.tsv=[{data / 'fra-eng' / 'fra.txt.xz'}]"])
    figures = [Figure("fra-eng, first 600 pairs: loss, nats per token", f"{report['loss_nats']:.3f}", "≤ 0.23")]
    translated = commands.jobs(
        "translate", "--run", str(root), "--input", "-", "--output", "-", stdin="".join(f"{line}\n" for line in PRINTED)
    )
    for (line, printed), text in zip(PRINTED.items(), translated.splitlines(), strict=True):
        bleu = f", BLEU(k=2) {quality.d2l_bleu(text, printed, 2):.2f}" if printed else ""
        figures.append(Figure(f"“{line}”", f"“{text}”{bleu}", "1.00" if printed else "reported"))
    return figures


def multi30k_sources(data: pathlib.Path) -> list[str]:
    """Returns the settings with the paths of the Multi30k files."""
    return [
        f"corpus.{split}.{side}=[{data / 'multi30k' / f'{name}.{language}.gz'}]"
        for split, name in (("train", "train"), ("valid", "val"), ("test", "test_2016_flickr"))
        for side, language in (("source", "en"), ("target", "de"))
    ]


def multi30k_quality(data: pathlib.Path, output: pathlib.Path, roots: list[pathlib.Path], *settings: str) -> Any:
    """Translates the test captions with one model or an ensemble; returns the report of `evaluate`."""
    source, reference = (str(data / "multi30k" / f"test_2016_flickr.{language}.gz") for language in ("en", "de"))
    models = [argument for root in roots for argument in ("--run", str(root))]
    changes = [f"--set={setting}" for setting in settings]
    commands.jobs("translate", *models, "--input", source, "--output", str(output), "--overwrite", *changes)
    return json.loads(commands.jobs("evaluate", "--hypotheses", str(output), "--references", reference))


def by_length(name: str, evaluated: dict[str, Any]) -> Figure:
    """Returns a row with BLEU and chrF by the length of the reference."""
    buckets = evaluated["by_length"]
    lengths = [f"{bucket['shortest']}–{bucket['longest'] or ''} ({bucket['lines']})" for bucket in buckets]
    parts = [
        f"{length}: {bucket['bleu']:.1f}, {bucket['chrf']:.1f}" for length, bucket in zip(lengths, buckets, strict=True)
    ]
    return Figure(f"{name} BLEU, chrF by length of the reference in words (lines)", "; ".join(parts), "reported")


def multi30k(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Trains English–German translation in half an hour with two workers."""
    report = train("multi30k.yaml", runs / "multi30k", multi30k_sources(data))
    evaluated = multi30k_quality(data, runs / "multi30k.hypotheses.txt", [runs / "multi30k"])
    figures = multi30k_figures("Multi30k en→de", report, evaluated, minutes=30, bleu=37.5)
    return [*figures, *varied("… one process", data, runs, "multi30k", PRECISIONS)]


def varied(
    label: str, data: pathlib.Path, runs: pathlib.Path, name: str, variants: Mapping[str, tuple[str, ...]]
) -> list[Figure]:
    """Returns the BLEU of one model with different search or precision settings."""
    figures = []
    for variant, settings in variants.items():
        bleu = multi30k_quality(data, runs / f"{name}.varied.txt", [runs / name], *settings)["bleu"]
        figures.append(Figure(f"{label}, {variant}: BLEU", f"{bleu:.2f}", "reported"))
    return figures


def multi30k_figures(
    label: str, report: dict[str, Any], evaluated: dict[str, Any], minutes: int, bleu: float
) -> list[Figure]:
    """Returns training time and quality of a model."""
    minutes_taken = f"{report['elapsed_s'] / 60:.1f} ({report['precision']})"
    return [
        Figure(f"{label}: minutes of training, 2 workers", minutes_taken, f"≤ {minutes}"),
        Figure(
            "… BLEU on test_2016_flickr", f"{evaluated['bleu']:.1f} ({evaluated['signatures']['bleu']})", f"≥ {bleu}"
        ),
        Figure("… chrF, TER", f"{evaluated['chrf']:.1f}, {evaluated['ter']:.1f}", "reported"),
        by_length("…", evaluated),
    ]


def multi30k_distilled(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Trains an ensemble of four models, and a student by sequence-level knowledge distillation.

    Source: Kim and Rush 2016, Sequence-level knowledge distillation.
    """
    sources = multi30k_sources(data)
    pretrained, settings = PRETRAINED
    train("multi30k.yaml", runs / pretrained, [*sources, *settings])
    for name, settings in TEACHERS.items():
        init = [f"training.init_from={runs / pretrained}"] if name == "multi30k-subwords" else []
        train("multi30k.yaml", runs / name, [*sources, *settings, *init])
    roots = [runs / name for name in TEACHERS]
    figures = []
    for numbers in ([0], [1], [2], [3], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        members = [roots[number] for number in numbers]
        bleu = multi30k_quality(data, runs / "multi30k-ensemble.txt", members)["bleu"]
        names = ", ".join(root.name for root in members)
        figures.append(Figure(f"Multi30k en→de, {names}: BLEU", f"{bleu:.1f}", "reported"))
    figures += multi30k_student(data, runs, roots)
    evaluated = multi30k_quality(data, runs / "multi30k-together.txt", [runs / name for name in ENSEMBLE])
    name = "Multi30k en→de, ensemble of the student and two teachers: BLEU"
    return [*figures, Figure(name, f"{evaluated['bleu']:.1f}", "≥ 40.5"), by_length("…", evaluated)]


def multi30k_student(data: pathlib.Path, runs: pathlib.Path, teachers: list[pathlib.Path]) -> list[Figure]:
    """Trains one model on the references and on the ensemble's translations of the training captions."""
    captions, references = (str(data / "multi30k" / f"train.{language}.gz") for language in ("en", "de"))
    ensemble_translations = str(runs / "multi30k-taught.txt")
    models = [argument for root in teachers for argument in ("--run", str(root))]
    commands.jobs(
        "translate",
        *models,
        "--input",
        captions,
        "--output",
        ensemble_translations,
        "--overwrite",
        "--set=cluster.num_workers=2",
    )
    settings = [
        *multi30k_sources(data),
        f"corpus.train.source=[{captions},{captions}]",
        f"corpus.train.target=[{references},{ensemble_translations}]",
        f"tokenizer.load=[{teachers[0] / 'dataset' / 'tokenizer-*.json'}]",
    ]
    student = runs / "multi30k-distilled"
    report = train("multi30k-distilled.yaml", student, settings)
    evaluated = multi30k_quality(data, runs / "multi30k-distilled.hypotheses.txt", [student])
    figures = multi30k_figures("Multi30k en→de, student of the four", report, evaluated, minutes=45, bleu=39)
    return [*figures, *varied("… the student", data, runs, student.name, SEARCHES)]


def multi30k_ablation(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Changes one setting of the model at a time, for eight epochs each; then the search settings."""
    figures = []
    for number, (change, settings) in enumerate(ABLATION.items()):
        root = runs / f"multi30k-ablation-{number}"
        report = train("multi30k.yaml", root, [*multi30k_sources(data), "training.epochs=8", *settings])
        bleu = multi30k_quality(data, runs / "multi30k-ablation.txt", [root])["bleu"]
        figures.append(Figure(f"Multi30k, 8 epochs, {change}", f"{bleu:.1f} ({report['elapsed_s']:.0f} s)", "reported"))
    train("multi30k.yaml", runs / "multi30k", multi30k_sources(data))
    return [*figures, *varied("Multi30k, as configured", data, runs, "multi30k", SEARCHES)]


def fra_eng_all(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Trains on all pairs; equal English sentences are in the same split."""
    source = f"--set=corpus.train.tsv=[{data / 'fra-eng' / 'fra.txt.xz'}]"
    report = json.loads(
        commands.jobs("pipeline", str(CONFIGS / "fra-eng.yaml"), f"--set=root={runs / 'fra-eng'}", source)
    )
    training, evaluated = report["stages"]["train"], report["stages"]["evaluate"]
    minutes = f"{training['elapsed_s'] / 60:.1f} ({training['precision']})"
    return [
        Figure("fra-eng, all pairs: minutes of training, 2 workers", minutes, "≤ 45"),
        Figure("… BLEU, chrF of the held-out lines", f"{evaluated['bleu']:.1f}, {evaluated['chrf']:.1f}", "reported"),
        by_length("…", evaluated),
        Figure("… faults", json.dumps(evaluated["faults"]), "reported"),
    ]


def wikitext_2(data: pathlib.Path, runs: pathlib.Path) -> list[Figure]:
    """Compares n-gram and neural language models on WikiText-2; the best also with a neural cache."""
    figures = []
    files = {split: data / "wikitext-2" / f"wiki.{split}.tokens.xz" for split in ("train", "valid", "test")}
    for name, (config, settings, target) in WIKITEXT_2.items():
        sources = [f"corpus.{split}.text=[{file}]" for split, file in files.items()]
        changes = [f"--set={setting}" for setting in (f"root={runs / name}", *sources, *settings)]
        stages = json.loads(commands.jobs("pipeline", str(CONFIGS / config), *changes))["stages"]
        training = stages["train"]
        valid = (training.get("best_validation") or training["validation"])[
            "perplexity"
        ]  # n-gram models are validated once
        result = f"{valid:.2f}, {stages['score']['perplexity']:.2f} ({training['elapsed_s'] / 60:.1f} minutes)"
        figures.append(Figure(f"{name}: validation and test perplexity", result, target))
    output = ("--output", str(runs / "wikitext-2-cached.jsonl"), "--overwrite", "--set=scoring.cache.size=2000")
    cached = json.loads(
        commands.jobs("score", "--run", str(runs / "wikitext-2"), "--input", str(files["test"]), *output)
    )
    return [
        *figures,
        Figure("… with a neural cache of 2,000: test perplexity", f"{cached['perplexity']:.2f}", "reported"),
    ]


def main() -> None:
    """Runs the chosen experiments and prints their figures."""
    experiments = {
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
    parser.add_argument("--only", nargs="*", choices=list(experiments), default=list(experiments))
    arguments = parser.parse_args()
    data, runs = arguments.data.resolve(), arguments.runs.resolve()
    figures = [figure for name in arguments.only for figure in experiments[name](data, runs)]
    sys.stdout.write("| measurement | result | target |\n| --- | --- | --- |\n")
    sys.stdout.writelines(f"| {figure.name} | {figure.result} | {figure.target} |\n" for figure in figures)
    sys.exit(not all(figure.holds for figure in figures))


if __name__ == "__main__":
    main()
