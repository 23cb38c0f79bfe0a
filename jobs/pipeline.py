"""The whole way: prepare → train → translate and score → evaluate → report, in one session."""

import logging
import time
from collections.abc import Callable
from typing import Any

from core import errors
from core.config import loading, schema
from core.data import dataset_index
from core.models import bundle
from core.storage import commit, location
from core.telemetry import catalog
from jobs import console, evaluate, generate, held_out, prepare, record, report, score, train, translate
from workers import cluster

NUM_SAMPLES = 3
_PREFIX_WORDS = 2
_log = logging.getLogger(__name__)

Report = dict[str, Any]


def run(config: schema.RunConfig, session: cluster.Session, reporter: console.Reporter) -> Report:
    """Takes a configuration from its corpus to a report; what is done already is left as it is.

    A split that the corpus does not have is not translated, scored or evaluated; the report says so.

    Raises:
        RaycurrentError: what the stage raised that could not be done; those before it stay done.
    """
    if config.corpus.kind == "series":
        raise errors.UsageError("corpus.kind: the pipeline is for text; of a series: prepare, train, then forecast")
    root = location.Location.parse(config.root, "root")
    with commit.RunLock(root, "pipeline"):
        record.started(config)
        with record.ending(root, session):
            return _Pipeline(config, root, session, reporter).run()


class _Pipeline:
    """One run of the pipeline; keeps the report of each stage in `run.json`."""

    def __init__(
        self, config: schema.RunConfig, root: location.Location, session: cluster.Session, reporter: console.Reporter
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
        index = root.join("dataset", dataset_index.NAME)
        self._stage("prepare", "", lambda _: prepare.run(config, self._session, self._reporter), index)
        self._session.release()
        self._train()
        used = str(bundle.find(root).checkpoint)
        texts = held_out.write(config)
        if texts is None:
            _log.info(
                "the corpus has neither a test nor a validation split: nothing is translated, scored or evaluated"
            )
        elif config.corpus.kind == "pairs":
            self._translate(used, texts)
            self._score(used, texts, texts.files["source"], texts.files["target"])
            self._evaluate(texts)
        else:
            self._score(used, texts, texts.files["text"], None)
        if config.corpus.kind == "text":
            self._generate(used, texts)
        self._session.release()
        self._report()
        return {
            "verb": "pipeline",
            "name": config.name,
            "root": str(root),
            "held_out": texts.split if texts else None,
            "stages": self._stages,
        }

    def _train(self) -> None:
        # `train` keeps its own record: it does so when it is run alone, too.
        done = train.run_locked(self._config, self._session, self._reporter)
        self._worked |= not done["already_done"]
        self._stages["train"] = done

    def _translate(self, used: str, texts: held_out.HeldOut) -> None:
        config = self._config
        decoding = config.decoding.model_dump(mode="json")
        made_with = loading.fingerprint([*self._averaged(used), texts.split, decoding, self._compute()])
        self._stage(
            "translate",
            made_with,
            proof=self._manifest("translations.jsonl"),
            work=lambda is_outdated: translate.run(
                run=self._root,
                input=str(texts.files["source"]),
                output=str(self._root.join("outputs", "translations.jsonl")),
                column=None,
                decoding=config.decoding,
                compute=config.compute,
                cluster=config.cluster,
                session=self._session,
                reporter=self._reporter,
                overwrite=is_outdated,
            ),
        )

    def _score(
        self, used: str, texts: held_out.HeldOut, source: location.Location, target: location.Location | None
    ) -> None:
        config = self._config
        made_with = loading.fingerprint([used, texts.split, config.scoring.model_dump(mode="json"), self._compute()])
        self._stage(
            "score",
            made_with,
            proof=self._manifest("scores.jsonl"),
            work=lambda is_outdated: score.run(
                run=self._root,
                input=str(source),
                targets=None if target is None else str(target),
                output=str(self._root.join("outputs", "scores.jsonl")),
                column=None,
                scoring=config.scoring,
                compute=config.compute,
                cluster=config.cluster,
                session=self._session,
                reporter=self._reporter,
                overwrite=is_outdated,
            ),
        )

    def _averaged(self, used: str) -> list[str]:
        """The checkpoints that decoding uses: the one that all else uses, and those that are averaged with it."""
        count = self._config.decoding.average_checkpoints
        others = bundle.find_best(self._root, count)[1:] if count > 1 else []
        return [used, *(str(found.checkpoint) for found in others)]

    def _evaluate(self, texts: held_out.HeldOut) -> None:
        made_with = record.stage(self._root, "translate").get("made_with", "")

        def work(_: bool) -> Report:
            hypotheses = str(self._root.join("outputs", "translations.jsonl"))
            return evaluate.run(hypotheses, [str(texts.files["target"])], self._reporter)

        self._stage("evaluate", made_with, work, None)

    def _generate(self, used: str, texts: held_out.HeldOut | None) -> None:
        """Lets a language model go on from the beginnings of held-out lines, each time with another seed."""
        config = self._config
        prefixes = _beginnings(texts.files["text"]) if texts else []
        settings = config.decoding.model_dump(mode="json")
        made_with = loading.fingerprint([*self._averaged(used), prefixes, settings, self._compute(), config.seed])

        def work(_: bool) -> Report:
            samples = []
            with self._reporter.stage("generate", len(prefixes), "samples") as stage:
                for number, prefix in enumerate(prefixes):
                    made = generate.run(
                        self._root, prefix, config.decoding, config.compute, config.cluster, config.seed + number
                    )
                    samples.append({"prefix": prefix, "text": made["text"]})
                    stage.advance()
            return {"verb": "generate", "samples": samples}

        if prefixes:
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
        before = record.stage(self._root, name)
        is_same = before.get("outcome") == "done" and before.get("made_with") == made_with
        if is_same and proof is None:
            self._stages[name] = before["report"]
            return
        is_outdated = any(before.get(key, made_with) != made_with for key in ("begun_with", "made_with"))
        is_done = is_same and proof is not None and proof.exists()
        if not is_same:
            record.stage_begun(self._root, name, made_with)
        started_s = time.monotonic()
        made = work(is_outdated)
        self._measure(name, made)
        self._worked |= not is_done
        record.stage_done(self._root, name, time.monotonic() - started_s, made, not is_done, made_with)
        self._stages[name] = before["report"] if is_done else made

    def _measure(self, name: str, made: Report) -> None:
        told = self._session.recorder
        told.set(catalog.LAST_SUCCESS, time.time(), stage=name)
        if name == "evaluate":
            told.set(catalog.EVALUATE_BLEU, made["bleu"])
        if name == "score" and "nll_nats_per_token" in made:
            told.set(catalog.SCORE_LOSS, float(made["nll_nats_per_token"]))

    def _manifest(self, output: str) -> location.Location:
        return self._root.join("outputs", f"{output}.parts", commit.MANIFEST)

    def _compute(self) -> Any:
        return self._config.compute.model_dump(mode="json")


def _beginnings(text: location.Location) -> list[str]:
    """The first words of the first lines that have more."""
    found = []
    with text.open() as file:
        for line in file:
            words = line.decode("utf-8", "replace").split()
            if len(words) > _PREFIX_WORDS:
                found.append(" ".join(words[:_PREFIX_WORDS]))
            if len(found) == NUM_SAMPLES:
                break
    return found
