"""The watchdog of a local cluster: whatever ends the driver, nothing of the cluster stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# Two processes of a cluster, one by its command line, and one that has a title and keeps its output, as a Ray worker.
DRIVER = """
import subprocess, sys
from pathlib import Path
from workers.cluster import watchdog

folder = Path(sys.argv[1])
watching = watchdog.Watchdog(folder)
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
quiet = {"stdout": subprocess.DEVNULL, "start_new_session": True}
by_name = subprocess.Popen([*sleep, f"{folder}/r"], **quiet)
with (folder / "worker.out").open("wb") as log:
    by_output = subprocess.Popen(sleep, start_new_session=True, stdout=log, stderr=log)
other = subprocess.Popen([*sleep, str(folder)], **quiet)
print(by_name.pid, by_output.pid, other.pid, flush=True)
sys.stdin.read()
watching.close()
print(folder.exists(), flush=True)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("is_killed", [True, False])
def test_no_process_of_the_cluster_outlives_the_driver(tmp_path: Path, is_killed: bool) -> None:
    folder = tmp_path / "rc"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    *ours, other = map(int, driver.stdout.readline().split())
    try:
        assert all(map(is_alive, (*ours, other)))
        if is_killed:
            driver.kill()
        printed, _ = driver.communicate(timeout=30)
        assert printed == ("" if is_killed else "False\n")
        ended_s = time.monotonic()
        while any(map(is_alive, ours)) or folder.exists():
            assert time.monotonic() - ended_s < 10
            time.sleep(0.05)
        assert is_alive(other), "only names the folder, and is none of its processes"
    finally:
        for pid in (*ours, other):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
