"""The RayJob of a submitted verb: the pattern in `k8s/`, with the names, sizes and places of one run.

Nothing here describes a pod. The pattern is the job of the same verb in a rendered overlay, and what a run changes in
it is written below, field by field.
"""

import copy
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from core import errors
from core.config import node_labels, schema

Document = dict[str, Any]

LONGEST_NAME = 47  # KubeRay's limit of a RayJob, whose name it lengthens
LONGEST_LABEL = 63
SETTINGS_PATH = "/etc/raycurrent/run.yaml"  # where the pattern mounts the ConfigMap
SETTINGS_KEY = "run.yaml"
OVERLAYS = ("cpu", "gpu", "kueue", "s3", "local")
APPLICATION = {"app.kubernetes.io/name": "raycurrent"}
RUN_LABEL = "raycurrent.io/run"
IDLE_TIMEOUT_S = 60  # an idle worker is then taken away
NAME, OUTPUT, COMMAND, CONTENT = (f"raycurrent.io/{name}" for name in ("name", "output", "command", "content"))
_VERB = "app.kubernetes.io/component"
_HOME = "RAYCURRENT_HOME"
_QUEUE = "kueue.x-k8s.io/queue-name"
_GPUS = "num-gpus"
_GPU_RESOURCE = "nvidia.com/gpu"
_PATTERN_OF_OTHERS = "translate"  # verbs without a job in the overlays run for a day at most, as it does
_RENDERED = Path(__file__).resolve().parents[1] / "k8s" / "rendered"


class Work(NamedTuple):
    """The work of a job.

    Attributes:
        verb: verb that it runs.
        command: verb and arguments, after `python -m jobs`.
        takes_settings: whether the verb has `--set`.
        overrides: those of the command.
        settings: text of the configuration; None for verbs without one.
        cluster: settings of the workers, those alone that configuration or overrides name.
        name: name of the run, as the user wrote it.
        root: where the run is.
        output: where the results are.
    """

    verb: str
    command: tuple[str, ...]
    takes_settings: bool
    overrides: tuple[str, ...]
    settings: str | None
    cluster: schema.ClusterConfig
    name: str
    root: str
    output: str


