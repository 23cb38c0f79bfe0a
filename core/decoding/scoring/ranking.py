"""Ranking of lines by several language models that read in either direction."""

from collections.abc import Sequence

from core.config import inference_settings, mixture_settings, schema
from core.decoding import device as devices
from core.decoding.lines import results
from core.decoding.scoring import scorer
from core.models import bundle as bundles


class Ranker:
    """Bundles ready to rank lines: each line gets the weighted sum of its log-probabilities by every model.

    The sum orders lines, and is not a log-probability itself.
    """

    def __init__(
        self,
        members: Sequence[bundles.Bundle],
        scoring: inference_settings.ScoringConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
    ) -> None:
        self._scorers = [scorer.Scorer(member, scoring, compute, device) for member in members]
        self._weights = mixture_settings.weights_of(scoring.mixture, len(members))

    @property
    def context(self) -> devices.InferenceContext:
        """Device and precision."""
        return self._scorers[0].context

    def rank_lines(self, lines: Sequence[str]) -> list[results.Ranking]:
        """Returns the ranking score of each line."""
        by_member = [member.score_lines(lines) for member in self._scorers]
        return [self._rank(scores) for scores in zip(*by_member, strict=True)]

    def _rank(self, scores: Sequence[results.Score]) -> results.Ranking:
        nlls = [float(score.nll_nats or 0.0) for score in scores]
        # A weight of 0 leaves a model out, even where a line is impossible to it.
        terms = [-weight * nll for weight, nll in zip(self._weights, nlls, strict=True) if weight]
        return results.Ranking(sum(terms), tuple(nlls), scores[0].num_tokens, scores[0].num_unk)
