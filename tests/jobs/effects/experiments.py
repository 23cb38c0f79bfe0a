"""Tiny runs and outputs whose parts show the effect of settings.

Each experiment takes a base (settings of a run, or of a model) and overrides as of `--set`, and returns its results by
name: `dataset`, `weights`, `log`, `rows` and so on, each as text that is equal if and only if the result is.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.config import autoregressive_settings, inference_settings, loading, schema
from core.data import translation_table
from core.data.series import reading
from core.decoding.generation import forecaster, generator
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import autoregressive, bundle
from core.reporting import training_history
from core.storage import location
from core.training import checkpoint
from jobs import prepare, train
from tests import reporters
from tests.core.decoding import samples
from tests.core.training import builders
from tests.jobs import datasets, trained
from workers.train import messages, rank_process

Results = dict[str, str]
FOLDER = Path(tempfile.mkdtemp(prefix="effects-"))
_HEAD = "name: effects\nroot: ROOT\ncluster: {address: none}\ncompute: {precision: fp32, matmul: default}\n"
_TEXT = "corpus: {kind: text, train: {text: [FOLDER/train.txt]}, valid: {text: [FOLDER/valid.txt]}}\n"
_WORDS = "tokenizer: {kind: word}\nsharding: {statistics: false, part_size_bytes: 1024}\n"
_STEPS = "max_steps: 3, learning_rate: 0.05, log_every_steps: 1"
BASES = {
    "text": f"""{_HEAD}{_TEXT}{_WORDS}
model: {{kind: language_model, cell: lstm, hidden_size: 4, embedding_size: 4}}
training: {{num_lanes: 4, window: 5, {_STEPS}}}
""",
    "pairs": f"""{_HEAD}{_WORDS}
corpus: {{kind: pairs, train: {{tsv: [FOLDER/pairs.tsv]}}, split: {{valid: 0.2}}}}
model: {{kind: seq2seq, cell: gru, hidden_size: 4, embedding_size: 4, attention: additive}}
training: {{batch_lines: 12, {_STEPS}}}
""",
    "corpora": f"""{_HEAD}{_WORDS}
corpora:
  one: {{kind: pairs, train: {{tsv: [FOLDER/pairs.tsv]}}, target_token: <2a>}}
  two: {{kind: pairs, train: {{tsv: [FOLDER/more.tsv]}}, target_token: <2b>}}
model: {{kind: seq2seq, cell: gru, hidden_size: 4, embedding_size: 4}}
training: {{batch_lines: 12, {_STEPS}}}
""",
    "series": f"""{_HEAD}
corpus:
  {{kind: series, train: {{csv: [FOLDER/values.csv]}}, inputs: [x], targets: [x], split: {{valid: 0.1, test: 0.2}}}}
model: {{kind: autoregressive, network: mlp, lags: 3, hidden_size: 4}}
training: {{epochs: 2, batch_lines: 8, learning_rate: 0.05}}
""",
    "ngram": f"""{_HEAD}{_TEXT}{_WORDS}
