"""`submit`, `list`, `logs` and `stop` with a recording kubectl: calls, retries, questions, exit codes."""

import json
import os
import pathlib
import signal
from typing import Any

import pytest
import typer
import yaml

from core import errors
from jobs import __main__ as main
from jobs import kubernetes, rayjob, submitted
from tests.k8s import recording
from tests.k8s.test_rayjob import configuration, render
from workers.cluster import kubectl, signals

RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "jobId": "j1", "rayClusterName": "c1"}
DONE = {**RUNNING, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
LOG = '2026-11-30 INFO cli.py:41 -- Job submission server address: http://x\ntrain: 1 of 2\nexit=0\n{"step": 2}\n'
GET = r" get rayjobs\.ray\.io "
PODS = r" get pods --selector batch"
POD = r" get pods [a-z]"


@pytest.fixture
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> recording.Kubectl:
    """Returns a kubectl without answers, first on the PATH, and makes waiting short."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, seconds in (("POLL_S", 0.01), ("WAITING_EVERY_S", 0.0)):
        monkeypatch.setattr(kubernetes, name, seconds)
    monkeypatch.setattr(kubectl, "POLL_S", 0.01)
    return recording.Kubectl(folder)


@pytest.fixture
def objects(tmp_path: pathlib.Path) -> rayjob.Objects:
    return render("train", configuration(tmp_path))


def client() -> kubectl.Client:
    return kubectl.Client("raycurrent")


def follow(fake: recording.Kubectl, number: int | None = None, answer: str = "follow") -> tuple[Any, list[str]]:
    lines: list[str] = []
    flag = signals.StopFlag()
    flag.signal = number
    return kubernetes.Follower(client(), "x", flag, lines.append, lambda: answer).follow(), lines


def command(*words: str) -> int:
    return main.main(list(words))


def test_the_rayjob_is_created_first_and_owns_the_config_map(fake: recording.Kubectl, objects: rayjob.Objects) -> None:
    fake.answer(GET)
    fake.answer(" delete configmap/")
    fake.answer(" create ", recording.rayjob(objects.name), {})
    report = kubernetes.run(objects, client(), replace=False, wait=False)
    assert report == {"verb": "submit", "submitted": "train", "rayjob": objects.name, "namespace": "raycurrent"}
    job, config_map = (call.documents for call in fake.calls("create"))
    assert job == objects.rayjob
    assert config_map == objects.owned_by("uid-1")
    assert fake.verbs() == ["get rayjobs.ray.io", "create", f"delete configmap/{objects.name}", "create"]


def test_two_runs_of_a_verb_stand_side_by_side(fake: recording.Kubectl, tmp_path: pathlib.Path) -> None:
    fake.answer(GET)
    fake.answer(" delete configmap/")
    fake.answer(" create ", recording.rayjob("a"), {}, recording.rayjob("b"), {})
    for root in ("runs/a", "runs/b"):
        kubernetes.run(render("train", configuration(tmp_path, root=root)), client(), replace=False, wait=False)
    made = [call.documents for call in fake.calls("create")]
    assert len({document["metadata"]["name"] for document in made}) == 2
    assert not [verb for verb in fake.verbs() if verb.startswith("delete rayjob")]
    for job, config_map in (made[:2], made[2:]):
        (volume,) = (
            volume
            for volume in job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
            if "configMap" in volume
        )
        assert volume["configMap"]["name"] == config_map["metadata"]["name"]


def test_a_start_that_was_cut_short_is_completed_by_the_same_command(
    fake: recording.Kubectl, objects: rayjob.Objects
) -> None:
    annotations = objects.rayjob["metadata"]["annotations"]
    fake.answer(GET, recording.rayjob(objects.name, uid="uid-7", annotations=annotations))
    fake.answer(" get configmap ")
    fake.answer(" delete configmap/")
    fake.answer(" create ", {})
    kubernetes.run(objects, client(), replace=False, wait=False)
    (made,) = fake.calls("create")
    assert made.documents == objects.owned_by("uid-7")


@pytest.mark.parametrize("is_same", [True, False])
def test_a_run_that_is_going_on_is_refused(fake: recording.Kubectl, objects: rayjob.Objects, is_same: bool) -> None:
    annotations = objects.rayjob["metadata"]["annotations"] if is_same else {rayjob.CONTENT: "another"}
    fake.answer(GET, recording.rayjob(objects.name, RUNNING, annotations=annotations))
    # Of another configuration it is refused even before it has its ConfigMap.
    fake.answer(" get configmap ", objects.owned_by("uid-1") if is_same else "")
    with pytest.raises(errors.LockedError, match=r"is there already \(Running, RUNNING\).*--replace"):
        kubernetes.run(objects, client(), replace=False, wait=False)
    assert not list(fake.calls("create"))
    assert not list(fake.calls("delete"))


@pytest.mark.parametrize(("status", "replace"), [(RUNNING, True), (DONE, False)])
def test_a_finished_job_is_replaced_and_a_running_one_if_asked(
    fake: recording.Kubectl, objects: rayjob.Objects, status: dict[str, str], replace: bool
) -> None:
    fake.answer(GET, recording.rayjob(objects.name, status))
    fake.answer(" delete ")
    fake.answer(" create ", recording.rayjob(objects.name), {})
    kubernetes.run(objects, client(), replace=replace, wait=False)
    # The old driver may be saving a checkpoint: the new one would find its lock.
    assert all("--cascade=foreground" in call.words for call in fake.calls("delete"))
    assert fake.verbs()[1:] == [
        f"delete rayjobs.ray.io/{objects.name}", "create", f"delete configmap/{objects.name}", "create"
    ]  # fmt: skip


def test_following_waits_for_the_pod_and_ends_with_the_document(fake: recording.Kubectl) -> None:
    starting = {"jobDeploymentStatus": "Initializing", "rayClusterName": "c1"}
    status = [recording.rayjob("x", {}), *[recording.rayjob("x", starting)] * 3, recording.rayjob("x", RUNNING)]
    fake.answer(GET, *status, recording.rayjob("x", DONE))
    fake.answer(
        PODS,
        *[recording.items()] * 3,
        recording.items(recording.pod("s", "Pending")),
        recording.items(recording.pod("s", "Running")),
    )
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pending = recording.pod("head", "Pending", containerStatuses=[{"state": waiting}])
    unscheduled = recording.pod(
        "w", "Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]
    )
    fake.answer(" get pods --selector ray.io/cluster=c1", recording.items(pending, unscheduled))
    fake.answer(POD, recording.pod("s", "Succeeded"))
    fake.answer(" logs s --follow", LOG)
    document, lines = follow(fake)
    assert document == {"step": 2}
    assert lines == [
        "submit: x: Initializing, cluster c1",
        "submit: head: ImagePullBackOff: no such image",
        "submit: w: 0/3 nodes",
        "submit: x: Running, cluster c1",
        "train: 1 of 2",
    ]


def test_a_second_submitter_pod_does_not_repeat_the_log(fake: recording.Kubectl) -> None:
    fake.answer(GET, *[recording.rayjob("x", RUNNING)] * 2, recording.rayjob("x", DONE))
    first, second = recording.pod("s1", "Failed"), recording.pod("s2", "Succeeded")
    fake.answer(PODS, recording.items(first), recording.items(first, second))
    fake.answer(f"{POD}1", first)
    fake.answer(f"{POD}2", second)
    fake.answer(" logs s1 ", "train: 1 of 2\ntrain: 1 of 2\n")
    fake.answer(" logs s2 ", 'train: 1 of 2\ntrain: 1 of 2\ntrain: 1 of 2\ntrain: 2 of 2\nexit=0\n{"step": 2}\n')
    document, lines = follow(fake)
    assert document == {"step": 2}
    assert lines[1:] == ["train: 1 of 2"] * 3 + ["train: 2 of 2"]


def test_a_broken_connection_is_taken_up_again(fake: recording.Kubectl) -> None:
    fake.answer(GET, *[recording.rayjob("x", RUNNING)] * 2, recording.rayjob("x", DONE))
    fake.answer(PODS, recording.items(recording.pod("s", "Running")))
    fake.answer(POD, recording.pod("s", "Running"), recording.pod("s", "Succeeded"))
    fake.answer(" logs s ", "a\n", 'a\nb\nexit=0\n{"step": 2}\n')
    assert follow(fake) == ({"step": 2}, ["submit: x: Running, cluster c1", "a", "b"])


def test_a_retry_is_followed_in_its_own_cluster(fake: recording.Kubectl) -> None:
    again = {**RUNNING, "jobId": "j2", "rayClusterName": "c2", "failed": 1, "reason": "AppFailed"}
    done = {**again, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    fake.answer(GET, *(recording.rayjob("x", status) for status in (RUNNING, again, done)))
    first, second = recording.pod("s1", "Failed"), recording.pod("s2", "Succeeded")
    fake.answer(PODS, recording.items(first), recording.items(second))
    fake.answer(f"{POD}1", "")
    fake.answer(f"{POD}2", second)
    fake.answer(" logs s1 ", "train: 1 of 2\nexit=8\n")
    fake.answer(" logs s2 ", 'train: 1 of 2\nexit=0\n{"step": 2}\n')
    document, lines = follow(fake)
    assert document == {"step": 2}
    assert lines[1:] == [
        "train: 1 of 2",
        "submit: attempt 1 failed (AppFailed); the run resumes in a new cluster",
        "submit: x: Running, cluster c2",
        "train: 1 of 2",
    ]


@pytest.mark.parametrize(
    ("status", "log", "code"),
    [
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}, "lost\nexit=8\n", 8),
        (
            {
                "jobStatus": "FAILED",
                "jobDeploymentStatus": "Failed",
                "message": "command failed with exit code 1, last",
            },
            "Traceback\n",
            1,
        ),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "failed with exit code -9"}, "", 137),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, "corpus: is not there\nexit=3\n", 3),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, "saved\nexit=143\n", 143),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, "", 143),
    ],
)
def test_submit_ends_with_the_exit_code_of_the_command(
    fake: recording.Kubectl, status: dict[str, str], log: str, code: int
) -> None:
    fake.answer(GET, recording.rayjob("x", {**RUNNING, **status}))
    fake.answer(PODS, recording.items(recording.pod("s", "Failed")))
    fake.answer(POD, recording.pod("s", "Failed"))
    fake.answer(" logs s ", log)
    with pytest.raises(typer.Exit) as end:
        follow(fake)
    assert end.value.exit_code == code


@pytest.mark.parametrize("reason", ["PreRunningDeadlineExceeded", "SubmissionFailed", "DeadlineExceeded"])
def test_a_job_that_could_not_run_is_a_cluster_error(fake: recording.Kubectl, reason: str) -> None:
    status = {"jobDeploymentStatus": "Failed", "reason": reason, "message": "The RayJob\nwaited"}
    fake.answer(GET, recording.rayjob("x", status))
    fake.answer(PODS, recording.items())
    with pytest.raises(errors.ClusterError, match=f"could not run the job: {reason} The RayJob waited"):
        follow(fake)


def test_a_success_whose_log_is_gone_is_a_success(fake: recording.Kubectl) -> None:
    fake.answer(GET, recording.rayjob("x", DONE))
    fake.answer(PODS, recording.items())
    assert follow(fake)[0] is None


def test_outages_of_the_api_server_are_waited_for(fake: recording.Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answer(GET, code=1, stderr="Unable to connect to the server: EOF\n")
    monkeypatch.setattr(kubernetes, "SILENCE_TIMEOUT_S", 3.0)
    with pytest.raises(errors.ClusterError, match="kubectl get: Unable to connect to the server: EOF"):
        follow(fake)
    assert len(fake.verbs()) > 1


@pytest.mark.parametrize(("number", "answer"), [(signal.SIGINT, "stop"), (signal.SIGTERM, "detach")])
def test_a_signal_stops_the_job_once_through_its_head(fake: recording.Kubectl, number: int, answer: str) -> None:
    stopped = {**RUNNING, "jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}
    fake.answer(GET, *[recording.rayjob("x", RUNNING)] * 2, recording.rayjob("x", stopped))
    fake.answer(
        " get pods --selector ray.io/cluster=c1,ray.io/node-type=head", recording.items(recording.pod("h", "Running"))
    )
    fake.answer(" exec ")
    fake.answer(PODS, recording.items(recording.pod("s", "Succeeded")))
    fake.answer(POD, recording.pod("s", "Succeeded"))
    fake.answer(" logs s ", "saved\nexit=143\n")
    with pytest.raises(typer.Exit) as end:
        follow(fake, number, answer)
    assert end.value.exit_code == 143
    (call,) = fake.calls("exec")
    assert call.words[call.words.index("exec") :] == [
        *("exec", "h", "--container", "ray-head", "--", "ray", "job", "stop", "--no-wait"),
        *("--address", "http://127.0.0.1:8265", "j1"),
    ]


def test_a_detached_job_is_not_stopped(fake: recording.Kubectl) -> None:
    with pytest.raises(errors.InterruptedRunError, match="logs x --kubernetes --namespace raycurrent --follow"):
        follow(fake, signal.SIGINT, "detach")
    assert fake.verbs() == []


def test_stop_deletes_a_job_that_has_not_begun_and_leaves_one_that_has_ended(fake: recording.Kubectl) -> None:
    fake.answer(GET, recording.rayjob("x", {"jobDeploymentStatus": "Suspended"}), recording.rayjob("x", DONE), "")
    fake.answer(" delete ")
    jobs = submitted.RayJobs(client())
    assert jobs.stop("x")["outcome"] == "deleted"
    assert list(fake.calls("rayjobs.ray.io/x"))
    assert jobs.stop("x")["outcome"] == "ended"
    with pytest.raises(errors.UsageError, match="there is no RayJob x in namespace raycurrent"):
        jobs.stop("x")


def test_list_shows_name_verb_run_and_state(fake: recording.Kubectl, capfd: pytest.CaptureFixture[str]) -> None:
    fake.answer(" get rayjobs", recording.items(recording.rayjob("a-train-1", RUNNING), recording.rayjob("b", DONE)))
    assert command("list", "--kubernetes") == 0
    out, log = capfd.readouterr()
    assert [job["status"] for job in json.loads(out)["jobs"]] == ["RUNNING", "SUCCEEDED"]
    assert "a-train-1  train  RUNNING    Running\n" in log
    assert next(fake.calls("get")).words[-4:] == ["--selector", "app.kubernetes.io/name=raycurrent", "--output", "json"]


def test_logs_prints_the_newest_pod_on_stdout(fake: recording.Kubectl, capfd: pytest.CaptureFixture[str]) -> None:
    fake.answer(GET, recording.rayjob("x", RUNNING))
    fake.answer(PODS, recording.items(recording.pod("s2", "Running"), recording.pod("s1", "Failed")))
    fake.answer(" logs s2", "one\ntwo")
    assert command("logs", "x", "--kubernetes") == 0
    out, log = capfd.readouterr()
    assert out == "one\ntwo\n"
    assert json.loads(log.splitlines()[-1])["verb"] == "logs"


@pytest.mark.parametrize(
    ("stderr", "code", "message"),
    [
        ('error: the server doesn\'t have a resource type "rayjobs"\n', 2, "install the KubeRay operator"),
        ("Error from server (Forbidden): rayjobs is forbidden\n", 8, "rayjobs is forbidden; check the cluster"),
    ],
)
def test_errors_of_kubectl_are_one_line(
    fake: recording.Kubectl, stderr: str, code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.answer(" get ", code=1, stderr=stderr)
    assert command("list", "--kubernetes") == code
    assert message in capfd.readouterr().err.splitlines()[-2]


def test_kubectl_that_is_not_installed_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("stop", "x", "--kubernetes") == 2
    assert "--kubernetes: kubectl is not on the PATH" in capfd.readouterr().err


def test_a_dry_run_prints_the_objects_and_calls_nothing(
    fake: recording.Kubectl, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path, "cluster: {num_workers: 3}\n")
    assert command("submit", "train", path, "--kubernetes", "--dry-run", "--image", "r/x:1") == 0
    job, config_map = yaml.safe_load_all(capfd.readouterr().out)
    assert (job["kind"], config_map["kind"]) == ("RayJob", "ConfigMap")
    assert fake.verbs() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "list", "--kubernetes"], "'list' cannot be submitted"),
        (["submit", "train", "CONFIG", "--image", "x:1"], "--image: is for RayJobs; add --kubernetes"),
        (["submit", "train", "CONFIG", "--namespace", "n"], "--namespace: is for RayJobs; add --kubernetes"),
        (["submit", "train", "CONFIG", "--kubernetes", "--num-cpus", "1"], "--num-cpus: is for Ray's own job server"),
        (["submit", "train", "CONFIG", "--kubernetes", "--node-selector", "x"], "--node-selector: 'x' is not a label"),
        (["submit", "train", "CONFIG", "--kubernetes", "--home", "runs"], "--home: 'runs' is relative"),
        (["submit", "train", "CONFIG", "--kubernetes", "--home", "s3://k:secret@b"], "holds credentials; leave them"),
        (
            ["submit", "train", "CONFIG", "--kubernetes", "--set", "corpus.train.text=[s3://k:s@b/x]"],
            "holds credentials",
        ),
        (["submit", "train", "nowhere.yaml", "--kubernetes"], "nowhere.yaml: there is no such file"),
        (["list", "--kubernetes", "--address", "http://127.0.0.1:1"], "--address: is for Ray's own job server"),
    ],
)
def test_mistakes_end_with_2_and_call_nothing(
    fake: recording.Kubectl, words: list[str], message: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path)
    assert command(*(path if word == "CONFIG" else word for word in words)) == 2
    assert message in capfd.readouterr().err
    assert fake.verbs() == []


def test_submit_says_where_the_results_are(
    fake: recording.Kubectl, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.answer(GET, "", recording.rayjob("x", DONE))
    fake.answer(" delete ")
    fake.answer(" create ", recording.rayjob("x"), {})
    fake.answer(PODS, recording.items(recording.pod("s", "Succeeded")))
    fake.answer(POD, recording.pod("s", "Succeeded"))
    fake.answer(" logs s ", LOG)
    assert command("submit", "train", configuration(tmp_path), "--kubernetes") == 0
    out, log = capfd.readouterr()
    assert json.loads(out) == {"step": 2}
    assert "results: /data/runs/x on the claim raycurrent-data\n" in log
    assert "kubectl cp raycurrent/raycurrent-files:/data/runs/x x\n" in log
