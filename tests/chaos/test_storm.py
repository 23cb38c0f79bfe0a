"""A whole pipeline in which a process dies every minute: it recovers by itself, with the results of a quiet run."""

import collections
import hashlib
import os
import pathlib
import random
import signal
import time

import pytest

from core.data.builtin import sentences
from tests.core.training import builders
from tests.e2e import driving

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]

# 90 epochs are half an hour on two quiet cores.
EPOCHS = int(os.environ.get("RAYCURRENT_SOAK_EPOCHS", "90"))
MEAN_S = 60.0  # mean time between deaths, exponentially distributed
DRIVER_SHARE = 0.1  # of the deaths: half by SIGKILL, half by SIGTERM, as when a node is drained
STOP_S = 60.0
MIN_EFFECTIVE = 0.5
CONFIG = """
name: storm
root: {root}
corpus: {{kind: pairs, train: {{tsv: [{folder}/pairs.tsv]}}, split: {{valid: 0.01, test: 0.2}}}}
tokenizer: {{kind: bpe, max_size: 2000}}
sharding: {{part_size_bytes: 65536}}
model: {{kind: seq2seq, cell: gru, hidden_size: 128, embedding_size: 128, bidirectional: true, attention: dot,
        dropout: 0.2}}
training: {{epochs: {epochs}, batch_tokens: 1600, learning_rate: 4e-3, schedule: {{kind: cosine, warmup_steps: 100}},
           checkpoint_every_steps: 100}}
decoding: {{beam_size: 4, length_penalty: 1.0, part_lines: 64}}
cluster: {{address: auto, num_workers: 2, max_failures: 1000, collective_timeout_s: 60}}
"""


def test_a_death_every_minute_at_most_doubles_the_time_and_changes_no_byte(
    tmp_path: pathlib.Path, drive: driving.Drive, chance: random.Random
) -> None:
    sentences.write_pairs(tmp_path / "pairs.tsv", 1, 0, 20_000)
    commands = {}
    for name in ("quiet", "storm"):
        config = tmp_path / f"{name}.yaml"
        config.write_text(CONFIG.format(root=tmp_path / name, folder=tmp_path, epochs=EPOCHS))
        commands[name] = ("pipeline", str(config))
    quiet = drive(*commands["quiet"]).end(2 * 3600)
    quiet.document()
    began_s = time.monotonic()
    deaths = _run_with_deaths(commands["storm"], drive, chance)
    effective = quiet.elapsed_s / (time.monotonic() - began_s)
    print(f"quiet {quiet.elapsed_s:.0f} s; deaths {dict(deaths)}; effective {effective:.2f}")
    assert drive("inspect", str(tmp_path / "storm")).end().document()["verified"]
    assert builders.digest(tmp_path / "storm") == builders.digest(tmp_path / "quiet")
    assert _outputs(tmp_path / "storm") == _outputs(tmp_path / "quiet")
    assert effective >= MIN_EFFECTIVE


def _run_with_deaths(command: tuple[str, ...], drive: driving.Drive, chance: random.Random) -> collections.Counter[str]:
    """Repeats a command until it finishes, killing processes meanwhile; returns the number of deaths by kind."""
    deaths: collections.Counter[str] = collections.Counter()
    while True:
        driver = drive(*command)
        while driver.runs_for(chance.expovariate(1 / MEAN_S)):
            workers = driver.ranks() + driver.workers("_Host")
            if chance.random() < DRIVER_SHARE:
                break
            if workers:
                chance.choice(workers).signal(signal.SIGKILL)
                deaths["worker"] += 1
        else:
            driver.end().document()
            return deaths
        deaths["driver"] += 1
        if chance.random() < 0.5:
            driver.kill()
        else:
            driver.signal(signal.SIGTERM)
            ended = driver.end(STOP_S)
            assert ended.code in (0, 143), ended.log


def _outputs(root: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each output file of the pipeline."""
    files = [path for path in (root / "outputs").iterdir() if path.is_file() and not path.name.startswith("_")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
