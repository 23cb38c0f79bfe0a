"""Entry points of the rendered jobs, run unchanged on a cluster of two nodes and scraped by Prometheus."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.data.builtin import sentences
from core.telemetry import catalog
from tests.e2e import driving, nodes
from tests.k8s import manifests, watching

LINGER_S = 6  # of the job that is scraped
# The test machine is smaller than a cluster, and the fixed ports may be in use.
SMALLER = {
    "cluster.cpus_per_worker=4": "cluster.cpus_per_worker=1",
    "telemetry.metrics_host=0.0.0.0": "telemetry.metrics_host=127.0.0.1",
    "telemetry.metrics_port=8081": "telemetry.metrics_port=0",
}
# No worker dies in this run, so these are empty.
SILENT = {catalog.FANOUT_WORKER_DEATHS.name, "Worker deaths", *watching.OF_SEVERAL_CORPORA}


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Starts a cluster of two nodes with token authentication; yields the environment to reach it."""
    folder = tmp_path / "nodes"
    folder.mkdir()
    # As in the pods: nodes without it disconnect a job whose keepalive pings come more often than they expect.
    job = next(iter(manifests.of_kind(manifests.rendered("cpu"), "RayJob")))
    keepalive = {name: value for name, value in head_environment(job).items() if name.startswith("RAY_grpc_")}
    assert keepalive
    drive = functools.partial(driving.Driver, folder)
    with nodes.started(lambda *words, program: drive(words, program), 2, environment=keepalive) as cluster:
        yield {"RAY_ADDRESS": cluster.gcs, "RAY_AUTH_MODE": "token"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Creates the shared folder of the jobs, with a smaller version of the configuration in their ConfigMap."""
    folder = tmp_path / "data"
    (folder / "corpus").mkdir(parents=True)
    (folder / "inputs").mkdir()
    sentences.write_pairs(folder / "corpus" / "pairs.tsv", 1, 0, 600)
    pairs = [line.split("\t") for line in (folder / "corpus" / "pairs.tsv").read_text().splitlines()[:40]]
    for side, name in enumerate(("source", "target")):
        (folder / "inputs" / f"{name}.txt").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    maps = manifests.of_kind(manifests.rendered("cpu"), "ConfigMap")
    config: dict[str, Any] = yaml.safe_load(
        next(document for document in maps if document["metadata"]["name"] == "raycurrent-run")["data"]["run.yaml"]
    )
    config["model"] |= {"hidden_size": 32, "embedding_size": 32, "num_layers": 1}
    config["tokenizer"] |= {"max_size": 600}
    config["sharding"] = {"part_size_bytes": 8192}
    config["training"] |= {"epochs": 2, "batch_tokens": 400, "checkpoint_every_steps": 10, "log_every_steps": 2}
    config["decoding"] |= {"part_lines": 8, "beam_size": 2, "max_length": 20}
    config["scoring"] = {"part_lines": 8}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def head_environment(job: manifests.Document) -> dict[str, str]:
    """Returns the environment of a job's head container."""
    (head,) = (pod for pod in manifests.pods(job) if pod.role == "head")
    return {entry["name"]: entry["value"] for entry in manifests.containers(head)[0]["env"]}


def run(job: manifests.Document, home: Path, reach: dict[str, str], linger_s: int = 0) -> dict[str, Any]:
    """Runs the entry point of a job on the cluster in the environment of its head; returns its JSON document."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {**os.environ, **head_environment(job), **reach, "PATH": path, "RAYCURRENT_HOME": str(home)}
    smaller = {**SMALLER, "telemetry.linger_s=30": f"telemetry.linger_s={linger_s}"}
    words = [smaller.get(word, word) for word in job["spec"]["entrypoint"].split(" ")]
    command = " ".join(words).replace("/etc/raycurrent/run.yaml", str(home / "run.yaml"))
    # Like in the image, the code is installed: it does not need the current folder.
    done = subprocess.run(
        ["sh", "-c", command], cwd=home, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.timeout(600)  # six commands, each with a connection to the cluster
@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed")
def test_every_job_runs_on_two_nodes_and_exports_all_metrics(
    two_nodes: dict[str, str], home: Path, tmp_path: Path
) -> None:
    jobs = {job["metadata"]["name"]: job for job in manifests.of_kind(manifests.rendered("cpu"), "RayJob")}
    folder = tmp_path / "prometheus"
    folder.mkdir()
    targets = [home / "runs" / "translation" / "metrics" / "targets.json"]
    with watching.prometheus(folder, targets) as server:
        report = run(jobs["raycurrent-pipeline"], home, two_nodes, LINGER_S)
        time.sleep(1)
        watching.check_everything_is_measured(server, silent=SILENT)
    assert set(report["stages"]) == {"prepare", "train", "translate", "score", "evaluate", "report"}
    run(jobs["raycurrent-prepare"], home, two_nodes)
    assert run(jobs["raycurrent-train"], home, two_nodes)["already_done"]
    for verb, output in (("translate", "translations"), ("score", "scores")):
        assert run(jobs[f"raycurrent-{verb}"], home, two_nodes)["lines"] == 40
        assert len((home / "outputs" / f"{output}.jsonl").read_text().splitlines()) == 40
