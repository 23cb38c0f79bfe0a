"""Laws of the fan-out: each task is reported once, deaths are retried, errors and stops end the run at once."""

import collections
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.telemetry import catalog, metrics
from workers.cluster import session as sessions
from workers.fanout import executor as executors
from workers.fanout import pool as pools
from workers.fanout import ray_actors, retries

Script = Callable[[str, int], tuple[float, retries.Outcome]]


class Machine:
    """A simulated backend with its own clock; a script gives the duration and the outcome of each attempt.

    The script is called with the payload and the number of the attempt, from 1.
    """

    def __init__(self, script: Script) -> None:
        self.now_s = 0.0
        self.num_started = 0
        self.killed: set[int] = set()
        self.attempts: collections.Counter[str] = collections.Counter()
        self.max_in_flight = 0
        self._script = script
        self._due: dict[int, tuple[float, retries.Outcome]] = {}
        self._num_futures = 0

    def start(self) -> tuple[int, int]:
        self.num_started += 1
        return self.num_started, self._future(1.0, retries.Done("up"))

    def submit(self, handle: int, run: int, factory: executors.Factory[Any], payload: str) -> int:
        assert handle not in self.killed
        self.attempts[payload] += 1
        return self._future(*self._script(payload, self.attempts[payload]))

    def _future(self, seconds: float, outcome: retries.Outcome) -> int:
        self._num_futures += 1
        self._due[self._num_futures] = (self.now_s + seconds, outcome)
        return self._num_futures

    def wait(self, futures: list[int], timeout_s: float) -> list[int]:
        self.max_in_flight = max(self.max_in_flight, len(futures))
        first_s = min((self._due[future][0] for future in futures), default=float("inf"))
        self.now_s = max(self.now_s, min(first_s, self.now_s + timeout_s))
        return [future for future in futures if self._due[future][0] <= self.now_s]

    def outcome(self, future: int) -> retries.Outcome:
        return self._due[future][1]

    def kill(self, handle: int) -> None:
        assert handle not in self.killed
        self.killed.add(handle)


def pool_on(machine: Machine, num_workers: int = 2, max_failures: int = 2, part_timeout_s: float = 1e6) -> pools.Pool:
    return pools.Pool(machine, num_workers, max_failures, part_timeout_s, clock=lambda: machine.now_s)


def tasks_named(names: str) -> list[executors.Task]:
    return [executors.Task(name, name) for name in names]


def no_factory() -> Callable[[Any], Any]:
    raise AssertionError("a simulated backend calls no factory")


def succeed(name: str, attempt: int) -> tuple[float, retries.Outcome]:
    return 2.0, retries.Done(name.upper())


def names_of(done: list[tuple[executors.Task, Any]]) -> list[str]:
    return [task.name for task, _ in done]


def run_on(pool: pools.Pool, tasks: Any, **monitor: Any) -> list[tuple[executors.Task, Any]]:
    done: list[tuple[executors.Task, Any]] = []
    pool.run("prepare", tasks, no_factory, lambda task, value: done.append((task, value)), executors.Monitor(**monitor))
    return done


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_every_task_is_reported_once_with_its_result(num_workers: int) -> None:
    seen: list[int] = []
    done = run_on(pool_on(Machine(succeed), num_workers), tasks_named("abcdefg"), progress=seen.append)
    assert sorted((task.name, value) for task, value in done) == [(name, name.upper()) for name in "abcdefg"]
    assert seen == [0, *[1] * 7], "a 0 when the first worker is ready"


def test_tasks_are_taken_from_the_iterable_only_when_a_worker_is_free() -> None:
    taken: list[int] = []

    def many_tasks() -> Iterator[executors.Task]:
        for number in range(1000):
            taken.append(number)
            yield executors.Task(str(number), str(number))

    reported: list[int] = []
    ahead: list[int] = []

    def report(task: executors.Task, _: Any) -> None:
        reported.append(1)
        ahead.append(len(taken) - len(reported))

    pool_on(Machine(succeed), num_workers=3).run("prepare", many_tasks(), no_factory, report)
    assert len(reported) == 1000
    assert max(ahead) <= 3


