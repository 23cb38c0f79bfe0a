"""Runs with corpus, root, input and output in an object store, and what of them a local run must have, too."""

import bz2
import gzip
import json
import lzma
import pathlib
import re
import signal
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from core.config import loading, schema
from core.data.builtin import sentences
from core.storage import filesystems, location, urls
from jobs import paths, prepare, score, train, translate
from tests import reporters
from tests.e2e import driving
from workers.cluster import session as sessions

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


def write_corpus(folder: pathlib.Path) -> None:
    """Writes 200 pairs and their sides, plain and in each compressed format."""
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
        scheme, authority, _ = urls.split(root.url)
        found = filesystems.filesystem(scheme, authority).find(root.url)
        files = [location.Location(f"{scheme}://{name}") for name in found]
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


def check_pipeline(drive: driving.Drive, corpus: pathlib.Path, folder: pathlib.Path, root: location.Location) -> None:
    """Checks whole commands over a store: refused beside another, killed, resumed, done once.

    Dataset, weights and translations have the bytes of a local run.
    """
    upload(corpus, root.join("corpus"))
    here = configured("tsv", str(corpus), str(folder / "run"))
    there = configured("tsv", f"{root}/corpus", f"{root}/run")
    use(here, f"{corpus}/1.en", f"{corpus}/1.fr", f"{here.root}/out")
    (folder / "run.yaml").write_text(loading.dump(there))
    pipeline = ("pipeline", str(folder / "run.yaml"))

    first = drive(*pipeline)
    first.until(lambda: _newest_checkpoint(root.join("run")), "a checkpoint")
    # Stopped, it still holds its lock, and cannot finish meanwhile.
    first.signal(signal.SIGSTOP)
    second = drive(*pipeline).end()
    assert second.code == 6, second.log
    assert "is in use by pipeline on host" in second.log
    first.kill()
    resumed = drive(*pipeline).end()
    assert resumed.document()["stages"]["translate"]["lines"] > 0
    before = lasting(root.join("run"))
    again = drive(*pipeline).end()
    assert again.document()["stages"]["train"]["already_done"]
    assert _DONE.findall(again.log) == []
    after = lasting(root.join("run"))
    done = [name for name in before if name.startswith(("dataset/", "checkpoints/", "outputs/"))]
    assert [name for name in done if after.get(name) != before[name]] == []
    own = ("--run", there.root, "--input", f"{root}/corpus/1.en", "--output", f"{there.root}/out/translations.jsonl")
    translated = drive("translate", *own, "--set", "cluster.address=none").end()
    assert translated.document()["lines"] == 100

    ours, theirs = lasting(location.Location.parse(here.root)), lasting(root.join("run"))
    same = [name for name in ours if name.startswith("dataset/")] + ["out/translations.jsonl"]
    assert [name for name in same if ours[name] != theirs.get(name)] == []
    bundle = "bundle/model.safetensors"
    whole = ours[f"checkpoints/{_newest_checkpoint(location.Location.parse(here.root))}/{bundle}"]
    assert theirs[f"checkpoints/{_newest_checkpoint(root.join('run'))}/{bundle}"] == whole
    for ended in (resumed, again, translated):
        assert _LINES_OF_DRIVERS.findall(ended.log) == []


def check_with_ray(
    drive: driving.Drive, corpus: pathlib.Path, folder: pathlib.Path, root: location.Location, num_workers: str = "2"
) -> None:
    """Checks a pipeline with two Ray workers over a store; with a range of numbers, Ray Train starts them.

    The dataset is that of local files; translations and scores are those of one process with the same weights.
    """
    upload(corpus, root.join("corpus"))
    there, run = configured("tsv", f"{root}/corpus", f"{root}/run"), root.join("run")
    (folder / "run.yaml").write_text(loading.dump(there))
    with_ray = ("--set", "cluster.address=local", "--set", f"cluster.num_workers={num_workers}")
    ended = drive("pipeline", str(folder / "run.yaml"), *with_ray).end()
    assert ended.document()["stages"]["train"]["world_size"] == 2
    assert _LINES_OF_DRIVERS.findall(ended.log) == []

    outputs = f"{run}/outputs"
    common: dict[str, Any] = {
        "run": run,
        "input": f"{outputs}/test.source.txt",
        "compute": there.compute,
        "cluster": there.cluster,
    }
    again = translate.Request(output=f"{run}/again/translations.jsonl", decoding=there.decoding, **common)
    scored = score.Request(
        output=f"{run}/again/scores.jsonl", targets=f"{outputs}/test.target.txt", scoring=there.scoring, **common
    )
    here, reporter = configured("tsv", str(corpus), str(folder / "run")), reporters.SilentReporter()
    with sessions.Session(here.cluster) as session:
        prepare.run(here, session, reporter)
        translate.run(again, session, reporter)
        score.run(scored, session, reporter)
    ours, theirs = lasting(location.Location.parse(here.root)), lasting(run)
    assert [name for name in ours if name.startswith("dataset/") and ours[name] != theirs.get(name)] == []
    assert [name for name in theirs if name.startswith(".ray/")] == []
    assert theirs["again/translations.jsonl"] == theirs["outputs/translations.jsonl"]
    assert theirs["again/scores.jsonl"] == theirs["outputs/scores.jsonl"]


# The end of a stage that did something.
_DONE = re.compile(r"^(?:prepare|train|translate|score)\b.*: done, .*", re.MULTILINE)
# A line of the log that a client of a store wrote.
_LINES_OF_DRIVERS = re.compile(r"^\S+ [DIWE] (?:adlfs|azure|gcsfs|google|urllib3|asyncio)\b.*", re.MULTILINE)


def _newest_checkpoint(root: location.Location) -> str | None:
    """Returns the name of the newest checkpoint with a manifest."""
    folder = root.join("checkpoints")
    names = [name for name in folder.list_names() if folder.join(name, "MANIFEST.json").is_file()]
    return max(names, key=lambda name: (name.partition("-e")[2], name), default=None)
