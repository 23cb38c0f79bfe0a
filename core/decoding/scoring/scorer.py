"""Scoring: token log-probabilities of lines, of a stream, and of given translations (forced decoding).

With `<eos>` in its vocabulary a language model reads each line after an `<eos>`, and scores the line's tokens and the
`<eos>` that ends it. Without one, the first token of a line (of a stream: of each lane) has no context: it is read, and
neither scored nor counted.

A model that reads backward scores each token given those after it: a line is read from an `<eos>` at its end to the one
before it, a stream from its last line to its first. Scores are always returned in the order of the text.

Over a stream a neural cache and dynamic evaluation can adapt the model to the text so far.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from core import errors
from core.config import inference_settings, model_settings, schema
from core.data.batching import lanes
from core.data.text import cleaning
from core.data.tokens import vocabulary
from core.decoding import device as devices
from core.decoding.lines import results
from core.decoding.scoring import likelihood
from core.decoding.scoring import stream as streams
from core.decoding.translation import target_tokens
from core.models import autoregressive, language_model, mixture, seq2seq
from core.models import bundle as bundles
from core.models.ngram import ngram_model


class Scorer:
    """A bundle ready to score: a language model scores lines or a stream, a seq2seq model scores translations."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        scoring: inference_settings.ScoringConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
        training_text: lanes.Stream | None = None,
        others: Sequence[bundles.Bundle] = (),
    ) -> None:
        """Prepares a bundle, or a mixture of several.

        Args:
            bundle: its model is used, and by dynamic evaluation changed.
            scoring: batch size, neural cache, dynamic evaluation.
            compute: precision.
            device: `cpu` or `cuda`.
            training_text: measured for gradient statistics by dynamic evaluation with rule `rms`, in the model's
                reading direction.
            others: further language models of the mixture that `scoring.mixture` describes.

        Raises:
            UsageError: the model lacks what the settings need.
        """
        self.context = devices.prepare(bundle, compute, device, others)
        self._model: bundles.Model | mixture.Mixture = (
            mixture.Mixture([_member(member) for member in (bundle, *others)], scoring.mixture)
            if others
            else bundle.model
        )
        self._settings = scoring
        self._codecs = target_tokens.with_target_token(bundle, scoring.target_token, "scoring.target_token").codecs
        self._codec = bundle.codecs["target" if isinstance(bundle.model, seq2seq.Seq2Seq) else "text"]
        self._tokenizer = self._codec.tokenizer
        self._separator = " " if bundle.line_end == "space" else ""
        # The step of slices that turn text order into reading order, and back.
        self._direction = -1 if model_settings.reads_backward(bundle.config) else 1
        self._stream_scorer = (
            None if isinstance(bundle.model, seq2seq.Seq2Seq) else self._make_stream_scorer(training_text)
        )

    def score_lines(self, lines: Sequence[str]) -> list[results.Score]:
        """Scores each line alone, from the initial state; lines of similar length are batched.

        Raises:
            UsageError: the bundle is a seq2seq model.
        """
        model = self._language_model()
        eos = self._tokenizer.eos_id
        ids_of_lines = [ids[:: self._direction] for ids in self._codec.encode_lines(lines)]
        rows = [ids if eos is None else [eos, *ids, eos] for ids in ids_of_lines]
        scores = self._score_rows(model, rows)
        return [self._line_score(*given) for given in zip(lines, rows, scores, strict=True)]

    def score_pairs(self, lines: Sequence[str], targets: Sequence[str]) -> list[results.Score]:
        """Scores given translations by forced decoding: the negative of the score that beam search reports for them.

        An empty source with an empty translation scores 0 with no tokens, as in translation.

        Raises:
            UsageError: the bundle is a language model.
        """
        model = self._model
        if not isinstance(model, seq2seq.Seq2Seq):
            raise errors.UsageError("--targets: scores of translations need a seq2seq; this run is a language_model")
        source_eos, bos, eos = self._codecs["source"].tokenizer.eos_id, self._tokenizer.bos_id, self._tokenizer.eos_id
        assert source_eos is not None
        assert bos is not None
        assert eos is not None
        sources = [[*ids, source_eos] for ids in self._codecs["source"].encode_lines(lines)]
        rows = [[*ids, eos] for ids in self._codec.encode_lines(targets)]
        scores: dict[int, likelihood.TokenScores] = {}
        for index, (source, row) in enumerate(zip(sources, rows, strict=True)):
            # Both sides are an `<eos>` alone: as in translation, such a line has no tokens.
            if len(source) == len(row) == 1:
                scores[index], rows[index] = likelihood.empty(), []
        order = sorted(
            set(range(len(rows))) - scores.keys(), key=lambda index: (-len(rows[index]), -len(sources[index]), index)
        )
        # A batch is padded on both sides: its longer side is what it costs.
        sizes = [max(len(source), len(row)) for source, row in zip(sources, rows, strict=True)]
        # The precision of translation, not that of windows: the scores must equal those that it reports.
        with self.context.inference():
            for batch in _batches(order, sizes, self._settings.batch_tokens):
                source_BS = self._pad([sources[index] for index in batch])
                lengths_B = torch.tensor([len(sources[index]) for index in batch])
                inputs_BT = self._pad([[bos, *rows[index][:-1]] for index in batch])
                features_BTF = model(source_BS, lengths_B, inputs_BT)
                batch_scores = self._score_targets(model, features_BTF, [rows[index] for index in batch])
                scores.update(zip(batch, batch_scores, strict=True))
        return [
            self._line_score(line, row, scores[index])
            for index, (line, row) in enumerate(zip(targets, rows, strict=True))
        ]

    def initial_stream_state(self) -> streams.StreamState:
        """Returns the state at the start of a lane: the initial hidden state, after an `<eos>` if there is one."""
        return self._scorer_of_streams().initial_state(self._tokenizer.eos_id)

    def encode_stream(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each line in reading order, with the `<eos>` or space that separates it from the next.

        The separator belongs to the line before it in the text.
        """
        eos = [] if self._tokenizer.eos_id is None else [self._tokenizer.eos_id]
        separator = self._tokenizer.encode(self._separator) if self._separator else []
        # The `<eos>` is last in either direction: it ends what has been read.
        return [[*[*ids, *separator][:: self._direction], *eos] for ids in self._codec.encode_lines(lines)]

    def score_stream(
        self, lines: Sequence[str], before: streams.StreamState
    ) -> tuple[list[results.Score], streams.StreamState]:
        """Scores lines that continue a stream, each token given all of the stream that was read before it.

        Lines and scores are in text order; for a model that reads backward `before` is the state after the lines that
        follow in the text.

        Raises:
            UsageError: the bundle is a seq2seq model.
        """
        lines = lines[:: self._direction]
        rows = self.encode_stream(lines)
        # The last token before was scored, but not read: it is the input that predicts the first one here.
        stream = ([] if before.last_token is None else [before.last_token]) + [token for row in rows for token in row]
        if len(stream) < 2:
            # Nothing to score yet: the only token, if any, is read with the next lines.
            scores = [self._line_score(line, row, likelihood.empty()) for line, row in zip(lines, rows, strict=True)]
            return scores[:: self._direction], before._replace(last_token=next(iter(stream), None))
        token_scores, after = self._scorer_of_streams().score(stream, before)
        # From the end: at the start of a stream the first token may have no score.
        scores = []
        end = len(stream) - 1
        for line, row in zip(reversed(lines), reversed(rows), strict=True):
            start = max(0, end - len(row))
            scores.append(self._line_score(line, row, token_scores.slice(start, end), self._separator))
            end = start
        # Collected against the reading order, which for a backward model is the order of the text.
        return scores[:: -self._direction], after

    def _language_model(self) -> mixture.Member | mixture.Mixture:
        if isinstance(self._model, seq2seq.Seq2Seq):
            raise errors.UsageError("--targets: a seq2seq scores translations of the input; name them with --targets")
        assert not isinstance(self._model, autoregressive.Autoregressive), "a series has no text"
        return self._model

    def _scorer_of_streams(self) -> streams.NeuralStreamScorer | streams.NgramStreamScorer:
        self._language_model()
        assert self._stream_scorer is not None, "every language model has one"
        return self._stream_scorer

    def _make_stream_scorer(
        self, training_text: lanes.Stream | None
    ) -> streams.NeuralStreamScorer | streams.NgramStreamScorer:
        model = self._language_model()
        if not isinstance(model, ngram_model.Ngram):
            size = self._tokenizer.vocabulary_size
            return streams.NeuralStreamScorer(model, size, self._settings, self.context, training_text)
        for name in ("cache", "dynamic"):
            if getattr(self._settings, name) is not None:
                raise errors.UsageError(
                    f"scoring.{name}: an n-gram model has no hidden states or gradients; leave it out"
                )
        return streams.NgramStreamScorer(model, self.context)

    def _score_rows(
        self, model: mixture.Member | mixture.Mixture, rows: Sequence[Sequence[int]]
    ) -> list[likelihood.TokenScores]:
        """Scores the tokens of each row but the first, which is read from the initial state."""
        if isinstance(self._stream_scorer, streams.NgramStreamScorer):
            # Looked up without padding, so that there is nothing to batch by length.
            return self._stream_scorer.score_rows(rows)
        # Without an `<eos>` the only token of a line has no context, and is not scored.
        scores = {index: likelihood.empty() for index, row in enumerate(rows) if len(row) < 2}
        # Longest first, then by number: what is batched together depends on these lines alone.
        order = sorted(set(range(len(rows))) - scores.keys(), key=lambda index: (-len(rows[index]), index))
        with likelihood.window_inference(self.context):
            for batch in _batches(order, [len(row) - 1 for row in rows], self._settings.batch_tokens):
                scores.update(zip(batch, self._score_batch(model, [rows[index] for index in batch]), strict=True))
        return [scores[index] for index in range(len(rows))]

    def _score_batch(
        self, model: mixture.Member | mixture.Mixture, rows: Sequence[Sequence[int]]
    ) -> list[likelihood.TokenScores]:
        """Scores rows window by window, so that long rows need no more memory than short ones."""
        assert not isinstance(model, ngram_model.Ngram), "n-gram models are scored without batches"
        inputs_BT, targets = self._pad([row[:-1] for row in rows]), [row[1:] for row in rows]
        state = model.initial_state(len(targets))
        window = max(1, self._settings.batch_tokens // len(targets))
        scores_of_rows: list[list[likelihood.TokenScores]] = [[] for _ in targets]
        for start in range(0, inputs_BT.shape[1], window):
            features_BTF, state = model(inputs_BT[:, start : start + window], state)
            window_scores = self._score_targets(model, features_BTF, [row[start : start + window] for row in targets])
            for scores, part in zip(scores_of_rows, window_scores, strict=True):
                scores.append(part)
        return [likelihood.concatenate(scores) for scores in scores_of_rows]

    def _score_targets(
        self,
        model: likelihood.Model,
        features_BTF: Tensor,
        targets: Sequence[Sequence[int]],
    ) -> list[likelihood.TokenScores]:
        """Scores the targets of each row; padding is masked out before the output layer."""
        lengths = [len(row) for row in targets]
        targets_N = torch.tensor([token for row in targets for token in row], device=features_BTF.device)
        positions_T = torch.arange(features_BTF.shape[1])
        mask_BT = (positions_T < torch.tensor(lengths)[:, None]).to(features_BTF.device)
        size = self._tokenizer.vocabulary_size
        return likelihood.score_tokens(model, size, features_BTF[mask_BT], targets_N).split(lengths)

    def _pad(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Pads rows to equal length with id 0; padding is never scored, so its id does not matter."""
        padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return torch.from_numpy(padded).to(self.context.device)

    def _line_score(
        self, line: str, row: Sequence[int], scores: likelihood.TokenScores, separator: str = ""
    ) -> results.Score:
        """Returns the score of a line from those of its tokens in reading order; first tokens may have none."""
        nlls = scores.nlls_N
        unscored, scored = row[: len(row) - len(nlls)], row[len(row) - len(nlls) :]
        tokens = None
        if self._settings.tokens:
            tokens = tuple(
                results.TokenScore(self._tokenizer.token(token), float(nll))
                for token, nll in zip(scored[:: self._direction], nlls[:: self._direction], strict=True)
            )
        # `reduce` alone: for the few tokens of a line, the wrapper of `sum` costs more than the sum.
        nll_nats = float(np.add.reduce(nlls))
        return results.Score(
            nll_nats=nll_nats,
            num_tokens=len(scored),
            num_unk=list(scored).count(self._tokenizer.unk_id),
            num_infinite=int(np.count_nonzero(np.isinf(nlls))) if math.isinf(nll_nats) else 0,
            num_correct=int(np.count_nonzero(scores.is_first_N)),
            num_characters=self._num_characters(line, separator, unscored, scored),
            tokens=tokens,
        )

    def _num_characters(self, line: str, separator: str, unscored: Sequence[int], scored: Sequence[int]) -> int:
        """Counts the scored characters of a cleaned line and of the separator after it; an `<eos>` counts as one."""
        if self._tokenizer.kind == "char" or not scored:
            # Each token is a character, an `<eos>` or space after the line included.
            return len(scored)
        text = cleaning.clean(line, self._codec.cleaning)
        if self._tokenizer.eos_id is not None:
            return len(text) + 1
        if self._tokenizer.kind == "word":
            # Counted in the line itself: an unknown word decodes to `<unk>`, which has another length.
            words = vocabulary.split_units("word", text, self._tokenizer.symbols)[:: self._direction]
            return len(text + separator) - sum(map(len, words[: len(unscored)]))
        return len(text + separator) - len(self._tokenizer.decode(unscored))


def _member(bundle: bundles.Bundle) -> mixture.Member:
    assert isinstance(bundle.model, language_model.LanguageModel | ngram_model.Ngram), "the driver checks the kinds"
    return bundle.model


def _batches(order: Sequence[int], sizes: Sequence[int], max_tokens: int) -> Iterator[Sequence[int]]:
    """Yields batches of rows, sorted longest first, of at most `max_tokens` tokens, padding included."""
    start = 0
    while start < len(order):
        stop, longest = start, 0
        while stop < len(order):
            longest = max(longest, sizes[order[stop]])
            if stop > start and longest * (stop - start + 1) > max_tokens:  # a row over the limit is a batch of its own
                break
            stop += 1
        yield order[start:stop]
        start = stop
