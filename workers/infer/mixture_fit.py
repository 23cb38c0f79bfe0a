"""Fit of the weights of a mixture: models score a held-out text, spread over workers; the driver runs EM."""

import functools
from collections.abc import Callable, Sequence

from core.config import mixture_settings, model_settings
from core.data import lazy
from core.data.text import corpus
from core.decoding.lines import inputs, results
from core.decoding.scoring import mixture_weights, scorer
from core.models import compute as computing
from workers.fanout import executor as executors
from workers.infer import part_worker


class FitWorker:
    """Scores parts of the held-out text with each model alone."""

    def __init__(self, spec: part_worker.Spec) -> None:
        computing.set_threads(spec.threads)
        # Each model as in a run of its own, with the score of each token; the mixture is what is being fitted.
        alone = {"tokens": True, "mixture": mixture_settings.LinearConfig()}
        scoring = spec.scoring.model_copy(update=alone)
        members = part_worker.load_members(spec)
        self._is_stream = scoring.unit_or_line == "stream"
        self._scorers = [scorer.Scorer(member, scoring, spec.compute, spec.device) for member in members]
        self._is_backward = model_settings.reads_backward(members[0].config)

    def __call__(self, parts: Sequence[inputs.Part]) -> list[mixture_weights.Array]:
        """Returns for each model the log-probabilities of the tokens of consecutive parts; bad lines are left out."""
        scores: list[list[results.Score]] = [[] for _ in self._scorers]
        states = [each.initial_stream_state() for each in self._scorers]
        for part in reversed(parts) if self._is_backward else parts:
            lines = [line[0] for line in inputs.read(part) if not isinstance(line, corpus.BadLine)]
            for index, each in enumerate(self._scorers):
                if self._is_stream:
                    part_scores, states[index] = each.score_stream(lines, states[index])
                else:
                    part_scores = each.score_lines(lines)
                scores[index] += part_scores
        return [mixture_weights.log_probs(each) for each in scores]


def fit(
    spec: part_worker.Spec,
    parts: Sequence[inputs.Part],
    max_iterations: int,
    session: executors.Session,
    progress: Callable[[int], None],
) -> mixture_weights.Fit:
    """Returns the weights of the runs of `spec`, fitted on the held-out text in `parts`.

    Raises:
        DataError: the text has no token that a model holds possible.
    """
    by_task: dict[int, list[mixture_weights.Array]] = {}

    def on_done(task: executors.Task, log_probs: list[mixture_weights.Array]) -> None:
        by_task[int(task.name)] = log_probs

    # Lines do not depend on each other; of a stream each part needs the state after the one before it.
    groups: Sequence[Sequence[inputs.Part]] = (
        [parts] if spec.scoring.unit_or_line == "stream" and parts else _each(parts)
    )

    def task(number: int) -> executors.Task:
        group = groups[number]
        return executors.Task(str(number), list(group), sum(part.num_lines for part in group))

    tasks = lazy.LazySequence(len(groups), task)
    factory = functools.partial(FitWorker, spec)
    monitor = executors.Monitor(session.metrics, progress, session.should_stop)
    session.executor(spec.stage, len(tasks), runs_model=True).run(spec.stage, tasks, factory, on_done, monitor)
    # By number: tasks are done in any order, and sums of floating-point numbers depend on it.
    return mixture_weights.fit([by_task[number] for number in range(len(groups))], max_iterations)


def _each(parts: Sequence[inputs.Part]) -> Sequence[Sequence[inputs.Part]]:
    return lazy.LazySequence(len(parts), lambda number: [parts[number]])
