"""The driver's own code at a size that no test machine has: simulated workers, a store that counts, real planning.

Workers do nothing here: their results are what they would have committed. So every request is the driver's, and its
processor time and memory are those of the real planner, pool, ledger and manifest.
"""

import array
import contextlib
import gc
import hashlib
import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from core.config import corpus_settings, inference_settings, loading, schema
from core.data import lazy
from core.data.dataset import dataset_index, shard_table, shards, statistics
from core.data.text import corpus, source_files
from core.data.tokens import tokenizer, vocabulary
from core.decoding.lines import inputs, output_writer, outputs
from core.storage import commit, control_files, location
from core.telemetry import metrics
from tests.scale import fake_store
from workers.fanout import executor as executors
from workers.fanout import pool as pools
from workers.fanout import retries
from workers.infer import part_runner, part_worker
from workers.prepare import dataset_builder, line_tasks, part_groups, shuffle, vocabularies, word_statistics

NUM_WORKERS = 200
PART_LINES = 512
BLOCK_BYTES = 1 << 24
_TASK_S = 20.0  # of a simulated worker, give or take two seconds
_SHA256 = "0" * 64


class FirstPartError(Exception):
    """Ends a simulation at the first part that a worker is given, after `elapsed_s`."""

    def __init__(self, elapsed_s: float) -> None:
        super().__init__(f"{elapsed_s:.1f} s")
        self.elapsed_s = elapsed_s


class Machine:
    """A backend of the pool with workers that take simulated time, and commit nothing.

    Args:
        answer: returns the result of a payload, of which the factory of its stage is known.
        stop_at_first: raises `FirstPartError` instead of the first answer.
    """

    def __init__(self, answer: Callable[[Any, Any], Any], stop_at_first: bool = False) -> None:
        self.now_s = 0.0
        self.num_submitted = 0
        self.started_s = 0.0
        self._answer = answer
        self._stop_at_first = stop_at_first
        self._due: dict[int, tuple[float, retries.Outcome]] = {}
        self._num_futures = 0

    def start(self) -> tuple[int, int]:
        """See `retries.Backend`."""
        return self._num_futures, self._future(0.0, retries.Done("up"))

    def submit(self, handle: Any, run: int, factory: Any, payload: Any) -> int:
        """See `retries.Backend`."""
        if self._stop_at_first:
            raise FirstPartError(time.monotonic() - self.started_s)
        self.num_submitted += 1
        # Spread, so that results come a few at a time, as real ones do.
        duration_s = _TASK_S - 2 + self.num_submitted * 7919 % 5
        return self._future(duration_s, retries.Done(self._answer(factory, payload)))

    def _future(self, seconds: float, outcome: retries.Outcome) -> int:
        self._num_futures += 1
        self._due[self._num_futures] = (self.now_s + seconds, outcome)
        return self._num_futures

    def wait(self, futures: list[int], timeout_s: float) -> list[int]:
        """See `retries.Backend`."""
        first_s = min((self._due[future][0] for future in futures), default=float("inf"))
        del timeout_s  # nothing else happens before the first result
        self.now_s = max(self.now_s, first_s)
        return [future for future in futures if self._due[future][0] <= self.now_s]

    def outcome(self, future: int) -> retries.Outcome:
        """See `retries.Backend`."""
        return self._due.pop(future)[1]

    def kill(self, handle: Any) -> None:
        """See `retries.Backend`."""


class Session:
    """A session whose executor is a pool on a simulated machine."""

    def __init__(self, machine: Machine) -> None:
        self.metrics: metrics.Metrics = metrics.NullMetrics()
        self._pool = pools.Pool(machine, NUM_WORKERS, 3, 3600.0, clock=lambda: machine.now_s)

    def should_stop(self) -> bool:
        """Returns False."""
        return False

    def interrupting(self) -> contextlib.AbstractContextManager[None]:
        """Does nothing."""
        return contextlib.nullcontext()

    def executor(self, stage: str, num_tasks: int | None = None, runs_model: bool = False) -> executors.Executor:
        """Returns the pool."""
        return self._pool


