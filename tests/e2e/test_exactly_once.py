"""What is done is done once: whoever dies, the bytes are the same, and nothing is done again."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from core.config import loading
from core.data import synthetic
from core.storage import local
from jobs import console, paths, prepare
from tests.e2e import driving, inference
from tests.jobs import preparing
from workers import cluster

PREPARED = """
name: pairs
root: {root}
corpus: {{kind: pairs, train: {{tsv: [{folder}/pairs.tsv]}}, split: {{valid: 0.1}}, filters: {{duplicates: drop}}}}
tokenizer: {{kind: word}}
sharding: {{part_size_bytes: 4096}}
model: {{kind: seq2seq}}
training: {{batch_lines: 8}}
cluster: {{address: none}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> inference.Place:
    made = inference.Place(tmp_path_factory.mktemp("inference"))
    made.translate("whole")
    return made


@pytest.mark.ray
def test_a_translation_whose_worker_is_killed_has_the_same_bytes(
    place: inference.Place, drive: driving.Drive, chance: random.Random
) -> None:
    driver = drive(*place.arguments("killed", num_workers=2))
    driver.until(lambda: place.committed("killed") >= 4, "4 parts")
    time.sleep(chance.uniform(0, 0.2))
    chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
    report = driver.end().document()
    assert (report["lines"], report["errors"]) == (inference.NUM_LINES + 1, 1)
    assert place.outcome("killed") == place.outcome("whole")


@pytest.mark.e2e
def test_a_translation_whose_driver_is_killed_is_finished_by_the_same_command(
    place: inference.Place, drive: driving.Drive
) -> None:
    """A second driver is kept out while the first lives; what the first has committed is not done again."""
    command = place.arguments("again", address="none")
    first = drive(*command)
    first.until(lambda: place.committed("again") >= 4, "4 parts")
    first.signal(signal.SIGSTOP)
    driving.check_refused(drive(*command).end(), "translate")
    first.kill()
    before = place.parts("again")
    assert not (place.folder / "again.jsonl").exists()
    drive(*command).end().document()
    after = place.parts("again")
    assert {name: after[name] for name in before} == before
    assert place.outcome("again") == place.outcome("whole")


@pytest.mark.e2e
def test_a_dataset_whose_driver_is_killed_is_finished_by_the_same_command(tmp_path: Path, drive: driving.Drive) -> None:
    synthetic.write_pairs(tmp_path / "pairs.tsv", 1, 0, 6000)
    configs = {}
    for name in ("whole", "killed"):
        configs[name] = tmp_path / f"{name}.yaml"
        configs[name].write_text(PREPARED.format(root=tmp_path / name, folder=tmp_path))
    whole = paths.absolute(loading.load(str(configs["whole"])))
    with cluster.Session(whole.cluster) as session:
        prepare.run(whole, session, console.SilentReporter())
    dataset = tmp_path / "killed" / "dataset"
    first = drive("prepare", str(configs["killed"]))
    first.until(lambda: len(list(dataset.glob("train/part-*.arrow"))) >= 5, "5 shards")
    first.kill()
    assert not (dataset / "index.json").exists()
    done = {path: path.stat().st_mtime_ns for path in dataset.glob("*/part-*.arrow")}
    report = drive("prepare", str(configs["killed"])).end().document()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert report["splits"]["train"]["shards"] > len(done)
    for left in [path for path in dataset.rglob("*") if local.is_temporary(path.name)]:
        left.unlink()
    assert preparing.content(dataset) == preparing.content(tmp_path / "whole" / "dataset")
    assert json.loads((dataset / "index.json").read_text())["lines_read"] == 6000
