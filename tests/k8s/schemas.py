"""Offline validation of manifests against their schemas; unknown fields are errors.

Kubernetes' own kinds, and the pods inside custom resources, are checked with the schemas in the package
kubernetes-validate. For custom resources, `k8s/schemas` holds the necessary part of the projects' definitions (names,
types, values and requirements of the fields under `spec`), extracted by `reduced`.
"""

import functools
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import referencing
import yaml

from tests.k8s import manifests

FOLDER = manifests.KUBERNETES / "schemas"
KUBERNETES_VERSION = "v1.34.0"
_CORE = importlib.resources.files("kubernetes_validate").joinpath(
    "kubernetes-json-schema", f"{KUBERNETES_VERSION}-local-strict"
)
_NOT_KEPT = {"description", "format", "default", "example", "nullable"}
_ANY_METADATA = {"type": "object"}


class Source(NamedTuple):
    """Source of the definition of a kind; all of them are under the Apache licence 2.0."""

    path: str
    version: str
    project: str
    release: str


_KUBERAY = ("v1", "ray-project/kuberay", "v1.7.0 (59d663aeec13760646da3db9c1cf8cfe883e30b7)")
_KUEUE = ("v1beta2", "kubernetes-sigs/kueue", "v0.19.2 (8eab68778fc1b52affe165fdf5af29d1e9b4f3cb)")
_OPERATOR = ("v1", "prometheus-operator/prometheus-operator", "v0.93.0 (f8fafd475f3d132e239432ae6172de60a6cb6516)")
SOURCES = {
    "RayJob": Source("kuberay/ray.io_rayjobs.yaml", *_KUBERAY),
    "RayCluster": Source("kuberay/ray.io_rayclusters.yaml", *_KUBERAY),
    "ClusterQueue": Source("kueue/kueue.x-k8s.io_clusterqueues.yaml", *_KUEUE),
    "LocalQueue": Source("kueue/kueue.x-k8s.io_localqueues.yaml", *_KUEUE),
    "ResourceFlavor": Source("kueue/kueue.x-k8s.io_resourceflavors.yaml", *_KUEUE),
    "PodMonitor": Source("prometheus-operator/monitoring.coreos.com_podmonitors.yaml", *_OPERATOR),
    "PrometheusRule": Source("prometheus-operator/monitoring.coreos.com_prometheusrules.yaml", *_OPERATOR),
}


def definitions() -> Path:
    """Returns the folder of the projects' definitions: `RAYCURRENT_TEST_SCHEMAS`, else beside the repository."""
    beside = manifests.KUBERNETES.parents[1] / "shared" / "schemas"
    folder = Path(os.environ.get("RAYCURRENT_TEST_SCHEMAS") or beside)
    if not (folder / "kuberay").is_dir():
        pytest.skip(f"the definitions of custom resources are not at {folder}; set RAYCURRENT_TEST_SCHEMAS to use them")
    return folder


def reduced(folder: Path, kind: str) -> dict[str, Any]:
    """Returns the part of a definition that `k8s/schemas` holds."""
    source = SOURCES[kind]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((folder / source.path).read_text(), Loader=loader)
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == source.version
    )
    properties = {"apiVersion": {"const": f"{definition['spec']['group']}/{source.version}"}, "kind": {"const": kind}}
    properties |= {"metadata": _ANY_METADATA, "spec": _strict(schema["properties"]["spec"])}
    return {
        "$comment": f"Field names and types of {source.path}, {source.project} {source.release}, Apache-2.0",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata"],
        "properties": properties,
        "additionalProperties": False,
    }


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Converts an OpenAPI schema to a JSON schema without unknown fields; pods are left to Kubernetes' own schema."""
    properties = schema.get("properties", {})
    if "containers" in properties.get("spec", {}).get("properties", {}):
        return {"type": "object", "$comment": "pod"}
    kept = {name: value for name, value in schema.items() if name not in _NOT_KEPT and not name.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in kept:
        kept["properties"] = {name: _strict(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(kept.get(name), dict):
            kept[name] = _strict(kept[name])
    return kept


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((FOLDER / f"{kind}.json").read_text()))


def violations(document: manifests.Document) -> list[str]:
    """Returns the schema violations of a document and of the pods in it."""
    where = manifests.title(document)
    kind = document.get("kind", "")
    if kind not in SOURCES:
        return _core_violations(where, document)
    texts = [f"{where}: .{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in _errors(kind, document)]
    if not texts:
        for pod in manifests.pods(document):
            template = {**pod.template, "metadata": {**pod.template.get("metadata", {})}}
            wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            texts += _core_violations(pod.where, wrapped)
    return texts


def _errors(kind: str, document: manifests.Document) -> list[jsonschema.ValidationError]:
    return sorted(_validator(kind).iter_errors(document), key=lambda error: list(map(str, error.path)))


def _core_violations(where: str, document: manifests.Document) -> list[str]:
    try:
        validator = _core_validator(document.get("kind", ""), document.get("apiVersion", ""))
    except FileNotFoundError:
        kind = f"{document.get('kind')} {document.get('apiVersion')}"
        return [f"{where}: Kubernetes {KUBERNETES_VERSION} does not have {kind}"]
    texts = (
        f"{where}: .{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)
    )
    return [" ".join(text.split())[:300] for text in texts]


@functools.cache
def _core_validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """Returns the schema of a built-in kind; its file name is <kind>-<first word of the group>-<version>."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], version)))
    schema = json.loads(_CORE.joinpath(f"{name}.json").read_text())
    resource = referencing.Resource.from_contents(schema)
    return jsonschema.Draft202012Validator(schema, registry=resource @ (_core_definitions() @ referencing.Registry()))


@functools.cache
def _core_definitions() -> referencing.Resource[Any]:
    return referencing.Resource.from_contents(json.loads(_CORE.joinpath("_definitions.json").read_text()))
