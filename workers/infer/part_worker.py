"""Workers of inference: translate or score parts, each committed as a whole.

A worker loads the models once and then processes one part after the other: it reads the lines, computes, writes the
rows as a content-addressed Arrow file, and commits a record that names it. A committed part is not computed again.
"""

import abc
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from core.config import inference_settings, model_settings, schema
from core.data.batching import lanes
from core.data.dataset import shards
from core.data.text import corpus
from core.decoding.lines import inputs, outputs, results
from core.decoding.scoring import ranking, scorer
from core.decoding.scoring import stream as streams
from core.decoding.translation import shortlist, translator
from core.models import bundle as bundles
from core.models import checkpoint_averaging
from core.models import compute as computing
from core.storage import commit, json_values, location, node_cache

SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Spec:
    """The specification of an inference job, as sent to the workers.

    Attributes:
        bundle: URL of the bundle's folder.
        kind: kind of the results.
        decoding: settings of translation.
        scoring: settings of scoring.
        compute: numerical settings.
        folder: URL of the output folder.
        plan: plan of the output folder.
        control: folder of the plan and the commit records below it; see `commit.PartStore`.
        device: `cpu` or `cuda`.
        threads: threads of an operation.
        dataset: URL of the dataset whose training text dynamic evaluation measures gradients on, if it does.
        members: for each member of an ensemble or mixture, the URLs of the bundles whose mean it is; empty for
            `bundle` alone.
        fusion_model: URL of the bundle of the language model that is fused with the translation model.
        shortlist_table: URL of the file from which shortlists of target tokens are made.
        cache: copies on this node of files in an object store.
    """

    bundle: str
    kind: results.Kind
    decoding: inference_settings.DecodingConfig
    scoring: inference_settings.ScoringConfig
    compute: schema.ComputeConfig
    folder: str
    plan: Mapping[str, Any]
    device: str
    threads: int
    dataset: str | None = None
    members: tuple[tuple[str, ...], ...] = ()
    fusion_model: str | None = None
    shortlist_table: str | None = None
    control: str = ""
    cache: node_cache.NodeCache = field(default_factory=node_cache.NodeCache)

    @property
    def store(self) -> commit.PartStore:
        """The store of the parts."""
        return commit.PartStore(location.Location(self.folder), self.plan, control=self.control)

    @property
    def stage(self) -> str:
        """The name of the stage, in metrics and messages."""
        return "translate" if self.kind == "translations" else "score"


def make(spec: Spec) -> "PartWorker":
    """Creates the worker for a job; with the specification bound, the factory of the fan-out."""
    if spec.kind == "rankings":
        return RankWorker(spec)
    return TranslateWorker(spec) if spec.kind == "translations" else ScoreWorker(spec)


