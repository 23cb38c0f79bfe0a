"""Training of an n-gram model: counts the stream part by part, estimates the model, commits one checkpoint.

A part is a range of tokens; its counts are a sorted Arrow file, named by the hash of its bytes, and a commit record.
A part that is committed is not counted again. The driver merges the parts and estimates the model by columns on disk:
memory grows with the vocabulary, not with the text or the number of different n-grams. The columns lie below the root
where it is a local folder, else among the temporary files (`TMPDIR`): at most about 50 bytes for each n-gram.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core import errors
from core.config import model_settings, ngram_settings
from core.data import ngram_counts, score_unit
from core.data.batching import lanes
from core.data.dataset import shards
from core.data.tokens import vocabulary
from core.models import bundle
from core.models.ngram import ngram_model, smoothing
from core.storage import commit, concurrent, contents, json_values, location, node_cache, private_folders
from core.training import checkpoint, progress, run_log
from workers.fanout import executor as executors
from workers.fanout import progress_display

STAGE = "train"
FOLDER = "counts"
PART_TOKENS = 1 << 22
# Tokens of the validation text that are looked up together.
_SCORED_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class NgramJob:
    """An n-gram model to estimate.

    Attributes:
        root: folder of the run.
        settings: settings that the checkpoint records.
        model: settings of the model.
        dataset: of text, opened in the model's direction.
        part_tokens: tokens of one part.
    """

    root: location.Location
    settings: dict[str, Any]
    model: ngram_settings.NgramConfig
    dataset: shards.Dataset
    part_tokens: int = PART_TOKENS


@dataclass(frozen=True)
class Recipe:
    """Everything that the counts of all parts depend on: dataset, order, direction, and the folder that they go to.

    `line_end` is the id of the token between lines, for counts by line; None for those of a stream. `cache` has
    copies of the dataset on this node.
    """

    dataset: location.Location
    order: int
    backward: bool
    line_end: int | None
    folder: location.Location
    plan: dict[str, Any]
    cache: node_cache.NodeCache

    @property
    def store(self) -> commit.PartStore:
        """The commit records of the parts."""
        return commit.PartStore(self.folder, self.plan)


@dataclass(frozen=True)
class TokenRange:
    """The n-grams that begin at tokens `start` to `stop` of the stream."""

    name: str
    start: int
    stop: int


def train(job: NgramJob, session: executors.Session, reporter: progress_display.Reporter) -> dict[str, Any]:
    """Counts the training stream of a dataset and commits the model as the one checkpoint of a run.

    Args:
        job: what to train.
        session: runs the counting.
        reporter: shows progress.

    Returns:
        The report of `train`: sizes, discounts, and the perplexity of the validation text.

    Raises:
        DataError: there is no text to count.
        InterruptedRunError: it was stopped; the parts that were counted stay.
    """
    started_s = time.monotonic()
    dataset, config = job.dataset, job.model
    stream = _stream(dataset, "train")
    plan = {"dataset": dataset.index.fingerprint, "order": config.order, "part_tokens": job.part_tokens}
    if model_settings.reads_backward(config):
        plan["direction"] = config.direction
    if config.unit == "line":
        plan["unit"] = config.unit
    recipe = Recipe(
        dataset.folder,
        config.order,
        model_settings.reads_backward(config),
        dataset.codecs["text"].tokenizer.eos_id if config.unit == "line" else None,
        job.root.join(FOLDER),
        plan,
        dataset.cache,
    )
    names = _count(recipe, len(_counted(recipe, stream)), session, reporter, job.part_tokens)
    state = progress.State(step=1, corpora=[progress.CorpusState(epoch=1)], num_tokens=len(stream))
    with _scratch(recipe.folder) as folder:
        estimate = _estimate(config, dataset, stream, _open_parts(recipe, names, folder), folder, recipe.line_end)
        line_end: Any = dataset.index.line_end
        trained = bundle.Bundle(estimate.model, config, dataset.codecs, line_end, "fp32")
        # Only now: counting needs no fence, since equal counts have equal names.
        fencing_number = checkpoint.take_fencing_number(job.root, world_size=1)
        snapshot = checkpoint.Snapshot(trained, {}, None, state, job.settings, None)
        log = run_log.RunLog(job.root, fencing_number)
        saved = checkpoint.save(job.root, fencing_number, snapshot, log)
    # After the commit: a crash before it finds the counts again.
    _clean_up(recipe, functools.partial(checkpoint.check_not_replaced, job.root, fencing_number))
    return {
        "step": state.step,
        "num_tokens": len(stream),
        "num_runs": list(estimate.num_ngrams),
        "discounts": [list(discounts) for discounts in estimate.discounts],
        "validation": _validate(estimate.model, dataset, recipe),
        "checkpoint": str(saved.folder),
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def counter(recipe: Recipe) -> Callable[[TokenRange], dict[str, Any]]:
    """Opens the dataset, once for each worker, and returns the function that counts a part."""
    dataset = shards.Dataset.open(recipe.dataset, backward=recipe.backward, check_files=False, cache=recipe.cache)
    stream = _counted(recipe, _stream(dataset, "train"))
    return functools.partial(_count_part, recipe, stream, _vocabulary_size(dataset))


def _counted(recipe: Recipe, stream: lanes.Stream) -> lanes.Stream:
    """Returns a stream as it is counted and scored: by line with the line end before its first line, too."""
    if recipe.line_end is None:
        return stream
    return ngram_counts.WholeLines(stream, recipe.line_end, recipe.backward)


def _count_part(recipe: Recipe, stream: lanes.Stream, end: int, part: TokenRange) -> dict[str, Any]:
    with _scratch(recipe.folder) as folder:
        blocks = [
            ngram_counts.store(
                [_count_range(recipe, stream, end, start, part.stop)], folder / f"{start}.arrow", recipe.order
            )
            for start in range(part.start, part.stop, ngram_counts.ROWS_AT_ONCE)
        ]
        counts = blocks[0]
        if len(blocks) > 1:
            merged = ngram_counts.merged(blocks, end, folder)
            counts = ngram_counts.store(merged, folder / "part.arrow", recipe.order)
        # The file before its record, which must never name one that is missing.
        file = commit.put_content(recipe.folder, part.name, ".arrow", counts.path)
    return recipe.store.commit(part.name, {"files": [file.to_json()], "runs": counts.size})


def _count_range(recipe: Recipe, stream: lanes.Stream, end: int, start: int, last: int) -> ngram_counts.Counts:
    stop = min(start + ngram_counts.ROWS_AT_ONCE, last)
    if recipe.line_end is None:
        return ngram_counts.count(stream, start, stop, recipe.order, end)
    return ngram_counts.count_lines(stream, start, stop, recipe.order, end, recipe.line_end)


def _scratch(folder: location.Location) -> contextlib.AbstractContextManager[Path]:
    """Creates a folder for what is larger than memory, on the disk of the run if that is a local one."""
    return private_folders.staging(folder.path) if folder.is_local else private_folders.scratch()


def _count(
    recipe: Recipe, num_tokens: int, session: executors.Session, reporter: progress_display.Reporter, part_tokens: int
) -> list[str]:
    """Counts the parts that have no commit record yet, and returns the names of all parts in order."""
    store = recipe.store
    committed = frozenset() if store.begin() else store.committed_names()
    tasks = [
        executors.Task(name, TokenRange(name, start, stop), stop - start)
        for number, start in enumerate(range(0, num_tokens, part_tokens))
        for name, stop in [(f"part-{number:05d}", min(start + part_tokens, num_tokens))]
    ]
    todo = [task for task in tasks if task.name not in committed]
    if todo:
        with reporter.stage("train: count", float(sum(task.weight for task in todo)), "tokens") as shown:
            shown.wait_for("starting workers")
            session.executor(STAGE, len(todo)).run(
                STAGE,
                todo,
                functools.partial(counter, recipe),
                lambda _, __: None,  # results are read from the records, old and new
                executors.Monitor(session.metrics, shown.advance, session.should_stop),
            )
    return [task.name for task in tasks]


def _open_parts(recipe: Recipe, names: Sequence[str], folder: Path) -> list[ngram_counts.StoredCounts]:
    """Opens the counts of all parts, in the order of parts, whatever the order in which workers were done."""
    return [*concurrent.map_in_order(functools.partial(_open_part, recipe, folder), names)]


def _open_part(recipe: Recipe, folder: Path, name: str) -> ngram_counts.StoredCounts:
    record = recipe.store.committed(name)
    assert record is not None, f"{name} was just done"
    file = commit.FileRecord.from_json(record["files"][0], name)
    stored, path = recipe.folder.join(file.name), folder / f"{name}.arrow"
    if stored.is_local:
        # Arrow files have no checksum of their own.
        commit.verify(recipe.folder, [file])
        path = stored.path
    else:
        with path.open("xb") as copy:
            for block in stored.read_blocks(file.size_bytes):
                copy.write(block)
        if contents.sha256_and_size(path)[0] != file.sha256:
            raise errors.IntegrityError(f"{stored}: is damaged; remove it and train again")
    return ngram_counts.open_stored(path, recipe.order, str(stored))


def _estimate(
    config: ngram_settings.NgramConfig,
    dataset: shards.Dataset,
    stream: lanes.Stream,
    parts: Sequence[ngram_counts.StoredCounts],
    folder: Path,
    line_end: int | None,
) -> smoothing.Estimate:
    size = _vocabulary_size(dataset)
    # A stream that is shorter than the order is padded with an id outside the vocabulary.
    first = stream[: config.order].tolist()
    beginning = tuple([*first, *[size] * config.order][: config.order])
    return smoothing.estimate(config, size, ngram_counts.merged(parts, size, folder), beginning, folder, line_end)


def _clean_up(recipe: Recipe, check: Callable[[], object]) -> None:
    """Removes the counts: the model holds all that is in them."""
    recipe.store.remove(check)
    if recipe.folder.is_local:
        for path in (recipe.folder.join(commit.RECORDS).path, recipe.folder.path):
            # A file without a record may be left in it, of a worker that was killed.
            with contextlib.suppress(OSError):
                path.rmdir()


def _validate(model: ngram_model.Ngram, dataset: shards.Dataset, recipe: Recipe) -> dict[str, Any] | None:
    """Scores the validation text by the unit of the model; the first token of a stream is context only."""
    split = dataset.split("valid")
    if split is None or len(split.stream()) < 2:
        return None
    stream = _counted(recipe, split.stream())
    nats, num_infinite, width = [], 0, model.config.order - 1
    for start in range(1, len(stream), _SCORED_AT_ONCE):
        # With the tokens before the slice, so that its first tokens have their contexts.
        first = max(0, start - width)
        tokens_L = torch.from_numpy(stream[first : start + _SCORED_AT_ONCE].astype("int64"))
        nlls_L = model.score(tokens_L, model.look_up(tokens_L))[start - first :]
        nats.append(float(nlls_L.sum()))
        num_infinite += int(nlls_L.isinf().sum())
    mean = math.fsum(nats) / (len(stream) - 1)
    return {
        "nll_nats": json_values.number(mean),
        # Infinite, not capped, where a token is impossible.
        "perplexity": json_values.number(progress.perplexity(mean) if num_infinite == 0 else math.inf),
        "num_tokens": len(stream) - 1,
        "num_unk": int((stream[1:] == vocabulary.UNK_ID).sum()),
        "infinite": num_infinite,
        **score_unit.ScoreUnit(
            unit=model.config.unit,
            lanes=1 if model.config.unit == "stream" else None,
            eos_counted=dataset.codecs["text"].tokenizer.eos_id is not None,
        ).to_json(),
    }


def _stream(dataset: shards.Dataset, name: str) -> lanes.Stream:
    split = dataset.split(name)
    if split is None:
        raise errors.DataError(f"corpus.{name}: has no text to count; check corpus.split and corpus.limit")
    return split.stream()


def _vocabulary_size(dataset: shards.Dataset) -> int:
    return dataset.index.tokenizers["text"].vocabulary_size
