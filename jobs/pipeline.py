"""Pipeline: prepare → train → translate and score, or score and generate, or forecast → evaluate → report.

Each stage is recorded in `run.json` with a fingerprint of what its results depend on. A stage is skipped if it is done
and its fingerprint is unchanged; it is done again, and its output replaced, if the fingerprint differs.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from core.config import inference_settings, loading, model_settings, schema, stored_forms
from core.models import bundle
from core.storage import commit, location, root_layout, run_lock
from core.telemetry import catalog
from jobs import (
    conclusion,
    config_checks,
    console,
    evaluate,
    forecast,
    generate,
    held_out,
    prepare,
    report,
    run_state,
    score,
    train,
    translate,
)
from workers.cluster import session as sessions
from workers.fanout import progress_display

NUM_SAMPLES = 3
MAX_BY_LINE = 10_000  # lines of a text that are scored by line beside the stream of all
_OF_RUN = ("verb", "run", "checkpoint", "step", "passed_over", "members")  # of a report, the same by any unit
_log = logging.getLogger(__name__)

Report = dict[str, Any]


def run(config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter) -> Report:
    """Runs all stages of a configuration and returns their reports; finished stages are skipped.

    A corpus without held-out lines is not translated, scored or evaluated: its `held_out` is null in the report.

    Raises:
        RaycurrentError: a stage failed; the stages before it stay done.
    """
    config_checks.refuse_streams(config)
    root = location.Location.parse(config.root, "root")
    with run_lock.RunLock(root, "pipeline"):
        run_state.record_start(config)
        with run_state.record_exit_code(root, session):
            done = _Pipeline(run_state.with_stored_defaults(config), root, session, reporter).run()
    done["hints"] = report.read_hints(root)
    for line in conclusion.lines(done, config.corpus_kind):
        console.note(line)
    return done


class _Pipeline:
    """A run of the pipeline, whose root is locked by the caller."""

    def __init__(
        self,
        config: schema.RunConfig,
        root: location.Location,
        session: sessions.Session,
        reporter: progress_display.Reporter,
    ) -> None:
        self._config = config
        self._root = root
        self._session = session
        self._reporter = reporter
        self._reports: dict[str, Report] = {}  # by stage
        self._did_work = False  # whether any stage had something to do

    def run(self) -> Report:
        """Runs all stages and returns the report of the pipeline."""
        config, root = self._config, self._root
        warnings = _warnings(config)
        for warning in warnings:
            _log.warning("%s", warning)
        index = root.join(root_layout.DATASET, root_layout.DATASET_INDEX)
        # No fingerprint: `prepare` itself compares settings and text with those of the dataset.
        self._stage("prepare", "", lambda _: prepare.run(config, self._session, self._reporter), index)
        # Its workers' CPUs are for the ranks now.
        self._session.release()
        if config.corpus_kind == "series":
            return self._run_series()
        # Fail here if a corpus no longer exists, not after hours of training.
        texts_by_corpus = {name: held_out.write(config, name) for name in config.corpora_by_name}
        self._train()
        best_checkpoint = bundle.select_checkpoint(root).checkpoint.name
        for name, texts in texts_by_corpus.items():
            self._infer(best_checkpoint, texts, name)
        first_texts = next(iter(texts_by_corpus.values()))
        if config.corpus_kind == "text":
            self._generate(best_checkpoint, first_texts)
        self._session.release()
        self._report()
        return {
            "verb": "pipeline",
            "name": config.name,
            "root": str(root),
            "held_out": first_texts.split if first_texts else None,
            **({"tasks": list(texts_by_corpus)} if config.corpora else {}),  # the stored key
            **({"warnings": warnings} if warnings else {}),
            "stages": self._reports,
        }

    def _run_series(self) -> Report:
        """Runs the stages after `prepare` for a series."""
        held_out_rows = held_out.write_series(self._root)
        self._train()
        self._forecast(bundle.select_checkpoint(self._root).checkpoint.name, held_out_rows.files["series"])
        self._report()
        return {
            "verb": "pipeline",
            "name": self._config.name,
            "root": str(self._root),
            "held_out": held_out_rows.split,
            "stages": self._reports,
        }

    def _forecast(self, best_checkpoint: str, source: location.Location) -> None:
        config, output = self._config, "forecasts.jsonl"
        fingerprint = loading.fingerprint([best_checkpoint, stored_forms.of_forecasting(config.forecasting)])
        self._stage(
            "forecast",
            fingerprint,
            completion_file=self._manifest(output),
            work=lambda is_outdated: forecast.run(
                self._root,
                str(source),
                str(self._root.join(root_layout.OUTPUTS, output)),
                config.forecasting,
                config.cluster,
                self._reporter,
                overwrite=is_outdated,
                keeps_parts=True,
            ),
        )

    def _train(self) -> None:
        # Not through `_stage`: `train` records its stage itself, as it does when it is run alone.
        report = train.run_locked(self._config, self._session, self._reporter)
        self._did_work |= not report["already_done"]
        self._reports["train"] = report

    def _infer(self, best_checkpoint: str, texts: held_out.HeldOut | None, corpus: str) -> None:
        """Translates, scores and evaluates the held-out lines of a corpus; the name of a single corpus is empty."""
        if texts is None:
            _log.info(
                "%s: neither a test nor a validation split; nothing is translated, scored or evaluated",
                f"corpora.{corpus}" if corpus else "corpus",
            )
        elif self._config.corpus_kind == "pairs":
            self._translate(best_checkpoint, texts, corpus)
            self._score(best_checkpoint, texts, texts.files["source"], texts.files["target"], corpus)
            self._evaluate(texts, corpus)
        else:
            self._score(best_checkpoint, texts, texts.files["text"], None, corpus)

    def _target_token(self, corpus: str) -> dict[str, str]:
        """Returns the update of decoding and scoring settings that selects the translation direction of a corpus."""
        settings = self._config.corpora.get(corpus)
        return {} if settings is None or settings.target_token is None else {"target_token": settings.target_token}

    def _translate(self, best_checkpoint: str, texts: held_out.HeldOut, corpus: str) -> None:
        config = self._config
        settings = config.decoding.model_copy(update=self._target_token(corpus))
        output = f"{_prefix(corpus)}translations.jsonl"
        decoding = stored_forms.of_decoding(settings, config.generation, "translate")
        checkpoints = self._averaged_checkpoints(best_checkpoint, settings.average_checkpoints)
        fingerprint = loading.fingerprint([*checkpoints, texts.split, decoding, self._compute()])
        self._stage(
            _stage_name("translate", corpus),
            fingerprint,
            completion_file=self._manifest(output),
            work=lambda is_outdated: translate.run(
                translate.Request(
                    run=self._root,
                    input=str(texts.files["source"]),
                    output=str(self._root.join(root_layout.OUTPUTS, output)),
                    decoding=settings,
                    compute=config.compute,
                    cluster=config.cluster,
                    overwrite=is_outdated,
                    keeps_parts=True,
                ),
                self._session,
                self._reporter,
            ),
        )

    def _score(
        self,
        best_checkpoint: str,
        texts: held_out.HeldOut,
        source: location.Location,
        target: location.Location | None,
        corpus: str,
    ) -> None:
        """Scores translations by line; text as one stream, and beside it at most `MAX_BY_LINE` lines by line."""
        settings = self._config.scoring.model_copy(update=self._target_token(corpus))
        checkpoints = self._averaged_checkpoints(best_checkpoint, settings.average_checkpoints)
        stage, by_line = _stage_name("score", corpus), settings.model_copy(update={"unit": "line"})
        if target is None and settings.unit is None:
            settings = self._text_unit(stage, settings, self._score_fingerprint(checkpoints, texts, by_line))
        request = score.Request(
            run=self._root,
            input=str(source),
            output=f"{_prefix(corpus)}scores.jsonl",
            scoring=settings,
            compute=self._config.compute,
            cluster=self._config.cluster,
            targets=None if target is None else str(target),
            keeps_parts=True,
        )
        self._score_stage(stage, self._score_fingerprint(checkpoints, texts, settings), request)
        if settings.unit == "stream":
            # Cache, dynamic evaluation and lanes have no meaning for a line alone.
            alone = by_line.model_copy(update={"cache": None, "dynamic": None, "lanes": 1})
            output = f"{_prefix(corpus)}scores.by-line.jsonl"
            request = dataclasses.replace(request, output=output, scoring=alone, max_lines=MAX_BY_LINE)
            stage_by_line = _stage_name("score_by_line", corpus)
            self._score_stage(stage_by_line, self._score_fingerprint(checkpoints, texts, alone), request)
            figures = {name: value for name, value in self._reports.pop(stage_by_line).items() if name not in _OF_RUN}
            self._reports[stage] = {**self._reports[stage], "by_line": figures}

    def _text_unit(
        self, stage: str, settings: inference_settings.ScoringConfig, fingerprint_by_line: str
    ) -> inference_settings.ScoringConfig:
        """Returns the settings with the unit of a text that names none: stream, but line where it was scored by line.

        Release 0.1 scored by line where no unit was named; a root that it began is finished in its own form.
        """
        entry = run_state.read_stage(self._root, stage)
        is_by_line = fingerprint_by_line in (entry.get("begun_with"), entry.get("made_with"))
        if is_by_line:
            _log.info("scoring.unit: line, as in %s; new runs have another default", self._root)
        return settings.model_copy(update={"unit": "line" if is_by_line else "stream"})

    def _score_fingerprint(
        self, checkpoints: Sequence[str], texts: held_out.HeldOut, settings: inference_settings.ScoringConfig
    ) -> str:
        # Without `average_checkpoints`, which the names of the checkpoints imply: so scores of releases that could not
        # average stay valid.
        return loading.fingerprint([*checkpoints, texts.split, stored_forms.of_scoring(settings), self._compute()])

    def _score_stage(self, stage: str, fingerprint: str, request: score.Request) -> None:
        """Runs a stage of scoring, whose output is named below the folder of outputs."""
        output = str(self._root.join(root_layout.OUTPUTS, request.output))
        self._stage(
            stage,
            fingerprint,
            completion_file=self._manifest(request.output),
            work=lambda is_outdated: score.run(
                dataclasses.replace(request, output=output, overwrite=is_outdated), self._session, self._reporter
            ),
        )

    def _averaged_checkpoints(self, best_checkpoint: str, count: int) -> list[str]:
        """Returns the name of the best checkpoint and, if `count` > 1, of the others that are averaged with it."""
        others = bundle.select_checkpoints(self._root, count)[1:] if count > 1 else []
        return [best_checkpoint, *(member.checkpoint.name for member in others)]

    def _evaluate(self, texts: held_out.HeldOut, corpus: str) -> None:
        # That of the translations, on which alone the figures depend.
        fingerprint = run_state.read_stage(self._root, _stage_name("translate", corpus)).get("made_with", "")
        settings = self._config.evaluation
        # With the defaults, an evaluation of an older release is still known.
        if settings != type(settings)():
            fingerprint = loading.fingerprint([fingerprint, settings.model_dump(mode="json")])
        request = evaluate.Request(
            hypotheses=[str(self._root.join(root_layout.OUTPUTS, f"{_prefix(corpus)}translations.jsonl"))],
            references=[str(texts.files["target"])],
            settings=settings,
            cleaning=self._config.corpora_by_name[corpus].cleaning,
        )

        self._stage(_stage_name("evaluate", corpus), fingerprint, lambda _: evaluate.run(request, self._reporter), None)

    def _generate(self, best_checkpoint: str, texts: held_out.HeldOut | None) -> None:
        """Generates continuations of held-out prefixes; with a backward model, text before held-out endings.

        Each sample has a seed of its own.
        """
        config = self._config
        backward = model_settings.reads_backward(config.model)
        kind = "ending" if backward else "prefix"
        # A root keeps its prompts: an older release chose them in another way.
        made = run_state.read_stage(self._root, "generate").get("report") or {}
        prompts = [sample[kind] for sample in made.get("samples", ())]
        if texts and not prompts:
            prompts = held_out.prompts(texts.files["text"], NUM_SAMPLES, backward)
        settings = stored_forms.of_decoding(config.decoding, config.generation, "generate")
        checkpoints = self._averaged_checkpoints(best_checkpoint, config.generation.average_checkpoints)
        fingerprint = loading.fingerprint([*checkpoints, prompts, settings, self._compute(), config.seed])

        def work(_: bool) -> Report:
            samples = []
            with self._reporter.stage("generate", len(prompts), "samples") as stage:
                for number, prompt in enumerate(prompts):
                    prefix, ending = (None, prompt) if backward else (prompt, None)
                    seed = config.seed + number
                    generated = generate.run(
                        self._root, prefix, config.generation, config.compute, config.cluster, seed, ending
                    )
                    samples.append({kind: prompt, "text": generated["text"], "seed": generated["seed"]})
                    stage.advance()
            chosen = config.generation.model_dump(mode="json", include={"method", "temperature", "top_k", "top_p"})
            return {"verb": "generate", "samples": samples, **chosen}

        if prompts:
            self._stage("generate", fingerprint, work, None)

    def _report(self) -> None:
        if self._did_work or not self._root.join(root_layout.REPORT_HTML).exists():
            self._session.write_metrics()
            self._reports["report"] = report.run([self._root], self._reporter)

    def _stage(
        self, name: str, fingerprint: str, work: Callable[[bool], Report], completion_file: location.Location | None
    ) -> None:
        """Runs a stage, unless it is done, and keeps its report.

        Args:
            name: name of the stage in `run.json`.
            fingerprint: fingerprint of what its results depend on.
            work: runs it and returns its report; the argument is whether an output with another fingerprint exists and
                is to be replaced.
            completion_file: file that the stage writes last, so that it is done if the file exists; None for a stage
                without output files, whose report is its result.
        """
        entry = run_state.read_stage(self._root, name)
        is_same = entry.get("outcome") == "done" and entry.get("made_with") == fingerprint
        if is_same and completion_file is None:
            self._reports[name] = entry["report"]
            return
        # A stage that began with another fingerprint and never ended may have left a part of its output.
        is_outdated = any(entry.get(key, fingerprint) != fingerprint for key in ("begun_with", "made_with"))
        is_done = is_same and completion_file is not None and completion_file.exists()
        if not is_same:
            run_state.record_stage_start(self._root, name, fingerprint)
        started_s = time.monotonic()
        # A finished stage is called, too: it recognizes its committed output, changes nothing, and reports its figures.
        with run_state.record_unfinished_time(self._root, name):
            stage_report = work(is_outdated)
        self._set_gauges(name, stage_report)
        self._did_work |= not is_done
        run_state.record_stage_end(
            self._root, name, time.monotonic() - started_s, stage_report, not is_done, fingerprint
        )
        self._reports[name] = run_state.report_of_before(entry) if is_done else stage_report

    def _set_gauges(self, name: str, stage_report: Report) -> None:
        metrics, verb = self._session.metrics, name.partition(".")[0]
        if verb not in catalog.STAGES:
            return  # the second scoring of a text: the gauges are those of the first
        metrics.set(catalog.LAST_SUCCESS, time.time(), stage=verb)
        for measured, figure, gauge in (
            ("evaluate", "bleu", catalog.EVALUATE_BLEU),
            ("score", "nll_nats_per_token", catalog.SCORE_LOSS),
        ):
            if verb == measured and figure in stage_report:
                # The gauge has no label for the corpus: of several, it is the mean over those done so far.
                others = [report for stage, report in self._reports.items() if stage.startswith(f"{verb}.")]
                values = [float(report[figure]) for report in [*others, stage_report] if figure in report]
                metrics.set(gauge, sum(values) / len(values))

    def _manifest(self, output: str) -> location.Location:
        return self._root.join(root_layout.OUTPUTS, f"{output}.parts", commit.MANIFEST)

    def _compute(self) -> Any:
        return stored_forms.of_compute(self._config.compute)


def _warnings(config: schema.RunConfig) -> list[str]:
    """Returns warnings about settings that make figures of the report incomparable."""
    name = "decoding" if config.corpus_kind == "pairs" else "generation"
    decoded, scored = getattr(config, name).average_checkpoints, config.scoring.average_checkpoints
    if decoded == scored:
        return []
    return [
        f"scoring.average_checkpoints: is {scored}, but {name}.average_checkpoints is {decoded}, so scores are of "
        f"other weights than translations or generated text; set both to the same number"
    ]


def _stage_name(stage: str, corpus: str) -> str:
    """Returns the name of a stage in `run.json`, such as `translate.NAME` for one of several corpora."""
    return f"{stage}.{corpus}" if corpus else stage


def _prefix(corpus: str) -> str:
    return f"{corpus}." if corpus else ""