class Reporter:
    """A reporter that shows nothing, and tells the store which stage the requests are for."""

    def __init__(self, store: fake_store.FakeStore) -> None:
        self._store = store

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[Any]:
        """Begins a stage."""
        before, self._store.stage = self._store.stage, name
        try:
            yield self
        finally:
            self._store.stage = before

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Does nothing."""

    def wait_for(self, what: str) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Measured:
    """What a simulation cost the driver.

    Attributes:
        store: its requests.
        cpu_s: processor time.
        memory_bytes: growth of the largest resident size of the process.
        num_computed: tasks that workers were given.
    """

    store: fake_store.FakeStore
    cpu_s: float
    memory_bytes: int
    num_computed: int


@contextlib.contextmanager
def measuring(store: fake_store.FakeStore, machine: Machine | None = None) -> Iterator[list[Measured]]:
    """Measures a block; the result is in the list afterwards."""
    measured: list[Measured] = []
    if machine is not None:
        machine.started_s = time.monotonic()
    before_bytes, started_s = _peak_bytes(), time.process_time()
    yield measured
    cpu_s = time.process_time() - started_s
    measured.append(Measured(store, cpu_s, _peak_bytes() - before_bytes, machine.num_submitted if machine else 0))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def translate(num_parts: int, num_committed: int, latency_s: float = 0.0, stop_at_first: bool = False) -> Measured:
    """Runs the driver of `translate`, from opening the output to its manifest.

    Args:
        num_parts: parts of 512 lines.
        num_committed: of these, parts that an earlier run has committed.
        latency_s: of each request.
        stop_at_first: raises `FirstPartError` when a worker is given the first part.
    """
    store = fake_store.FakeStore()
    machine = Machine(lambda _, part: _translated(part), stop_at_first)
    with store.installed() as root:
        target = outputs.Output.at("translations", root.join("out"), True, "--output")
        plan = {"verb": "translate", "lines": num_parts * PART_LINES}
        spec = part_worker.Spec(
            bundle=root.join("bundle").url,
            kind="translations",
            decoding=inference_settings.DecodingConfig(),
            scoring=inference_settings.ScoringConfig(),
            compute=schema.ComputeConfig(),
            folder=target.folder.url,
            plan=plan,
            device="cpu",
            threads=1,
        )
        parts = _parts(num_parts)
        if num_committed:
            _commit(store, spec.store, parts[:num_committed])
        store.latency_s, store.stage = latency_s, "open the output"
        with (
            measuring(store, machine) as measured,
            output_writer.open_output(target, "translate", plan, overwrite=False) as output,
        ):
            store.stage = "parts"
            session = Session(machine)
            records, _ = part_runner.run_parts(spec, [parts], session, fake_store.quiet, is_new=output.is_new)
            store.stage = "manifest"
            output.finish(records, {"summary": {"lines": len(records)}})
    return measured[0]


def _parts(num_parts: int) -> Any:
    starts = array.array("q", range(0, num_parts * PART_LINES * 60, PART_LINES * 60))
    index = corpus.LineIndex(num_parts * PART_LINES, starts, PART_LINES, num_parts * PART_LINES * 60)
    path = location.Location(f"{fake_store.BUCKET}input.txt")
    ranges = corpus.cut_by_lines((path,), [index])

    def side(number: int) -> inputs.Side:
        text_range = ranges[number]
        return inputs.Side(text_range.first_line, text_range.num_lines, None, text_range, path.url)

    sides = lazy.LazySequence(len(ranges), side)
    return inputs.parts([inputs.Input(path.url, "text", None, index.num_lines, _SHA256, sides)])


def _translated(part: inputs.Part) -> dict[str, Any]:
    """Returns the commit record of a part, of the size of a real one."""
    shard = {"name": f"{part.name}-{_SHA256[:16]}.arrow", "sha256": _SHA256, "size_bytes": 100_000}
    return {
        "lines": part.num_lines,
        "errors": 0,
        "first_errors": [],
        "tokens": 20 * part.num_lines,
        "nats": 12345.678,
        "made_by": {"device": "cpu AuthenticAMD AVX2", "threads": 1, "precision": "fp32", "torch": "2.13.0"},
        "shard": shard,
        "files": [shard],
    }


def _commit(store: fake_store.FakeStore, parts: commit.PartStore, committed: Any) -> None:
    """Puts a plan into the store, and a folder of commit records that are made when they are read."""
    parts.begin()
    by_name = {f"{part.name}.json": number for number, part in enumerate(committed)}

    def content(name: str) -> bytes:
        part = committed[by_name[name]]
        record = {"plan": parts.fingerprint, "part": part.name, "attempt": "0" * 32, "record": _translated(part)}
        return control_files.encode(record)

    store.made[parts.folder.join(commit.RECORDS).url] = fake_store.Made([*by_name], content)
    store.requests.clear()


def prepare(size_bytes: int, latency_s: float = 0.0, stop_at_first: bool = False) -> Measured:
    """Runs the driver of `prepare` on one text of a size, with words as tokens, from its plan to its index."""
    store = fake_store.FakeStore(content=b"a line of an imaginary corpus that has some sixty characters\n")
    machine = Machine(_prepared, stop_at_first)
    with store.installed() as root:
        path = location.Location(f"{fake_store.BUCKET}corpus.txt")
        store.large[path.url] = size_bytes
        content = {"kind": "text", "train": {"text": [path.url]}, "split": {"valid": 0.01}}
        settings = loading.parse(
            json.dumps({"name": "x", "root": root.url, "corpus": content, "model": {"kind": "language_model"}}),
            "simulation",
            [],
        )
        plan = dataset_builder.Plan(
            folder=root.join("dataset"),
            settings=settings.of_dataset(),
            corpora=settings.corpora_by_name,
            tokenizer=corpus_settings.TokenizerConfig(),
            seed=1,
            groups={"": {"train": [(source_files.File(path),)]}},
            files={"": {"train": [[{"url": path.url, "size_bytes": size_bytes, "sha256": None}]]}},
        )
        parts = commit.PartStore(plan.folder, dataset_builder.content(plan.settings))
        store.latency_s, store.stage = latency_s, "plan and index"
        with measuring(store, machine) as measured:
            is_new = parts.begin()
            builder = dataset_builder.DatasetBuilder(plan, Session(machine), Reporter(store), is_new)
            index = builder.run(settings.sharding)
            parts.finish(index.write_table(plan.folder), dataset_index.NAME)
    return measured[0]


def _prepared(factory: Any, payload: Any) -> Any:
    """Returns the result of a task of prepare, of the size of a real one."""
    del factory
    match payload:
        case line_tasks.BlockTask(start=start, stop=stop):
            # Different, as shards are that hold the numbers of their lines.
            return corpus.BlockCount(start, stop, BLOCK_BYTES // 60, hashlib.sha256(str(start).encode()).hexdigest())
        case part_groups.PartsTask(name=name, parts=parts):
            counts = [{"lines": part.part.num_lines, "tokens": 3_000_000, "scripts": {"text": None}} for part in parts]
            return {"files": [_file(f"{line_tasks.STAGING}/{name}", name)], "parts": counts}
        case line_tasks.PartTask(name=name):
            return _encoded(payload, name)
        case shuffle.PartitionsTask(name=name):
            kept = {"text": [[3_000_000, 1_000_000_000]] * len(statistics.MIN_FREQS)}
            return {"files": [_file(f"{line_tasks.STAGING}/{name}", name)], "kept": kept}
        case vocabularies.VocabularyTask(name=name):
            return {
                "files": [_file("tokenizer", name)], "fingerprint": _SHA256, "vocabulary_size": 10_000, "coverage": [],
            }  # fmt: skip
        case word_statistics.ShardsTask(name=name) | word_statistics.SummaryTask(name=name):
            file = _file(name, name)
            return {"files": [file], "counts": file}
    raise AssertionError(payload)


def _encoded(task: line_tasks.PartTask, name: str) -> dict[str, Any]:
    # The tail is held out: the last part is that of the validation.
    is_last = task.part.start_bytes[0] + 2 * BLOCK_BYTES > task.part.sizes_bytes[0]
    split = "valid" if is_last else "train"
    file = _file(f"{split}/part-{task.number:05d}", name)
    shard = {**file, "rows": task.part.num_lines, "tokens": {"text": 3_000_000}, "task": ""}
    return {
        "files": [file],
        "shards": {split: shard},
        "lines": task.part.num_lines,
        "num_unk": {split: {"text": 0}},
        "drops": {},
        "repairs": {},
    }


def _file(stem: str, name: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return {"name": f"{stem}-{sha256[:16]}.arrow", "sha256": sha256, "size_bytes": 6_000_000}


def open_dataset(num_shards: int) -> Measured:
    """Opens a dataset of text of so many shards, as each rank does."""
    store = fake_store.FakeStore()
    with store.installed() as root:
        _write_dataset(root, num_shards)
        store.requests.clear()
        store.stage = "open"
        with measuring(store) as measured:
            dataset = shards.Dataset.open(root)
            train = dataset.split("train")
            assert train is not None
            assert train.num_lines == num_shards * 1000
    return measured[0]


def hold_dataset(num_shards: int) -> tuple[int, int]:
    """Returns the objects of Python and the bytes, at their peak, that a dataset of text of so many shards takes."""
    store = fake_store.FakeStore()
    with store.installed() as root:
        _write_dataset(root, num_shards)
        shards.Dataset.open(root)  # what is loaded by the first one alone
        gc.collect()
        tracemalloc.start()
        blocks, arrow_bytes = sys.getallocatedblocks(), pa.total_allocated_bytes()
        dataset = shards.Dataset.open(root)
        train = dataset.split("train")
        num_blocks = sys.getallocatedblocks() - blocks
        num_bytes = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow_bytes
        tracemalloc.stop()
        assert train is not None
    return num_blocks, num_bytes


def _write_dataset(root: location.Location, num_shards: int) -> None:
    counts = vocabulary.Counts()
    counts.add(["a", "b"])
    made = tokenizer.from_counts("word", counts, 1, None, vocabulary.reserved_for("text", "eos"), ())
    file = commit.put_content(root, "tokenizer", ".json", made.to_json().encode())
    records = (
        shard_table.ShardRecord(**_file(f"train/part-{number:05d}", str(number)), rows=1000, tokens={"text": 9000})
        for number in range(num_shards)
    )
    index = dataset_index.DatasetIndex(
        kind="text",
        splits={"train": shard_table.ShardTable.of(records, ("text",))},
        lines_read=1000 * num_shards,
        drops={},
        sources=(),
        tokenizers={"text": dataset_index.TokenizerRecord(file, made.fingerprint, made.vocabulary_size)},
        line_end="eos",
        cleaning=(),
        settings={},
        fingerprint="0",
    )
    commit.write_manifest(root, dataset_index.NAME, index.write_table(root))