def test_not_more_workers_are_started_than_tasks_exist() -> None:
    machine = Machine(succeed)
    run_on(pool_on(machine, num_workers=8), tasks_named("abc"))
    assert machine.num_started == 3


def test_the_part_of_a_worker_that_dies_is_retried_on_a_new_worker() -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (1.0, retries.Lost("killed")) if name == "b" and attempt == 1 else succeed(name, attempt)

    machine, recorded = Machine(script), metrics.InMemoryMetrics()
    done = run_on(pool_on(machine), tasks_named("abcd"), metrics=recorded)
    assert sorted(names_of(done)) == list("abcd")
    assert machine.attempts == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert machine.num_started == 3
    deaths = [amount for name, amount, _ in recorded.calls if name == catalog.FANOUT_WORKER_DEATHS.name]
    assert deaths == [0, 1.0], "the counter is exported as 0 before the first death"
    assert recorded.calls.count((catalog.FANOUT_PARTS.name, 1.0, {"stage": "prepare", "outcome": "retried"})) == 1
    assert recorded.calls.count((catalog.FANOUT_PARTS.name, 1.0, {"stage": "prepare", "outcome": "done"})) == 4


def test_each_death_is_one_line_with_what_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (1.0, retries.Lost("node gone")) if name in "ab" and attempt == 1 else succeed(name, attempt)

    run_on(pool_on(Machine(script)), tasks_named("abc"))
    # The simulated workers are "up", instead of a process on a node.
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "prepare: worker up: node gone; a is tried again, 1 worker is left",
        "prepare: worker up: node gone; b is tried again, 0 workers are left",
    ]


def test_a_part_that_kills_each_worker_ends_the_run_after_max_failures_retries() -> None:
    machine = Machine(lambda name, attempt: (1.0, retries.Lost("worker was killed")))
    with pytest.raises(errors.ClusterError, match=r"task a: failed 3 times; .* worker was killed"):
        run_on(pool_on(machine, num_workers=1, max_failures=2), tasks_named("ab"))
    assert machine.attempts == {"a": 3}


def test_a_part_that_exhausts_memory_is_retried_at_most_twice() -> None:
    machine = Machine(lambda name, attempt: (1.0, retries.Lost("out of memory", memory=True)))
    with pytest.raises(errors.ClusterError, match="smaller parts or batches"):
        run_on(pool_on(machine, num_workers=1, max_failures=9), tasks_named("a"))
    assert machine.attempts == {"a": 3}


def test_a_user_error_ends_the_run_at_once_and_busy_workers_are_killed() -> None:
    error = errors.DataError("corpus.txt:7: is not UTF-8; correct it")

    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (1.0, retries.Failed(error)) if name == "a" else (50.0, retries.Done(name))

    machine = Machine(script)
    pool = pool_on(machine)
    with pytest.raises(errors.DataError) as caught:
        run_on(pool, tasks_named("abcd"))
    assert caught.value is error
    assert machine.now_s < 10
    assert machine.attempts == {"a": 1, "b": 1}
    assert all(worker.task is None for worker in pool.workers)


def test_a_cluster_error_of_a_worker_is_retried() -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (1.0, retries.Failed(errors.ClusterError("no peer"))) if attempt == 1 else succeed(name, attempt)

    assert names_of(run_on(pool_on(Machine(script)), tasks_named("a"))) == ["a"]


def test_an_unexpected_exception_is_raised_with_its_traceback_and_not_retried() -> None:
    machine = Machine(lambda name, attempt: (1.0, retries.Bug("Traceback: KeyError")))
    with pytest.raises(RuntimeError, match="task a: a worker raised\nTraceback: KeyError"):
        run_on(pool_on(machine), tasks_named("a"))
    assert machine.attempts == {"a": 1}


def test_a_worker_that_exceeds_the_part_timeout_is_killed_and_its_part_retried() -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (1e9 if attempt == 1 else 2.0), retries.Done(name)

    machine, recorded = Machine(script), metrics.InMemoryMetrics()
    done = run_on(pool_on(machine, num_workers=1, part_timeout_s=30), tasks_named("a"), metrics=recorded)
    assert names_of(done) == ["a"]
    assert [amount for name, amount, _ in recorded.calls if name == catalog.FANOUT_WORKER_DEATHS.name] == [0, 1.0]
    assert machine.now_s < 40
    assert machine.killed == {1}


