"""RayJobs of submitted verbs: the same objects as the overlays, named and sized for one run."""

import pathlib
import re
import shlex
from typing import Any

import pytest
import typer
import yaml

from core import errors
from core.config import loading
from jobs import __main__ as main
from jobs import kubernetes, rayjob, submit
from tests.k8s import manifests, rules, schemas

VERBS: Any = typer.main.get_command(main.app)
CONFIG = """
name: {name}
root: {root}
corpus: {{kind: text, train: {{text: [corpus/book.txt]}}}}
tokenizer: {{kind: char}}
model: {{kind: language_model}}
training: {{num_lanes: 8}}
"""
WORDS = {
    "translate": "--run runs/translation --input inputs/source.txt --output outputs/translations.jsonl",
    "score": "--run runs/translation --input inputs/source.txt --targets inputs/target.txt "
    "--output outputs/scores.jsonl",
}


def configuration(folder: pathlib.Path, more: str = "", name: str = "x", root: str = "runs/x") -> str:
    path = folder / "my.yaml"
    path.write_text(CONFIG.format(name=name, root=root) + more)
    return str(path)


def render(verb: str, *words: str, name: str | None = None, **options: Any) -> rayjob.Objects:
    spec = submit.plan(VERBS.commands[verb], words, submit.on_kubernetes())
    return rayjob.render(kubernetes.work_of(spec, name), rayjob.Options(**options))


def violations(objects: rayjob.Objects) -> list[str]:
    """Returns the violations of the schemas and of the operator's rules, and the references to missing objects."""
    documents = [objects.rayjob, objects.owned_by("0d1b")]
    own = [text for document in documents for text in (*schemas.violations(document), *rules.violations(document))]
    platform = [
        document
        for overlay in ("cpu", "kueue")
        for document in manifests.rendered(overlay)
        if document["kind"] not in ("RayJob", "RayCluster", "ConfigMap")
    ]
    missing = [text for text in rules.reference_violations([*documents, *platform]) if "RayJob" in text]
    return own + missing


