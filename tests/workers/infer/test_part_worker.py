"""Laws of parts: computed once, committed as a whole, equal for any distribution over workers."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.decoding.lines import inputs, results, stream_lanes
from core.models import bundle as bundles
from core.storage import commit, location
from core.telemetry import metrics
from tests.core.decoding import samples
from tests.core.decoding.lines import rows
from tests.jobs import trained
from workers.fanout import executor as executors
from workers.infer import driver, part_runner, part_worker


def _spec(tmp_path: pathlib.Path, model: Any = None, **scoring: Any) -> part_worker.Spec:
    root = trained.save(model or samples.seq2seq(), tmp_path / "run")
    return part_worker.Spec(
        bundle=bundles.find_folder(root).url,
        kind="scores" if scoring or model else "translations",
        decoding=inference_settings.DecodingConfig(beam_size=2, max_length=6),
        scoring=inference_settings.ScoringConfig(**scoring),
        compute=samples.FP32,
        folder=location.Location.parse(str(tmp_path / "out")).url,
        plan={"name": "test"},
        device="cpu",
        threads=1,
    )


def _parts(tmp_path: pathlib.Path, content: bytes, part_lines: int = 3) -> Sequence[inputs.Part]:
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    scratch = location.Location.parse(str(tmp_path / "scratch"))
    return inputs.parts([inputs.scan(location.Location.parse(str(path)), None, part_lines, scratch, "--input")])


class Shuffled:
    """Runs the tasks in reverse order, each of them twice."""

    num_workers = 1

    def run(
        self, stage: str, tasks: Any, factory: Callable[[], Callable[[Any], Any]], on_done: Any, monitor: Any
    ) -> None:
        work, again = factory(), factory()
        for task in reversed(list(tasks)):
            first = work(task.payload)
            assert again(task.payload) == first
            on_done(task, first)


class Session:
    """A session with one executor and without metrics."""

    metrics = metrics.NullMetrics()

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def should_stop(self) -> bool:
        return False

    def interrupting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def executor(self, stage: str, num_tasks: int | None = None, runs_model: bool = False) -> Any:
        return self._executor


def _run(spec: part_worker.Spec, waves: Sequence[Sequence[inputs.Part]], executor: Any = None) -> list[dict[str, Any]]:
    session = Session(executor or executors.InProcess())
    records, _ = part_runner.run_parts(spec, waves, session, lambda _: None, is_new=False)
    return [*records]


def _rows(spec: part_worker.Spec, records: Sequence[Any]) -> list[results.Result]:
    folder = location.Location(spec.folder)
    tables = (
        results.decode(spec.kind, folder.join(record["shard"]["name"]).read_bytes(), "part") for record in records
    )
    return [row for table in tables for row in rows.from_table(spec.kind, table)]


def test_rows_are_in_line_order_for_any_order_of_work(tmp_path: pathlib.Path) -> None:
    lines = samples.sentences(10)
    parts = _parts(tmp_path, "\n".join(lines).encode())
    spec = _spec(tmp_path)
    records = _run(spec, [parts], Shuffled())
    assert [record["lines"] for record in records] == [3, 3, 3, 1]
    other = _spec(tmp_path / "again")
    again = _run(other, [parts])
    assert [record["shard"] for record in again] == [record["shard"] for record in records]
    assert len(_rows(spec, records)) == 10


def test_a_committed_part_is_not_computed_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _parts(tmp_path, b"the cat\na dog\n" * 4)
    spec = _spec(tmp_path)
    records = _run(spec, [parts])
    monkeypatch.setattr(part_worker.TranslateWorker, "__init__", lambda *_: pytest.fail("a worker was created"))
    assert _run(spec, [parts]) == records


def test_a_worker_does_not_compute_what_another_attempt_has_committed_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looked before the part was handed out; since then a worker that seemed dead has committed it."""
    (part,) = _parts(tmp_path, b"the cat\na dog\n")
    worker = part_worker.make(_spec(tmp_path))
    record = worker(part)
    monkeypatch.setattr(part_worker.TranslateWorker, "compute", lambda *_: pytest.fail("it was computed again"))
    assert worker(part) == record


def test_a_part_whose_worker_dies_before_the_commit_is_not_committed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _parts(tmp_path, b"the cat\na dog\n")
    spec = _spec(tmp_path)

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(commit.PartStore, "commit", fail)
        with pytest.raises(MemoryError):
            _run(spec, [parts])
    store = commit.PartStore(location.Location(spec.folder), spec.plan)
    assert store.committed("part-000000") is None
    assert _run(spec, [parts])[0]["lines"] == 2


def test_a_bad_line_is_a_row_with_an_error(tmp_path: pathlib.Path) -> None:
    parts = _parts(tmp_path, b"the cat\n\xff\xfe\na dog\n" + b"a cat\n" * 20)
    spec = _spec(tmp_path)
    records = _run(spec, [parts])
    lines = _rows(spec, records)
    assert [index for index, row in enumerate(lines) if row.error] == [1]
    assert "invalid_utf8" in (lines[1].error or "")
    assert records[0]["first_errors"][0]["line"] == 1


def test_too_many_bad_lines_fail_the_job(tmp_path: pathlib.Path) -> None:
    parts = _parts(tmp_path, b"a cat\n" * 2000 + b"\0\n" * 11, part_lines=1000)
    spec = _spec(tmp_path, samples.language_model("word"), unit="line")
    with pytest.raises(errors.DataError, match=r"11 lines failed.* line 2001"):
        _run(spec, [parts])


