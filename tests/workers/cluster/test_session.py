"""Ray sessions: start and connection, authentication, signals, and errors of a cluster without free resources."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions

from core import errors
from core.config import schema
from workers.cluster import nodes, signals
from workers.cluster import session as sessions
from workers.fanout import executor as executors

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No cluster around this process, and a home without a token."""
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", *TOKEN_VARIABLES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def session_with(**settings: Any) -> sessions.Session:
    return sessions.Session(schema.ClusterConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "num_tasks", "expected"),
    [
        ({"address": "none", "num_workers": 8}, 100, False),
        ({"address": "auto", "num_workers": 2}, 100, True),
        ({"address": "auto", "num_workers": 2}, None, True),
        ({"address": "auto", "num_workers": 2}, 1, False),
        ({"address": "auto", "num_workers": 1}, 100, False),
        ({"address": "local", "num_workers": 1}, 100, False),
        ({"address": "local", "num_workers": 1, "use_gpu": True}, 100, True),
        ({"address": "head:6379", "num_workers": 1}, 100, True),
        ({"address": "auto", "num_workers": schema.WorkerRange(min=1, max=2)}, 100, True),
    ],
)
def test_ray_is_used_only_for_work_that_can_be_shared(
    outside: Path, settings: dict[str, Any], num_tasks: int | None, expected: bool
) -> None:
    assert session_with(**settings).uses_ray(num_tasks) is expected


