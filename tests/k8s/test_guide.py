"""The commands of `k8s/README.md` and the targets of the Makefile, run against a recording kubectl."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from tests.k8s import manifests, recording

ROOT = manifests.KUBERNETES.parent
GUIDE = (manifests.KUBERNETES / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "jobId": "j"}


@pytest.fixture
def fake(tmp_path: pathlib.Path) -> recording.Kubectl:
    """Returns a kubectl of a cluster on which every job succeeds; kind, helm and docker do nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("kind", "helm", "docker"):
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    kubectl = recording.Kubectl(folder)
    kubectl.answer(" get rayjobs.ray.io --selector", recording.items(recording.rayjob("x", DONE)))
    kubectl.answer(" get rayjobs.ray.io ", recording.rayjob("x", DONE))
    kubectl.answer(" get pods --selector", recording.items(recording.pod("s", "Succeeded")))
    kubectl.answer(" get pods s", recording.pod("s", "Succeeded"))
    kubectl.answer(r" logs s", 'exit=0\n{"verb": "x"}\n')
    kubectl.answer(r" create --filename", recording.rayjob("x"))
    kubectl.answer(" get persistentvolumeclaim ", code=1)
    kubectl.answer("^api-resources ", "")
    kubectl.answer(r"(^| )(apply|delete|cp|exec|wait|create secret|port-forward|get secret) ")
    return kubectl


def run(fake: recording.Kubectl, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{fake.folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    words = (
        command.replace("make ", f"make --old-file=setup BIN={fake.folder} ", 1)
        if command.startswith("make")
        else command
    )
    return subprocess.run(["sh", "-c", words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_way_from_nothing_to_a_translated_file_has_fifteen_lines() -> None:
    (block,) = re.findall(r"^## From nothing.*?^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 15


@pytest.mark.e2e
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_guide_succeed(fake: recording.Kubectl, command: str) -> None:
    done = run(fake, command)
    assert done.returncode == 0, done.stderr
    if command.startswith(("kubectl", "make")) or ("--kubernetes" in command and "--dry-run" not in command):
        assert list(fake.calls())


def test_setup_applies_platform_and_claim_and_leaves_monitoring_out(fake: recording.Kubectl) -> None:
    done = run(fake, "make k8s-setup")
    assert "monitoring: left out, since the cluster has no Prometheus operator" in done.stdout
    selected = [call.words[-1].rpartition("=")[2] for call in fake.calls("apply")]
    assert selected == ["platform", "storage"]


def test_setup_leaves_a_claim_as_it_is_and_adds_monitoring(fake: recording.Kubectl) -> None:
    fake._rules = []
    fake.answer(" get persistentvolumeclaim raycurrent-data")
    fake.answer("^api-resources ", "podmonitors.monitoring.coreos.com\nprometheusrules.monitoring.coreos.com\n")
    fake.answer("^apply ")
    done = run(fake, "make k8s-setup")
    assert done.returncode == 0, done.stderr
    assert "the claim raycurrent-data exists and is left as it is" in done.stdout
    platform, monitoring = fake.calls("apply")
    assert platform.words[-1].endswith("=platform")
    kinds = {document["kind"] for document in yaml.safe_load_all(monitoring.stdin)}
    assert kinds == {"ConfigMap", "PodMonitor", "PrometheusRule"}


def test_a_bucket_needs_no_claim(fake: recording.Kubectl) -> None:
    assert "there is no claim" in run(fake, "make k8s-setup OVERLAY=s3").stdout
    assert [call.words[-1].rpartition("=")[2] for call in fake.calls("apply")] == ["platform"]


def test_setup_has_parameters_for_all_places(fake: recording.Kubectl) -> None:
    places = "NAMESPACE=team CLAIM=shared STORAGE_CLASS=nfs OPERATOR_NAMESPACE=ops PROMETHEUS_NAMESPACE=watch"
    run(fake, f'make k8s-setup OVERLAY=kueue {places} EGRESS_PORTS="9000 9091"')
    documents = list(yaml.safe_load_all(next(fake.calls("apply")).stdin))
    namespaces = {document["metadata"].get("namespace") for document in documents}
    assert namespaces == {"team", None}
    by_title = {manifests.title(document): document for document in documents}
    assert "Namespace/team" in by_title
    assert "ServiceAccount/raycurrent" in by_title
    (claim,) = manifests.of_kind(documents, "PersistentVolumeClaim")
    assert (claim["metadata"]["name"], claim["spec"]["storageClassName"]) == ("shared", "nfs")
    queue = by_title["ClusterQueue/raycurrent"]["spec"]["namespaceSelector"]
    assert queue["matchLabels"] == {"kubernetes.io/metadata.name": "team"}
    policy = by_title["NetworkPolicy/raycurrent-ray-nodes"]["spec"]
    assert [port["port"] for port in policy["egress"][2]["ports"]] == [9000, 9091, 443]
    admitted = [
        source["namespaceSelector"]["matchLabels"]
        for rule in policy["ingress"]
        for source in rule["from"]
        if "namespaceSelector" in source
    ]
    assert admitted == [{"kubernetes.io/metadata.name": name} for name in ("ops", "watch")]


def test_the_policy_admits_nobody_from_any_namespace() -> None:
    for policy in manifests.of_kind(manifests.rendered("cpu"), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert all(source.get("namespaceSelector", {"x": 1}) for source in rule["from"])


@pytest.mark.parametrize(
    ("words", "command_line"),
    [
        ("CONFIG=x.yaml SET=seed=2", "pipeline x.yaml --set seed=2 --kubernetes"),
        ('VERB=score ARGS="--run r"', "score --run r --kubernetes"),
        (
            "VERB=train CONFIG=x.yaml OVERLAY=gpu NAMESPACE=n IMAGE=r/x:1 OPTIONS='--queue q'",
            "train x.yaml --kubernetes --namespace n --overlay gpu --image r/x:1 --queue q",
        ),
    ],
)  # fmt: skip
def test_make_k8s_run_submits(words: str, command_line: str) -> None:
    command = f"make --dry-run --old-file=setup BIN=bin k8s-run {words}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.replace("\\\n", " ").split()) == f"bin/python -m jobs submit {command_line}"


@pytest.mark.e2e
def test_make_k8s_run_ends_with_the_code_of_the_job(fake: recording.Kubectl) -> None:
    failed = {**DONE, "jobStatus": "STOPPED"}
    fake._rules.insert(
        0,
        {
            "pattern": "get rayjobs.ray.io ",
            "answers": [{"stdout": ""}, {"stdout": json.dumps(recording.rayjob("x", failed))}],
        },
    )
    fake._rules.insert(0, {"pattern": " logs s", "answers": [{"stdout": "corpus: is not there\nexit=3\n"}]})
    fake.answer("^never")
    done = run(fake, "python -m jobs submit pipeline k8s/base/jobs/run/run.yaml --kubernetes")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-2:] == ["corpus: is not there", "exit=3"]
