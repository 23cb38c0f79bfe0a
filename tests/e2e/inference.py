"""Translations and scores that take long enough to be disturbed, and what must not change when they are."""

import json
import math
from pathlib import Path
from typing import Any

from core.config import inference_settings, section
from core.models import bundle as bundles
from core.reporting import metrics_summary
from core.storage import location
from jobs import console, score, translate
from tests.core.decoding import samples
from tests.jobs import trained

PART_LINES = 20
DECODING = inference_settings.DecodingConfig(beam_size=4, num_best=2, max_length=60, part_lines=PART_LINES)
SCORING = inference_settings.ScoringConfig(
    unit="stream", lanes=2, part_lines=PART_LINES, cache=inference_settings.CacheConfig(size=500)
)


class _Place:
    """A folder with a model, lines, and what a verb makes of them."""

    def __init__(
        self, folder: Path, num_lines: int, made: bundles.Bundle, verb: str, **sections: section.Section
    ) -> None:
        self.folder, self.num_lines = folder, num_lines
        self._verb, self._sections = verb, {**sections, "compute": samples.FP32}
        trained.save(made, folder / "run")
        lines = samples.sentences(num_lines - 3, longest=20)
        # Empty lines and one that cannot be read have their rows too.
        text = "".join(f"{line}\n" for line in ["", *lines, ""]).encode() + b"\xff\n"
        (folder / "in.txt").write_bytes(text)

    def arguments(self, name: str, **cluster: Any) -> tuple[str, ...]:
        """The command line that fills this folder of parts and the file beside it."""
        set_here = {name: section.model_dump(exclude_unset=True) for name, section in self._sections.items()}
        settings = {**set_here, "cluster": cluster}
        places = ("--run", self._path("run"), "--input", self._path("in.txt"), "--output", self._path(f"{name}.jsonl"))
        words = [f"{name}.{key}={value}" for name, section in settings.items() for key, value in section.items()]
        return (self._verb, *places, *(word for setting in words for word in ("--set", setting)))

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def parts(self, name: str) -> dict[str, int]:
        """The parts that are committed, and when the records and the files that they name were written."""
        folder = self.folder / f"{name}.jsonl.parts"
        files = [*folder.glob("_commits/*.json"), *folder.glob("*.arrow"), *folder.glob("*.safetensors")]
        return {path.name: path.stat().st_mtime_ns for path in files}

    def committed(self, name: str) -> int:
        """How many parts are."""
        return len(list((self.folder / f"{name}.jsonl.parts").glob("_commits/*.json")))

    def outcome(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """All that must be the same whatever happened on the way."""
        manifest: dict[str, Any] = json.loads((self.folder / f"{name}.jsonl.parts" / "_MANIFEST.json").read_text())
        manifest["merged"].pop("name")
        return (self.folder / f"{name}.jsonl").read_bytes(), manifest


class Place(_Place):
    """A folder with a model, lines to translate, and translations of them."""

    def __init__(self, folder: Path, num_lines: int = 500) -> None:
        super().__init__(folder, num_lines, samples.seq2seq(hidden_size=64), "translate", decoding=DECODING)

    def translate(self, name: str) -> None:
        """Translates in this process, undisturbed."""
        with trained.session() as session:
            translate.run(
                translate.Request(
                    location.Location.parse(self._path("run")),
                    self._path("in.txt"),
                    self._path(f"{name}.jsonl"),
                    DECODING,
                    samples.FP32,
                    trained.NONE,
                ),
                session,
                console.SilentReporter(),
            )


class StreamPlace(_Place):
    """A folder with a language model, lines that it reads as one stream in lanes, and their scores.

    The parts of a lane wait for each other: each goes on from what the one before it committed.
    """

    def __init__(self, folder: Path, num_lines: int = 400, hidden_size: int = 256, **scoring: Any) -> None:
        """Scores as `SCORING` says, but for the settings given here."""
        self.scoring = SCORING.model_copy(update=scoring)
        made = samples.language_model(text=" ".join(samples.WORDS), hidden_size=hidden_size)
        super().__init__(folder, num_lines, made, "score", scoring=self.scoring)

    def score(self, name: str, **scoring: Any) -> dict[str, Any]:
        """Scores in this process, undisturbed, but for these settings as the command does; returns the report."""
        with trained.session() as session:
            return score.run(
                score.Request(
                    location.Location.parse(self._path("run")),
                    self._path("in.txt"),
                    self._path(f"{name}.jsonl"),
                    self.scoring.model_copy(update=scoring),
                    samples.FP32,
                    trained.NONE,
                ),
                session,
                console.SilentReporter(),
            )

    def counted(self) -> dict[str, float]:
        """What the driver that ended last measured: parts by outcome, and deaths of workers.

        Before the parts of lanes it did others, that count tokens to cut the lanes by; these are left out.
        """
        found = metrics_summary.read(location.Location.parse(str(self.folder)))
        assert found is not None
        found["stages"]["score"]["done"] -= math.ceil(self.num_lines / PART_LINES)
        return {what: count for what, count in found["stages"]["score"].items() if count}
