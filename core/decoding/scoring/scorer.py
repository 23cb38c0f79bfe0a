"""How likely text is to a model: log-probabilities of lines, of a stream, and of given translations.

With `<eos>` in its vocabulary a language model reads each line after an `<eos>` and scores the line's tokens and
the `<eos>` that ends it. Without one, the first token of a line (of a stream: of each lane) has nothing before it
that it could depend on: it goes in, and is neither scored nor counted.

A model that reads backward scores each token given those after it: a line is read from an `<eos>` at its end to the
one before it, a stream from its last line to its first. What comes out stands in the order of the text all the same.

Over a stream a neural cache may remember what followed like states, and dynamic evaluation may go on learning.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from core import errors
from core.config import inference_settings, model_settings, schema
from core.data.batching import lanes
from core.data.text import cleaning
from core.data.tokens import tokenizer
from core.decoding import device as devices
from core.decoding.lines import results
from core.decoding.scoring import likelihood
from core.decoding.scoring import stream as streams
from core.decoding.translation import target_tokens
from core.models import autoregressive, language_model, seq2seq
from core.models import bundle as bundles
from core.models.ngram import ngram_model


class Scorer:
    """A bundle ready to score: a language model scores lines or a stream, a seq2seq translations."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        scoring: inference_settings.ScoringConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
        training_text: lanes.Stream | None = None,
    ) -> None:
        """Makes a bundle ready.

        Args:
            bundle: its model is used, and by dynamic evaluation changed.
            scoring: how it scores.
            compute: how numbers are computed.
            device: where.
            training_text: what dynamic evaluation of the rule `rms` measures gradients on, as the model reads it.

        Raises:
            UsageError: the settings ask for what the model does not have.
        """
        self.placed = devices.place(bundle, compute, device)
        self._model = bundle.model
        self._settings = scoring
        self._codecs = target_tokens.with_target_token(bundle, scoring.target_token, "scoring.target_token").codecs
        self._codec = bundle.codecs["target" if isinstance(bundle.model, seq2seq.Seq2Seq) else "text"]
        self._tokenizer = self._codec.tokenizer
        self._joint = " " if bundle.line_end == "space" else ""
        self._order = -1 if model_settings.reads_backward(bundle.config) else 1
        self._stream = None if isinstance(bundle.model, seq2seq.Seq2Seq) else self._follower(training_text)

    def score_lines(self, lines: Sequence[str]) -> list[results.Score]:
        """Scores each line alone, from the zero state; lines of like length are computed together.

        Raises:
            UsageError: the bundle is a seq2seq.
        """
        model = self._language_model()
        eos = self._tokenizer.eos_id
        known = [ids[:: self._order] for ids in self._codec.encode_lines(lines)]
        rows = [ids if eos is None else [eos, *ids, eos] for ids in known]
        judged = {index: likelihood.nothing() for index, row in enumerate(rows) if len(row) < 2}
        order = sorted(set(range(len(rows))) - judged.keys(), key=lambda index: (-len(rows[index]), index))
        with likelihood.reading(self.placed):
            for batch in _batches(order, [len(row) - 1 for row in rows], self._settings.batch_tokens):
                targets = [rows[index][1:] for index in batch]
                inputs_BT = self._padded([rows[index][:-1] for index in batch])
                judged.update(zip(batch, self._walk(model, inputs_BT, targets), strict=True))
        return [
            self._score(line, row, judged[index]) for index, (line, row) in enumerate(zip(lines, rows, strict=True))
        ]

    def score_pairs(self, lines: Sequence[str], targets: Sequence[str]) -> list[results.Score]:
        """Scores given translations, each after its source: the negative of what beam search reports for them.

        An empty source with an empty translation scores 0 with no tokens, as translating it does.

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
        judged: dict[int, likelihood.Judged] = {}
        for index, (source, row) in enumerate(zip(sources, rows, strict=True)):
            if len(source) == len(row) == 1:
                judged[index], rows[index] = likelihood.nothing(), []
        order = sorted(
            set(range(len(rows))) - judged.keys(), key=lambda index: (-len(rows[index]), -len(sources[index]), index)
        )
        sizes = [max(len(source), len(row)) for source, row in zip(sources, rows, strict=True)]
        with self.placed.inference():
            for batch in _batches(order, sizes, self._settings.batch_tokens):
                source_BS = self._padded([sources[index] for index in batch])
                lengths_B = torch.tensor([len(sources[index]) for index in batch])
                inputs_BT = self._padded([[bos, *rows[index][:-1]] for index in batch])
                features_BTF = model(source_BS, lengths_B, inputs_BT)
                found = self._judge(model, features_BTF, [rows[index] for index in batch])
                judged.update(zip(batch, found, strict=True))
        return [
            self._score(line, row, judged[index]) for index, (line, row) in enumerate(zip(targets, rows, strict=True))
        ]

    def stream_start(self) -> streams.Carried:
        """What the first part that is read of a lane starts from: the zero state, after an `<eos>` if there is one."""
        return self._along().start(self._tokenizer.eos_id)

    def stream_tokens(self, lines: Sequence[str]) -> list[list[int]]:
        """The tokens of each line as they are read in a stream, with what divides it from the line read next."""
        eos = [] if self._tokenizer.eos_id is None else [self._tokenizer.eos_id]
        ends = self._tokenizer.encode(self._joint) if self._joint else []
        return [[*[*ids, *ends][:: self._order], *eos] for ids in self._codec.encode_lines(lines)]

    def score_stream(
        self, lines: Sequence[str], carried: streams.Carried
    ) -> tuple[list[results.Score], streams.Carried]:
        """Scores lines that go on where `carried` stands, each token given all of the stream that was read before it.

        Lines and scores are in the order of the text: of a model that reads backward `carried` is what the lines after
        them left.

        Raises:
            UsageError: the bundle is a seq2seq.
        """
        lines = lines[:: self._order]
        rows = self.stream_tokens(lines)
        stream = ([] if carried.last is None else [carried.last]) + [token for row in rows for token in row]
        if len(stream) < 2:
            nothing = likelihood.nothing()
            scores = [self._score(line, row, nothing) for line, row in zip(lines, rows, strict=True)]
            return scores[:: self._order], carried._replace(last=next(iter(stream), None))
        judged, after = self._along().follow(stream, carried)
        scores = []
        end = len(stream) - 1
        for line, row in zip(reversed(lines), reversed(rows), strict=True):
            start = max(0, end - len(row))
            scores.append(self._score(line, row, judged.part(start, end), self._joint))
            end = start
        return scores[:: -self._order], after

    def _language_model(self) -> language_model.LanguageModel | ngram_model.Ngram:
        if isinstance(self._model, seq2seq.Seq2Seq):
            raise errors.UsageError("--targets: a seq2seq scores translations of the input; name them with --targets")
        assert not isinstance(self._model, autoregressive.Autoregressive), "a series has no text"
        return self._model

    def _along(self) -> streams.Follower | streams.Lookup:
        self._language_model()
        assert self._stream is not None, "a language model has one"
        return self._stream

    def _follower(self, training_text: lanes.Stream | None) -> streams.Follower | streams.Lookup:
        model = self._language_model()
        if isinstance(model, language_model.LanguageModel):
            size = self._tokenizer.vocabulary_size
            return streams.Follower(model, size, self._settings, self.placed, training_text)
        for name in ("cache", "dynamic"):
            if getattr(self._settings, name) is not None:
                raise errors.UsageError(
                    f"scoring.{name}: n-gram tables have no hidden states or gradients; leave it out"
                )
        return streams.Lookup(model, self.placed)

    def _walk(
        self,
        model: language_model.LanguageModel | ngram_model.Ngram,
        inputs_BT: Tensor,
        targets: Sequence[Sequence[int]],
    ) -> list[likelihood.Judged]:
        """Runs the model over rows of inputs, window by window, so that long rows take no more memory than short."""
        state = model.initial_state(len(targets))
        if isinstance(self._stream, streams.Lookup):
            return self._stream.judge(inputs_BT, targets, state)[0]
        assert isinstance(model, language_model.LanguageModel), "tables are looked up"
        window = max(1, self._settings.batch_tokens // len(targets))
        pieces: list[list[likelihood.Judged]] = [[] for _ in targets]
        for start in range(0, inputs_BT.shape[1], window):
            features_BTF, state = model(inputs_BT[:, start : start + window], state)
            found = self._judge(model, features_BTF, [row[start : start + window] for row in targets])
            for piece, judged in zip(pieces, found, strict=True):
                piece.append(judged)
        return [likelihood.join(piece) for piece in pieces]

    def _judge(
        self,
        model: language_model.LanguageModel | seq2seq.Seq2Seq,
        features_BTF: Tensor,
        targets: Sequence[Sequence[int]],
    ) -> list[likelihood.Judged]:
        """Judges the targets of each row; the rest of the row is padding, never computed."""
        lengths = [len(row) for row in targets]
        flat_N = torch.tensor([token for row in targets for token in row], device=features_BTF.device)
        positions_T = torch.arange(features_BTF.shape[1])
        valid_BT = (positions_T < torch.tensor(lengths)[:, None]).to(features_BTF.device)
        size = self._tokenizer.vocabulary_size
        return likelihood.judge(model, size, features_BTF[valid_BT], flat_N).split(lengths)

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Puts rows beside each other; what fills them up is never scored, so any id will do."""
        padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return torch.from_numpy(padded).to(self.placed.device)

    def _score(self, line: str, row: Sequence[int], judged: likelihood.Judged, joint: str = "") -> results.Score:
        """The score of a line that is read as this row of tokens; those that nothing stands before are not judged."""
        nlls = judged.nlls_N
        unjudged, scored = row[: len(row) - len(nlls)], row[len(row) - len(nlls) :]
        tokens = None
        if self._settings.tokens:
            tokens = tuple(
                results.TokenScore(self._tokenizer.token(token), float(nll))
                for token, nll in zip(scored[:: self._order], nlls[:: self._order], strict=True)
            )
        return results.Score(
            nll_nats=float(np.sum(nlls)),
            num_tokens=len(scored),
            num_unk=sum(token == self._tokenizer.unk_id for token in scored),
            num_infinite=int(np.isinf(nlls).sum()),
            num_correct=int(judged.is_best_N.sum()),
            num_characters=self._num_characters(line, joint, unjudged, scored),
            tokens=tokens,
        )

    def _num_characters(self, line: str, joint: str, unjudged: Sequence[int], scored: Sequence[int]) -> int:
        """Characters of what is scored of a cleaned line and of what joins it to the next; an `<eos>` is one more."""
        if self._tokenizer.kind == "char" or not scored:
            return len(scored)
        text = cleaning.clean(line, self._codec.cleaning)
        if self._tokenizer.eos_id is not None:
            return len(text) + 1
        if self._tokenizer.kind == "word":  # the text of an unknown one is in the line alone
            words = tokenizer.units("word", text, self._tokenizer.symbols)[:: self._order]
            return len(text + joint) - sum(map(len, words[: len(unjudged)]))
        return len(text + joint) - len(self._tokenizer.decode(unjudged))


def _batches(order: Sequence[int], sizes: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
    """Cuts rows, sorted longest first, into batches of at most `budget` places, padding included."""
    start = 0
    while start < len(order):
        stop, widest = start, 0
        while stop < len(order):
            widest = max(widest, sizes[order[stop]])
            if stop > start and widest * (stop - start + 1) > budget:
                break
            stop += 1
        yield order[start:stop]
        start = stop
