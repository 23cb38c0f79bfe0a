"""Access to Kubernetes manifests: their documents, and the pod templates in them."""

import copy
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Document = dict[str, Any]
KUBERNETES = Path(__file__).resolve().parents[2] / "k8s"
OVERLAYS = ("cpu", "gpu", "kueue", "s3", "local")
VERBS = ("prepare", "train", "translate", "score", "pipeline")


class Pod(NamedTuple):
    """A pod template in a document; `role` is head, worker or submitter."""

    where: str
    role: str
    template: Document


@functools.cache
def _read(path: Path) -> tuple[Document, ...]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(document for document in yaml.load_all(path.read_text(), Loader=loader) if document)


def read(path: Path) -> list[Document]:
    """Returns copies of all documents of a file, so that a test may change them."""
    return copy.deepcopy(list(_read(path)))


def rendered(overlay: str) -> list[Document]:
    """Returns the documents of a rendered overlay."""
    return read(KUBERNETES / "rendered" / f"{overlay}.yaml")


def with_monitoring(overlay: str) -> list[Document]:
    """Returns the documents of a rendered overlay, and those for clusters with the Prometheus operator."""
    return [*rendered(overlay), *rendered("monitoring")]


def of_kind(documents: Iterable[Document], *kinds: str) -> Iterator[Document]:
    """Returns the documents of these kinds."""
    return (document for document in documents if document["kind"] in kinds)


def title(document: Document) -> str:
    """Returns the name of a document in messages, as kind/name."""
    return f"{document.get('kind')}/{document.get('metadata', {}).get('name')}"


def cluster(document: Document) -> Document:
    """Returns the specification of the Ray cluster in a RayJob or RayCluster."""
    spec: Document = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def pods(document: Document) -> Iterator[Pod]:
    """Yields the pod templates of a RayJob or RayCluster."""
    if document["kind"] not in ("RayJob", "RayCluster"):
        return
    where = title(document)
    if "submitterPodTemplate" in document["spec"]:
        yield Pod(f"{where} submitter", "submitter", document["spec"]["submitterPodTemplate"])
    yield Pod(f"{where} head", "head", cluster(document)["headGroupSpec"]["template"])
    for group in cluster(document)["workerGroupSpecs"]:
        yield Pod(f"{where} {group['groupName']}", "worker", group["template"])


def containers(pod: Pod) -> list[Document]:
    """Returns all containers of a pod, init containers included."""
    spec = pod.template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]
