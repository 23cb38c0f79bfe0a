"""Object stores: a run with corpus, root, input and output in S3 has the bytes of a local run."""

import bz2
import gzip
import json
import lzma
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.config import loading, schema
from core.data.builtin import sentences
from core.storage import filesystems, location
from jobs import paths, prepare, score, train, translate
from tests import reporters
from workers.cluster import session as sessions

pytestmark = pytest.mark.e2e

SETTINGS: dict[str, Any] = {
    "name": "stored",
    "tokenizer": {"kind": "word"},
    "sharding": {"part_size_bytes": 2048},
    "decoding": {"beam_size": 2, "max_length": 12, "part_lines": 64},
    "scoring": {"part_lines": 64},
    "cluster": {"address": "none"},
    "compute": {"precision": "fp32", "matmul": "default"},
}
SIZES = {"hidden_size": 8, "embedding_size": 8}
RUN = {"epochs": 1, "max_steps": 4, "checkpoint_every_steps": 2}


def corpora(at: str) -> dict[str, dict[str, Any]]:
    """Returns corpus settings of each form, for files below a folder."""
    packed = {"tsv": [f"{at}/b.tsv.gz"]}
    tables = {"table": [f"{at}/tables"], "columns": ["en", "fr"]}
    member = {"tsv": [f"zip://inner/b.tsv::{at}/b.zip"]}
    return {
        "tables and a member": {"kind": "pairs", "train": tables, "test": member, "split": {"valid": 0.1}},
        "compressed text": {"kind": "text", "train": {"text": [f"{at}/en-*.txt.*"]}, "split": {"valid": 0.1}},
        "tsv": {"kind": "pairs", "train": {"tsv": [f"{at}/a.tsv"]}, "valid": packed, "split": {"test": 0.2}},
        "two files": {"kind": "pairs", "train": {"source": [f"{at}/*.en"], "target": [f"{at}/*.fr"]}, "test": packed},
    }


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> pathlib.Path:
    """Writes 200 pairs and their sides, plain and in each compressed format."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    sentences.write_pairs(folder / "a.tsv", 1, 0, 150)
    sentences.write_pairs(folder / "b.tsv", 1, 150, 50)
    for name, start in (("1", 0), ("2", 100)):
        sentences.write_english(folder / f"{name}.en", 1, start, 100)
        french = [target for _, target in sentences.pairs(1, start, 100)]
        (folder / f"{name}.fr").write_text("\n".join(french) + "\n", encoding="utf-8")
    pack: dict[str, Callable[[bytes], bytes]] = {
        "b.tsv.gz": gzip.compress,
        "en-1.txt.xz": lzma.compress,
        "en-2.txt.bz2": bz2.compress,
    }
    for name, compress in pack.items():
        plain = folder / name.replace("en-", "").replace(".txt", ".en").rpartition(".")[0]
        (folder / name).write_bytes(compress(plain.read_bytes()))
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.write(folder / "b.tsv", "inner/b.tsv")
    rows = [dict(zip(("en", "fr"), pair, strict=True)) for pair in sentences.pairs(1, 0, 200)]
    (folder / "tables").mkdir()
    jsonl = "".join(f"{json.dumps(row)}\n" for row in rows[:100]).encode()
    (folder / "tables" / "1.jsonl.zst").write_bytes(pa.compress(jsonl, codec="zstd", asbytes=True))
    parquet.write_table(pa.Table.from_pylist(rows[100:]), folder / "tables" / "2.parquet")
    (folder / "tables" / "_SUCCESS").touch()
    return folder


def upload(folder: pathlib.Path, root: location.Location) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert root.join(str(path.relative_to(folder))).put_file_if_absent(path)


def configured(what: str, at: str, root: str) -> schema.RunConfig:
    corpus = corpora(at)[what]
    is_text = corpus["kind"] == "text"
    content = {
        **SETTINGS,
        "root": root,
        "corpus": corpus,
        "model": {"kind": "language_model" if is_text else "seq2seq", **SIZES},
        "training": {**RUN, **({"num_lanes": 4, "window": 16} if is_text else {"batch_lines": 32})},
    }
    return paths.absolute(loading.parse(json.dumps(content), "stored.yaml"))


def stored(root: location.Location) -> dict[str, bytes]:
    """Returns every file below a root, by name."""
    if root.is_local:
        files = [location.Location.parse(str(path)) for path in root.path.rglob("*") if path.is_file()]
    else:
        files = [location.Location(f"s3://{name}") for name in filesystems.filesystem("s3", "").find(root.url)]
    return {file.url.removeprefix(f"{root.url}/"): file.read_bytes() for file in files}


def lasting(root: location.Location) -> dict[str, bytes]:
    """Returns the artefacts of a run, without files and fields that record where, when and by whom."""
    specific_to_attempt = (
        r"(.*/)?_lock/.*|run\.json|config\.yaml|epochs/.*|metrics/.*|checkpoints/.*/(MANIFEST|progress)\.json"
    )
    files = {name: data for name, data in stored(root).items() if not re.fullmatch(specific_to_attempt, name)}
    for name in files:
        if "/_commits/" in name or name == "dataset/index.json":
            content = json.loads(files[name])
            content.pop("attempt", None)
            content.pop("sha256")  # of the content, with what is left out here
            for source in content.get("sources", ()):
                del source["files"]
            files[name] = json.dumps(content, sort_keys=True).encode()
    return files


@pytest.mark.parametrize("what", corpora(""))
def test_a_dataset_in_an_object_store_has_the_bytes_of_a_local_one(
    what: str, corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    upload(corpus, s3_root.join("corpus"))
    here = configured(what, str(corpus), str(tmp_path / "run"))
    there = configured(what, f"{s3_root}/corpus", f"{s3_root}/run")
    reports = []
    for config in (here, there):
        with sessions.Session(config.cluster) as session:
            reports.append(prepare.run(config, session, reporters.SilentReporter()))
    assert reports[0]["splits"] == reports[1]["splits"]
    assert reports[0]["splits"]["train"]["shards"] > 1
    local = lasting(location.Location.parse(here.root))
    assert lasting(s3_root.join("run")) == local
    assert [name for name in local if name.startswith("dataset/.staging/")] == []


def use(config: schema.RunConfig, source: str, target: str, output: str) -> dict[str, Any]:
    """Prepares, trains, translates and scores; returns the reports without times and paths."""
    root = location.Location.parse(config.root)
    common: dict[str, Any] = {
        "run": root,
        "input": source,
        "compute": config.compute,
        "cluster": config.cluster,
    }
    reporter = reporters.SilentReporter()
    with sessions.Session(config.cluster) as session:
        reports = {
            "prepare": prepare.run(config, session, reporter),
            "train": train.run(config, session, reporter),
            "translate": translate.run(
                translate.Request(output=f"{output}/translations.jsonl", decoding=config.decoding, **common),
                session,
                reporter,
            ),
            "score": score.run(
                score.Request(output=f"{output}/scores.parquet", targets=target, scoring=config.scoring, **common),
                session,
                reporter,
            ),
        }
    for report in reports.values():
        for name in (
            "elapsed_s",
            "last_start_s",
            "lines_per_s",
            "path",
            "root",
            "run",
            "checkpoint",
            "input",
            "output",
        ):
            report.pop(name, None)
    return reports


def test_a_run_in_an_object_store_has_the_bytes_of_a_local_one_and_is_done_once(
    corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    upload(corpus, s3_root.join("corpus"))
    here = configured("tsv", str(corpus), str(tmp_path / "run"))
    there = configured("tsv", f"{s3_root}/corpus", f"{s3_root}/run")
    local = use(here, f"{corpus}/1.en", f"{corpus}/1.fr", f"{here.root}/out")
    arguments = (there, f"{s3_root}/corpus/1.en", f"{s3_root}/corpus/1.fr", f"{there.root}/out")
    remote = use(*arguments)
    assert remote == local
    actual, expected = lasting(s3_root.join("run")), lasting(location.Location.parse(here.root))
    assert actual.keys() == expected.keys()
    assert {name for name in actual if actual[name] != expected[name]} == set()
    assert {"out/translations.jsonl", "out/scores.parquet"} <= actual.keys()
    assert "checkpoints/step-00000004-e1/bundle/model.safetensors" in actual
    before = stored(s3_root.join("run"))
    again = use(*arguments)
    for name, report in again.items():
        assert report.pop("already_done")
        assert report == {key: value for key, value in remote[name].items() if not key.startswith("already")}
    after = stored(s3_root.join("run"))
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
    upload(corpus, s3_root.join("corpus"))
    config = configured("tsv", f"{s3_root}/corpus", f"{s3_root}/run")
    (tmp_path / "run.yaml").write_text(loading.dump(config))
    report = jobs("pipeline", str(tmp_path / "run.yaml"))
    assert report["stages"]["translate"]["lines"] == report["stages"]["prepare"]["splits"]["test"]["lines"]
    names = stored(s3_root.join("run"))
    assert {"report.html", "report.json", "run.json", "config.yaml", "outputs/translations.jsonl"} <= names.keys()


@pytest.mark.ray
def test_ray_workers_prepare_a_dataset_in_an_object_store(
    corpus: pathlib.Path, tmp_path: pathlib.Path, s3_root: location.Location
) -> None:
    upload(corpus, s3_root.join("corpus"))
    here = configured("two files", str(corpus), str(tmp_path / "run"))
    there = configured("two files", f"{s3_root}/corpus", f"{s3_root}/run")
    (tmp_path / "run.yaml").write_text(loading.dump(there))
    with sessions.Session(here.cluster) as session:
        prepare.run(here, session, reporters.SilentReporter())
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", scratch)
        jobs("prepare", str(tmp_path / "run.yaml"), "--set", "cluster.address=local", "--set", "cluster.num_workers=2")
    assert lasting(s3_root.join("run")) == lasting(location.Location.parse(here.root))