def test_a_straggler_gets_a_second_attempt_and_the_first_result_counts() -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        slow = name == "a" and attempt == 1
        return (1000.0 if slow else 2.0), retries.Done((name, attempt))

    machine = Machine(script)
    done = run_on(pool_on(machine), tasks_named("abcdef"))
    assert sorted(value for _, value in done) == [("a", 2), *((name, 1) for name in "bcdef")]
    # Start 1 s; the other five parts take 2 s each on the second worker. The median is 2 s, so the limit is 6 s.
    assert machine.now_s == pytest.approx(1 + 5 * 2 + 2, abs=0.5)
    assert len(machine.killed) == 1  # the slow attempt must not delay the next run


@pytest.mark.parametrize("late", [retries.Done("late"), retries.Lost("its node went away")])
def test_what_comes_of_a_straggler_after_its_second_attempt_is_done_counts_for_nothing(late: retries.Outcome) -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        if name == "a":
            return (12.0, late) if attempt == 1 else (2.0, retries.Done("first"))
        return (30.0 if name == "b" else 2.0), retries.Done(name)

    machine = Machine(script)
    done = run_on(pool_on(machine, num_workers=4), tasks_named("abcdef"))
    assert sorted((task.name, value) for task, value in done) == [("a", "first"), *((name, name) for name in "bcdef")]
    # The slow attempt ended, and its worker lives on or was lost, long before the last part was done.
    assert machine.now_s > 25
    assert machine.attempts["a"] == 2


def test_a_part_of_less_than_five_seconds_is_not_a_straggler() -> None:
    def script(name: str, attempt: int) -> tuple[float, retries.Outcome]:
        return (4.5 if name == "a" else 0.1), retries.Done(name)

    machine = Machine(script)
    run_on(pool_on(machine), tasks_named("abcd"))
    assert machine.attempts["a"] == 1


def test_after_a_stop_no_task_is_handed_out_and_none_reported() -> None:
    machine = Machine(lambda name, attempt: (10.0, retries.Done(name)))
    with pytest.raises(errors.InterruptedRunError):
        run_on(pool_on(machine), tasks_named("abcdef"), should_stop=lambda: machine.now_s >= 15)
    assert machine.now_s < 15 + 2 * pools.POLL_S
    assert machine.attempts.total() == 4
    assert machine.killed == {1, 2}


def test_workers_are_reused_by_the_next_run_and_killed_by_close() -> None:
    machine = Machine(succeed)
    pool = pool_on(machine)
    run_on(pool, tasks_named("abcd"))
    run_on(pool, tasks_named("efgh"))
    assert machine.num_started == 2
    pool.close()
    assert machine.killed == {1, 2}


def test_a_cluster_without_resources_for_any_worker_ends_the_run() -> None:
    class FullMachine(Machine):
        def start(self) -> tuple[int, int]:
            self.num_started += 1
            return self.num_started, self._future(1e9, retries.Done("up"))

    with pytest.raises(errors.ClusterError, match="none of 2 workers started within 300 s"):
        run_on(pool_on(FullMachine(succeed)), tasks_named("a"))


def test_in_process_tasks_run_one_by_one_and_the_factory_is_called_once() -> None:
    events: list[str] = []

    def factory() -> Callable[[str], str]:
        events.append("built")
        return str.upper

    executor = executors.InProcess(threads=2)
    recorded = metrics.InMemoryMetrics()
    executor.run(
        "score",
        tasks_named("abc"),
        factory,
        lambda task, value: events.append(task.name + value),
        executors.Monitor(recorded),
    )
    assert events == ["built", "aA", "bB", "cC"]
    assert recorded.calls.count((catalog.FANOUT_PARTS.name, 1.0, {"stage": "score", "outcome": "done"})) == 3


