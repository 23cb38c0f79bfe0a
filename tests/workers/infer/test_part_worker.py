"""Laws of parts: done once, committed whole, the same however they were spread."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.decoding.lines import inputs, results
from core.models import bundle as bundles
from core.storage import commit, location
from core.telemetry import metrics
from tests.core.decoding import samples
from tests.jobs import trained
from workers.fanout import executor as executors
from workers.infer import driver, part_worker


def _spec(tmp_path: pathlib.Path, made: Any = None, **scoring: Any) -> part_worker.Spec:
    root = trained.save(made or samples.seq2seq(), tmp_path / "run")
    return part_worker.Spec(
        bundle=bundles.locate(root).url,
        kind="scores" if scoring or made else "translations",
        decoding=inference_settings.DecodingConfig(beam_size=2, max_length=6),
        scoring=inference_settings.ScoringConfig(**scoring),
        compute=samples.FP32,
        folder=location.Location.parse(str(tmp_path / "out")).url,
        plan={"name": "test"},
        device="cpu",
        threads=1,
    )


def _pieces(tmp_path: pathlib.Path, content: bytes, part_lines: int = 3) -> Sequence[inputs.Piece]:
    place = tmp_path / "input.txt"
    place.write_bytes(content)
    scratch = location.Location.parse(str(tmp_path / "scratch"))
    return inputs.pieces([inputs.scan(location.Location.parse(str(place)), None, part_lines, scratch, "--input")])


class Shuffled:
    """Does the tasks in another order, some of them twice."""

    num_workers = 1

    def run(
        self, stage: str, tasks: Any, factory: Callable[[], Callable[[Any], Any]], on_done: Any, *rest: Any
    ) -> None:
        work, again = factory(), factory()
        for task in reversed(list(tasks)):
            first = work(task.payload)
            assert again(task.payload) == first
            on_done(task, first)


class Workforce:
    """One executor for everything, and nobody who measures."""

    metrics = metrics.NullMetrics()

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def should_stop(self) -> bool:
        return False

    def executor(self, stage: str, num_tasks: int | None = None) -> Any:
        return self._executor


def _do(spec: part_worker.Spec, rounds: Sequence[Sequence[part_worker.Payload]], executor: Any = None) -> list[Any]:
    records, _ = driver.do_parts(
        spec, "translate", rounds, Workforce(executor or executors.InProcess()), lambda _: None
    )
    return [*records]


def _rows(spec: part_worker.Spec, records: Sequence[Any]) -> list[results.Result]:
    folder = location.Location(spec.folder)
    tables = (
        results.decode(spec.kind, folder.join(record["shard"]["name"]).read_bytes(), "part") for record in records
    )
    return [row for table in tables for row in results.from_table(spec.kind, table)]


def test_each_line_has_its_row_in_order_whatever_the_order_of_work(tmp_path: pathlib.Path) -> None:
    lines = samples.sentences(10)
    pieces = _pieces(tmp_path, "\n".join(lines).encode())
    spec = _spec(tmp_path)
    records = _do(spec, driver.of_lines(pieces), Shuffled())
    assert [record["lines"] for record in records] == [3, 3, 3, 1]
    other = _spec(tmp_path / "again")
    again = _do(other, driver.of_lines(pieces))
    assert [record["shard"] for record in again] == [record["shard"] for record in records]
    assert len(_rows(spec, records)) == 10


def test_what_is_committed_is_not_done_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = _pieces(tmp_path, b"the cat\na dog\n" * 4)
    spec = _spec(tmp_path)
    records = _do(spec, driver.of_lines(pieces)[:1])
    monkeypatch.setattr(part_worker.TranslateWorker, "__init__", lambda *_: pytest.fail("a worker was made"))
    assert _do(spec, driver.of_lines(pieces)) == records


def test_a_worker_that_dies_before_it_commits_leaves_nothing_visible(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = _pieces(tmp_path, b"the cat\na dog\n")
    spec = _spec(tmp_path)

    def die(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(commit.PartStore, "commit", die)
        with pytest.raises(MemoryError):
            _do(spec, driver.of_lines(pieces))
    store = commit.PartStore(location.Location(spec.folder), spec.plan)
    assert store.committed("part-000000") is None
    assert _do(spec, driver.of_lines(pieces))[0]["lines"] == 2


def test_a_bad_line_is_a_row_with_an_error(tmp_path: pathlib.Path) -> None:
    pieces = _pieces(tmp_path, b"the cat\n\xff\xfe\na dog\n" + b"a cat\n" * 20)
    spec = _spec(tmp_path)
    records = _do(spec, driver.of_lines(pieces))
    rows = _rows(spec, records)
    assert [index for index, row in enumerate(rows) if row.error] == [1]
    assert "invalid_utf8" in (rows[1].error or "")
    assert records[0]["first_errors"][0]["line"] == 1


def test_too_many_bad_lines_fail_the_job(tmp_path: pathlib.Path) -> None:
    pieces = _pieces(tmp_path, b"a cat\n" * 2000 + b"\0\n" * 11, part_lines=1000)
    spec = _spec(tmp_path, samples.language_model("word"), unit="line")
    with pytest.raises(errors.DataError, match=r"11 lines failed.* line 2001"):
        _do(spec, driver.of_lines(pieces))


def test_the_record_says_what_made_it(tmp_path: pathlib.Path) -> None:
    (record,) = _do(_spec(tmp_path), driver.of_lines(_pieces(tmp_path, b"the cat\n")))
    assert record["made_by"]["threads"] == 1
    assert record["made_by"]["precision"] == "fp32"
    assert record["made_by"]["device"].startswith("cpu")


def test_parts_made_in_unlike_ways_are_reported() -> None:
    record = {"lines": 1, "errors": 0, "first_errors": [], "tokens": 1, "nats": 0.5}
    totals = driver.Totals.of([{**record, "made_by": {"threads": 1}}, {**record, "made_by": {"threads": 2}}])
    assert totals.problems()["mixture"] == [{"threads": 1}, {"threads": 2}]


STREAM = b"".join(line.encode() + b"\n" for line in samples.sentences(23))


@pytest.mark.parametrize("part_lines", [2, 5, 100])
def test_a_stream_is_scored_alike_however_it_is_cut_into_parts(tmp_path: pathlib.Path, part_lines: int) -> None:
    spec = _spec(tmp_path, samples.language_model("char"), unit="stream")
    whole = _do(spec, driver.of_stream([_pieces(tmp_path, STREAM, 100)]))
    other = _spec(tmp_path / "again", samples.language_model("char"), unit="stream")
    cut = _do(other, driver.of_stream([_pieces(tmp_path, STREAM, part_lines)]), Shuffled())
    assert driver.Totals.of(cut).nats == pytest.approx(driver.Totals.of(whole).nats, abs=1e-4)
    assert driver.Totals.of(cut).tokens == driver.Totals.of(whole).tokens


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_stream_that_learns_goes_on_after_a_death_as_if_there_was_none(
    tmp_path: pathlib.Path, num_lanes: int
) -> None:
    settings: dict[str, Any] = {
        "unit": "stream",
        "lanes": num_lanes,
        "cache": inference_settings.CacheConfig(size=20),
        "dynamic": inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1, window=20),
    }
    pieces = _pieces(tmp_path, STREAM, 4)
    rounds = driver.of_stream(
        inputs.cut_lanes(pieces, num_lanes, [1] * len(pieces), lambda piece: [1] * piece.num_lines)
    )
    uninterrupted = _do(_spec(tmp_path / "one", samples.language_model(), **settings), rounds)
    spec = _spec(tmp_path / "other", samples.language_model(), **settings)
    _do(spec, rounds[: len(rounds) // 2])
    again = _do(spec, rounds, Shuffled())
    assert [record["shard"]["sha256"] for record in again] == [record["shard"]["sha256"] for record in uninterrupted]
    assert [record["state"]["sha256"] for record in again] == [record["state"]["sha256"] for record in uninterrupted]


@pytest.mark.parametrize("num_lanes", [1, 2, 3, 7])
def test_lanes_cut_the_stream_at_line_ends_into_like_runs(tmp_path: pathlib.Path, num_lanes: int) -> None:
    spec = _spec(tmp_path, samples.language_model("char"), unit="stream", lanes=num_lanes)
    pieces = _pieces(tmp_path, STREAM, 4)
    counter = part_worker.CountWorker(spec)
    counts = driver.count_tokens(spec, "score", pieces, Workforce(executors.InProcess()), lambda _: None)
    lanes = inputs.cut_lanes(pieces, num_lanes, counts, counter)
    covered = [
        line for lane in lanes for piece in lane for line in range(piece.first_line, piece.first_line + piece.num_lines)
    ]
    assert covered == list(range(23))
    sizes = [sum(sum(counter(piece)) for piece in lane) for lane in lanes]
    longest = max(max(counter(piece)) for piece in pieces)
    assert len(lanes) == num_lanes
    assert all(abs(size - sum(sizes) / num_lanes) <= longest for size in sizes)
    records = _do(spec, driver.of_stream(lanes))
    assert driver.Totals.of(records).tokens == sum(sizes)
    assert len(_rows(spec, records)) == 23


def test_more_lanes_than_lines_are_fewer_lanes(tmp_path: pathlib.Path) -> None:
    pieces = _pieces(tmp_path, b"abc\nabc\n")
    lanes = inputs.cut_lanes(pieces, 5, [8], lambda _: [4, 4])
    assert [[piece.num_lines for piece in lane] for lane in lanes] == [[1], [1]]


def test_the_factory_travels() -> None:
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
