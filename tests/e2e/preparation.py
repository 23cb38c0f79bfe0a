"""A dataset that takes a while to prepare, for tests that kill processes meanwhile."""

from pathlib import Path
from typing import Any

from core.config import loading
from core.data.builtin import sentences
from core.storage import temporary
from jobs import paths, prepare
from tests import reporters
from tests.jobs import datasets
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


class Workspace:
    """A folder with a corpus, and datasets made from it."""

    def __init__(self, folder: Path, num_lines: int = 2500) -> None:
        self.folder, self.num_lines = folder, num_lines
        sentences.write_pairs(folder / "pairs.tsv", 1, 0, num_lines)

    def arguments(self, name: str, **cluster: Any) -> tuple[str, ...]:
        """The command line that prepares a dataset under the root `name`."""
        path = self.folder / f"{name}.yaml"
        path.write_text(CONFIG.format(root=self.folder / name, folder=self.folder))
        words = (word for key, value in cluster.items() for word in ("--set", f"cluster.{key}={value}"))
        return ("prepare", str(path), *words)

    def prepare(self, name: str) -> None:
        """Prepares in this process, without disturbance."""
        config = paths.absolute(loading.load(self.arguments(name)[1], ["cluster.address=none"]))
        with sessions.Session(config.cluster) as session:
            prepare.run(config, session, reporters.SilentReporter())

    def dataset(self, name: str) -> Path:
        return self.folder / name / "dataset"

    def records(self, name: str) -> dict[Path, int]:
        """Commit records and shards, with their times of modification."""
        folder = self.dataset(name)
        files = [*folder.glob("_commits/*.json"), *folder.glob("*/part-*.arrow")]
        return {path: path.stat().st_mtime_ns for path in files}

    def check_same(self, name: str, whole: str, done: dict[Path, int]) -> None:
        """Checks that no shard of `done` was written again, and that the bytes are those of the undisturbed dataset."""
        shards = {path: modified_ns for path, modified_ns in done.items() if path.suffix == ".arrow"}
        now = self.records(name)
        assert {path: now[path] for path in shards} == shards
        files = datasets.read_files(self.dataset(name))
        # A killed writer leaves its temporary file, under a name that readers ignore.
        files = {path: data for path, data in files.items() if not temporary.is_temporary(Path(path).name)}
        assert files == datasets.read_files(self.dataset(whole))
