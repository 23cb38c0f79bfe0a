"""State of a run: the seconds of a stage over several starts."""

import pathlib

import pytest

from core import errors
from core.storage import location
from jobs import run_state


class Clock:
    """A clock with a settable time, in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("other", "expected_s"), [("made-alike", 9.0), ("made-otherwise", 2.0)])
def test_the_seconds_of_a_stage_are_those_of_all_its_starts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, other: str, expected_s: float
) -> None:
    root, clock = location.Location.parse(str(tmp_path)), Clock()
    monkeypatch.setattr("jobs.run_state.time.monotonic", clock)
    (tmp_path / "run.json").write_text('{"format": "raycurrent-run", "version": 1, "stages": {}}')

    def interrupted(took_s: float) -> None:
        run_state.record_stage_start(root, "score", "made-alike")
        with run_state.record_unfinished_time(root, "score"):
            clock.now_s += took_s
            raise errors.InterruptedRunError("score: stopped; run it again")

    for took_s in (3.0, 4.0):
        with pytest.raises(errors.InterruptedRunError):
            interrupted(took_s)
    # Results of other settings owe nothing to the work before.
    run_state.record_stage_start(root, "score", other)
    run_state.record_stage_end(root, "score", 2.0, {"lines": 5}, worked=True, fingerprint=other)
    entry = run_state.read_stage(root, "score")
    assert entry["elapsed_s"] == expected_s
    assert "earlier_s" not in entry
    # One that is found done keeps its time.
    run_state.record_stage_end(root, "score", 0.1, {"lines": 5}, worked=False, fingerprint=other)
    assert run_state.read_stage(root, "score")["elapsed_s"] == expected_s
