"""Translation and scoring workloads that run long enough to be interrupted, and the results to compare."""

import json
import math
from pathlib import Path
from typing import Any

from core.config import inference_settings, section
from core.models import bundle as bundles
from core.reporting import metrics_summary
from core.storage import location
from jobs import score, translate
from tests import reporters
from tests.core.decoding import samples
from tests.e2e import nodes
from tests.jobs import trained

PART_LINES = 20
DECODING = inference_settings.DecodingConfig(beam_size=4, num_best=2, max_length=60, part_lines=PART_LINES)
SCORING = inference_settings.ScoringConfig(
    unit="stream", lanes=2, part_lines=PART_LINES, cache=inference_settings.CacheConfig(size=500)
)


class _Workload:
    """A folder with a model, lines, and the outputs of a command.

    Args:
        folder: the folder.
        num_lines: number of input lines.
        model: saved as the run.
        command: `translate` or `score`.
        sections: settings of the command.
    """

    def __init__(
        self, folder: Path, num_lines: int, model: bundles.Bundle, command: str, **sections: section.Section
    ) -> None:
        self.folder, self.num_lines = folder, num_lines
        self._command, self._sections = command, {**sections, "compute": samples.FP32}
        trained.save(model, folder / "run")
        lines = samples.sentences(num_lines - 3, longest=20)
        # Empty lines, and one that is not UTF-8, have rows in the output, too.
        text = "".join(f"{line}\n" for line in ["", *lines, ""]).encode() + b"\xff\n"
        (folder / "in.txt").write_bytes(text)

    def arguments(self, name: str, **cluster: Any) -> tuple[str, ...]:
        """Returns the command line that writes the folder of this name, whose parts stay."""
        own_settings = {name: section.model_dump(exclude_unset=True) for name, section in self._sections.items()}
        # With a port the metrics are written beside the output.
        settings = {**own_settings, "cluster": cluster, "telemetry": {"metrics_port": nodes.free_ports(1)[0]}}
        paths = ("--run", self._path("run"), "--input", self._path("in.txt"), "--output", f"{self._path(name)}/")
        words = [f"{name}.{key}={value}" for name, section in settings.items() for key, value in section.items()]
        return (self._command, *paths, *(word for setting in words for word in ("--set", setting)))

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def parts(self, name: str) -> dict[str, int]:
        """Returns the files of committed parts, with their modification times in nanoseconds."""
        folder = self.folder / name
        files = [*folder.glob("_commits/*.json"), *folder.glob("*.arrow"), *folder.glob("*.safetensors")]
        return {path.name: path.stat().st_mtime_ns for path in files}

    def committed(self, name: str) -> int:
        """Returns the number of committed parts."""
        return len(list((self.folder / name).glob("_commits/*.json")))

    def outcome(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """Returns the shards, in order, and the manifest, which no interruption may change."""
        manifest: dict[str, Any] = json.loads((self.folder / name / "_MANIFEST.json").read_text())
        return b"".join((self.folder / name / shard).read_bytes() for shard in manifest["shards"]), manifest


class TranslationWorkload(_Workload):
    """A translation model, lines, and their translations."""

    def __init__(self, folder: Path, num_lines: int = 500) -> None:
        super().__init__(folder, num_lines, samples.seq2seq(hidden_size=64), "translate", decoding=DECODING)

    def translate(self, name: str) -> None:
        """Translates in this process, without interruption."""
        with trained.session() as session:
            translate.run(
                translate.Request(
                    location.Location.parse(self._path("run")),
                    self._path("in.txt"),
                    f"{self._path(name)}/",
                    DECODING,
                    samples.FP32,
                    trained.NONE,
                ),
                session,
                reporters.SilentReporter(),
            )


class ScoringWorkload(_Workload):
    """A language model, lines that it reads as one stream in lanes, and their scores.

    The parts of a lane depend on each other: each starts from the state that the one before it committed.
    """

    def __init__(self, folder: Path, num_lines: int = 400, hidden_size: int = 256, **scoring: Any) -> None:
        """Takes the settings of `SCORING`, except those given here."""
        self.scoring = SCORING.model_copy(update=scoring)
        model = samples.language_model(text=" ".join(samples.WORDS), hidden_size=hidden_size)
        super().__init__(folder, num_lines, model, "score", scoring=self.scoring)

    def score(self, name: str, **scoring: Any) -> dict[str, Any]:
        """Scores in this process, without interruption, with these settings changed; returns the report."""
        with trained.session() as session:
            return score.run(
                score.Request(
                    location.Location.parse(self._path("run")),
                    self._path("in.txt"),
                    f"{self._path(name)}/",
                    self.scoring.model_copy(update=scoring),
                    samples.FP32,
                    trained.NONE,
                ),
                session,
                reporters.SilentReporter(),
            )

    def fanout_counts(self) -> dict[str, float]:
        """Returns the counts of the last driver that ended: parts by outcome, and deaths of workers; no zeros.

        The tasks that count tokens, before the lanes are cut, are left out.
        """
        summary = metrics_summary.read(location.Location.parse(str(self.folder)))
        assert summary is not None
        summary["stages"]["score"]["done"] -= math.ceil(self.num_lines / PART_LINES)
        return {outcome: count for outcome, count in summary["stages"]["score"].items() if count}
