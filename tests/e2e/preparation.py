"""A dataset that takes long enough to be disturbed, and what must not change when it is."""

from pathlib import Path
from typing import Any

from core.config import loading
from core.data.builtin import sentences
from core.storage import local_files
from jobs import console, paths, prepare
from tests.jobs import preparing
from workers.cluster import session as sessions

CONFIG = """
name: pairs
root: {root}
corpus: {{kind: pairs, train: {{tsv: [{folder}/pairs.tsv]}}, split: {{valid: 0.1}}, filters: {{duplicates: drop}}}}
tokenizer: {{kind: word}}
sharding: {{part_size_bytes: 8192}}
model: {{kind: seq2seq}}
training: {{batch_lines: 8}}
"""


class Place:
    """A folder with a corpus, and datasets of it."""

    def __init__(self, folder: Path, num_lines: int = 2500) -> None:
        self.folder, self.num_lines = folder, num_lines
        sentences.write_pairs(folder / "pairs.tsv", 1, 0, num_lines)

    def arguments(self, name: str, **cluster: Any) -> tuple[str, ...]:
        """The command line that prepares below this root."""
        path = self.folder / f"{name}.yaml"
        path.write_text(CONFIG.format(root=self.folder / name, folder=self.folder))
        words = (word for key, value in cluster.items() for word in ("--set", f"cluster.{key}={value}"))
        return ("prepare", str(path), *words)

    def prepare(self, name: str) -> None:
        """Prepares in this process, undisturbed."""
        config = paths.absolute(loading.load(self.arguments(name)[1], ["cluster.address=none"]))
        with sessions.Session(config.cluster) as session:
            prepare.run(config, session, console.SilentReporter())

    def dataset(self, name: str) -> Path:
        return self.folder / name / "dataset"

    def records(self, name: str) -> dict[Path, int]:
        """The parts that are committed and the shards that are written, and when they were."""
        folder = self.dataset(name)
        files = [*folder.glob("_commits/*.json"), *folder.glob("*/part-*.arrow")]
        return {path: path.stat().st_mtime_ns for path in files}

    def check_same(self, name: str, whole: str, done: dict[Path, int]) -> None:
        """What was done was not done again, and the bytes are those of a dataset to which nothing happened."""
        shards = {path: changed for path, changed in done.items() if path.suffix == ".arrow"}
        now = self.records(name)
        assert {path: now[path] for path in shards} == shards
        found = preparing.content(self.dataset(name))
        # What a writer that was killed was writing stays, under a name that no reader looks at.
        found = {path: data for path, data in found.items() if not local_files.is_temporary(Path(path).name)}
        assert found == preparing.content(self.dataset(whole))
