"""Laws of the driver's requests: none a part of a new output, a listing and the committed records of a resumed one."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from core import errors
from core.config import inference_settings, schema
from core.data.text import corpus
from core.decoding.lines import inputs
from core.storage import commit, concurrent, location
from tests import s3
from tests.workers.infer import test_part_worker
from workers.fanout import executor as executors
from workers.infer import part_runner, part_worker


def parts_of(num_parts: int) -> Sequence[inputs.Part]:
    sides = [
        inputs.Side(number, 1, None, corpus.LineRange(("file:///x",), number, number, 1, (0,), (0,), (0,)), "file:///x")
        for number in range(num_parts)
    ]
    return inputs.parts([inputs.Input("file:///x", "text", None, num_parts, "0", sides)])


def spec_of(folder: location.Location) -> part_worker.Spec:
    return part_worker.Spec(
        bundle="file:///none",
        kind="translations",
        decoding=inference_settings.DecodingConfig(),
        scoring=inference_settings.ScoringConfig(),
        compute=schema.ComputeConfig(),
        folder=folder.url,
        plan={"name": "test"},
        device="cpu",
        threads=1,
    )


def record_of(part: inputs.Part, num_errors: int = 0) -> dict[str, Any]:
    first_errors = [{"line": part.first_line, "error": "x"}][:num_errors]
    return {"lines": part.num_lines, "errors": num_errors, "first_errors": first_errors, "tokens": 1}


class Workers:
    """Workers that do no storage of their own: all requests are those of the driver."""

    num_workers = 1

    def __init__(self, after_each: Callable[[], object] = lambda: None) -> None:
        self.done: list[str] = []
        self._after_each = after_each

    def run(self, stage: str, tasks: Any, factory: Any, on_done: Any, monitor: executors.Monitor) -> None:
        for task in tasks:
            self.done.append(task.name)
            self._after_each()
            on_done(task, record_of(task.payload))


def run(
    spec: part_worker.Spec, parts: Sequence[inputs.Part], workers: Workers, progress: Callable[[int], None]
) -> Sequence[dict[str, Any]]:
    """What a verb does between opening its output and merging it."""
    is_new = spec.store.begin()
    session = test_part_worker.Session(workers)
    records, _ = part_runner.run_parts(spec, [parts], session, progress, is_new)
    return records


@pytest.mark.parametrize("num_parts", [2, 40])
def test_a_new_output_costs_the_driver_its_plan_and_no_request_a_part(
    s3_root: location.Location, store: s3.Store, num_parts: int
) -> None:
    workers = Workers()
    with store.recording() as requests:
        assert len(run(spec_of(s3_root), parts_of(num_parts), workers, lambda _: None)) == num_parts
    assert len(workers.done) == num_parts
    assert requests.by_kind() == {"PUT": 1}


def test_a_resumed_output_costs_a_listing_and_a_request_for_each_committed_part_beside_the_work(
    s3_root: location.Location, store: s3.Store
) -> None:
    spec, parts = spec_of(s3_root), parts_of(40)
    spec.store.begin()
    for part in parts[:30]:
        spec.store.commit(part.name, record_of(part))
    shown: list[int] = []
    before_part: list[int] = []
    with store.recording(latency_s=0.05) as requests:
        workers = Workers(lambda: before_part.append(len(requests)))
        records = run(spec, parts, workers, shown.append)
    assert workers.done == [part.name for part in parts[30:]]
    assert [record["lines"] for record in records] == [1] * 40
    assert sum(shown) == 30
    # The plan that is there: its PUT is refused, and it is read and compared.
    assert requests.by_kind() == {"PUT": 1, "LIST": 1, "GET": 1 + 30}
    assert before_part[0] <= 3 + concurrent.NUM_REQUESTS, "the first part does not wait for the records"
    assert requests.in_series() <= 3 + 30 / 3


def test_records_of_earlier_runs_count_towards_the_limit_of_lines_that_fail(tmp_path: Any) -> None:
    spec, parts = spec_of(location.Location.parse(str(tmp_path))), parts_of(40)
    spec.store.begin()
    for part in parts[:11]:
        spec.store.commit(part.name, record_of(part, num_errors=1))
    done = threading.Event()
    workers = Workers(lambda: done.wait(0.05))
    with pytest.raises(errors.DataError, match=r"11 lines failed, at most 10 may; the first is line 1: x"):
        run(spec, parts, workers, lambda _: None)
    assert len(workers.done) < 29, "the run ends when they are read, not when it is done"


def test_a_damaged_record_of_an_earlier_run_ends_the_run(tmp_path: Any) -> None:
    spec, parts = spec_of(location.Location.parse(str(tmp_path))), parts_of(3)
    spec.store.begin()
    spec.store.commit(parts[0].name, record_of(parts[0]))
    (tmp_path / commit.RECORDS / f"{parts[0].name}.json").write_bytes(b"{}")
    with pytest.raises(errors.IntegrityError, match=parts[0].name):
        run(spec, parts, Workers(), lambda _: None)


def test_a_part_that_the_listing_missed_is_committed_once(tmp_path: Any) -> None:
    spec = spec_of(location.Location.parse(str(tmp_path)))
    assert spec.store.begin()
    first = spec.store.commit("part-000000", {"who": "first"})
    assert not spec.store.begin()
    assert spec.store.committed_names() == {"part-000000"}
    assert spec.store.commit("part-000000", {"who": "second"}) == first