class PartWorker(abc.ABC):
    """Processes parts: reads lines, computes, writes the shard, commits."""

    def __init__(self, spec: Spec) -> None:
        # Before any tensor: the number of threads can change the last bits of a sum.
        computing.set_threads(spec.threads)
        self.spec = spec
        self.folder = location.Location(spec.folder)
        self.store = spec.store

    def __call__(self, part: inputs.Part) -> dict[str, Any]:
        """Processes a part and returns its commit record; if another attempt was faster, the record of that one."""
        # Asked again in the worker: another attempt may have committed it since the driver looked.
        committed = self.store.committed(part.name)
        if committed is not None:
            return committed
        lines = inputs.read(part)
        # Batches are made of this part's good lines alone: the bytes depend on nothing outside the part.
        good = [line for line in lines if not isinstance(line, corpus.BadLine)]
        computed, extra = self.compute(good, part)
        good_rows = iter(computed)
        rows = [
            results.failed(self.spec.kind, f"{line.reason}: {line.where}")
            if isinstance(line, corpus.BadLine)
            else next(good_rows)
            for line in lines
        ]
        table = results.to_table(self.spec.kind, part.first_line, rows, self.spec.plan.get("row_version", 1))
        # The shard first, then the record that names it: a worker killed between the two leaves nothing visible.
        shard = commit.put_content(self.folder, outputs.stem(part), ".arrow", results.encode(table)).to_json()
        record = {**summarize(rows, part.first_line), "made_by": self.made_by(), **extra, "shard": shard}
        if part.origin is not None:
            record["file"] = part.origin.file
        # Everything that removing the output has to delete.
        record["files"] = [shard, *([extra["state"]] if "state" in extra else [])]
        return self.store.commit(part.name, record)

    @abc.abstractmethod
    def compute(
        self, lines: Sequence[tuple[str, ...]], part: inputs.Part
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """Returns the results of the lines that are not bad, and further entries of the commit record."""

    @abc.abstractmethod
    def precision(self) -> str:
        """Returns the precision in which this worker computes."""

    def made_by(self) -> dict[str, Any]:
        """Returns the circumstances, besides the part, that can change the last bits of the results."""
        return {
            "device": device_kind(self.spec.device),
            "threads": self.spec.threads,
            "precision": self.precision(),
            "torch": torch.__version__,
        }


class TranslateWorker(PartWorker):
    """Translates parts; a second side holds the prefixes of the translations."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        members = load_members(spec)
        fusion_model = (
            None if spec.fusion_model is None else bundles.load(location.Location(spec.fusion_model), spec.cache)
        )
        table = None
        if spec.shortlist_table is not None:
            table = shortlist.load(location.Location(spec.shortlist_table), members[0])
        self.translator = translator.Translator(members, spec.decoding, spec.compute, spec.device, fusion_model, table)

    def compute(
        self, lines: Sequence[tuple[str, ...]], part: inputs.Part
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """See `PartWorker`."""
        prefixes = [line[1] for line in lines] if len(part.sides) == 2 else None
        return self.translator.translate([line[0] for line in lines], prefixes), {}

    def precision(self) -> str:
        """See `PartWorker`."""
        return self.translator.context.precision


class ScoreWorker(PartWorker):
    """Scores parts: pairs if there is a second side, else lines, or parts of a stream; by one model, or a mixture.

    With a part of a stream its final state is committed: the next part of the lane, or a restart, continues from it.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        bundle, *others = load_members(spec)
        text = training_text(spec.dataset, model_settings.reads_backward(bundle.config), spec.cache)
        self.scorer = scorer.Scorer(bundle, spec.scoring, spec.compute, spec.device, text, others)

    def compute(
        self, lines: Sequence[tuple[str, ...]], part: inputs.Part
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """See `PartWorker`."""
        if len(part.sides) == 2:
            return self.scorer.score_pairs([line[0] for line in lines], [line[1] for line in lines]), {}
        if self.spec.scoring.unit_or_line == "line":
            return self.scorer.score_lines([line[0] for line in lines]), {}
        # From the committed state, even if this worker has just computed it: a restart then gives the same bytes.
        before = self.scorer.initial_stream_state() if part.predecessor is None else self._final_state(part.predecessor)
        scores, after = self.scorer.score_stream([line[0] for line in lines], before)
        # Before the record, which names it: a successor never finds a part without its state.
        state = commit.put_content(self.folder, f"{outputs.stem(part)}-state", ".safetensors", after.to_bytes())
        return scores, {"state": state.to_json()}

    def _final_state(self, part: str) -> streams.StreamState:
        """Reads the state that was committed with a part."""
        record = self.store.committed(part)
        assert record is not None, f"{part} must be committed before its successor starts"
        state = commit.FileRecord.from_json(record["state"], part)
        data = commit.read_file(self.folder, state)
        return streams.StreamState.from_bytes(data, str(self.folder.join(state.name)))

    def precision(self) -> str:
        """See `PartWorker`."""
        return self.scorer.context.precision


class RankWorker(PartWorker):
    """Ranks lines by several models."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.ranker = ranking.Ranker(load_members(spec), spec.scoring, spec.compute, spec.device)

    def compute(
        self, lines: Sequence[tuple[str, ...]], part: inputs.Part
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """See `PartWorker`."""
        assert len(part.sides) == 1, "given translations are not ranked"
        return self.ranker.rank_lines([line[0] for line in lines]), {}

    def precision(self) -> str:
        """See `PartWorker`."""
        return self.ranker.context.precision


class CountWorker:
    """Counts the tokens of lines in a stream, to cut it into lanes of nearly equal size."""

    def __init__(self, spec: Spec) -> None:
        # Tokens do not depend on the weights, so one of the averaged checkpoints is enough.
        bundle = bundles.load(location.Location(spec.bundle), spec.cache)
        # Dynamic evaluation would want statistics of the training text, which counting does not need.
        plain = spec.scoring.model_copy(update={"dynamic": None})
        self.scorer = scorer.Scorer(bundle, plain, spec.compute)

    def __call__(self, part: inputs.Part) -> list[int]:
        """Returns the number of tokens of each line; 0 for a bad line."""
        lines = inputs.read(part)
        good = [line[0] for line in lines if not isinstance(line, corpus.BadLine)]
        tokens = iter(self.scorer.encode_stream(good))
        return [0 if isinstance(line, corpus.BadLine) else len(next(tokens)) for line in lines]


def load_members(spec: Spec) -> list[bundles.Bundle]:
    """Loads the members of the ensemble, each the mean of its checkpoints."""
    members = spec.members or ((spec.bundle,),)
    return [checkpoint_averaging.load([location.Location(url) for url in urls], spec.cache) for urls in members]


def training_text(dataset: str | None, backward: bool, cache: node_cache.NodeCache) -> lanes.Stream | None:
    """Opens the training text of the dataset at a URL in the reading direction of the model; None without a dataset."""
    if dataset is None:
        return None
    train = shards.Dataset.open(location.Location(dataset), backward=backward, cache=cache).split("train")
    return None if train is None else train.stream()


def summarize(rows: Sequence[results.Result], first_line: int) -> dict[str, Any]:
    """Returns the summary of rows in their commit record: counts, sums and the first errors."""
    # Lines in the numbering of the whole input, from 0.
    failures = [(first_line + index, row.error) for index, row in enumerate(rows) if row.error is not None]
    scores = [_nats(row) for row in rows]
    summary: dict[str, Any] = {
        "lines": len(rows),
        "errors": len(failures),
        # Only the first: a record must stay small, whatever the input holds.
        "first_errors": [{"line": line, "error": error} for line, error in failures[:SHOWN_ERRORS]],
        "tokens": sum(row.num_tokens for row in rows),
        # fsum rounds once: the sum of a part does not depend on the order of its rows.
        "nats": json_values.number(math.fsum(score for score in scores if score is not None)),
    }
    if rows and isinstance(rows[0], results.Ranking):
        summary["unk"] = sum(row.num_unk for row in rows if isinstance(row, results.Ranking))
    if rows and isinstance(rows[0], results.Score):
        scored = [row for row in rows if isinstance(row, results.Score) and row.error is None]
        summary["unk"] = sum(row.num_unk for row in scored)
        summary["infinite"] = sum(row.num_infinite for row in scored)
        summary["characters"] = sum(row.num_characters for row in scored)
        # None where the scoring method does not rank the tokens; a sum over some rows would look like all.
        if all(row.num_correct is not None for row in scored):
            summary["correct"] = sum(row.num_correct or 0 for row in scored)
    return summary


def _nats(row: results.Result) -> float | None:
    """Returns the number of a row whose sum is reported."""
    if isinstance(row, results.Translation):
        return row.score_nats
    return row.ranking_score if isinstance(row, results.Ranking) else row.nll_nats


def device_kind(device: str) -> str:
    """Returns the kind of a device, as far as the last bits of results may depend on it."""
    if torch.device(device).type == "cuda":
        # Kernels are chosen by the model of the device, and sum in different orders.
        return f"cuda {torch.cuda.get_device_name(device)}"
    # Vendor and vector instructions: libraries choose their kernels by them, with other roundings.
    return f"cpu {computing.this_cpu().vendor or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
