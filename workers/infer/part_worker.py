"""What one process does to translate or score: it loads a bundle once, then does parts, each committed whole."""

import abc
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from core.config import inference_settings, model_settings, schema
from core.data.batching import lanes
from core.data.dataset import shards
from core.data.text import corpus
from core.decoding.lines import inputs, results
from core.decoding.scoring import scorer
from core.decoding.scoring import stream as streams
from core.decoding.translation import shortlist, translator
from core.models import bundle as bundles
from core.models import checkpoint_averaging
from core.models import compute as computing
from core.storage import commit, location

SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Spec:
    """What a worker needs to know; it travels to the worker.

    Attributes:
        bundle: URL of the bundle's folder.
        kind: of the results.
        decoding: how it translates.
        scoring: how it scores.
        compute: how numbers are computed.
        folder: URL of the output folder.
        plan: of the output folder.
        device: `cpu` or `cuda`.
        threads: threads of an operation.
        dataset: URL of the dataset that dynamic evaluation measures training text in, if it does.
        members: of an ensemble, or of checkpoints whose mean is used: for each member the URLs of its bundles; empty
            where `bundle` is all.
        beside: URL of the bundle of a language model that has a say in translations.
        table: URL of the file that shortlists of target tokens are made of.
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
    beside: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class Payload:
    """One part: its name, its lines, and of a stream where it goes on from."""

    name: str
    piece: inputs.Piece
    stream: Literal["no", "start", "after"] = "no"
    after: str = ""


def make(spec: Spec) -> "PartWorker":
    """Builds the worker of a spec: the factory of the fan-out, with the spec bound."""
    return TranslateWorker(spec) if spec.kind == "translations" else ScoreWorker(spec)


class PartWorker(abc.ABC):
    """Does parts: read, compute, write the shard, commit. A part that is committed is not done again."""

    def __init__(self, spec: Spec) -> None:
        computing.set_threads(spec.threads)
        self.spec = spec
        self.folder = location.Location(spec.folder)
        self.store = commit.PartStore(self.folder, spec.plan)

    def __call__(self, payload: Payload) -> dict[str, Any]:
        """Does a part and returns the record that counts for it."""
        done = self.store.committed(payload.name)
        if done is not None:
            return done
        lines = inputs.read(payload.piece)
        good = [line for line in lines if not isinstance(line, corpus.BadLine)]
        made, extra = self.compute(good, payload)
        answers = iter(made)
        rows = [
            results.failed(self.spec.kind, f"{line.reason}: {line.where}")
            if isinstance(line, corpus.BadLine)
            else next(answers)
            for line in lines
        ]
        table = results.to_table(self.spec.kind, payload.piece.first_line, rows)
        shard = commit.put_content(self.folder, payload.name, ".arrow", results.encode(table)).to_json()
        record = {**summarise(rows, payload.piece.first_line), "made_by": self.made_by(), **extra, "shard": shard}
        record["files"] = [shard, *([extra["state"]] if "state" in extra else [])]
        return self.store.commit(payload.name, record)

    @abc.abstractmethod
    def compute(
        self, lines: Sequence[tuple[str, ...]], payload: Payload
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """Gives the results of the good lines, and what else the record must hold."""

    @abc.abstractmethod
    def precision(self) -> str:
        """In which precision this worker computes."""

    def made_by(self) -> dict[str, Any]:
        """What the last bits of the results depend on, beside the part."""
        return {
            "device": device_kind(self.spec.device),
            "threads": self.spec.threads,
            "precision": self.precision(),
            "torch": torch.__version__,
        }


class TranslateWorker(PartWorker):
    """Translates parts."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        members = load_members(spec)
        beside = None if spec.beside is None else bundles.load(location.Location(spec.beside))
        table = None if spec.table is None else shortlist.load(location.Location(spec.table), members[0])
        self.translator = translator.Translator(members, spec.decoding, spec.compute, spec.device, beside, table)

    def compute(
        self,
        lines: Sequence[tuple[str, ...]],
        payload: Payload,
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """See `PartWorker`."""
        prefixes = [line[1] for line in lines] if len(payload.piece.sides) == 2 else None
        return self.translator.translate([line[0] for line in lines], prefixes), {}

    def precision(self) -> str:
        """See `PartWorker`."""
        return self.translator.placed.precision


class ScoreWorker(PartWorker):
    """Scores parts: lines, pairs, or pieces of a stream whose state is committed with each."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        (bundle,) = load_members(spec)
        text = training_text(spec, model_settings.reads_backward(bundle.config))
        self.scorer = scorer.Scorer(bundle, spec.scoring, spec.compute, spec.device, text)

    def compute(
        self, lines: Sequence[tuple[str, ...]], payload: Payload
    ) -> tuple[Sequence[results.Result], dict[str, Any]]:
        """See `PartWorker`."""
        if len(payload.piece.sides) == 2:
            return self.scorer.score_pairs([line[0] for line in lines], [line[1] for line in lines]), {}
        if payload.stream == "no":
            return self.scorer.score_lines([line[0] for line in lines]), {}
        carried = self.scorer.stream_start() if payload.stream == "start" else self._carried(payload.after)
        scores, after = self.scorer.score_stream([line[0] for line in lines], carried)
        state = commit.put_content(self.folder, f"{payload.name}-state", ".safetensors", after.to_bytes())
        return scores, {"state": state.to_json()}

    def _carried(self, part: str) -> streams.Carried:
        """Reads the state that the part before committed."""
        record = self.store.committed(part)
        assert record is not None, f"{part} must be committed before what follows it"
        state = commit.FileRecord.from_json(record["state"], part)
        commit.verify(self.folder, [state])
        place = self.folder.join(state.name)
        return streams.Carried.from_bytes(place.read_bytes(), str(place))

    def precision(self) -> str:
        """See `PartWorker`."""
        return self.scorer.placed.precision


class CountWorker:
    """Counts the tokens that lines have in a stream: to cut it into lanes of like size."""

    def __init__(self, spec: Spec) -> None:
        # Tokens do not depend on weights: of checkpoints whose mean is used one will do.
        bundle = bundles.load(location.Location(spec.bundle))
        plain = spec.scoring.model_copy(update={"dynamic": None})
        self.scorer = scorer.Scorer(bundle, plain, spec.compute)

    def __call__(self, piece: inputs.Piece) -> list[int]:
        """Returns the tokens of each line; a bad line has none."""
        lines = inputs.read(piece)
        counts = iter(self.scorer.stream_tokens([line[0] for line in lines if not isinstance(line, corpus.BadLine)]))
        return [0 if isinstance(line, corpus.BadLine) else len(next(counts)) for line in lines]


def load_members(spec: Spec) -> list[bundles.Bundle]:
    """Loads the models that a spec names, each the mean of its checkpoints."""
    every = spec.members or ((spec.bundle,),)
    return [checkpoint_averaging.load([location.Location(url) for url in urls]) for urls in every]


def training_text(spec: Spec, backward: bool) -> lanes.Stream | None:
    """Opens the training text that the spec names a dataset for, as the model reads it."""
    if spec.dataset is None:
        return None
    train = shards.Dataset.open(location.Location(spec.dataset), backward=backward).split("train")
    return None if train is None else train.stream()


def summarise(rows: Sequence[results.Result], first_line: int) -> dict[str, Any]:
    """What a record says of its rows: counts, sums and the first errors."""
    failures = [(first_line + index, row.error) for index, row in enumerate(rows) if row.error is not None]
    scores = [row.score_nats if isinstance(row, results.Translation) else row.nll_nats for row in rows]
    found: dict[str, Any] = {
        "lines": len(rows),
        "errors": len(failures),
        "first_errors": [{"line": line, "error": error} for line, error in failures[:SHOWN_ERRORS]],
        "tokens": sum(row.num_tokens for row in rows),
        "nats": spelt(math.fsum(score for score in scores if score is not None)),
    }
    if rows and isinstance(rows[0], results.Score):
        done = [row for row in rows if isinstance(row, results.Score) and row.error is None]
        found["unk"] = sum(row.num_unk for row in done)
        found["infinite"] = sum(row.num_infinite for row in done)
        found["characters"] = sum(row.num_characters for row in done)
        if all(row.num_correct is not None for row in done):
            found["correct"] = sum(row.num_correct or 0 for row in done)
    return found


def spelt(value: float) -> float | str:
    """A number as JSON can hold it: one that is not finite becomes the word for it, which `float` reads."""
    return value if math.isfinite(value) else str(value)


def device_kind(device: str) -> str:
    """What kind of device results come from, as far as their last bits may depend on it."""
    if torch.device(device).type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {computing.this_cpu().vendor or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
