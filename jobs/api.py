"""Trained runs from Python: `load` a run, then `translate`, `score`, `generate` or `forecast` with it, in this process.

    from jobs.api import load

    model = load("runs/demo/translation")
    model.translate(["The old king is not tired."], beam_size=10, num_best=3)

The rows are those of the command of the same name, with the same numbers: the settings that a call does not name are
those stored with the run. Ray is neither started nor imported, and nothing is printed on standard output.
"""

import contextlib
import copy
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast, overload

from core import errors
from core.config import inference_settings, loading, model_settings, section
from core.data.series import reading, splits
from core.data.text import corpus
from core.decoding import device as devices
from core.decoding.generation import forecaster, generator
from core.decoding.lines import inputs, results, stream_lanes
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import compute as computing
from core.storage import location, node_cache
from jobs import arguments, paths, score, settings, translate
from workers.infer import driver, part_worker

_Section = TypeVar("_Section", bound=section.Section)
_Prepared = TypeVar("_Prepared")
_Row = TypeVar("_Row", results.Translation, results.Score)

# The number of threads and the library of matrix products are those of the process: one call at a time changes them.
_PROCESS_SETTINGS = threading.RLock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(results.Translation):
    """A row of `translate`; `line` is its index in the list of lines."""

    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(results.Score):
    """A row of `score`; `line` is its index in the list of lines."""

    line: int


