"""A pipeline in which a worker dies, and the demo, each one job on three nodes scraped by a real Prometheus."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from core.data.builtin import sentences
from tests.e2e import driving, nodes
from tests.k8s import watching

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed"),
]

LINGER_S = 12
SMALLER = {
    "corpus.split": "{valid: 0.05, test: 0.15}",
    "tokenizer.max_size": "600",
    "sharding.part_size_bytes": "8192",
    "model.hidden_size": "32",
    "model.embedding_size": "32",
    "training.epochs": "2",
    "training.batch_tokens": "400",
    "training.checkpoint_every_steps": "10",
    "training.log_every_steps": "2",
    "decoding.part_lines": "2",
    "scoring.part_lines": "8",
    "cluster.num_workers": "3",
    "telemetry.linger_s": f"{LINGER_S}",
}


def _words(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def test_a_pipeline_on_three_nodes_is_one_job_and_exports_all_metrics(tmp_path: Path, drive: driving.Drive) -> None:
    root = tmp_path / "run"
    sentences.write_pairs(tmp_path / "pairs.tsv", 1, 0, 900)
    settings = {**SMALLER, "root": str(root), "corpus.train.tsv": f"[{tmp_path}/pairs.tsv]"}
    (tmp_path / "prometheus").mkdir()
    with (
        nodes.started(drive, 3) as cluster,
        watching.prometheus(tmp_path / "prometheus", [root / "metrics" / "targets.json"]) as server,
    ):
        command = (
            "submit",
            "pipeline",
            "jobs/configs/demo-translation.yaml",
            *_words(settings),
            "--address",
            cluster.job_server,
        )
        driver = drive(*command)
        driver.until(lambda: list(root.glob("outputs/**/_commits/*.json")), "a part of the translation")
        cluster.program.workers("_Host")[0].signal(signal.SIGKILL)
        driver.until(lambda: (root / "report.html").exists(), "the report")
        time.sleep(2)
        alerts = {"RaycurrentPartsRetried", "RaycurrentFanoutErrors"}
        watching.check_everything_is_measured(server, watching.OF_SEVERAL_CORPORA, alerts)
        assert len(server.series("up")) == 3, "each node exports"
        report = driver.end().document()
    assert report["stages"]["train"]["world_size"] == 3
    assert set(report["stages"]) == {"prepare", "train", "translate", "score", "evaluate", "report"}
    assert json.loads((root / "run.json").read_text())["exit_code"] == 0


def test_the_demo_on_three_nodes_is_one_job_and_exports_all_metrics(tmp_path: Path, drive: driving.Drive) -> None:
    root = tmp_path / "demo"
    settings = {"root": str(root), "cluster.num_workers": "3", "telemetry.linger_s": f"{LINGER_S}"}
    (tmp_path / "prometheus").mkdir()
    with (
        nodes.started(drive, 3) as cluster,
        watching.prometheus(tmp_path / "prometheus", [root / "metrics" / "targets.json"]) as server,
    ):
        driver = drive("submit", "demo", *_words(settings), "--address", cluster.job_server)
        driver.until(lambda: (root / "language" / "report.html").exists(), "the last report", 1500)
        time.sleep(2)
        # Nodes on one machine share a metrics folder: all three exporters count the second model's only start.
        watching.check_everything_is_measured(server, watching.OF_SEVERAL_CORPORA, {"RaycurrentTrainingRestarts"})
        report = driver.end().document()
    assert report["runs"]["demo-translation"]["bleu"] >= 90
    assert report["runs"]["demo-language"]["perplexity"] < 2
