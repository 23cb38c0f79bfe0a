"""Shortened experiments of `make reproduce` on the real corpora, of about a minute each."""

import json
import math
import pathlib

import pytest

from core.evaluation import quality
from tests.benchmarks import commands, reproduce

pytestmark = [pytest.mark.e2e, pytest.mark.data]
HERE = "cluster.address=none"


@pytest.mark.parametrize(("cell", "rate"), [("gru", 2.0), ("lstm", 4.0)])
def test_a_model_memorizes_the_beginning_of_the_time_machine(
    corpora: pathlib.Path, tmp_path: pathlib.Path, cell: str, rate: float
) -> None:
    """With 1,500 characters instead of 10,000, a smaller model and fewer epochs; the vocabulary is the book's."""
    source = f"corpus.train.text=[{corpora / 'timemachine' / 'timemachine.txt'}]"
    smaller = ["corpus.limit.tokens=1500", "training.num_lanes=8", "training.window=24", "model.hidden_size=128"]
    schedule = ["training.epochs=140", f"training.learning_rate={rate}", "training.log_every_steps=7"]
    report = reproduce.train("time-machine.yaml", tmp_path, [source, *smaller, *schedule, f"model.cell={cell}", HERE])
    assert math.exp(report["loss_nats"]) <= 1.3
    text = json.loads(commands.jobs("generate", "--run", str(tmp_path), "--prefix", "time traveller"))["text"]
    assert text[-20:] in reproduce.book(corpora)


def test_a_model_fits_the_first_600_pairs(corpora: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With a fifth of the epochs the loss has not reached 0.23 yet, but short lines are translated."""
    source = f"corpus.train.tsv=[{corpora / 'fra-eng' / 'fra.txt.xz'}]"
    report = reproduce.train("fra-eng-first-600.yaml", tmp_path, [source, "training.epochs=60", HERE])
    assert report["loss_nats"] <= 0.75
    text = commands.jobs("translate", "--run", str(tmp_path), "--input", "-", "--output", "-", stdin="go .\n")
    assert quality.d2l_bleu(text.strip(), "va !", 2) == 1.0


def test_the_loss_on_multi30k_falls_within_60_steps(corpora: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """60 steps of a smaller model: dataset sizes, and a validation loss 2 nats below the uniform distribution's."""
    settings = reproduce.multi30k_sources(corpora)
    shorter = [
        "training.max_steps=60",
        "training.schedule.warmup_steps=20",
        "model.hidden_size=64",
        "model.embedding_size=64",
    ]
    report = reproduce.train("multi30k.yaml", tmp_path, [*settings, *shorter, HERE])
    index = json.loads((tmp_path / "dataset" / "index.json").read_text())
    rows = {split: sum(shard["rows"] for shard in shards) for split, shards in index["splits"].items()}
    assert rows == {"train": 29_000, "valid": 1_014, "test": 1_000}
    assert report["validation"]["nll_nats"] < math.log(5000) - 2