@dataclasses.dataclass(frozen=True)
class Generation:
    """A row of `generate`; a prompt that failed has an error and no text.

    Attributes:
        line: its index in the list of prompts.
        text: the cleaned prompt with the generated text after it, or before it where the model reads backward.
        num_tokens: tokens generated; fewer than asked for where `no_repeat_ngram` left none.
        num_unk: tokens of the prompt that the vocabulary lacks.
        seed: seed of sampling.
        ahead: with `steps_ahead`, the most likely tokens that far after the prompt, with their probabilities.
        ended: the setting that ended the text, `num_tokens` or `no_repeat_ngram`; see `generator.Continuation`.
        error: the reason of the failure.
    """

    line: int
    text: str
    num_tokens: int
    num_unk: int
    seed: int
    ahead: tuple[tuple[str, float], ...] | None = None
    ended: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A row of `forecast`.

    Attributes:
        line: row of the series, from 0; the last ones lie beyond its end.
        target: column that is forecast.
        horizon: steps ahead.
        method: `recursive` or `direct`.
        forecast: forecast value.
        actual: value of the series; None beyond its end.
        residual: actual less forecast.
        z_score: residual less the mean of the residuals, in their standard deviations.
        time: time of the row; None without a time column.
        split: split of the run's dataset that the row is in, or `new`; None beyond the end of the series.
    """

    line: int
    target: str
    horizon: int
    method: str
    forecast: float
    actual: float | None
    residual: float | None
    z_score: float | None
    time: str | None = None
    split: str | None = None


def load(run: str | os.PathLike[str], *, precision: str = "auto", device: str = "auto") -> "Model":
    """Loads the model of a trained run.

    Args:
        run: root of a run, of which the best checkpoint by validation is used, else the newest; or one checkpoint
            folder. A path or a URL (`s3://…`).
        precision: `auto` (that of training), `fp32`, `bf16` or `int8`.
        device: `auto` (a GPU where there is one, except for int8), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the run does not exist or has no checkpoint, or the machine lacks the device.
        IntegrityError: no checkpoint verifies.
    """
    root = paths.locate(os.fspath(run), "--run")
    return Model(
        root, settings.load_run_settings(root, arguments.overrides("compute", {"precision": precision})), device
    )


class Model:
    """A loaded model; see `load`. It may be used from one thread at a time.

    Each method takes the settings of its section as keywords: those of `decoding` for `translate`, of `scoring`,
    `generation` and `forecasting` for the others. They are checked like values of `--set`. Work is done with the
    `cluster.cpus_per_worker` threads of the run.

    Attributes:
        run: the location that was loaded.
        kind: `seq2seq`, `language_model`, `ngram` or `autoregressive`.
        checkpoint: the checkpoint's folder.
        step: the step at which it was saved.
        precision: the precision of matrix products: `fp32`, `bf16` or `int8`.
        device: `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(self, root: location.Location, inference: settings.InferenceSettings, device: str) -> None:
        self._root = root
        self._settings = inference
        self._opened: dict[int, driver.OpenedRun] = {}
        self._prepared: dict[str, tuple[section.Section, Any]] = {}
        opened = self._open(1)
        self.run = str(root)
        self.kind: str = opened.bundle.config.kind
        self.checkpoint: str = opened.report["checkpoint"]
        self.step: int = opened.report["step"]
        compute = inference.compute
        # A series is forecast on the CPU.
        self.device = "cpu" if self.kind == "autoregressive" else devices.resolve(device, compute.precision)
        self.precision = devices.precision_of(opened.bundle, compute, self.device)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.checkpoint}, {self.precision} on {self.device}>"

    def translate(
        self, lines: Sequence[str], prefixes: Sequence[str] | None = None, **decoding: Any
    ) -> list[Translation]:
        """Translates lines; `prefixes` are forced beginnings of the translations.

        Raises:
            UsageError: the model does not translate, or a setting is wrong.
        """
        texts = arguments.aligned(lines, prefixes, "lines", "prefixes")
        chosen = self._section(self._settings.decoding, "decoding", decoding)
        for name in ("alignments", "attention_maps"):
            if name in decoding and getattr(chosen, name):
                raise errors.UsageError(f"decoding.{name}: is written next to an output file; use the command")
        # As stored they are for the outputs of commands.
        chosen = chosen.model_copy(update={"alignments": False, "attention_maps": 0})
        chosen = translate.with_seed(chosen, self._root)

        def prepare() -> translator.Translator:
            opened = self._open(chosen.average_checkpoints)
            models = translate.combine([opened], self._root, chosen, self._cache)
            return models.translator(chosen, self._settings.compute, self.device)

        def compute(part: Sequence[tuple[str, ...]]) -> Sequence[results.Translation]:
            sources = [line[0] for line in part]
            return prepared.translate(sources, None if prefixes is None else [line[1] for line in part])

        with self._process_settings():
            prepared = self._prepare("decoding", chosen, prepare)
            rows = _by_part(texts, chosen.part_lines, compute, results.Translation("", None, 0))
        return [Translation(**vars(row), line=index) for index, row in enumerate(rows)]

    def score(self, lines: Sequence[str], targets: Sequence[str] | None = None, **scoring: Any) -> list[Score]:
        """Scores text by a language model, or given translations (`targets`) of lines by a translation model.

        Raises:
            UsageError: the model does not score such input, or a setting is wrong.
        """
        if self.kind == "seq2seq" and targets is None:
            raise errors.UsageError("targets: a seq2seq scores given translations; give a list of them")
        if self.kind != "seq2seq" and targets is not None:
            raise errors.UsageError(f"targets: a {self.kind} scores single lines, not translations; leave it out")
        texts = arguments.aligned(lines, targets, "lines", "targets")
        chosen = self._section(self._settings.scoring, "scoring", scoring)
        with self._process_settings():
            prepared = self._prepare("scoring", chosen, lambda: self._scorer(chosen))

            def compute(part: Sequence[tuple[str, ...]]) -> Sequence[results.Score]:
                if targets is None:
                    return prepared.score_lines([line[0] for line in part])
                return prepared.score_pairs([line[0] for line in part], [line[1] for line in part])

            if chosen.unit_or_line == "line":
                rows = _by_part(texts, chosen.part_lines, compute, results.Score(None, 0, 0))
            else:
                rows = self._score_stream(prepared, texts, chosen)
        return [Score(**vars(row), line=index) for index, row in enumerate(rows)]

    @overload
    def generate(self, prompts: str, **generation: Any) -> Generation: ...

    @overload
    def generate(self, prompts: Sequence[str], **generation: Any) -> list[Generation]: ...

    def generate(self, prompts: str | Sequence[str], **generation: Any) -> Generation | list[Generation]:
        """Continues each prompt; a model that reads backward writes the text before it.

        The text of a prompt does not depend on the other prompts: all are sampled with the same seed.

        Returns:
            A row for each prompt, or one row for a single text.

        Raises:
            UsageError: the model does not generate text, or a setting is wrong.
        """
        is_single = isinstance(prompts, str)
        texts = arguments.aligned([prompts] if isinstance(prompts, str) else prompts, None, "prompts", "")
        chosen = self._section(self._settings.generation, "generation", generation)
        seed = settings.seed_of(self._root) if chosen.seed is None else chosen.seed

        def prepare() -> generator.Generator:
            opened = self._open(chosen.average_checkpoints)
            return generator.Generator(opened.bundle, chosen, self._settings.compute, seed, self.device)

        with self._process_settings():
            prepared = self._prepare("generation", chosen, prepare)
            rows = [
                Generation(index, "", 0, 0, seed, error=arguments.reason_of(text))
                if isinstance(text, corpus.BadLine)
                else _generation(prepared, index, text[0], seed, chosen.steps_ahead)
                for index, text in enumerate(texts)
            ]
        return rows[0] if is_single else rows

    def forecast(self, values: Mapping[str, Any], **forecasting: Any) -> list[Forecast]:
        """Forecasts every row of a series from the rows before it, and the values after its last row.

        Args:
            values: numbers in order of time by column, such as a data frame, and the time column if the model was
                trained with one; other columns are ignored.
            forecasting: settings of forecasting.

        Raises:
            UsageError: the model does not forecast series, or not as far ahead as a horizon asks.
            DataError: a column is missing, is not numeric, or has too few values; or times are not regular.
        """
        chosen = self._section(self._settings.forecasting, "forecasting", forecasting)
        with self._process_settings():
            bundle = self._open(1).bundle
            model = forecaster.Forecaster(bundle, chosen)
            table = reading.from_columns(values, model.columns, bundle.series.of_forecasts(chosen), "values")
            dataset = driver.open_series(self._root, model.columns)
            labels_T = None if dataset is None else splits.label(table, dataset)
            columns = forecaster.to_columns(model.forecast(table), chosen.method, table.axis, labels_T)
        names = [field.name for field in dataclasses.fields(Forecast)]
        return [Forecast(*row) for row in zip(*(columns[name] for name in names), strict=True)]

    @property
    def _cache(self) -> node_cache.NodeCache:
        """The copies on this node of files in an object store."""
        return node_cache.NodeCache(self._settings.cluster.cache_size_bytes)

    def _open(self, num_checkpoints: int) -> driver.OpenedRun:
        """Returns the mean of the best checkpoints; loads it at the first call."""
        if num_checkpoints not in self._opened:
            self._opened[num_checkpoints] = driver.open_run("load", self._root, num_checkpoints, self._cache)
        return self._opened[num_checkpoints]

    def settings_of(self, name: str, given: Mapping[str, Any]) -> section.Section:
        """Returns the settings of a section, those stored with the run and, in place of some, given ones.

        Raises:
            UsageError: a setting is wrong.
        """
        stored: section.Section = getattr(self._settings, name)
        return self._section(stored, name, given)

    def _section(self, stored: _Section, name: str, given: Mapping[str, Any]) -> _Section:
        return loading.section_from(stored, arguments.overrides(name, given), name)

    def _prepare(self, name: str, chosen: section.Section, prepare: Callable[[], _Prepared]) -> _Prepared:
        """Returns what the last call prepared, if it had the same settings; it keeps copies of weights."""
        last = self._prepared.get(name)
        if last is not None and last[0] == chosen:
            return cast(_Prepared, last[1])
        prepared = prepare()
        self._prepared[name] = chosen, prepared
        return prepared

    @contextlib.contextmanager
    def _process_settings(self) -> Iterator[None]:
        """Computes as the commands do, with the run's threads and library; the process gets its own back."""
        with _PROCESS_SETTINGS, computing.restored_settings():
            computing.set_threads(self._settings.cluster.cpus_per_worker)
            computing.use_matmul(self._settings.compute.matmul, "bf16" if self.precision == "bf16" else "fp32")
            yield

    def _scorer(self, chosen: inference_settings.ScoringConfig) -> scorer.Scorer:
        bundle = self._open(chosen.average_checkpoints).bundle
        score.check_settings(bundle, chosen, self._settings.compute)
        dataset = score.open_dataset(self._root, bundle, chosen, self._cache)
        url = None if dataset is None else dataset.folder.url
        text = part_worker.training_text(url, model_settings.reads_backward(bundle.config), self._cache)
        if chosen.dynamic is not None:
            # Dynamic evaluation changes the weights, which later calls need as they were trained.
            bundle = dataclasses.replace(bundle, model=copy.deepcopy(bundle.model))
        return scorer.Scorer(bundle, chosen, self._settings.compute, self.device, text)

    def _score_stream(
        self,
        prepared: scorer.Scorer,
        texts: Sequence[arguments.Line],
        chosen: inference_settings.ScoringConfig,
    ) -> list[results.Score]:
        """Scores lines as a stream, in lanes and parts as the command does: dynamic evaluation depends on them."""

        def part_of(start: int) -> inputs.Part:
            side = inputs.Side(start, min(chosen.part_lines, len(texts) - start), None, None, "")
            return inputs.Part(f"part-{start}", (side,))

        def good(part: inputs.Part) -> dict[int, str]:
            numbers = range(part.first_line, part.first_line + part.num_lines)
            lines = ((number, texts[number]) for number in numbers)
            return {number: line[0] for number, line in lines if not isinstance(line, corpus.BadLine)}

        def count(part: inputs.Part) -> list[int]:
            kept = good(part)
            counts = dict(zip(kept, map(len, prepared.encode_stream(list(kept.values()))), strict=True))
            return [counts.get(part.first_line + index, 0) for index in range(part.num_lines)]

        parts = [part_of(start) for start in range(0, len(texts), chosen.part_lines)]
        counts = [sum(count(part)) for part in parts] if chosen.lanes > 1 else []
        order = -1 if model_settings.reads_backward(self._open(1).bundle.config) else 1
        rows: dict[int, results.Score] = {}
        for lane in stream_lanes.cut(parts, chosen.lanes, counts, count):
            state = prepared.initial_stream_state()
            for part in lane[::order]:
                kept = good(part)
                scores, state = prepared.score_stream(list(kept.values()), state)
                rows.update(zip(kept, scores, strict=True))
        return [
            results.Score(None, 0, 0, error=arguments.reason_of(text))
            if isinstance(text, corpus.BadLine)
            else rows[number]
            for number, text in enumerate(texts)
        ]


def _by_part(
    texts: Sequence[arguments.Line],
    part_lines: int,
    compute: Callable[[Sequence[tuple[str, ...]]], Sequence[_Row]],
    failed: _Row,
) -> list[_Row]:
    """Computes the good lines in the parts that the command has, on whose batches the last bits depend."""
    rows: list[_Row] = []
    for start in range(0, len(texts), part_lines):
        part = texts[start : start + part_lines]
        good_rows = iter(compute([text for text in part if not isinstance(text, corpus.BadLine)]))
        rows += [
            dataclasses.replace(failed, error=arguments.reason_of(text))
            if isinstance(text, corpus.BadLine)
            else next(good_rows)
            for text in part
        ]
    return rows


def _generation(
    prepared: generator.Generator, line: int, prompt: str, seed: int, steps_ahead: int | None
) -> Generation:
    try:
        made = prepared.continue_text(prompt)
    except generator.EmptyPromptError as error:
        return Generation(line, "", 0, 0, seed, error=f"empty: {error}")
    ahead = None if steps_ahead is None else tuple(prepared.predict_ahead(prompt, steps_ahead))
    return Generation(line, made.text, made.num_tokens, made.num_unknown, seed, ahead, made.ended)
