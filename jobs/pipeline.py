"""The whole way: prepare → train → translate and score → evaluate → report, in one session."""

import logging
import time
from collections.abc import Callable
from typing import Any

from core import errors
from core.config import loading, model_settings, schema, stored_forms
from core.data.dataset import dataset_index
from core.models import bundle
from core.storage import commit, location, run_lock
from core.telemetry import catalog
from jobs import evaluate, generate, held_out, prepare, report, run_state, score, train, translate
from workers.cluster import session as sessions
from workers.fanout import progress_display

NUM_SAMPLES = 3
_PREFIX_WORDS = 2
_log = logging.getLogger(__name__)

Report = dict[str, Any]


def run(config: schema.RunConfig, session: sessions.Session, reporter: progress_display.Reporter) -> Report:
    """Takes a configuration from its corpus to a report; what is done already is left as it is.

    A split that the corpus does not have is not translated, scored or evaluated; the report says so.

    Raises:
        RaycurrentError: what the stage raised that could not be done; those before it stay done.
    """
    if config.corpus_kind == "series":
        raise errors.UsageError("corpus.kind: the pipeline is for text; of a series: prepare, train, then forecast")
    root = location.Location.parse(config.root, "root")
    with run_lock.RunLock(root, "pipeline"):
        run_state.record_start(config)
        with run_state.record_exit_code(root, session):
            return _Pipeline(run_state.with_stored_defaults(config), root, session, reporter).run()