def parsed(entry_point: str) -> dict[str, Any]:
    """Returns the parameters of an entry point, its overrides in order of their names."""
    program, verb, words = (lambda all_words: (all_words[:3], all_words[3], all_words[4:]))(shlex.split(entry_point))
    assert program == ["python", "-m", "jobs"]
    values = dict(VERBS.commands[verb].make_context(verb, words).params)
    return {**values, "verb": verb, "set_": sorted(values["set_"])}


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
@pytest.mark.parametrize("verb", manifests.VERBS)
def test_a_submitted_job_is_that_of_the_overlay_but_for_its_names(
    verb: str, overlay: str, tmp_path: pathlib.Path
) -> None:
    words = shlex.split(WORDS[verb]) if verb in WORDS else [configuration(tmp_path)]
    objects = render(verb, *words, overlay=overlay)
    assert violations(objects) == []
    (pattern,) = (job for job in manifests.rendered(overlay) if manifests.title(job) == f"RayJob/raycurrent-{verb}")
    entry_points = [parsed(job["spec"].pop("entrypoint")) for job in (objects.rayjob, pattern)]
    assert entry_points[0] == entry_points[1]
    for pod in manifests.pods(objects.rayjob):
        for volume in pod.template["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] == objects.name
                volume["configMap"]["name"] = "raycurrent-run"
    assert objects.rayjob["spec"] == pattern["spec"]
    labels = objects.rayjob["metadata"]["labels"]
    assert {name: labels[name] for name in pattern["metadata"]["labels"]} == pattern["metadata"]["labels"]
    assert objects.rayjob["metadata"]["namespace"] == pattern["metadata"]["namespace"]


def test_an_overlay_of_ones_own_keeps_its_namespace_and_its_patches(tmp_path: pathlib.Path) -> None:
    own = (manifests.KUBERNETES / "rendered" / "gpu.yaml").read_text()
    own = own.replace("namespace: raycurrent\n", "namespace: team\n").replace("nvidia.com/gpu: 1", "nvidia.com/gpu: 2")
    (tmp_path / "own.yaml").write_text(own)
    objects = render("train", configuration(tmp_path), overlay=str(tmp_path / "own.yaml"))
    assert objects.namespace == "team"
    worker = manifests.cluster(objects.rayjob)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_the_config_map_has_the_file_as_it_is_and_its_owner(tmp_path: pathlib.Path) -> None:
    path = configuration(tmp_path, "# as I wrote it\n")
    config_map = render("train", path, "--set", "training.epochs=3").owned_by("0d1b")
    assert config_map["data"] == {"run.yaml": pathlib.Path(path).read_text()}
    assert config_map["immutable"] is True
    (owner,) = config_map["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", "0d1b")
    loading.parse(config_map["data"]["run.yaml"], "run.yaml")
    assert render("translate", *shlex.split(WORDS["translate"])).config_map["data"] == {}


@pytest.mark.parametrize(
    ("name", "verb", "begin"),
    [
        ("My_Run.1", "train", "my-run-1-train-"),
        ("2024", "score", "r2024-score-"),
        ("x" * 63, "translate", "x" * 30 + "-translate-"),
        ("a" * 29 + "-b", "translate", "a" * 29 + "-translate-"),
        ("…", "pipeline", "run-pipeline-"),
    ],
)
def test_names_are_short_dns_labels_with_a_hash(name: str, verb: str, begin: str) -> None:
    made = rayjob.object_name(name, verb, "runs/x", ["train"])
    assert len(made) <= 47
    assert re.fullmatch(f"{re.escape(begin)}[0-9a-f]{{6}}", made)


def test_runs_have_names_of_their_own_and_the_same_command_has_the_same_name(tmp_path: pathlib.Path) -> None:
    path = configuration(tmp_path)
    same = [render("train", path).name, render("train", path, image="r/x:1", queue="q").name]
    others = [
        render("prepare", path).name,
        render("train", path, "--set", "training.epochs=2").name,
        render("train", configuration(tmp_path, root="runs/y")).name,
    ]
    assert len({*same, *others}) == 4
    whole = render("train", configuration(tmp_path, name="A" * 63)).rayjob["metadata"]
    assert whole["labels"]["raycurrent.io/run"] == whole["annotations"]["raycurrent.io/name"] == "A" * 63
    assert render("score", *shlex.split(WORDS["score"])).name.startswith("translation-score-")
    assert render("score", *shlex.split(WORDS["score"]), name="mine").name.startswith("mine-score-")


@pytest.mark.parametrize(
    ("more", "overrides", "overlay", "group", "cores"),
    [
        ("cluster: {num_workers: 3, cpus_per_worker: 8}", [], "cpu", 3, "8"),
        ("cluster: {num_workers: 3}", ["cluster.cpus_per_worker=2"], "cpu", 3, "2"),
        ("cluster: {num_workers: {min: 1, max: 5}}", [], "cpu", 5, "4"),
        ("", ["cluster.num_workers=7"], "gpu", 7, "4"),
        ("cluster: {cpus_per_worker: 2}", [], "local", 2, "2"),
    ],
)
def test_workers_and_cores_are_those_of_the_settings(
    more: str, overrides: list[str], overlay: str, group: int, cores: str, tmp_path: pathlib.Path
) -> None:
    words = [word for override in overrides for word in ("--set", override)]
    objects = render("train", configuration(tmp_path, more), *words, overlay=overlay)
    assert violations(objects) == []
    workers = manifests.cluster(objects.rayjob)["workerGroupSpecs"][0]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (group, group, group)
    assert workers["rayStartParams"]["num-cpus"] == cores
    reserved = workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert reserved == ("250m" if overlay == "local" else cores)
    # The driver uses what the cluster has: the settings, as its entry point changes them, say the same.
    resolved = loading.parse(
        objects.config_map["data"]["run.yaml"], "x", parsed(objects.rayjob["spec"]["entrypoint"])["set_"]
    )
    assert (resolved.cluster.workers.stop - 1, str(resolved.cluster.cpus_per_worker)) == (group, cores)
    assert resolved.telemetry.metrics_port == 8081


def test_worker_nodes_have_the_labels_that_the_settings_select(tmp_path: pathlib.Path) -> None:
    selector = "cluster: {label_selector: {kind: big, ray.io/accelerator-type: A100, zone: '!a'}}"
    objects = render("train", configuration(tmp_path, selector))
    assert violations(objects) == []
    # Ray gives its own labels, and a node without a label fulfils the negative condition.
    assert manifests.cluster(objects.rayjob)["workerGroupSpecs"][0]["labels"] == {"kind": "big"}


def test_all_options_have_their_place_in_the_pods(tmp_path: pathlib.Path) -> None:
    objects = render(
        "train",
        configuration(tmp_path),
        namespace="team",
        image="registry/rc:1",
        pull_secret="login",
        home="/data/team",
        claim="nfs",
        queue="raycurrent",
        env_secret=("minio",),
        node_selector=(("pool", "cpu"),),
        toleration=(rayjob.parse_toleration("spot=yes:NoSchedule"), rayjob.parse_toleration("x")),
        priority_class="low",
        head_memory="6Gi",
        worker_memory="16Gi",
    )
    assert [text for text in violations(objects) if "PersistentVolumeClaim/nfs" not in text] == []
    assert objects.rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "raycurrent"
    assert objects.namespace == objects.config_map["metadata"]["namespace"] == "team"
    for role, template in rayjob._pods(objects.rayjob):
        pod = template["spec"]
        assert pod["imagePullSecrets"] == [{"name": "login"}]
        assert pod["nodeSelector"] == {"pool": "cpu"}
        assert pod["priorityClassName"] == "low"
        assert pod["tolerations"] == [
            {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
            {"key": "x", "operator": "Exists"},
        ]
        (container,) = pod["containers"]
        assert container["image"] == "registry/rc:1"
        if role == "submitter":
            assert "envFrom" not in container
            continue
        assert container["envFrom"] == [{"secretRef": {"name": "minio"}}]
        assert {"name": "RAYCURRENT_HOME", "value": "/data/team"} in container["env"]
        assert {"name": "data", "persistentVolumeClaim": {"claimName": "nfs"}} in pod["volumes"]
        assert container["resources"]["limits"]["memory"] == {"head": "6Gi", "worker": "16Gi"}[role]
    assert list(yaml.safe_load_all(objects.to_yaml())) == [objects.rayjob, objects.config_map]


@pytest.mark.parametrize(("settings", "most"), [((), 2), (("cluster.num_workers={min: 1, max: 5}",), 5)])
def test_an_autoscaler_adds_workers_up_to_those_of_the_settings(
    settings: tuple[str, ...], most: int, tmp_path: pathlib.Path
) -> None:
    words = [configuration(tmp_path), *(word for setting in settings for word in ("--set", setting))]
    objects = render("train", *words, autoscaling=True)
    assert violations(objects) == []
    cluster = manifests.cluster(objects.rayjob)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (0, 0, most)
    assert group["template"]["spec"]["automountServiceAccountToken"] is False
    # Version 2 of the autoscaler replaces pods itself.
    assert all("restartPolicy" not in group["template"]["spec"] for group in (cluster["headGroupSpec"], group))
    assert render("train", *words).rayjob["metadata"]["name"] == objects.name


def test_with_an_autoscaler_stages_without_a_model_start_no_gpu_node(tmp_path: pathlib.Path) -> None:
    toleration = {"key": "spot", "operator": "Exists"}
    options: dict[str, Any] = {"overlay": "gpu", "autoscaling": True, "toleration": (toleration,)}
    objects = render("pipeline", configuration(tmp_path), **options)
    assert violations(objects) == []
    with_gpu, without = manifests.cluster(objects.rayjob)["workerGroupSpecs"]
    assert with_gpu["rayStartParams"] == {**without["rayStartParams"], "num-gpus": "1"}
    assert "nvidia" not in str(without)
    assert without["template"]["spec"]["tolerations"] == [toleration]
    assert with_gpu["groupName"] != without["groupName"]
    assert (without["minReplicas"], without["maxReplicas"]) == (0, with_gpu["maxReplicas"])


@pytest.mark.parametrize("verb", ["evaluate", "report", "demo"])
def test_verbs_without_a_job_in_the_overlays_run_too(verb: str) -> None:
    words = {"evaluate": ["--hypotheses", "h.txt", "--references", "/data/r.txt"], "report": ["runs/x"], "demo": []}
    objects = render(verb, *words[verb])
    assert violations(objects) == []
    entry_point = objects.rayjob["spec"]["entrypoint"]
    assert entry_point.startswith(f"python -m jobs {verb} ")
    assert ("telemetry.metrics_port=8081" in entry_point) == (verb == "demo")
    for pod in manifests.pods(objects.rayjob):
        assert pod.template["metadata"]["labels"]["app.kubernetes.io/component"] == verb


@pytest.mark.parametrize(
    ("verb", "words", "options", "message"),
    [
        ("translate", "--run r --input - --output -", {}, "--input: a Ray job has no standard input"),
        ("translate", "--run ~/r --input i --output o", {}, "--run: '~/r' is relative to this machine"),
        ("translate", "--run r --input i --output o --set decoding.beem_size=2", {}, "decoding.beem_size"),
        ("translate", "--run r --input i --output o --set decoding.beam_size=two", {}, "decoding.beam_size"),
        ("translate", "--run r --input i --output o --set training.epochs=2", {}, "cannot change after training"),
        ("translate", "--run r --input i --output o --set scoring.lanes=2", {}, "has no effect on translate"),
        ("translate", "--run r --input i --output o --set cluster.adress=x", {}, "cluster.adress"),
        ("train", "CONFIG --set training.epoch=1", {}, "training.epoch"),
        ("train", "CONFIG --set cluster.address=local", {}, "cluster.address: a RayJob has a Ray cluster of its own"),
        ("train", "CONFIG --set cluster.use_gpu=true", {}, "cluster.use_gpu: the overlay cpu has no GPUs"),
        ("train", "CONFIG --set corpus.train.text=[~/x]", {}, "corpus.*is relative to this machine"),
        ("train", "CONFIG", {"overlay": "s3", "claim": "x"}, "--claim: the overlay s3 has no shared volume"),
        (
            "train",
            "CONFIG",
            {"overlay": "kueue", "autoscaling": True},
            "--autoscaling: Kueue admits jobs of a fixed size",
        ),
        ("train", "CONFIG", {"queue": "q", "autoscaling": True}, "--autoscaling: Kueue admits jobs of a fixed size"),
        ("train", "CONFIG", {"overlay": "k8s/nowhere.yaml"}, "--overlay: k8s/nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_created(
    verb: str, words: str, options: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    arguments = [configuration(tmp_path) if word == "CONFIG" else word for word in words.split()]
    with pytest.raises(errors.UsageError, match=message):
        render(verb, *arguments, **options)


def test_settings_that_depend_on_those_of_the_run_are_left_to_the_job() -> None:
    # With `unit: stream` in the run, lanes have an effect; from here nobody knows.
    words = "--run r --input i --output o --set scoring.lanes=4 --set scoring.mixture.weights=[1]"
    assert "--set=scoring.lanes=4" in render("score", *words.split()).rayjob["spec"]["entrypoint"]


@pytest.mark.parametrize("text", ["", "=x", "k:Sometimes", ":NoSchedule"])
def test_a_toleration_that_is_no_taint_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="--toleration"):
        rayjob.parse_toleration(text)
