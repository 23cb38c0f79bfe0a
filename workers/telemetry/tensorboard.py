"""TensorBoard event files of a training run.

The driver converts each segment of the run log into one event file. So training itself need not know TensorBoard, and
it works for a root in an object store too, where files cannot be appended to.
"""

import importlib.util
import io
import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from core import errors
from core.config import schema
from core.storage import location, root_layout
from core.training import run_log

EVENTS_FOLDER = "tensorboard"
FOLLOW_EVERY_S = 10.0
SCALARS = {  # kind of a run log row: (group of tags, columns)
    "step": ("train", ("loss_nats", "perplexity", "gradient_norm", "learning_rate", "tokens_per_s")),
    "validation": ("validation", ("nll_nats", "perplexity", "accuracy", "bleu")),
}

_log = logging.getLogger(__name__)


def check_installed(export: schema.TelemetryConfig) -> None:
    """Checks that TensorBoard is installed if the settings ask for event files.

    Raises:
        UsageError: it is not installed.
    """
    if export.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise errors.UsageError(
            "telemetry.tensorboard: TensorBoard is not installed; pip install tensorboard, or leave the setting out"
        )


class EventFiles:
    """The run log as TensorBoard event files: one file per segment, written once.

    A segment of the run log exists as soon as its checkpoint does.

    Args:
        root: root of the run; the files are written to `tensorboard/` below it.
        export: telemetry settings; nothing is written unless `tensorboard` is true.
    """

    def __init__(self, root: location.Location, export: schema.TelemetryConfig) -> None:
        self._segments, self._events = root.join(root_layout.METRICS), root.join(EVENTS_FOLDER)
        self._is_enabled = export.tensorboard
        self._checked_s = time.monotonic()

    def follow(self, at_once: bool = False) -> None:
        """Converts new segments, at most every `FOLLOW_EVERY_S` seconds.

        A failure is logged and does not stop the run.

        Args:
            at_once: do not wait for the interval to pass, as at the end of the run.
        """
        now_s = time.monotonic()
        if not self._is_enabled or (not at_once and now_s - self._checked_s < FOLLOW_EVERY_S):
            return
        self._checked_s = now_s
        try:
            converted = set(self._events.list_names())
            for name in self._segments.list_names():
                if segment := run_log.Segment.parse(name):
                    # TensorBoard reads the files of a folder in the order of their names, hence the leading zeros.
                    target = f"events.out.tfevents.{segment.fencing_number:08d}-{segment.step:018d}"
                    if target not in converted:
                        rows = [json.loads(line) for line in self._segments.join(name).read_bytes().splitlines()]
                        # Two drivers of one root may convert the same segment: the first file stays.
                        self._events.join(target).put_if_absent(_events(rows))
        except (errors.RaycurrentError, OSError, ValueError) as error:
            _log.warning("telemetry.tensorboard: event files are not written: %s", error)


def _events(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Returns the rows of a segment in TensorBoard's event file format."""
    # Imported here: the package is optional, and its import takes a second.
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    rows, now_s, file = list(rows), time.time(), io.BytesIO()
    writer = record_writer.RecordWriter(file)
    writer.write(event_pb2.Event(wall_time=now_s, file_version="brain.Event:2").SerializeToString())
    # After a resume from an older checkpoint, START makes TensorBoard drop what it has read from this step on.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    first_step = min((int(row["step"]) for row in rows), default=0)
    writer.write(event_pb2.Event(wall_time=now_s, step=first_step, session_log=start).SerializeToString())
    for row in rows:
        group, names = SCALARS.get(row["kind"], ("", ()))
        scalars = [
            summary_pb2.Summary.Value(tag=f"{group}/{name}", simple_value=row[name])
            for name in names
            if row.get(name) is not None
        ]
        if scalars:
            summary = summary_pb2.Summary(value=scalars)
            writer.write(event_pb2.Event(wall_time=now_s, step=row["step"], summary=summary).SerializeToString())
    return file.getvalue()
