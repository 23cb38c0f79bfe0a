"""Translations that take long enough to be disturbed, and what must not change when they are."""

import json
from pathlib import Path
from typing import Any

from core.config import inference_settings
from core.storage import location
from jobs import console, translate
from tests.core.decoding import samples
from tests.jobs import trained

PART_LINES = 20
DECODING = inference_settings.DecodingConfig(beam_size=4, num_best=2, max_length=60, part_lines=PART_LINES)


class Place:
    """A folder with a model, lines to translate, and translations of them."""

    def __init__(self, folder: Path, num_lines: int = 500) -> None:
        self.folder, self.num_lines = folder, num_lines
        trained.save(samples.seq2seq(hidden_size=64), folder / "run")
        lines = samples.sentences(num_lines - 3, longest=20)
        # Empty lines and one that cannot be read have their rows too.
        text = "".join(f"{line}\n" for line in ["", *lines, ""]).encode() + b"\xff\n"
        (folder / "in.txt").write_bytes(text)

    def arguments(self, name: str, **cluster: Any) -> tuple[str, ...]:
        """The command line that translates into this folder of parts and the file beside it."""
        sections = {"decoding": DECODING, "compute": samples.FP32}
        set_here = {name: section.model_dump(exclude_unset=True) for name, section in sections.items()}
        settings = {**set_here, "cluster": cluster}
        places = ("--run", self._path("run"), "--input", self._path("in.txt"), "--output", self._path(f"{name}.jsonl"))
        words = [f"{name}.{key}={value}" for name, section in settings.items() for key, value in section.items()]
        return ("translate", *places, *(word for setting in words for word in ("--set", setting)))

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def translate(self, name: str) -> None:
        """Translates in this process, undisturbed."""
        with trained.session() as session:
            translate.run(
                location.Location.parse(self._path("run")),
                self._path("in.txt"),
                self._path(f"{name}.jsonl"),
                None,
                DECODING,
                samples.FP32,
                trained.NONE,
                session,
                console.SilentReporter(),
            )

    def parts(self, name: str) -> dict[str, int]:
        """The parts that are committed, and when the records and their shards were written."""
        folder = self.folder / f"{name}.jsonl.parts"
        files = [*folder.glob("_commits/*.json"), *folder.glob("*.arrow")]
        return {path.name: path.stat().st_mtime_ns for path in files}

    def committed(self, name: str) -> int:
        """How many parts are."""
        return len(list((self.folder / f"{name}.jsonl.parts").glob("_commits/*.json")))

    def outcome(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """All that must be the same whatever happened on the way."""
        manifest: dict[str, Any] = json.loads((self.folder / f"{name}.jsonl.parts" / "_MANIFEST.json").read_text())
        manifest["merged"].pop("name")
        return (self.folder / f"{name}.jsonl").read_bytes(), manifest