class Options(NamedTuple):
    """Places and sizes that the configuration does not hold; None keeps what the pattern has.

    Attributes:
        overlay: name of a rendered overlay, or path of one that a user has rendered.
        namespace: namespace of the objects.
        image: image of all containers.
        pull_secret: Secret with the login of the image's registry.
        home: folder or URL that relative paths start from.
        claim: claim of the shared volume.
        queue: Kueue queue.
        env_secret: Secrets whose entries become environment variables of all nodes.
        node_selector: labels that the nodes must have.
        toleration: taints that the pods tolerate.
        priority_class: priority class of all pods.
        head_memory: memory of the head, such as 4Gi.
        worker_memory: memory of each worker.
        autoscaling: whether KubeRay's autoscaler adds workers when a stage asks for them, and takes idle ones away.
    """

    overlay: str = "cpu"
    namespace: str | None = None
    image: str | None = None
    pull_secret: str | None = None
    home: str | None = None
    claim: str | None = None
    queue: str | None = None
    env_secret: tuple[str, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()
    toleration: tuple[Mapping[str, str], ...] = ()
    priority_class: str | None = None
    head_memory: str | None = None
    worker_memory: str | None = None
    autoscaling: bool = False


class Objects(NamedTuple):
    """The objects of one run. The ConfigMap gets its owner, the RayJob, when that exists."""

    rayjob: Document
    config_map: Document

    @property
    def name(self) -> str:
        """Name of both."""
        return str(self.rayjob["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of both."""
        return str(self.rayjob["metadata"]["namespace"])

    def owned_by(self, uid: str) -> Document:
        """Returns the ConfigMap, which Kubernetes deletes with the RayJob of this UID."""
        owner = {"apiVersion": self.rayjob["apiVersion"], "kind": "RayJob", "name": self.name, "uid": uid}
        return {**self.config_map, "metadata": {**self.config_map["metadata"], "ownerReferences": [owner]}}

    def to_yaml(self) -> str:
        """Returns both as YAML that `kubectl apply` takes; the ConfigMap has no owner yet."""
        return yaml.safe_dump_all([self.rayjob, self.config_map], sort_keys=False, allow_unicode=True, width=120)


def object_name(name: str, verb: str, root: str, command: Sequence[str]) -> str:
    """Returns the name of a run's objects: equal for the same command on the same root, at most 47 characters."""
    digest = hashlib.sha256(json.dumps([root, verb, list(command)]).encode()).hexdigest()[:6]
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    # The name of a Service, which KubeRay derives from it, begins with a letter.
    words = words if words[0].isalpha() else f"r{words}"
    longest = LONGEST_NAME - len(f"-{verb}-{digest}")
    return f"{words[:longest].rstrip('-')}-{verb}-{digest}"


def render(work: Work, options: Options) -> Objects:
    """Returns the objects of a run.

    Raises:
        UsageError: the pattern cannot be read, or has no place for an option or a setting.
    """
    job = _pattern(options.overlay, work.verb)
    name = object_name(work.name, work.verb, work.root, work.command)
    namespace = options.namespace or job["metadata"]["namespace"]
    text = work.settings or ""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", work.name)[:LONGEST_LABEL].strip("-._")
    labels = {**job["metadata"]["labels"], _VERB: work.verb, **({RUN_LABEL: label} if label else {})}
    entry_point = _entry_point(job["spec"]["entrypoint"], work)
    job["metadata"] = {
        **job["metadata"],
        "name": name,
        "namespace": namespace,
        "labels": {**labels, **({_QUEUE: options.queue} if options.queue else {})},
        "annotations": {
            **job["metadata"].get("annotations", {}),
            NAME: work.name,
            OUTPUT: work.output,
            COMMAND: shlex.join(work.command),
        },
    }
    job["spec"]["entrypoint"] = entry_point
    _set_sizes(job, work, options)
    if options.autoscaling:
        _add_autoscaler(job)
    for role, pod in _pods(job):
        pod["metadata"]["labels"][_VERB] = work.verb
        _place(pod["spec"], role, name, options)
    # Of all that would differ, so that a running job of another configuration or size is recognized.
    job["metadata"]["annotations"][CONTENT] = _digest([job["spec"], text])
    data = {} if work.settings is None else {SETTINGS_KEY: text}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}
    return Objects(job, config_map)


def parse_label(text: str) -> tuple[str, str]:
    """Returns name and value of `LABEL=VALUE`."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise errors.UsageError(f"--node-selector: {text!a} is not a label with a value; write LABEL=VALUE")
    return name, value


def parse_toleration(text: str) -> dict[str, str]:
    """Returns the toleration that `KEY[=VALUE][:EFFECT]` means, as kubectl writes taints."""
    taint, _, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if not key or effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise errors.UsageError(
            f"--toleration: {text!a} is not a taint; write KEY, KEY=VALUE or KEY=VALUE:EFFECT, with an effect of "
            "NoSchedule, PreferNoSchedule or NoExecute"
        )
    operator = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
    return {"key": key, **operator, **({"effect": effect} if effect else {})}


def home_of(job: Document) -> str:
    """Returns the folder or URL that relative paths of a job start from."""
    variables = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(variable["value"] for variable in variables if variable["name"] == _HOME))


def claim_of(job: Document) -> str | None:
    """Returns the claim of a job's shared volume, if it has one."""
    for volume in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]:
        if "persistentVolumeClaim" in volume:
            return str(volume["persistentVolumeClaim"]["claimName"])
    return None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _pattern(overlay: str, verb: str) -> Document:
    """Returns the RayJob of a verb in an overlay."""
    path = _RENDERED / f"{overlay}.yaml" if overlay in OVERLAYS else Path(overlay)
    try:
        documents = path.read_text(encoding="utf-8").split("\n---\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.UsageError(
            f"--overlay: {path} cannot be read ({reason}); use {', '.join(OVERLAYS)} from a checkout of the "
            "repository, or the file of an overlay that you have rendered"
        ) from error
    jobs: dict[str, str] = {}
    for text in documents:
        name = re.search(r"^  name: raycurrent-([a-z]+)$", text, re.MULTILINE)
        if re.search(r"^kind: RayJob$", text, re.MULTILINE) and name:
            jobs[name[1]] = text
    pattern = jobs.get(verb) or jobs.get(_PATTERN_OF_OTHERS)
    if pattern is None:
        raise errors.UsageError(f"--overlay: {path} has no RayJob raycurrent-{_PATTERN_OF_OTHERS}; render it from k8s/")
    try:
        return dict(yaml.safe_load(pattern))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise errors.UsageError(f"--overlay: {path} is not valid YAML; render it again") from error


def _entry_point(pattern: str, work: Work) -> str:
    """Returns the command line of the job: that of the user, and the settings of the pattern that they do not name."""
    verb, *arguments = work.command
    settings: list[str] = []
    if work.takes_settings:
        own = [override.partition("=")[0].strip() for override in work.overrides]
        named = {f"cluster.{name}" for name in work.cluster.model_fields_set}
        for word, setting in itertools.pairwise(shlex.split(pattern)):
            name = setting.partition("=")[0]
            is_own = name in named or any(given == name or given.startswith(f"{name}.") for given in own)
            settings += [f"--set={setting}"] if word == "--set" and not is_own else []
    return shlex.join(["python", "-m", "jobs", verb, *settings, *arguments])


def _group(job: Document) -> Document:
    groups: list[Document] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return groups[0]


def _set_sizes(job: Document, work: Work, options: Options) -> None:
    """Sets number and size of the workers to those of the settings, where they name them."""
    group = _group(job)
    container = group["template"]["spec"]["containers"][0]
    named = work.cluster.model_fields_set
    if "address" in named and work.cluster.address != "auto":
        raise errors.UsageError(
            f"cluster.address: a RayJob has a Ray cluster of its own, not {work.cluster.address!r}; "
            "add --set cluster.address=auto"
        )
    has_gpus = _GPUS in group["rayStartParams"]
    if "use_gpu" in named and work.cluster.use_gpu != has_gpus:
        has = "has GPUs" if has_gpus else "has no GPUs"
        raise errors.UsageError(f"cluster.use_gpu: the overlay {options.overlay} {has}; choose another with --overlay")
    # Labels of Ray's nodes, of which it sets those with its own prefix by itself; `--node-selector` chooses machines.
    chosen_labels = node_labels.required_values(work.cluster.label_selector)
    if labels := {key: value for key, value in chosen_labels.items() if not key.startswith("ray.io/")}:
        group["labels"] = labels
    if "num_workers" in named:
        # Of an elastic number the largest: training begins with as many as have started.
        group["replicas"] = group["minReplicas"] = group["maxReplicas"] = work.cluster.workers.stop - 1
    if "cpus_per_worker" in named:
        cores = str(work.cluster.cpus_per_worker)
        group["rayStartParams"]["num-cpus"] = cores
        # A pattern that reserves less than a node's cores (`local`) goes on doing so.
        if not container["resources"]["requests"]["cpu"].endswith("m"):
            container["resources"]["requests"]["cpu"] = cores
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    for chosen, memory in ((head, options.head_memory), (container, options.worker_memory)):
        if memory is not None:
            chosen["resources"]["requests"]["memory"] = chosen["resources"]["limits"]["memory"] = memory


def _add_autoscaler(job: Document) -> None:
    """Lets the operator's autoscaler change the number of workers, from none to what the group has.

    A group with GPUs gets one without beside it: the stages that run no model then start no GPU node.
    """
    if _QUEUE in job["metadata"]["labels"]:
        raise errors.UsageError("--autoscaling: Kueue admits jobs of a fixed size; leave it out, or use no queue")
    cluster = job["spec"]["rayClusterSpec"]
    cluster["enableInTreeAutoscaling"] = True
    cluster["autoscalerOptions"] = {
        "version": "v2",
        "idleTimeoutSeconds": IDLE_TIMEOUT_S,
        # What the namespace demands of all containers. The operator, not the pattern, describes this one.
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    # The autoscaler, a container of the head, asks the API server for pods; the operator gives the account that right.
    cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] = True
    group = _group(job)
    group["replicas"] = group["minReplicas"] = 0
    if _GPUS in group["rayStartParams"]:
        cluster["workerGroupSpecs"].append(_without_gpus(group))


def _without_gpus(group: Document) -> Document:
    """Returns a group of the same workers without GPUs, on nodes without GPUs."""
    beside = copy.deepcopy(group)
    beside["groupName"] = "cpu-workers"
    del beside["rayStartParams"][_GPUS]
    pod = beside["template"]["spec"]
    for amounts in pod["containers"][0]["resources"].values():
        amounts.pop(_GPU_RESOURCE, None)
    pod["tolerations"] = [each for each in pod.get("tolerations", []) if each.get("key") != _GPU_RESOURCE]
    return beside


def _pods(job: Document) -> Iterator[tuple[str, Document]]:
    """Yields the pod templates, each with its role."""
    cluster = job["spec"]["rayClusterSpec"]
    yield "submitter", job["spec"]["submitterPodTemplate"]
    yield "head", cluster["headGroupSpec"]["template"]
    yield from (("worker", group["template"]) for group in cluster["workerGroupSpecs"])


def _place(pod: Document, role: str, config_map: str, options: Options) -> None:
    """Sets the image, the places and the environment of a pod."""
    if options.pull_secret:
        pod["imagePullSecrets"] = [{"name": options.pull_secret}]
    if options.node_selector:
        pod["nodeSelector"] = {**pod.get("nodeSelector", {}), **dict(options.node_selector)}
    if options.toleration:
        pod["tolerations"] = [*pod.get("tolerations", []), *(dict(toleration) for toleration in options.toleration)]
    if options.priority_class:
        pod["priorityClassName"] = options.priority_class
    for container in pod["containers"]:
        container["image"] = options.image or container["image"]
    if role == "submitter":
        return
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes["run"]["configMap"]["name"] = config_map
    if options.claim:
        if "data" not in volumes:
            raise errors.UsageError(f"--claim: the overlay {options.overlay} has no shared volume; leave it out")
        volumes["data"]["persistentVolumeClaim"]["claimName"] = options.claim
    container = pod["containers"][0]
    if options.home:
        for variable in container["env"]:
            if variable["name"] == _HOME:
                variable["value"] = options.home
    if options.env_secret:
        sources = [{"secretRef": {"name": secret}} for secret in options.env_secret]
        container["envFrom"] = [*container.get("envFrom", []), *sources]
