"""The description of a machine has what a bug report needs, and starts nothing; setup takes torch from an index."""

import pathlib
import platform
import subprocess
from typing import Any

import pytest
import torch

from core import errors
from core.storage import location
from jobs import __main__ as main
from jobs import machine
from workers.cluster import nodes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def test_the_report_of_a_machine_starts_no_ray_and_measures_the_disk_of_a_new_root(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = machine.run(location.Location.parse(str(tmp_path / "new" / "root")), starts_ray=False)
    assert not nodes.ray().is_initialized()
    assert report["ray"] == {"importable": True, "version": nodes.ray().__version__}
    assert report["python"]["version"] == platform.python_version()
    assert report["torch"]["version"] == torch.__version__
    # The metadata of a wheel may leave out the suffix of a build: 2.13.0 of 2.13.0+cu130.
    versions = {version.partition("+")[0] for version in (report["libraries"]["torch"], torch.__version__)}
    assert len(versions) == 1
    assert report["disks"]["root"]["path"] == f"{tmp_path}/new/root"
    assert 0 < report["disks"]["root"]["free_bytes"] <= report["disks"]["root"]["total_bytes"]
    assert report["timeouts_s"]["cluster.collective_timeout_s"] == 120.0
    said = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in said[:4]] == ["python", "torch", "cpu", "gpus"]
    assert f"auto is {report['precision']['auto']}: {report['precision']['reason']}" in said[4]


def test_a_machine_without_ray_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'ray'")

    monkeypatch.setattr(nodes, "ray", missing)
    report = machine.run(location.Location.parse("s3://bucket/root"), starts_ray=True)
    assert report["ray"] == {"importable": False, "error": "ImportError: No module named 'ray'"}
    assert report["disks"]["root"]["free_bytes"] is None


def test_inspect_needs_a_path_or_the_machine() -> None:
    for path, ray in ((None, False), ("x", True)):
        with pytest.raises(errors.UsageError, match="PATH: name what to inspect, or use --machine"):
            main.inspect(path, machine=False, ray=ray)


@pytest.mark.parametrize("index", ["", "https://download.pytorch.org/whl/cpu"])
def test_setup_takes_torch_alone_from_another_index(index: str) -> None:
    words = ["make", "--dry-run", "--always-make", "setup", *([f"TORCH_INDEX={index}"] if index else [])]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    installs = [line for line in done.stdout.replace("\\\n", " ").splitlines() if " pip install " in line]
    of_torch = [line for line in installs if line.split()[-1] == "torch"]
    assert len(of_torch) == 1
    assert (f"--index-url {index} torch" in " ".join(of_torch[0].split())) == bool(index)
    assert [line for line in installs if "--index-url" in line] == (of_torch if index else [])
