"""S3: a run with corpus, root, input and output in a bucket has the bytes of a local run."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from core.config import loading
from core.storage import location
from jobs import prepare
from tests import reporters
from tests.e2e import driving, stored
from workers.cluster import session as sessions

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("what", stored.corpora(""))
def test_a_dataset_in_an_object_store_has_the_bytes_of_a_local_one(
    what: str, corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    stored.upload(corpus, s3_root.join("corpus"))
    here = stored.configured(what, str(corpus), str(tmp_path / "run"))
    there = stored.configured(what, f"{s3_root}/corpus", f"{s3_root}/run")
    reports = []
    for config in (here, there):
        with sessions.Session(config.cluster) as session:
            reports.append(prepare.run(config, session, reporters.SilentReporter()))
    assert reports[0]["splits"] == reports[1]["splits"]
    assert reports[0]["splits"]["train"]["shards"] > 1
    local = stored.lasting(location.Location.parse(here.root))
    assert stored.lasting(s3_root.join("run")) == local
    assert [name for name in local if name.startswith("dataset/.staging/")] == []


def test_a_run_in_an_object_store_has_the_bytes_of_a_local_one_and_is_done_once(
    corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    stored.upload(corpus, s3_root.join("corpus"))
    here = stored.configured("tsv", str(corpus), str(tmp_path / "run"))
    there = stored.configured("tsv", f"{s3_root}/corpus", f"{s3_root}/run")
    local = stored.use(here, f"{corpus}/1.en", f"{corpus}/1.fr", f"{here.root}/out")
    arguments = (there, f"{s3_root}/corpus/1.en", f"{s3_root}/corpus/1.fr", f"{there.root}/out")
    remote = stored.use(*arguments)
    assert remote == local
    actual, expected = stored.lasting(s3_root.join("run")), stored.lasting(location.Location.parse(here.root))
    assert actual.keys() == expected.keys()
    assert {name for name in actual if actual[name] != expected[name]} == set()
    assert {"out/translations.jsonl", "out/scores.parquet"} <= actual.keys()
    assert "checkpoints/step-00000004-e1/bundle/model.safetensors" in actual
    before = stored.stored(s3_root.join("run"))
    again = stored.use(*arguments)
    for name, report in again.items():
        assert report.pop("already_done")
        assert report == {key: value for key, value in remote[name].items() if not key.startswith("already")}
    after = stored.stored(s3_root.join("run"))
    changed = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
    assert {name for name in changed if "_lock/" not in name} == {"run.json"}


def jobs(*arguments: str) -> dict[str, Any]:
    """Runs a command line; returns its report."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "jobs", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_pipeline_command_needs_no_local_file_but_its_configuration(
    corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    stored.upload(corpus, s3_root.join("corpus"))
    config = stored.configured("tsv", f"{s3_root}/corpus", f"{s3_root}/run")
    (tmp_path / "run.yaml").write_text(loading.dump(config))
    report = jobs("pipeline", str(tmp_path / "run.yaml"))
    assert report["stages"]["translate"]["lines"] == report["stages"]["prepare"]["splits"]["test"]["lines"]
    names = stored.stored(s3_root.join("run"))
    assert {"report.html", "report.json", "run.json", "config.yaml", "outputs/translations.jsonl"} <= names.keys()


@pytest.mark.ray
def test_two_ray_workers_do_over_s3_what_is_done_without_ray(
    drive: driving.Drive, corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    stored.check_with_ray(drive, corpus, tmp_path, s3_root)
