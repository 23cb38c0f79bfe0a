"""Rules that schemas cannot express: KubeRay's, Kueue's, the Pod Security profile "restricted", and our own."""

import re
from collections.abc import Callable, Iterator

from tests.k8s import manifests
from workers.train import launch

Violations = Iterator[str]
LONGEST_NAMES = {"RayJob": 47, "RayCluster": 53}
OLDEST_WITH_AUTH = (2, 52)
SMALLEST_UID = 10_000
QUEUE = "kueue.x-k8s.io/queue-name"
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def names_fit(document: manifests.Document) -> Violations:
    """Checks the length of names: KubeRay appends to them, and a label holds at most 63 characters."""
    name, longest = document["metadata"]["name"], LONGEST_NAMES[document["kind"]]
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"the name must be a DNS label of at most {longest} characters"


def job_ends(document: manifests.Document) -> Violations:
    """Checks that a job has deadlines and retries, and deletes its cluster at the end."""
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
        yield "the cluster would remain after the job has finished"


def submission_fits(document: manifests.Document) -> Violations:
    """Checks the fields that depend on the submission mode."""
    spec = document["spec"]
    if document["kind"] != "RayJob":
        return
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & spec.keys():
        yield "SidecarMode allows neither a submitter pod nor a clusterSelector"
    if spec.get("backoffLimit", 0) > 0 and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        yield "backoffLimit needs a cluster per job and an entry point"
    if mode == "K8sJobMode" and "submitterPodTemplate" not in spec:
        yield "without submitterPodTemplate the submitter pod has no security context"
    if not spec.get("entrypoint", "").startswith("python -m jobs "):
        yield "spec.entrypoint must start with `python -m jobs`"


def token_is_required(document: manifests.Document) -> Violations:
    """Checks token authentication: without it, anyone who can reach Ray can run code."""
    spec = manifests.cluster(document)
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode must be token"
    version = re.match(r"(\d+)\.(\d+)\.", str(spec.get("rayVersion", "")))
    if version is None or (int(version[1]), int(version[2])) < OLDEST_WITH_AUTH:
        yield "authOptions needs rayVersion 2.52 or newer"


def groups_fit(document: manifests.Document) -> Violations:
    """Checks that worker groups have a fixed size unless autoscaled, and that no work is scheduled on the head."""
    spec = manifests.cluster(document)
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head must have num-cpus 0: it runs the driver only"
    for group in spec["workerGroupSpecs"]:
        sizes = [group.get(field) for field in ("minReplicas", "replicas", "maxReplicas")]
        if None in sizes or sizes != sorted(sizes):
            yield f"{group['groupName']}: minReplicas ≤ replicas ≤ maxReplicas must all be set"
        elif not spec.get("enableInTreeAutoscaling") and sizes[0] != sizes[2]:
            yield f"{group['groupName']}: minReplicas and maxReplicas differ without autoscaling"


def queue_is_possible(document: manifests.Document) -> Violations:
    """Checks Kueue's requirements of a queued job."""
    if QUEUE not in document["metadata"].get("labels", {}):
        return
    if document["kind"] == "RayJob" and not document["spec"].get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes"
    if document["spec"].get("clusterSelector") or manifests.cluster(document).get("enableInTreeAutoscaling"):
        yield "Kueue supports neither an existing cluster nor autoscaling"


def pods_are_restricted(document: manifests.Document) -> Violations:
    """Checks the Pod Security Standards profile "restricted", and that only an autoscaler has an API server token."""
    for pod in manifests.pods(document):
        spec = pod.template["spec"]
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) < SMALLEST_UID:
            yield f"{pod.role}: must set runAsNonRoot and a runAsUser of at least {SMALLEST_UID}"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.role}: seccompProfile must be RuntimeDefault"
        if any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.role}: must not use a host namespace"
        if any(set(volume) - {"name"} - RESTRICTED_VOLUMES for volume in spec.get("volumes", [])):
            yield f"{pod.role}: has a volume type that is not allowed"
        has_token = pod.role == "head" and manifests.cluster(document).get("enableInTreeAutoscaling", False)
        if spec.get("automountServiceAccountToken") is not has_token:
            yield f"{pod.role}: automountServiceAccountToken must be {str(has_token).lower()}"
        for container in manifests.containers(pod):
            yield from _container_is_restricted(pod.role, container)


