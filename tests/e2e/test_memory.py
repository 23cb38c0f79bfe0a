"""Memory law: peak memory depends on the size of a part and the vocabulary, not on the size of the corpus."""

import gc
import pathlib
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from core.config import inference_settings, schema
from core.data.batching import buckets
from core.data.builtin import sentences
from core.data.dataset import duplicates, shards, statistics
from core.data.text import corpus, sources
from core.decoding.lines import inputs, output_writer, outputs
from core.storage import commit, filesystems, location
from core.telemetry import metrics
from jobs import held_out, prepare
from tests import reporters
from tests.jobs import datasets
from workers.fanout import executor as executors
from workers.infer import driver, part_runner, part_worker

pytestmark = pytest.mark.e2e

PART_BYTES = 131_072
# Less than one 64-bit number per line; a part has hundreds of lines, so a record of hundreds of bytes is acceptable.
LARGEST_GROWTH_BYTES = 8
LARGEST_RECORD_BYTES = 2048
SIZES = (3000, 24_000)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips fsync, which only matters at a power failure."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _no_interning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables interning: `pathlib` interns every name, and the table of megabytes is reallocated at random times."""
    monkeypatch.setattr(sys, "intern", lambda name: name)


def configured(folder: pathlib.Path, num_pairs: int, tokenizer: str) -> schema.RunConfig:
    """Returns the settings of a corpus of `num_pairs` pairs; its first pairs contain the whole vocabulary."""
    file = folder / f"{num_pairs}.tsv"
    if not file.exists():
        sentences.write_pairs(file, 1, 0, num_pairs)
    settings = {"kind": "pairs", "train": {"tsv": [str(file)]}, "split": {"valid": 0.05}}
    sample = {"sample_bytes": 100_000} if tokenizer == "bpe" else {}  # words are counted, not learned from a sample
    return datasets.config(
        folder / f"{num_pairs}-{tokenizer}",
        {**settings, "filters": {"duplicates": "drop"}},
        {"kind": tokenizer, "max_size": 1000, **sample},
        sharding={"part_size_bytes": PART_BYTES},
    )


def peak_bytes() -> int:
    """Returns the peak of traced memory since the last call."""
    peak = tracemalloc.get_traced_memory()[1]
    gc.collect()
    tracemalloc.reset_peak()
    return peak


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_memory_does_not_grow_with_the_corpus(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    monkeypatch.setattr(corpus, "BUFFER_BYTES", 8192)
    monkeypatch.setattr(filesystems, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(duplicates, "PARTITION_BYTES", 16_384)
    monkeypatch.setattr(sources, "SAMPLE_BYTES", 65_536)
    monkeypatch.setattr(buckets, "SHUFFLE_LINES", 1024)
    monkeypatch.setattr(buckets, "POOL_LINES", 256)
    monkeypatch.setattr(statistics, "NGRAM_TOKENS", 32_768)
    session, reporter = datasets.Session(), reporters.SilentReporter()
    session.metrics = metrics.NullMetrics()  # type: ignore[assignment]
    corpora = [configured(tmp_path, num_pairs, tokenizer) for num_pairs in (2000, *SIZES)]
    prepare.run(corpora[0], session, reporter)  # warm-up: modules and caches are loaded once
    peaks: dict[str, list[int]] = {}
    tracemalloc.start()
    for settings in corpora[1:]:
        peak_bytes()
        prepare.run(settings, session, reporter)
        peaks.setdefault("prepare", []).append(peak_bytes())
        held_out.write(settings)
        peaks.setdefault("held out", []).append(peak_bytes())
        split = shards.Dataset.open(location.Location.parse(settings.root).join("dataset")).split("train")
        assert split is not None
        for plan in buckets.plan(split, 1, 0, batch_tokens=1000):
            buckets.collate(split, plan.lines, 1, 2)
        peaks.setdefault("batches", []).append(peak_bytes())
    tracemalloc.stop()
    growth = {stage: (large - small) / (SIZES[1] - SIZES[0]) for stage, (small, large) in peaks.items()}
    assert max(growth.values()) < LARGEST_GROWTH_BYTES, (growth, peaks)


class Committing:
    """Commits parts without computing them."""

    num_workers = 1

    def __init__(self, store: commit.PartStore) -> None:
        self._store = store

    def run(
        self,
        stage: str,
        tasks: Iterable[executors.Task],
        factory: Callable[[], Callable[[Any], Any]],
        on_done: Callable[[executors.Task, Any], None],
        monitor: executors.Monitor = executors.UNMONITORED,
    ) -> None:
        made_by = {"device": "cpu AuthenticAMD AVX2", "threads": 1, "precision": "fp32", "torch": "2.13.0"}
        for task in tasks:
            sha256 = commit.sha256_hex(task.name.encode())
            shard = {"name": f"{task.name}-{sha256[:16]}.arrow", "sha256": sha256, "size_bytes": 12_345}
            record = {"lines": task.weight, "errors": 0, "first_errors": [], "tokens": 99, "nats": 12.34, "unk": 1}
            record |= {"characters": 99, "made_by": made_by, "shard": shard, "files": [shard]}
            on_done(task, self._store.commit(task.name, record))


def test_the_driver_of_inference_keeps_a_short_record_for_each_part(tmp_path: pathlib.Path) -> None:
    peaks = []
    tracemalloc.start()
    for num_parts in (100, 1000):
        file = tmp_path / f"{num_parts}.txt"
        file.write_text("a b c\n" * num_parts)
        folder = location.Location.parse(f"memory://{uuid.uuid4().hex}/out")
        target = outputs.Output.at("scores", folder, is_folder=True, where="--output")
        spec = part_worker.Spec(
            bundle="",
            kind="scores",
            decoding=inference_settings.DecodingConfig(),
            scoring=inference_settings.ScoringConfig(),
            compute=schema.ComputeConfig(),
            folder=folder.url,
            plan={},
            device="cpu",
            threads=1,
        )
        with output_writer.open_output(target, "score", spec.plan, overwrite=False) as opened:
            peak_bytes()
            before = tracemalloc.get_traced_memory()[0]
            scanned = inputs.scan(location.Location.parse(str(file)), None, 1, folder, "--input")
            session = datasets.Session(Committing(opened.store))
            session.metrics = metrics.NullMetrics()  # type: ignore[assignment]
            records, _ = part_runner.run_parts(
                spec, [inputs.parts([scanned])], session, lambda lines: None, opened.is_new
            )
            assert driver.Totals.of(records).tokens == 99 * num_parts
            opened.finish(records, {})
        in_store = sum(
            len(folder.join(commit.RECORDS, name).read_bytes()) for name in folder.join(commit.RECORDS).list_names()
        )
        peaks.append(peak_bytes() - before - in_store)
    tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 900 < LARGEST_RECORD_BYTES, peaks