class _Pipeline:
    """One run of the pipeline; keeps the report of each stage in `run.json`."""

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
        self._stages: dict[str, Report] = {}
        self._worked = False

    def run(self) -> Report:
        """Does all stages and returns their reports."""
        config, root = self._config, self._root
        warnings = _warnings(config)
        for warning in warnings:
            _log.warning("%s", warning)
        index = root.join("dataset", dataset_index.NAME)
        self._stage("prepare", "", lambda _: prepare.run(config, self._session, self._reporter), index)
        self._session.release()
        # Written now, that a corpus which is gone is missed before hours of training and not after.
        found = {task: held_out.write(config, task) for task in config.tasks}
        self._train()
        used = bundle.select_checkpoint(root).checkpoint.name
        for task, held in found.items():
            self._use(used, held, task)
        texts = next(iter(found.values()))
        if config.corpus_kind == "text":
            self._generate(used, texts)
        self._session.release()
        self._report()
        return {
            "verb": "pipeline",
            "name": config.name,
            "root": str(root),
            "held_out": texts.split if texts else None,
            **({"tasks": list(found)} if config.corpora else {}),
            **({"warnings": warnings} if warnings else {}),
            "stages": self._stages,
        }

    def _train(self) -> None:
        # `train` keeps its own record: it does so when it is run alone, too.
        done = train.run_locked(self._config, self._session, self._reporter)
        self._worked |= not done["already_done"]
        self._stages["train"] = done

    def _use(self, used: str, texts: held_out.HeldOut | None, task: str) -> None:
        """Translates, scores and evaluates what a corpus holds out."""
        if texts is None:
            of_task = f" {task}" if task else ""
            _log.info(
                "the corpus%s has neither a test nor a validation split: nothing is translated, scored or evaluated",
                of_task,
            )
        elif self._config.corpus_kind == "pairs":
            self._translate(used, texts, task)
            self._score(used, texts, texts.files["source"], texts.files["target"], task)
            self._evaluate(texts, task)
        else:
            self._score(used, texts, texts.files["text"], None, task)

    def _told(self, task: str) -> dict[str, Any]:
        """What is set for a task besides the settings: its direction."""
        corpus = self._config.corpora.get(task)
        return {} if corpus is None or corpus.target_token is None else {"target_token": corpus.target_token}

    def _translate(self, used: str, texts: held_out.HeldOut, task: str) -> None:
        config = self._config
        settings = config.decoding.model_copy(update=self._told(task))
        output = f"{_prefix(task)}translations.jsonl"
        decoding = stored_forms.of_decoding(settings, config.generation, "translate")
        checkpoints = self._averaged(used, settings.average_checkpoints)
        made_with = loading.fingerprint([*checkpoints, texts.split, decoding, self._compute()])
        self._stage(
            _named("translate", task),
            made_with,
            proof=self._manifest(output),
            work=lambda is_outdated: translate.run(
                translate.Request(
                    run=self._root,
                    input=str(texts.files["source"]),
                    output=str(self._root.join("outputs", output)),
                    decoding=settings,
                    compute=config.compute,
                    cluster=config.cluster,
                    overwrite=is_outdated,
                ),
                self._session,
                self._reporter,
            ),
        )

    def _score(
        self, used: str, texts: held_out.HeldOut, source: location.Location, target: location.Location | None, task: str
    ) -> None:
        config = self._config
        settings, output = config.scoring.model_copy(update=self._told(task)), f"{_prefix(task)}scores.jsonl"
        checkpoints = self._averaged(used, settings.average_checkpoints)
        # Their number is said by their names: so what was made before it could be set stays as it is.
        scoring = stored_forms.of_scoring(settings)
        made_with = loading.fingerprint([*checkpoints, texts.split, scoring, self._compute()])
        self._stage(
            _named("score", task),
            made_with,
            proof=self._manifest(output),
            work=lambda is_outdated: score.run(
                score.Request(
                    run=self._root,
                    input=str(source),
                    output=str(self._root.join("outputs", output)),
                    scoring=settings,
                    compute=config.compute,
                    cluster=config.cluster,
                    targets=None if target is None else str(target),
                    overwrite=is_outdated,
                ),
                self._session,
                self._reporter,
            ),
        )

    def _averaged(self, used: str, count: int) -> list[str]:
        """So many checkpoints: the one that is used alone, and those that are averaged with it."""
        others = bundle.select_checkpoints(self._root, count)[1:] if count > 1 else []
        return [used, *(found.checkpoint.name for found in others)]

    def _evaluate(self, texts: held_out.HeldOut, task: str) -> None:
        made_with = run_state.read_stage(self._root, _named("translate", task)).get("made_with", "")

        def work(_: bool) -> Report:
            hypotheses = str(self._root.join("outputs", f"{_prefix(task)}translations.jsonl"))
            return evaluate.run(hypotheses, [str(texts.files["target"])], self._reporter)

        self._stage(_named("evaluate", task), made_with, work, None)

    def _generate(self, used: str, texts: held_out.HeldOut | None) -> None:
        """Lets a language model go on from the beginnings of held-out lines, each time with another seed.

        One that reads backward is given their ends.
        """
        config = self._config
        backward = model_settings.reads_backward(config.model)
        kind = "ending" if backward else "prefix"
        given = _some_words(texts.files["text"], backward) if texts else []
        settings = stored_forms.of_decoding(config.decoding, config.generation, "generate")
        checkpoints = self._averaged(used, config.generation.average_checkpoints)
        made_with = loading.fingerprint([*checkpoints, given, settings, self._compute(), config.seed])

        def work(_: bool) -> Report:
            samples = []
            with self._reporter.stage("generate", len(given), "samples") as stage:
                for number, words in enumerate(given):
                    prefix, ending = (None, words) if backward else (words, None)
                    seed = config.seed + number
                    made = generate.run(
                        self._root, prefix, config.generation, config.compute, config.cluster, seed, ending
                    )
                    samples.append({kind: words, "text": made["text"]})
                    stage.advance()
            return {"verb": "generate", "samples": samples}

        if given:
            self._stage("generate", made_with, work, None)

    def _report(self) -> None:
        if self._worked or not self._root.join("report.html").exists():
            self._session.keep_metrics()
            self._stages["report"] = report.run([self._root], self._reporter)

    def _stage(
        self, name: str, made_with: str, work: Callable[[bool], Report], proof: location.Location | None
    ) -> None:
        """Does a stage and keeps its report.

        Args:
            name: of the stage.
            made_with: a fingerprint of what its results depend on.
            work: does it, and is told whether what an earlier pipeline made is out of date.
            proof: a file that is written last, with which there is nothing left to do; None where the report is all
                that the stage makes.
        """
        before = run_state.read_stage(self._root, name)
        is_same = before.get("outcome") == "done" and before.get("made_with") == made_with
        if is_same and proof is None:
            self._stages[name] = before["report"]
            return
        is_outdated = any(before.get(key, made_with) != made_with for key in ("begun_with", "made_with"))
        is_done = is_same and proof is not None and proof.exists()
        if not is_same:
            run_state.record_stage_start(self._root, name, made_with)
        started_s = time.monotonic()
        made = work(is_outdated)
        self._measure(name, made)
        self._worked |= not is_done
        run_state.record_stage_end(self._root, name, time.monotonic() - started_s, made, not is_done, made_with)
        self._stages[name] = before["report"] if is_done else made

    def _measure(self, name: str, made: Report) -> None:
        metrics, verb = self._session.metrics, name.partition(".")[0]
        metrics.set(catalog.LAST_SUCCESS, time.time(), stage=verb)
        if verb == "evaluate":  # of several corpora the mean of those evaluated so far
            others = [report["bleu"] for stage, report in self._stages.items() if stage.startswith(f"{verb}.")]
            metrics.set(catalog.EVALUATE_BLEU, sum([*others, made["bleu"]]) / (len(others) + 1))
        if verb == "score" and "nll_nats_per_token" in made:
            metrics.set(catalog.SCORE_LOSS, float(made["nll_nats_per_token"]))

    def _manifest(self, output: str) -> location.Location:
        return self._root.join("outputs", f"{output}.parts", commit.MANIFEST)

    def _compute(self) -> Any:
        return stored_forms.of_compute(self._config.compute)


def _warnings(config: schema.RunConfig) -> list[str]:
    """What a reader of the figures would not expect of these settings."""
    name = "decoding" if config.corpus_kind == "pairs" else "generation"
    decoded, scored = getattr(config, name).average_checkpoints, config.scoring.average_checkpoints
    if decoded == scored:
        return []
    return [
        f"scoring.average_checkpoints: is {scored} and {name}.average_checkpoints {decoded}, so scores are of other "
        f"weights than what is translated or generated; set both alike"
    ]


def _named(stage: str, task: str) -> str:
    """The name of a stage of one of several corpora."""
    return f"{stage}.{task}" if task else stage


def _prefix(task: str) -> str:
    return f"{task}." if task else ""


def _some_words(text: location.Location, last: bool) -> list[str]:
    """The first words of the first lines that have more, or the last words."""
    found = []
    with text.open() as file:
        for line in file:
            words = line.decode("utf-8", "replace").split()
            if len(words) > _PREFIX_WORDS:
                found.append(" ".join(words[-_PREFIX_WORDS:] if last else words[:_PREFIX_WORDS]))
            if len(found) == NUM_SAMPLES:
                break
    return found
