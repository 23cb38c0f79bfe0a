"""Launching a group of ranks: without failures, with a rank that dies, with errors that no restart helps against."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import exceptions

from core import errors
from core.config import schema
from core.storage import location
from tests.workers.train import rank_functions
from workers.cluster import session as sessions
from workers.train import actor_group, launch, messages, ranks


def starts(marks: Path, rank: int) -> int:
    return len(list(marks.glob(f"start-{rank}-*")))


def local_config(**settings: Any) -> schema.ClusterConfig:
    return schema.ClusterConfig(address="local", **settings)


@pytest.fixture
def two_ranks(ray_session: sessions.Session) -> Iterator[sessions.Session]:
    with sessions.Session(local_config(num_workers=2, max_failures=1, collective_timeout_s=60.0)) as session:
        session.start_ray()
        yield session


def launched(
    session: sessions.Session, function: Any, marks: Path, tmp_path: Path, **job: Any
) -> tuple[Any, list[Any]]:
    seen: list[Any] = []
    root = location.Location.parse(str(tmp_path / "run"))
    result: Any = launch.launch({"marks": str(marks), **job}, function, root, session, seen.append)
    return result, seen


def test_without_a_cluster_the_rank_runs_in_this_process(tmp_path: Path) -> None:
    def alone(job: str, context: messages.RankContext, callbacks: Any) -> messages.RankContext:
        callbacks.on_progress(job)
        assert not callbacks.should_stop()
        return context

    seen: list[str] = []
    with sessions.Session(schema.ClusterConfig(address="none", num_workers=3, cpus_per_worker=2)) as session:
        context = launch.launch("job", alone, location.Location.parse(str(tmp_path)), session, seen.append)
        assert not session.ray_started
    assert context == messages.RankContext(0, 1, "cpu", 2)
    assert seen == ["job"]


def test_failures_of_a_replaced_worker_are_ignored() -> None:
    board = messages.MessageBoard()
    assert board.enter(0, 1, "first", "here")
    assert board.enter(0, 1, "second", "there")
    board.report_failure(0, "first", errors.LockedError("run: another start took over"))
    assert not board.has_failed()
    error = errors.DataError("corpus: too little")
    board.report_failure(0, "second", error)
    assert board.status().fatal is error
    assert not board.enter(0, 1, "third", "there")


def test_a_save_request_is_returned_once_and_the_status_has_the_nodes() -> None:
    board = messages.MessageBoard()
    for rank, node in enumerate(("head", "left", "right")):
        board.enter(rank, 3, f"worker-{rank}", node)
    assert board.take_requests() == (False, False)
    board.request_save()
    assert board.take_requests() == (False, True)
    assert board.take_requests() == (False, False)
    board.request_stop()
    assert board.take_requests() == board.take_requests() == (True, False)
    assert board.status().nodes == {"head", "left", "right"}
    board.enter(0, 2, "again-0", "head")
    board.enter(1, 2, "again-1", "right")
    assert board.status().nodes == {"head", "right"}


def test_the_rank_that_failed_first_is_named() -> None:
    def explained(failures: dict[int, BaseException]) -> str:
        return str(launch._explain(ranks.RanksFailedError("training failed", failures), max_failures=2))

    victims = [errors.ClusterError("collective operation failed"), RuntimeError("gloo: Connection reset by peer")]
    culprit = exceptions.ActorDiedError("")
    text = explained({0: victims[0], 1: victims[1], 2: culprit})
    assert text.startswith("train: rank 2: ActorDiedError: The actor died")
    assert "cluster.max_failures: 2" in text
    text = explained({0: victims[0], 1: OSError("no such disk")})
    assert text.startswith("train: rank 1: OSError: no such disk; ")


def test_waiting_for_ranks_has_deadlines() -> None:
    never = float("-inf")
    launch._check_deadlines(True, 1e6, launch.STOP_S - 1)
    launch._check_deadlines(False, launch.START_S - 1, never)
    with pytest.raises(errors.InterruptedRunError):
        launch._check_deadlines(True, 1e6, launch.STOP_S + 1)
    with pytest.raises(errors.InterruptedRunError):
        launch._check_deadlines(False, 10, launch.NOT_BEGUN_S + 1)
    with pytest.raises(errors.ClusterError, match="no rank started within 300 s"):
        launch._check_deadlines(False, launch.START_S + 1, never)


@pytest.mark.ray
def test_two_ranks_reduce_together_and_rank_0_returns(two_ranks: sessions.Session, marks: Path, tmp_path: Path) -> None:
    result, seen = launched(two_ranks, rank_functions.add_up, marks, tmp_path)
    assert result == {"sum": 3, "world_size": 2, "threads": "1"}
    assert seen == [("far", 0)]
    assert not (tmp_path / "run" / ".ray").exists()


@pytest.mark.ray
def test_groups_of_one_session_follow_each_other(
    two_ranks: sessions.Session, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each meets in a file of its own; one that ends by being killed leaves its file."""
    meetings: list[str] = []
    start = actor_group.ActorGroup._start

    def recorded(self: actor_group.ActorGroup, work: Any, meeting_file: str) -> Any:
        meetings.append(meeting_file)
        return start(self, work, meeting_file)

    monkeypatch.setattr(actor_group.ActorGroup, "_start", recorded)
    for _ in range(2):
        result, _ = launched(two_ranks, rank_functions.add_up, marks, tmp_path)
        assert result["sum"] == 3
    assert len(set(meetings)) == 2


@pytest.mark.ray
def test_an_error_of_the_user_is_raised_as_it_is_and_not_retried(
    two_ranks: sessions.Session, marks: Path, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    with pytest.raises(errors.DivergedError, match=r"^training: step 7: three steps without a finite gradient"):
        launched(two_ranks, rank_functions.diverge, marks, tmp_path)
    assert time.monotonic() - started_s < 55  # rank 0 was let go, it did not wait for the collective's timeout
    assert (starts(marks, 0), starts(marks, 1)) == (1, 1)


@pytest.mark.ray
def test_a_bug_is_raised_with_its_traceback(two_ranks: sessions.Session, marks: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*in stumble.*KeyError: 'no such thing'"):
        launched(two_ranks, rank_functions.stumble, marks, tmp_path)
    assert starts(marks, 0) <= 1


@pytest.mark.ray
def test_a_rank_that_dies_too_often_ends_the_run_and_is_named(
    ray_session: sessions.Session, marks: Path, tmp_path: Path
) -> None:
    named = pytest.raises(errors.ClusterError, match=r"train: rank 1: .*max_failures: 0")
    with sessions.Session(local_config(num_workers=2, max_failures=0)) as session, named:
        launched(session, rank_functions.die, marks, tmp_path)
    assert starts(marks, 1) == 1


@pytest.mark.ray
def test_a_group_whose_rank_was_killed_restarts_and_receives_the_stop_request(
    two_ranks: sessions.Session, marks: Path, tmp_path: Path
) -> None:
    root = location.Location.parse(str(tmp_path / "run"))

    def stop_at_first_sign(_: Any) -> None:
        two_ranks.should_stop.signal = 15

    result: Any = launch.launch(
        {"marks": str(marks)}, rank_functions.until_stopped, root, two_ranks, stop_at_first_sign
    )
    assert result == "stopped"
    assert (starts(marks, 0), starts(marks, 1)) == (2, 2)
