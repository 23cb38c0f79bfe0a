"""What a rank holds of a dataset, before and after: `python -m tests.scale.rank` prints the table of the README."""

import dataclasses
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.batching import buckets
from core.data.dataset import arrow_file, dataset_index, lengths_file, open_shards, shard_table, shards
from core.data.tokens import tokenizer, vocabulary
from core.storage import commit, control_files, location

NUM_LISTED = 100_000
NUM_SHARDS, ROWS = 8_000, 60
NUM_PAIRS = 20_000_000
WAYS = {
    "index of version 1": ("listed", 1),
    "index of version 2": ("listed", 2),
    "all shards mapped, lengths from them": ("pairs", 1),
    "lengths beside the shards": ("pairs", 2),
    "the next batch after 99 % of an epoch of 20 million pairs, planned from its beginning": ("resume", 1),
    "… planned from its pool, which a checkpoint holds": ("resume", 2),
}


class _Pairs:
    """Lengths of many pairs, which take no memory."""

    num_lines = NUM_PAIRS

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        lines = np.arange(start, stop, dtype=np.int64)
        return {
            "source": (1 + lines * 7919 % 40).astype(np.int32),
            "target": (1 + lines * 104_729 % 43).astype(np.int32),
        }


def _tokenizer(folder: location.Location, kind: str) -> dict[str, dataset_index.TokenizerRecord]:
    counts = vocabulary.Counts()
    counts.add(["a", "b"])
    made = tokenizer.from_counts("word", counts, 1, None, vocabulary.reserved_for(kind, "eos"), ())
    file = commit.put_content(folder, "tokenizer", ".json", made.to_json().encode())
    record = dataset_index.TokenizerRecord(file, made.fingerprint, made.vocabulary_size)
    return dict.fromkeys(dataset_index.COLUMNS[kind], record)


def _write(folder: location.Location, kind: str, records: list[shard_table.ShardRecord], lengths: Any) -> None:
    """Writes the two versions of the index, the first of them as `version-1.json`."""
    columns = dataset_index.COLUMNS[kind]
    index = dataset_index.DatasetIndex(
        kind=kind,
        splits={"train": shard_table.ShardTable.of(records, columns)},
        lines_read=sum(record.rows for record in records),
        drops={},
        sources=(),
        tokenizers=_tokenizer(folder, kind),
        line_end="eos",
        cleaning=(),
        settings={},
        fingerprint="0",
        lengths=lengths,
    )
    content = index.write_table(folder)
    commit.write_manifest(folder, dataset_index.NAME, content)
    entries = [{**dataclasses.asdict(record), "task": ""} for record in records]
    for entry in entries:
        del entry["corpus"]
    old = {name: value for name, value in content.items() if name not in ("shards", "lengths")}
    folder.join("version-1.json").replace(control_files.encode({**old, "version": 1, "splits": {"train": entries}}))


def make(folder: Path) -> None:
    """Writes a dataset of which only the index exists, and one of pairs in many small shards."""
    listed = location.Location.parse(str(folder / "listed"))
    records = [
        shard_table.ShardRecord(f"train/part-{n:05d}-{n:016x}.arrow", 1000, {"text": 9000}, 20_000, f"{n:064x}")
        for n in range(NUM_LISTED)
    ]
    _write(listed, "text", records, {})
    _write(location.Location.parse(str(folder / "small")), "text", records[:1], {})
    pairs = location.Location.parse(str(folder / "pairs"))
    sizes = {"source": 6, "target": 6}
    records, parts = [], []
    for number in range(NUM_SHARDS):
        sides = {
            side: [[5] * (1 + (number * 7 + row * shift) % 40) for row in range(ROWS)]
            for side, shift in (("source", 3), ("target", 5))
        }
        data = shards.encode_shard(sides, range(number * ROWS, (number + 1) * ROWS), sizes)
        file = commit.put_content(pairs, f"train/part-{number:05d}", ".arrow", data)
        tokens = {side: sum(map(len, rows)) for side, rows in sides.items()}
        records.append(shard_table.ShardRecord(file.name, ROWS, tokens, file.size_bytes, file.sha256))
        expected = arrow_file.Expected(file.name, file.size_bytes, file.sha256, ROWS, tokens, sizes)
        parts.append(lengths_file.of_shard(arrow_file.read_shard(pairs.join(file.name), expected)))
    file = commit.put_content(pairs, "train/lengths-00000", ".arrow", lengths_file.write(parts))
    _write(pairs, "pairs", records, {"train": (dataset_index.LengthsRecord(file, NUM_SHARDS * ROWS),)})


def measure(folder: str, what: str, version: int) -> dict[str, float]:
    """Opens a dataset as a rank does; of pairs it also plans an epoch, and reads the first batches."""
    root = location.Location.parse(folder)
    # What a process loads for the first dataset that it opens counts for none.
    shards.Dataset.open(root.parent.join("small"), check_files=False)
    gc.collect()
    pss, started_s = _pss_bytes(), time.process_time()
    content = control_files.read(root.join("version-1.json" if version == 1 else dataset_index.NAME), 1 << 29)
    index = dataset_index.DatasetIndex.from_json(content, root)
    dataset = shards.Dataset(root, index, {}, verify=True)
    if version == 1:
        dataset._opened = open_shards.OpenShards(most=1 << 30)
    train = dataset.split("train")
    assert train is not None
    if what == "pairs":
        # A buffer of the shuffle, from which the first batch comes.
        for number, batch in enumerate(buckets.plan(train, 1, 0, batch_tokens=4096)):
            if number < 10:
                train.rows(batch.lines, "source")
    mappings = sum(".arrow" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return {
        "cpu_s": time.process_time() - started_s,
        "pss_bytes": _pss_bytes() - pss,
        "mappings": mappings,
        "descriptors": len([*Path("/proc/self/fd").iterdir()]) - 1,
    }


def measure_resume(version: int) -> dict[str, float]:
    """Plans an epoch of many pairs to 99 %, then the next batch as a resumed rank does."""
    batches = buckets.plan(_Pairs(), 1, 0, batch_tokens=4096)
    last = next(batch for batch in batches if batch.fraction >= 0.99)
    gc.collect()
    pss, started_s = _pss_bytes(), time.process_time()
    start = last.start if version == 2 else buckets.BEGINNING
    resumed = buckets.plan(_Pairs(), 1, 0, batch_tokens=4096, start=start)
    next(batch for batch in resumed if batch.fraction > last.fraction)
    return {
        "cpu_s": time.process_time() - started_s,
        "pss_bytes": _pss_bytes() - pss,
        "mappings": 0,
        "descriptors": len([*Path("/proc/self/fd").iterdir()]) - 1,
    }


def _pss_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux has it")


def main() -> None:
    """Measures each way in a process of its own."""
    sys.stdout.write(
        "| | processor time | memory (PSS) | mapped files | open files |\n| --- | --- | --- | --- | --- |\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for name, (what, version) in WAYS.items():
            command = [sys.executable, "-m", "tests.scale.rank", f"{folder}/{what}", what, str(version)]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            sys.stdout.write(
                f"| {name} | {done['cpu_s']:.2f} s | {done['pss_bytes'] / (1 << 20):.0f} MiB "
                f"| {done['mappings']} | {done['descriptors']} |\n"
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _, folder, what, version = sys.argv
        measured = measure_resume(int(version)) if what == "resume" else measure(folder, what, int(version))
        sys.stdout.write(json.dumps(measured))
    else:
        main()