def _container_is_restricted(role: str, container: manifests.Document) -> Violations:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{role}: allowPrivilegeEscalation must be false"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield f"{role}: must drop all capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{role}: readOnlyRootFilesystem must be true"
    if context.get("runAsUser", SMALLEST_UID) < SMALLEST_UID or context.get("runAsNonRoot") is False:
        yield f"{role}: has a container that runs as root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{role}: must not use a host port"


def pods_are_sized(document: manifests.Document) -> Violations:
    """Checks that each container requests CPU and memory, with memory limit = request, and has a pinned image."""
    for pod in manifests.pods(document):
        for container in manifests.containers(pod):
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if not {"cpu", "memory"} <= requests.keys() or limits.get("memory") != requests.get("memory"):
                yield f"{pod.role}: must request cpu and memory, with a memory limit equal to the request"
            if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
                yield f"{pod.role}: nvidia.com/gpu must be equal in requests and limits"
            if ":" not in container["image"] or container["image"].endswith(":latest"):
                yield f"{pod.role}: the image must have a version tag"


def nodes_are_ready(document: manifests.Document) -> Violations:
    """Checks probes, the grace period for saving, memory-backed /dev/shm, the metrics port and mounts of Ray nodes."""
    for pod in manifests.pods(document):
        spec, container = pod.template["spec"], pod.template["spec"]["containers"][0]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        if set(mounts.values()) != set(volumes):
            yield f"{pod.role}: volumeMounts and volumes must match"
        if pod.role == "submitter":
            continue
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if container.get(probe, {}).get("httpGet") != {"path": "/api/healthz", "port": 52365}:
                yield f"{pod.role}: must have a {probe} on Ray's agent"
        if spec.get("terminationGracePeriodSeconds", 30) <= launch.STOP_S:
            yield f"{pod.role}: terminationGracePeriodSeconds must exceed the {launch.STOP_S:g} s that a stop may take"
        shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        if shm.get("medium") != "Memory" or "sizeLimit" not in shm:
            yield f"{pod.role}: /dev/shm must be in memory, with a sizeLimit"
        if {"name": "app-metrics", "containerPort": 8081} not in container.get("ports", []):
            yield f"{pod.role}: must have the port app-metrics"


RULES: tuple[Callable[[manifests.Document], Violations], ...] = (
    names_fit, job_ends, submission_fits, token_is_required, groups_fit, queue_is_possible,
    pods_are_restricted, pods_are_sized, nodes_are_ready,
)  # fmt: skip


def violations(document: manifests.Document) -> list[str]:
    """Returns the violations of these rules in a document."""
    if document["kind"] not in LONGEST_NAMES:
        return []
    return [f"{manifests.title(document)}: {text}" for rule in RULES for text in rule(document)]


def reference_violations(documents: list[manifests.Document]) -> list[str]:
    """Returns references between documents that do not resolve."""
    return [*_missing_objects(documents), *_unmatched(documents)]


def _missing_objects(documents: list[manifests.Document]) -> Violations:
    existing = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        where = manifests.title(document)
        for pod in manifests.pods(document):
            spec = pod.template["spec"]
            needed = {("ServiceAccount", spec.get("serviceAccountName"))}
            for volume in spec.get("volumes", []):
                needed |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
                if "persistentVolumeClaim" in volume:
                    needed.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            yield from (f"{where}: {kind}/{name} does not exist" for kind, name in needed - existing)
        queue = document["metadata"].get("labels", {}).get(QUEUE)
        if queue is not None and ("LocalQueue", queue) not in existing:
            yield f"{where}: LocalQueue/{queue} does not exist"


def _unmatched(documents: list[manifests.Document]) -> Violations:
    """Checks that selectors and ports of policies, monitors and budgets match pods of our jobs."""
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
    """Returns the labels of a pod, including those that KubeRay adds."""
    own: dict[str, str] = pod.template["metadata"]["labels"]
    return own if pod.role == "submitter" else {**own, "ray.io/is-ray-node": "yes", "ray.io/node-type": pod.role}