model: {{kind: ngram, order: 2}}
""",
}
# Overrides that the dataset depends on: trainings with the same ones share it.
_OF_DATASET = ("corpus", "corpora", "tokenizer", "sharding", "seed=")


@functools.cache
def sources() -> Path:
    """Returns the folder of the corpora, written once."""
    folder = FOLDER / "sources"
    folder.mkdir()
    first, second = datasets.sentences(60), datasets.sentences(60, seed=1)
    train_lines = [
        *datasets.sentences(100, seed=2),
        "The red\u00a0dog",
        "the red dog",
        "",
        "the red dog",
        " ".join(datasets.WORDS * 2),
    ]
    datasets.write(folder / "train.txt", train_lines)
    datasets.write(folder / "valid.txt", ["a dog", *first[40:44]])
    datasets.write(folder / "other.txt", second[:40])
    lines = [f"{source}\t{target}" for source, target in zip(first[:40], second, strict=False)]
    datasets.write(folder / "pairs.tsv", [*lines, lines[0], f"a\t{' '.join(datasets.WORDS)}", "The Dog\tthe dog"])
    datasets.write(folder / "more.tsv", [f"{target}\t{source}" for source, target in zip(first, second, strict=True)])
    datasets.write(folder / "source.txt", first[:20])
    datasets.write(folder / "target.txt", second[:20])
    datasets.write(folder / "third.txt", second[20:40])
    for name, count in (("rows.jsonl", 60), ("fewer.jsonl", 30)):
        rows = [json.dumps({"a": first[row], "b": second[row]}) for row in range(count)]
        datasets.write(folder / name, rows)
    values = ["x,y", *(f"{(number % 7) / 7},{(number % 5) / 5}" for number in range(40))]
    datasets.write(folder / "values.csv", values)
    datasets.write(folder / "other.csv", [values[0], *values[:0:-1]])
    datasets.write(folder / "vectors.txt", ["1 4", f"{datasets.WORDS[0]} 9 9 9 9"])
    return folder


def config(base: str, overrides: tuple[str, ...], root: Path) -> schema.RunConfig:
    """Returns the settings of a base with overrides, in which `FOLDER` stands for that of the sources."""
    text = BASES[base].replace("ROOT", str(root)).replace("FOLDER", str(sources()))
    return loading.parse(text, "effects.yaml", [one.replace("FOLDER", str(sources())) for one in overrides])


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=FOLDER))


@functools.cache
def prepared(base: str, overrides: tuple[str, ...]) -> location.Location:
    """Prepares a dataset, once for equal settings."""
    settings = config(base, overrides, _new_folder())
    prepare.run(settings, datasets.Session(), reporters.SilentReporter())
    return location.Location.parse(settings.root).join("dataset")


@functools.cache
def dataset(base: str, overrides: tuple[str, ...]) -> Results:
    """Prepares a dataset; its files, and what its index counts."""
    folder = prepared(base, overrides)
    index = folder.join("index.json").read_json()
    counts = {name: value for name, value in index.items() if name not in ("settings", "fingerprint", "sources")}
    files = {
        path.relative_to(folder.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and path.suffix in (".arrow", ".json") and path.name not in ("index.json", "_PLAN.json")
    }
    shown = {name: value for name, value in files.items() if not name.startswith("statistics")}
    return {
        "dataset": json.dumps([counts.get("drops") or counts, shown], sort_keys=True),
        "files": json.dumps(sorted(files)),
    }


@functools.cache
def training(base: str, overrides: tuple[str, ...]) -> Results:
    """Trains a few steps: the weights, the run log without times, and the names of the checkpoints."""
    of_dataset = tuple(one for one in overrides if one.startswith(_OF_DATASET) and ".weight=" not in one)
    folder = prepared(base, of_dataset)
    settings = config(base, overrides, _new_folder())
    root = location.Location.parse(settings.root)
    if base in ("ngram", "series"):
        shutil.copytree(folder.path, root.join("dataset").path)
        with trained.session() as session:
            train.run(settings, session, reporters.SilentReporter())
    else:
        steps = dataclasses.replace(train.plan(settings), dataset=folder)
        rank_process.run_rank(steps, messages.RankContext(0, 1, "cpu", 1), builders.Watch())
    newest = checkpoint.find_newest(root).ref
    assert newest is not None
    rows = [
        {name: value for name, value in row.items() if name != "tokens_per_s"} for row in training_history.read(root)
    ]
    names = [folder.name for folder in checkpoint.committed(root)]
    return {
        "weights": next(file.sha256 for file in newest.files if file.name.endswith("model.safetensors")),
        "log": json.dumps(rows),
        "steps": str(newest.step),
        "checkpoints": json.dumps(names),
    }


def _section(kind: Any, overrides: tuple[str, ...], name: str) -> Any:
    return loading.section_from(kind, overrides, name)


def _models(base: str) -> Iterator[tuple[str, Any]]:
    for pair in base.split():
        name, _, value = pair.partition("=")
        yield name, json.loads(value)


@functools.cache
def translation(base: str, overrides: tuple[str, ...]) -> Results:
    """Translates lines with a random model, whose settings the base names."""
    made = samples.seq2seq(**dict(_models(base)))
    decoding = _section(inference_settings.DecodingConfig(), ("decoding.max_length=8", *overrides), "decoding")
    compute = _section(samples.FP32, overrides, "compute")
    language_model, table = None, None
    if decoding.fusion is not None:
        made_lm = samples.language_model("word", text=" ".join(word[::-1] for word in samples.WORDS))
        codecs = {"text": made.codecs["target"]}
        language_model = samples.build(made_lm.config, codecs)  # type: ignore[arg-type]
    if decoding.shortlist is not None:
        size = made.codecs["source"].tokenizer.vocabulary_size
        candidates_SC = (torch.arange(size, dtype=torch.int32)[:, None] % 9 + torch.arange(4, 7)).int().numpy()
        table = translation_table.Table(candidates_SC, torch.arange(17, 3, -1).int().numpy())
    ready = translator.Translator(made, decoding, compute, "cpu", language_model, table)
    rows = list(ready.translate([*samples.sentences(6), "the zebra sees"]))
    return {"rows": repr(rows), "text": repr([row.text for row in rows])}


@functools.cache
def generation(base: str, overrides: tuple[str, ...]) -> Results:
    """Continues a prefix with a random model."""
    made = samples.language_model(**dict(_models(base)))
    settings = _section(inference_settings.GenerationConfig(num_tokens=20), overrides, "generation")
    seed = 1 if settings.seed is None else settings.seed
    return {"text": generator.Generator(made, settings, samples.FP32, seed).generate("the cat")}


@functools.cache
def scoring(base: str, overrides: tuple[str, ...]) -> Results:
    """Scores lines, or a stream, with a random model."""
    made = samples.language_model("word", text=" ".join(samples.WORDS), **dict(_models(base)))
    settings = _section(inference_settings.ScoringConfig(), overrides, "scoring")
    compute = _section(samples.FP32, overrides, "compute")
    lines = samples.sentences(12)
    stream = torch.tensor([1 + number * 5 % 13 for number in range(600)]).numpy()
    ready = scorer.Scorer(made, settings, compute, training_text=stream)
    if settings.unit != "stream":
        return {"rows": repr(ready.score_lines(lines))}
    rows, _ = ready.score_stream(lines, ready.initial_stream_state())
    return {"rows": repr(rows)}


@functools.cache
def forecasting(base: str, overrides: tuple[str, ...]) -> Results:
    """Forecasts a series with a random model."""
    settings = autoregressive_settings.AutoregressiveConfig(
        **{"kind": "autoregressive", "lags": 3, "hidden_size": 4, "horizon": 4, **dict(_models(base))}
    )
    torch.manual_seed(1)
    model = autoregressive.Autoregressive(settings, 1, 1).eval()
    made = bundle.Bundle(model, settings, {}, "none", "fp32", columns={"inputs": ("x",), "targets": ("x",)})
    given = _section(inference_settings.ForecastingConfig(horizons=(1, 2)), overrides, "forecasting")
    values = torch.linspace(0, 3, 30, dtype=torch.float64).sin().numpy()
    forecasts = forecaster.Forecaster(made, given).forecast(reading.plain(values[:, None]))
    return {"rows": repr([[one.horizon, one.forecasts_N.tolist()] for one in forecasts])}