def test_the_commit_record_names_device_threads_and_precision(tmp_path: pathlib.Path) -> None:
    (record,) = _run(_spec(tmp_path), [_parts(tmp_path, b"the cat\n")])
    assert record["made_by"]["threads"] == 1
    assert record["made_by"]["precision"] == "fp32"
    assert record["made_by"]["device"].startswith("cpu")


def test_parts_computed_under_different_circumstances_are_reported() -> None:
    record = {"lines": 1, "errors": 0, "first_errors": [], "tokens": 1, "nats": 0.5}
    totals = driver.Totals.of([{**record, "made_by": {"threads": 1}}, {**record, "made_by": {"threads": 2}}])
    assert totals.problems()["mixture"] == [{"threads": 1}, {"threads": 2}]


STREAM = b"".join(line.encode() + b"\n" for line in samples.sentences(23))


@pytest.mark.parametrize("part_lines", [2, 5, 100])
def test_the_score_of_a_stream_does_not_depend_on_the_size_of_parts(tmp_path: pathlib.Path, part_lines: int) -> None:
    spec = _spec(tmp_path, samples.language_model("char"), unit="stream")
    whole = _run(spec, driver.waves_of_lanes([_parts(tmp_path, STREAM, 100)]))
    other = _spec(tmp_path / "again", samples.language_model("char"), unit="stream")
    cut = _run(other, driver.waves_of_lanes([_parts(tmp_path, STREAM, part_lines)]), Shuffled())
    assert driver.Totals.of(cut).nats == pytest.approx(driver.Totals.of(whole).nats, abs=1e-4)
    assert driver.Totals.of(cut).tokens == driver.Totals.of(whole).tokens


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_an_interrupted_stream_with_dynamic_evaluation_resumes_with_equal_bytes(
    tmp_path: pathlib.Path, num_lanes: int
) -> None:
    settings: dict[str, Any] = {
        "unit": "stream",
        "lanes": num_lanes,
        "cache": inference_settings.CacheConfig(size=20),
        "dynamic": inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1, window=20),
    }
    parts = _parts(tmp_path, STREAM, 4)
    waves = driver.waves_of_lanes(
        stream_lanes.cut(parts, num_lanes, [1] * len(parts), lambda part: [1] * part.num_lines)
    )
    uninterrupted = _run(_spec(tmp_path / "one", samples.language_model(), **settings), waves)
    spec = _spec(tmp_path / "other", samples.language_model(), **settings)
    _run(spec, waves[: len(waves) // 2])
    again = _run(spec, waves, Shuffled())
    assert [record["shard"]["sha256"] for record in again] == [record["shard"]["sha256"] for record in uninterrupted]
    assert [record["state"]["sha256"] for record in again] == [record["state"]["sha256"] for record in uninterrupted]


def test_a_damaged_state_of_a_stream_is_not_continued_from(tmp_path: pathlib.Path) -> None:
    spec = _spec(tmp_path, samples.language_model("char"), unit="stream")
    waves = driver.waves_of_lanes([_parts(tmp_path, STREAM, 10)])
    (record,) = _run(spec, waves[:1])
    path = location.Location(spec.folder).join(record["state"]["name"]).path
    data = path.read_bytes()
    # The lowest bits of the last number: the file stays valid.
    path.write_bytes(data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])
    with pytest.raises(errors.IntegrityError, match="is damaged"):
        _run(spec, waves)


@pytest.mark.parametrize("num_lanes", [1, 2, 3, 7])
def test_lanes_are_cut_at_line_ends_and_have_nearly_equal_numbers_of_tokens(
    tmp_path: pathlib.Path, num_lanes: int
) -> None:
    spec = _spec(tmp_path, samples.language_model("char"), unit="stream", lanes=num_lanes)
    parts = _parts(tmp_path, STREAM, 4)
    counter = part_worker.CountWorker(spec)
    counts = driver.count_tokens(spec, parts, Session(executors.InProcess()), lambda _: None)
    lanes = stream_lanes.cut(parts, num_lanes, counts, counter)
    covered = [
        line for lane in lanes for part in lane for line in range(part.first_line, part.first_line + part.num_lines)
    ]
    assert covered == list(range(23))
    sizes = [sum(sum(counter(part)) for part in lane) for lane in lanes]
    longest = max(max(counter(part)) for part in parts)
    assert len(lanes) == num_lanes
    assert all(abs(size - sum(sizes) / num_lanes) <= longest for size in sizes)
    records = _run(spec, driver.waves_of_lanes(lanes))
    assert driver.Totals.of(records).tokens == sum(sizes)
    assert len(_rows(spec, records)) == 23


def test_with_more_lanes_than_lines_there_are_fewer_lanes(tmp_path: pathlib.Path) -> None:
    parts = _parts(tmp_path, b"abc\nabc\n")
    lanes = stream_lanes.cut(parts, 5, [8], lambda _: [4, 4])
    assert [[part.num_lines for part in lane] for lane in lanes] == [[1], [1]]


def test_the_factory_can_be_pickled() -> None:
    import pickle

    spec = part_worker.Spec(
        "b",
        "scores",
        inference_settings.DecodingConfig(),
        inference_settings.ScoringConfig(),
        samples.FP32,
        "f",
        {"a": 1},
        "cpu",
        1,
    )
    assert pickle.loads(pickle.dumps(functools.partial(part_worker.make, spec))).args == (spec,)