def test_in_process_a_stop_request_is_honoured_between_tasks() -> None:
    done: list[str] = []
    with pytest.raises(errors.InterruptedRunError, match="before task c"):
        executors.InProcess().run(
            "score",
            tasks_named("abcd"),
            lambda: str.upper,
            lambda task, _: done.append(task.name),
            executors.Monitor(should_stop=lambda: len(done) == 2),
        )
    assert done == ["a", "b"]


def work_with_marks(marks: str, payload: tuple[str, str]) -> tuple[str, int, str]:
    """Behaves as the payload says, and returns its name in capitals, the process id and the number of threads."""
    behaviour, name = payload
    attempt = len(list(Path(marks).glob(f"{name}-*"))) + 1
    (Path(marks) / f"{name}-{attempt}").touch()
    if behaviour == "die" or (behaviour == "die once" and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "fail":
        raise errors.DataError(f"{name}: is not text; correct it")
    if behaviour == "bug":
        raise KeyError(name)
    if behaviour == "sleep":
        time.sleep(60)
    return name.upper(), os.getpid(), os.environ["OMP_NUM_THREADS"]


def make_work(marks: str) -> Callable[[tuple[str, str]], tuple[str, int, str]]:
    return functools.partial(work_with_marks, marks)


@pytest.fixture
def actors(ray_session: sessions.Session) -> Iterator[ray_actors.RayPool]:
    pool = ray_actors.RayPool(num_workers=2, cpus_per_worker=1, max_failures=1)
    yield pool
    pool.close()


def run_actors(
    pool: ray_actors.RayPool, marks: Path, behaviours: dict[str, str], **monitor: Any
) -> list[tuple[str, Any]]:
    done: list[tuple[str, Any]] = []
    tasks = [executors.Task(name, (behaviour, name)) for name, behaviour in behaviours.items()]
    factory = functools.partial(make_work, str(marks))
    pool.run(
        "translate", tasks, factory, lambda task, value: done.append((task.name, value)), executors.Monitor(**monitor)
    )
    return done


@pytest.mark.ray
def test_the_part_of_a_killed_actor_is_retried_and_each_task_reported_once(
    actors: ray_actors.RayPool, marks: Path
) -> None:
    done = run_actors(actors, marks, {"a": "", "b": "die once", "c": "", "d": "", "e": ""})
    assert sorted((name, value[0]) for name, value in done) == [(name, name.upper()) for name in "abcde"]
    assert len(list(marks.glob("b-*"))) == 2
    assert {value[2] for _, value in done} == {"1"}
    assert os.getpid() not in {value[1] for _, value in done}


@pytest.mark.ray
def test_a_part_that_kills_every_actor_is_named(actors: ray_actors.RayPool, marks: Path) -> None:
    with pytest.raises(errors.ClusterError, match=r"task b: failed 2 times; .*Actor"):
        run_actors(actors, marks, {"b": "die"})
    assert len(list(marks.glob("b-*"))) == 2


@pytest.mark.ray
def test_errors_of_actors_keep_their_type_and_are_not_retried(actors: ray_actors.RayPool, marks: Path) -> None:
    with pytest.raises(errors.DataError, match=r"^a: is not text; correct it$"):
        run_actors(actors, marks, {"a": "fail"})
    with pytest.raises(RuntimeError, match=r"(?s)task b: a worker raised.*in work_with_marks.*KeyError: 'b'"):
        run_actors(actors, marks, {"b": "bug"})
    assert len(list(marks.iterdir())) == 2


@pytest.mark.ray
def test_a_stop_kills_actors_in_the_middle_of_a_part(actors: ray_actors.RayPool, marks: Path) -> None:
    stopped_s: list[float] = []

    def both_have_begun() -> bool:
        have_begun = len(list(marks.iterdir())) == 2
        if have_begun:
            stopped_s.append(time.monotonic())
        return have_begun

    with pytest.raises(errors.InterruptedRunError):
        run_actors(actors, marks, {"a": "sleep", "b": "sleep"}, should_stop=both_have_begun)
    assert time.monotonic() - stopped_s[0] < 30, "each part takes a minute"
    assert actors.workers == []
