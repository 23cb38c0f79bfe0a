"""The rules that schemas cannot express: the operator's own, Kueue's, Pod Security's "restricted", and ours."""

import re
from collections.abc import Callable, Iterator

from tests.k8s import manifests
from workers.train import launch

Complaints = Iterator[str]
LONGEST_NAMES = {"RayJob": 47, "RayCluster": 53}
OLDEST_WITH_AUTH = (2, 52)
SMALLEST_UID = 10_000
QUEUE = "kueue.x-k8s.io/queue-name"
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def names_fit(document: manifests.Document) -> Complaints:
    """The operator appends to names, and a label holds 63 characters."""
    name, longest = document["metadata"]["name"], LONGEST_NAMES[document["kind"]]
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"the name must be a DNS label of at most {longest} characters"


def job_ends(document: manifests.Document) -> Complaints:
    """A job has deadlines, retries, and leaves no cluster behind."""
    spec = document["spec"]
    if document["kind"] != "RayJob":
        return
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit"):
        if not spec.get(field, 0) > 0:
            yield f"spec.{field} must be set"
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("deletionStrategy") and shuts_down:
        yield "deletionStrategy and shutdownAfterJobFinishes exclude each other"
    if not shuts_down and not spec.get("deletionStrategy"):
        yield "the cluster would stay when the job has ended"


def submission_fits(document: manifests.Document) -> Complaints:
    """What goes with which way to submit."""
    spec = document["spec"]
    if document["kind"] != "RayJob":
        return
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & spec.keys():
        yield "SidecarMode has no submitter of its own and no clusterSelector"
    if spec.get("backoffLimit", 0) > 0 and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        yield "backoffLimit needs a cluster of the job's own, and an entry point"
    if mode == "K8sJobMode" and "submitterPodTemplate" not in spec:
        yield "without submitterPodTemplate the submitter is not restricted"
    if not spec.get("entrypoint", "").startswith("python -m jobs "):
        yield "spec.entrypoint must be one of our verbs"


def asks_for_a_token(document: manifests.Document) -> Complaints:
    """Whoever reaches Ray runs code, unless a token is asked for."""
    spec = manifests.cluster(document)
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode must be token"
    version = re.match(r"(\d+)\.(\d+)\.", str(spec.get("rayVersion", "")))
    if version is None or (int(version[1]), int(version[2])) < OLDEST_WITH_AUTH:
        yield "authOptions needs rayVersion 2.52 or newer"


def groups_fit(document: manifests.Document) -> Complaints:
    """Groups of one size, unless the operator scales them; the head does no work."""
    spec = manifests.cluster(document)
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head must offer no cores: it holds the driver"
    for group in spec["workerGroupSpecs"]:
        sizes = [group.get(field) for field in ("minReplicas", "replicas", "maxReplicas")]
        if None in sizes or sizes != sorted(sizes):
            yield f"{group['groupName']}: minReplicas ≤ replicas ≤ maxReplicas must all be set"
        elif not spec.get("enableInTreeAutoscaling") and sizes[0] != sizes[2]:
            yield f"{group['groupName']}: sizes differ, and nothing scales"


def queue_is_possible(document: manifests.Document) -> Complaints:
    """What Kueue asks of a job that it holds back."""
    if QUEUE not in document["metadata"].get("labels", {}):
        return
    if document["kind"] == "RayJob" and not document["spec"].get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes"
    if document["spec"].get("clusterSelector") or manifests.cluster(document).get("enableInTreeAutoscaling"):
        yield "Kueue takes neither an existing cluster nor autoscaling"


def pods_are_restricted(document: manifests.Document) -> Complaints:
    """Pod Security Standards, profile "restricted"; and no token of the API server."""
    for pod in manifests.pods(document):
        spec = pod.template["spec"]
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) < SMALLEST_UID:
            yield f"{pod.role}: runAsNonRoot with a uid of at least {SMALLEST_UID}"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.role}: seccompProfile RuntimeDefault"
        if any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.role}: no namespace of the host"
        if any(set(volume) - {"name"} - RESTRICTED_VOLUMES for volume in spec.get("volumes", [])):
            yield f"{pod.role}: a kind of volume that is not allowed"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.role}: automountServiceAccountToken false"
        for container in manifests.containers(pod):
            yield from _container_is_restricted(pod.role, container)


def _container_is_restricted(role: str, container: manifests.Document) -> Complaints:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{role}: allowPrivilegeEscalation false"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield f"{role}: all capabilities dropped"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{role}: readOnlyRootFilesystem"
    if context.get("runAsUser", SMALLEST_UID) < SMALLEST_UID or context.get("runAsNonRoot") is False:
        yield f"{role}: a container that runs as root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{role}: no port of the host"