def test_inside_a_ray_job_even_one_worker_uses_its_cluster(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert session_with(address="auto", num_workers=1).uses_ray(2)


def test_an_in_process_stage_uses_the_threads_of_one_worker(outside: Path) -> None:
    with session_with(address="none", num_workers=4, cpus_per_worker=3) as session:
        executor = session.executor("prepare", 100)
    assert isinstance(executor, executors.InProcess)
    assert executor.threads == 3


def test_a_session_leaves_nothing_behind(outside: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with session_with(address="none") as session:
        folder = session.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert not folder.exists()


def test_the_first_signal_sets_the_stop_flag() -> None:
    flag = signals.StopFlag()
    flag.install()
    try:
        assert not flag()
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag()
        assert flag.signal == signal.SIGTERM
    finally:
        flag.restore()


def test_a_signal_after_a_request_to_stop_counts_as_the_first() -> None:
    flag = signals.StopFlag()
    flag.install()
    try:
        flag.request()
        assert flag()
        assert flag.signal == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)  # a second one would end this process
        assert flag.signal == signal.SIGINT
    finally:
        flag.restore()


def test_the_second_signal_ends_the_process_at_once() -> None:
    script = (
        "import os, signal, time; from workers.cluster import signals; flag = signals.StopFlag(); flag.install()\n"
        "os.kill(os.getpid(), signal.SIGTERM); assert flag()\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 130


@pytest.mark.parametrize(
    "failure", [Exception("The current node timed out during startup."), ConnectionError("refused")]
)
def test_a_cluster_that_does_not_start_is_a_one_line_error(
    outside: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(**_: Any) -> None:
        raise failure

    ray = types.SimpleNamespace(init=fail, is_initialized=lambda: False, shutdown=lambda: None, exceptions=exceptions)
    monkeypatch.setattr(nodes, "ray", lambda: ray)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/token")
    down = pytest.raises(errors.ClusterError, match=rf"^cluster\.address: head:6379: {failure}; is the cluster up\?$")
    with session_with(address="head:6379", num_workers=2) as session, down as raised:
        session.start_ray()
    assert raised.value.exit_code == 8


def test_a_local_cluster_that_does_not_start_says_what_to_do(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Exception("The current node timed out during startup. This could happen because")

    def fail(**_: Any) -> None:
        raise failure

    ray = types.SimpleNamespace(init=fail, is_initialized=lambda: False, shutdown=lambda: None, exceptions=exceptions)
    monkeypatch.setattr(nodes, "ray", lambda: ray)
    refusal = pytest.raises(errors.ClusterError, match=r"local: Ray did not start .*; on a busy .*start_timeout_s")
    with session_with(address="local", num_workers=2) as session, refusal:
        session.start_ray()


def test_a_bug_is_not_mistaken_for_an_unreachable_cluster(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise TypeError("init() got an unexpected keyword argument")

    monkeypatch.setattr(nodes, "ray", lambda: types.SimpleNamespace(init=fail, exceptions=exceptions))
    with pytest.raises(TypeError):
        sessions._init("head:6379", {})


def test_an_autoscaler_is_asked_for_what_is_missing_and_released_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[Any] = []

    def total() -> dict[str, float]:
        return {"CPU": 4.0, "GPU": 2.0} if requests else {"CPU": 1.0}

    monkeypatch.setattr(nodes, "ray", lambda: types.SimpleNamespace(cluster_resources=total, exceptions=exceptions))
    monkeypatch.setattr(nodes, "request_resources", lambda *request: requests.append(request))
    session = session_with(address="head:6379", num_workers=2, cpus_per_worker=2, use_gpu=True)
    session.joined = True
    session.require(2)
    assert requests == [([{"CPU": 2.0, "GPU": 1.0}] * 2, {}), ([], {})]
    session.require(2)
    assert len(requests) == 2, "nothing was missing"


def test_a_run_that_is_stopped_while_it_waits_leaves_no_request_to_the_autoscaler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[Any] = []
    ray = types.SimpleNamespace(cluster_resources=lambda: {"CPU": 1.0}, exceptions=exceptions)
    monkeypatch.setattr(nodes, "ray", lambda: ray)
    monkeypatch.setattr(nodes, "request_resources", lambda *request: requests.append(request))
    session = session_with(address="head:6379", num_workers=2)
    session.joined = True
    session.should_stop.request()
    with pytest.raises(errors.InterruptedRunError):
        session.require(2)
    assert requests == [([{"CPU": 1.0}] * 2, {}), ([], {})]


def test_only_nodes_with_the_labels_count_and_an_autoscaler_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {"CPU": 8.0}
    machines = [
        {"Alive": True, "Labels": {"kind": "small"}, "Resources": cores},
        {"Alive": False, "Labels": {"kind": "big"}, "Resources": cores},
    ]
    requests: list[Any] = []

    def ask(bundles: list[Any], selector: dict[str, str]) -> None:
        requests.append((bundles, selector))
        machines.append({"Alive": True, "Labels": {"kind": "big"}, "Resources": {"CPU": 2.0}})

    ray = types.SimpleNamespace(nodes=lambda: machines, exceptions=exceptions)
    monkeypatch.setattr(nodes, "ray", lambda: ray)
    monkeypatch.setattr(nodes, "request_resources", ask)
    session = session_with(address="head:6379", num_workers=2, label_selector={"kind": "big"})
    session.joined = True
    session.require(2)
    assert requests == [([{"CPU": 1.0}] * 2, {"kind": "big"}), ([], {})]


def test_a_local_cluster_has_no_nodes_to_select(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refused = pytest.raises(errors.UsageError, match=r"cluster.label_selector: the local cluster has one node")
    with refused, session_with(address="auto", num_workers=2, label_selector={"kind": "big"}):
        pass


@pytest.mark.ray
def test_missing_resources_are_reported_at_once(ray_session: sessions.Session) -> None:
    started_s = time.monotonic()
    with pytest.raises(errors.ClusterError, match="1000 workers need 1000 CPU, the cluster has 3 CPU"):
        ray_session.require(1000)
    no_gpu = pytest.raises(errors.ClusterError, match="1 workers need 1 CPU, 1 GPU, the cluster has 3 CPU, 0 GPU")
    with session_with(address="local", num_workers=1, use_gpu=True) as session, no_gpu:
        session.executor("prepare", 5)  # runs no model, so it needs no GPU
        session.executor("translate", 5, runs_model=True)
    assert time.monotonic() - started_s < 10


@pytest.mark.ray
def test_a_pool_lives_as_long_as_its_stage(ray_session: sessions.Session) -> None:
    with session_with(address="local", num_workers=2) as session:
        first = session.executor("prepare", 5)
        assert session.executor("prepare", 7) is first
        assert session.executor("prepare", 1) is not first
        assert session.executor("score", 5) is not first


TWO_NODES = """
import sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from core import errors
from core.config import schema
from core.storage import location
from workers.cluster import nodes
from workers.cluster import session as sessions

machines = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
machines.add_node(num_cpus=1)
run = location.Location.parse(sys.argv[1])
try:
    settings = schema.ClusterConfig(address=machines.address, num_workers=2)
    with sessions.Session(settings, shared=(run,), metrics_folder=run.join("metrics")) as session:
        session.start_ray()
        session.export_from_all_nodes()
        print("targets", len(session.targets()))
        nodes._read_or_nothing = lambda path: b"" # what a node answers that does not see the folder
        try:
            nodes.check_shared([run])
        except errors.UsageError as error:
            print(error)
finally:
    machines.shutdown()
print("left", sorted(path.name.split("-")[0] for path in Path(sys.argv[1]).iterdir()))
"""


LABELLED = """
import functools, sys
import ray
from ray.cluster_utils import Cluster
from core.config import schema
from core.storage import location
from workers.cluster import session as sessions
from workers.fanout import executor
from workers.train import launch

machines = Cluster(initialize_head=True, head_node_args=dict(num_cpus=4, include_dashboard=False))
machines.add_node(num_cpus=2, labels={"kind": "big"})

def labels():
    here = ray.get_runtime_context().get_node_id()
    return next(node["Labels"].get("kind") for node in ray.nodes() if node["NodeID"] == here)

def run_rank(job, context, callbacks):
    return labels()

try:
    settings = schema.ClusterConfig(address=machines.address, num_workers=2, label_selector={"kind": "big"})
    with sessions.Session(settings) as session:
        session.start_ray()
        pool = session.executor("translate", 6, runs_model=True)
        tasks = [executor.Task(str(number), number) for number in range(6)]
        found = set()
        pool.run("translate", tasks, lambda: lambda _: labels(), lambda _, kind: found.add(kind), executor.Monitor())
        print("translated on", *found)
        root = location.Location.parse(sys.argv[1])
        print("trained on", launch.launch("job", run_rank, root, session, print))
finally:
    machines.shutdown()
"""


@pytest.mark.ray
def test_workers_that_run_a_model_are_on_the_nodes_that_are_selected(outside: Path) -> None:
    done = _run_with_machines(LABELLED, outside)
    assert "translated on big\n" in done.stdout, done.stderr
    assert "trained on big\n" in done.stdout, done.stderr


GROWING = """
import functools, time
import ray
from ray.cluster_utils import Cluster
from core.config import schema
from workers.cluster import session as sessions
from workers.fanout import executor

machines = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
more = []

def work(_):
    time.sleep(0.2)
    return ray.get_runtime_context().get_node_id()

try:
    with sessions.Session(schema.ClusterConfig(address=machines.address, num_workers=3)) as session:
        session.start_ray()
        head = ray.get_runtime_context().get_node_id()
        done = []

        def count(task, node):
            done.append(node)
            others = len(done) - done.count(head)
            if len(done) == 5:
                assert others == 0
                more.append(machines.add_node(num_cpus=2, wait=False))
            if others == 10 and len(more) == 1:
                more.append(None)
                machines.remove_node(more[0], allow_graceful=False)

        pool = session.executor("translate", 2000)
        is_over = lambda: len(more) == 2 and done[-20:] == [head] * 20  # a node came, worked and left
        tasks = [executor.Task(str(number), number) for number in range(2000)]
        try:
            pool.run("translate", tasks, lambda: work, count, executor.Monitor(should_stop=is_over))
        except Exception as error:
            print(type(error).__name__)
        print("parts", len(done), "on the node that came and left", len(done) - done.count(head))
finally:
    machines.shutdown()
"""


@pytest.mark.ray
def test_workers_join_with_a_node_that_comes_and_leave_with_it(outside: Path) -> None:
    done = _run_with_machines(GROWING, outside)
    assert "InterruptedRunError\n" in done.stdout, done.stderr  # not a part that was given up
    joined = re.search(r"on the node that came and left (\d+)", done.stdout)
    assert joined
    assert int(joined[1]) >= 10


@pytest.mark.ray
def test_two_nodes_are_probed_for_shared_folders_and_both_export(outside: Path) -> None:
    done = _run_with_machines(TWO_NODES, outside)
    lines = done.stdout.splitlines()
    assert "targets 2" in lines, done.stderr
    assert any("does not see this folder; use one that all nodes share" in line for line in lines), done.stdout
    assert "left ['metrics']" in lines


def _run_with_machines(program: str, outside: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program that starts several nodes, with a folder for its run."""
    short = sessions.private_folder()
    environment = {
        **os.environ,
        "RAY_TMPDIR": str(short),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [sys.executable, "-c", program, str(outside / "run")]
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    finally:
        shutil.rmtree(short, ignore_errors=True)
