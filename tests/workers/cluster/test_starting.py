"""The start of Ray: signals are heard while it lasts, and nothing of it is left."""

import importlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.config import schema
from workers.cluster import signals, starting, watchdog

REPOSITORY = Path(__file__).resolve().parents[3]
# A start that never ends: it starts process after process, each with the private folder in its command line.
ENDLESS = """
import subprocess, sys, time
from pathlib import Path
from core import errors
from core.config import schema
from workers.cluster import session as sessions

def init(self, address):
    while True:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(self.folder / "r")])
        (self.folder / "r").mkdir(exist_ok=True)
        print(self.folder, flush=True)
        time.sleep(0.3)

sessions.Session._init = init
session = sessions.Session(schema.ClusterConfig(address="local"))
try:
    with session:
        session.start_ray()
except errors.InterruptedRunError as error:
    print(error, flush=True)
    sys.exit(128 + session.signal)
"""


def endless() -> tuple["subprocess.Popen[str]", str]:
    """Starts a process whose start of Ray never ends; returns it and its private folder."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def processes_of(folder: str) -> list[str]:
    command_lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command_lines.append(entry.read_text())
        except OSError:
            continue
    return [text for text in command_lines if f"{folder}/" in text]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_the_start_and_leaves_nothing(number: signal.Signals) -> None:
    process, folder = endless()
    time.sleep(0.5)
    assert processes_of(folder)
    process.send_signal(number)
    sent_s = time.monotonic()
    printed, _ = process.communicate(timeout=30)
    assert time.monotonic() - sent_s < 3 + starting.LEAVE_S  # 3 s, and as much again as a busy machine may take
    assert process.returncode == 128 + number
    assert "stopped while Ray was starting; run the command again" in printed
    assert processes_of(folder) == []
    assert not Path(folder).exists()


def test_the_second_signal_ends_it_at_once() -> None:
    process, folder = endless()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    sent_s = time.monotonic()
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - sent_s < 1
    watchdog.kill_processes_of(Path(folder))


def test_an_error_of_the_start_is_raised_in_the_caller(tmp_path: Path) -> None:
    def fail() -> None:
        raise errors.ClusterError("no")

    with pytest.raises(errors.ClusterError, match=r"^no$"):
        starting.Starter(fail, tmp_path, is_local=False).run(signals.StopFlag())


def test_the_thread_lives_until_it_is_released(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []
    starter = starting.Starter(lambda: threads.append(threading.current_thread()), tmp_path, is_local=False)
    starter.run(signals.StopFlag())
    assert threads[0].is_alive()
    assert threads[0] is not threading.main_thread()
    starter.release()
    threads[0].join(timeout=10)
    assert not threads[0].is_alive()


def test_ray_waits_for_its_node_as_long_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    services: Any = importlib.import_module("ray._private.services")
    state: Any = importlib.import_module("ray._private.state")
    asked: list[str] = []

    def not_known_yet(_: object, node: str) -> str:
        asked.append(node)
        if len(asked) % 4:
            raise RuntimeError("the node is not known yet")
        return node

    # Beneath Ray's own function, so that another one in another version is noticed.
    monkeypatch.setattr(state.GlobalState, "get_node", not_known_yet)
    with starting.patient(60.0):
        assert services.get_node("127.0.0.1:1", "node") == "node"
    assert asked == ["node"] * 4
    with starting.patient(0.0), pytest.raises(RuntimeError, match="not known yet"):
        services.get_node("127.0.0.1:1", "node")
    with pytest.raises(RuntimeError, match="not known yet"):
        services.get_node("127.0.0.1:1", "node")
    node: Any = importlib.import_module("ray._private.node")
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__), "the node asks by another name"


def test_the_limits_of_the_start_follow_the_setting() -> None:
    settings = schema.ClusterConfig(start_timeout_s=600.0)
    limits = starting.limits(settings.start_timeout_s)
    assert (limits["RAY_gcs_server_port_wait_time_s"], limits["RAY_agent_register_timeout_ms"]) == ("600", "600000")


@pytest.mark.ray
@pytest.mark.parametrize(("number", "delay_s"), [(signal.SIGTERM, 0.5), (signal.SIGINT, 2.0), (signal.SIGTERM, 5.0)])
def test_a_signal_at_any_time_of_a_real_start_is_heard(number: signal.Signals, delay_s: float) -> None:
    script = ENDLESS.replace("sessions.Session._init = init", "print(1, flush=True)").replace(
        "session.start_ray()", "print(session.folder, flush=True); session.start_ray(); print(2, flush=True)\n"
        "        while not session.should_stop(): time.sleep(0.1)\n"
        "        raise errors.InterruptedRunError('stopped later')",
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    folder = process.stdout.readline().strip()
    time.sleep(delay_s)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, printed
    assert "stopped" in printed
    assert processes_of(folder) == []
    assert not Path(folder).exists()
