"""The run log: names of segments, and rows that are written once."""

from pathlib import Path

import pytest

from core import errors
from core.training import run_log
from tests.core.training import builders


def test_a_segment_is_named_by_fencing_number_and_step() -> None:
    segment = run_log.Segment(fencing_number=3, step=500)
    assert segment.name == "e3-00000500.jsonl"
    assert run_log.Segment.parse(segment.name) == segment
    assert run_log.Segment.parse("targets.json") is None


def test_rows_are_in_the_segment_of_the_next_checkpoint(tmp_path: Path) -> None:
    log = run_log.RunLog(builders.location_of(tmp_path), fencing_number=1)
    log.flush(2)
    log.add({"step": 3})
    log.flush(4)
    log.add({"step": 5})
    log.flush(6)
    segments = {path.name: path.read_text() for path in (tmp_path / "metrics").iterdir()}
    assert segments == {"e1-00000004.jsonl": '{"step": 3}\n', "e1-00000006.jsonl": '{"step": 5}\n'}


def test_a_segment_of_another_run_is_never_overwritten(tmp_path: Path) -> None:
    root = builders.location_of(tmp_path)
    for loss, is_other in ((1.0, False), (1.0, False), (2.0, True)):
        log = run_log.RunLog(root, fencing_number=1)
        log.add({"step": 1, "loss_nats": loss})
        if is_other:
            with pytest.raises(errors.LockedError, match="was written by another run"):
                log.flush(4)
        else:
            log.flush(4)