def pods_are_sized(document: manifests.Document) -> Complaints:
    """The scheduler, Kueue and the kernel know what each container may use; memory asked for is memory had."""
    for pod in manifests.pods(document):
        for container in manifests.containers(pod):
            resources = container.get("resources", {})
            asked, limits = resources.get("requests", {}), resources.get("limits", {})
            if not {"cpu", "memory"} <= asked.keys() or limits.get("memory") != asked.get("memory"):
                yield f"{pod.role}: requests of cpu and memory, and as much memory as limit"
            if asked.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
                yield f"{pod.role}: nvidia.com/gpu in requests and limits alike"
            if ":" not in container["image"] or container["image"].endswith(":latest"):
                yield f"{pod.role}: an image with a version"


def nodes_are_ready(document: manifests.Document) -> Complaints:
    """Ray nodes have probes, time to save, memory-backed /dev/shm, a port to be scraped, and mounts that exist."""
    for pod in manifests.pods(document):
        spec, container = pod.template["spec"], pod.template["spec"]["containers"][0]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        if set(mounts.values()) != set(volumes):
            yield f"{pod.role}: mounts and volumes differ"
        if pod.role == "submitter":
            continue
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if container.get(probe, {}).get("httpGet") != {"path": "/api/healthz", "port": 52365}:
                yield f"{pod.role}: a {probe} on Ray's agent"
        if spec.get("terminationGracePeriodSeconds", 30) <= launch.STOP_S:
            yield f"{pod.role}: terminationGracePeriodSeconds must be more than the {launch.STOP_S:g} s of a stop"
        shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        if shm.get("medium") != "Memory" or "sizeLimit" not in shm:
            yield f"{pod.role}: /dev/shm in memory, with a limit"
        if {"name": "app-metrics", "containerPort": 8081} not in container.get("ports", []):
            yield f"{pod.role}: the port app-metrics"


RULES: tuple[Callable[[manifests.Document], Complaints], ...] = (
    names_fit, job_ends, submission_fits, asks_for_a_token, groups_fit, queue_is_possible,
    pods_are_restricted, pods_are_sized, nodes_are_ready,
)  # fmt: skip


def complaints(document: manifests.Document) -> list[str]:
    """What is wrong with a document by these rules."""
    if document["kind"] not in LONGEST_NAMES:
        return []
    return [f"{manifests.title(document)}: {found}" for rule in RULES for found in rule(document)]


def together(documents: list[manifests.Document]) -> list[str]:
    """What documents name in each other must be there."""
    return [*_missing_objects(documents), *_unmatched(documents)]


def _missing_objects(documents: list[manifests.Document]) -> Complaints:
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        where = manifests.title(document)
        for pod in manifests.pods(document):
            spec = pod.template["spec"]
            needed = {("ServiceAccount", spec.get("serviceAccountName"))}
            for volume in spec.get("volumes", []):
                needed |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
                if "persistentVolumeClaim" in volume:
                    needed.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            yield from (f"{where}: {kind}/{name} is not there" for kind, name in needed - there)
        queue = document["metadata"].get("labels", {}).get(QUEUE)
        if queue is not None and ("LocalQueue", queue) not in there:
            yield f"{where}: LocalQueue/{queue} is not there"


def _unmatched(documents: list[manifests.Document]) -> Complaints:
    """Selectors and ports of policies, monitors and budgets must mean pods that we make."""
    pods = [
        (
            _labels(pod),
            {port.get("name"): port["containerPort"] for port in manifests.containers(pod)[0].get("ports", [])},
        )
        for document in documents
        for pod in manifests.pods(document)
    ]

    def selected(selector: manifests.Document) -> list[dict[str | None, int]]:
        return [ports for labels, ports in pods if selector["matchLabels"].items() <= labels.items()]

    for document in manifests.of_kind(documents, "PodMonitor", "NetworkPolicy", "PodDisruptionBudget"):
        where, spec = manifests.title(document), document["spec"]
        chosen = selected(spec.get("selector") or spec["podSelector"])
        if not chosen:
            yield f"{where}: selects no pod"
        for endpoint in spec.get("podMetricsEndpoints", []):
            if not any(endpoint["port"] in ports for ports in chosen):
                yield f"{where}: no pod has the port {endpoint['port']}"
        for rule in spec.get("ingress", []):
            for port in rule.get("ports", []):
                if not any(port["port"] in ports.values() for ports in chosen):
                    yield f"{where}: no pod listens on {port['port']}"


def _labels(pod: manifests.Pod) -> dict[str, str]:
    """The labels of a pod, with those that the operator adds."""
    own: dict[str, str] = pod.template["metadata"]["labels"]
    return own if pod.role == "submitter" else {**own, "ray.io/is-ray-node": "yes", "ray.io/node-type": pod.role}
