"""How likely text is to a model: log-probabilities of lines, of a stream, and of given translations.

With `<eos>` in its vocabulary a language model reads each line after an `<eos>` and scores the line's tokens and
the `<eos>` that ends it. Without one, the first token of a line (of a stream: of each lane) has nothing before it
that it could depend on: it goes in, and is neither scored nor counted.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core import errors
from core.config import inference_settings, schema
from core.data import cleaning
from core.decoding import device as devices
from core.decoding import results
from core.models import bundle as bundles
from core.models import language_model, seq2seq, weights
from core.models import state as states

Array = npt.NDArray[np.float64]

# Logits are made for so many numbers at a time: few enough for a cache, enough for a full matrix product.
_LOGITS_AT_ONCE = 1 << 21


class Carried(NamedTuple):
    """What a stream leaves for its continuation: the last token, which is still to be read, and the state."""

    last: int | None
    state: states.State

    def to_bytes(self) -> bytes:
        """Writes it as a safetensors file."""
        last = torch.tensor([-1 if self.last is None else self.last])
        return weights.to_bytes({"last": last, **states.to_named(self.state)})

    @staticmethod
    def from_bytes(data: bytes, where: str) -> "Carried":
        """Undoes `to_bytes`.

        Raises:
            IntegrityError: the bytes are something else.
        """
        named = weights.from_bytes(data, where)
        if "last" not in named or named["last"].shape != (1,):
            raise errors.IntegrityError(f"{where}: holds no carried state; remove the output and run again")
        last = int(named.pop("last"))
        return Carried(None if last < 0 else last, states.from_named(named))


class Scorer:
    """A bundle ready to score: a language model scores lines or a stream, a seq2seq translations."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        scoring: inference_settings.ScoringConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
    ) -> None:
        self.placed = devices.place(bundle, compute, device)
        self._model = bundle.model
        self._settings = scoring
        self._codecs = bundle.codecs
        self._codec = bundle.codecs["target" if isinstance(bundle.model, seq2seq.Seq2Seq) else "text"]
        self._tokenizer = self._codec.tokenizer
        self._line_end = bundle.line_end

    def score_lines(self, lines: Sequence[str]) -> list[results.Score]:
        """Scores each line alone, from the zero state; lines of like length are computed together.

        Raises:
            UsageError: the bundle is a seq2seq.
        """
        model = self._language_model()
        eos = self._tokenizer.eos_id
        rows = [ids if eos is None else [eos, *ids, eos] for ids in self._codec.encode_lines(lines)]
        nlls: dict[int, Array] = {index: np.zeros(0) for index, row in enumerate(rows) if len(row) < 2}
        order = sorted(set(range(len(rows))) - nlls.keys(), key=lambda index: (-len(rows[index]), index))
        with self.placed.inference():
            for batch in _batches(order, [len(row) - 1 for row in rows], self._settings.batch_tokens):
                targets = [rows[index][1:] for index in batch]
                inputs_BT = self._padded([rows[index][:-1] for index in batch])
                found, _ = self._walk(model, inputs_BT, targets, model.initial_state(len(batch)))
                nlls.update(zip(batch, found, strict=True))
        return [
            self._score(line, row[1:], nlls[index]) for index, (line, row) in enumerate(zip(lines, rows, strict=True))
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
        nlls: dict[int, Array] = {}
        for index, (source, row) in enumerate(zip(sources, rows, strict=True)):
            if len(source) == len(row) == 1:
                nlls[index], rows[index] = np.zeros(0), []
        order = sorted(
            set(range(len(rows))) - nlls.keys(), key=lambda index: (-len(rows[index]), -len(sources[index]), index)
        )
        sizes = [max(len(source), len(row)) for source, row in zip(sources, rows, strict=True)]
        with self.placed.inference():
            for batch in _batches(order, sizes, self._settings.batch_tokens):
                source_BS = self._padded([sources[index] for index in batch])
                lengths_B = torch.tensor([len(sources[index]) for index in batch])
                inputs_BT = self._padded([[bos, *rows[index][:-1]] for index in batch])
                features_BTF = model(source_BS, lengths_B, inputs_BT)
                found = self._nlls(features_BTF, [rows[index] for index in batch])
                nlls.update(zip(batch, found, strict=True))
        return [
            self._score(line, row, nlls[index]) for index, (line, row) in enumerate(zip(targets, rows, strict=True))
        ]

    def stream_start(self) -> Carried:
        """What the first part of a lane starts from: the zero state, after an `<eos>` where there is one."""
        return Carried(self._tokenizer.eos_id, self._language_model().initial_state(1))

    def stream_tokens(self, lines: Sequence[str]) -> list[list[int]]:
        """The tokens of each line as they stand in a stream, with what ends a line."""
        eos = self._tokenizer.eos_id
        end = ([] if eos is None else [eos]) + (self._tokenizer.encode(" ") if self._line_end == "space" else [])
        return [[*ids, *end] for ids in self._codec.encode_lines(lines)]

    def score_stream(self, lines: Sequence[str], carried: Carried) -> tuple[list[results.Score], Carried]:
        """Scores lines that go on where `carried` stands, each token given all of the stream before it.

        Raises:
            UsageError: the bundle is a seq2seq.
        """
        model = self._language_model()
        rows = self.stream_tokens(lines)
        stream = ([] if carried.last is None else [carried.last]) + [token for row in rows for token in row]
        if len(stream) < 2:
            last = stream[0] if stream else None
            return [self._score(line, [], np.zeros(0)) for line in lines], Carried(last, carried.state)
        state = tuple(tuple(part.to(self.placed.device) for part in layer) for layer in carried.state)
        with self.placed.inference():
            (nlls,), state = self._walk(model, self._padded([stream[:-1]]), [stream[1:]], state)
        scores = []
        end = len(nlls)
        for line, row in zip(reversed(lines), reversed(rows), strict=True):
            start = max(0, end - len(row))
            scores.append(self._score(line, row[len(row) - (end - start) :], nlls[start:end]))
            end = start
        return scores[::-1], Carried(stream[-1], state)

    def _language_model(self) -> language_model.LanguageModel:
        if not isinstance(self._model, language_model.LanguageModel):
            raise errors.UsageError("--targets: a seq2seq scores translations of the input; name them with --targets")
        return self._model

    def _walk(
        self,
        model: language_model.LanguageModel,
        inputs_BT: Tensor,
        targets: Sequence[Sequence[int]],
        state: states.State,
    ) -> tuple[list[Array], states.State]:
        """Runs the model over rows of inputs, window by window, so that long rows take no more memory than short."""
        window = max(1, self._settings.batch_tokens // len(targets))
        pieces: list[list[Array]] = [[] for _ in targets]
        for start in range(0, inputs_BT.shape[1], window):
            features_BTF, state = model(inputs_BT[:, start : start + window], state)
            found = self._nlls(features_BTF, [row[start : start + window] for row in targets])
            for piece, nlls in zip(pieces, found, strict=True):
                piece.append(nlls)
        return [np.concatenate(piece) for piece in pieces], state

    def _nlls(self, features_BTF: Tensor, targets: Sequence[Sequence[int]]) -> list[Array]:
        """Negative log-probabilities of the targets of each row; the rest of the row is padding, never computed."""
        lengths = [len(row) for row in targets]
        flat_N = torch.tensor([token for row in targets for token in row], device=features_BTF.device)
        positions_T = torch.arange(features_BTF.shape[1])
        valid_BT = (positions_T < torch.tensor(lengths)[:, None]).to(features_BTF.device)
        features_NF = features_BTF[valid_BT]
        weight_VF, bias_V = self._model.output_weight_VF, self._model.output_bias_V
        rows = max(1, _LOGITS_AT_ONCE // weight_VF.shape[0])
        parts = []
        for start in range(0, len(flat_N), rows):
            logits_NV = torch.nn.functional.linear(features_NF[start : start + rows], weight_VF, bias_V).float()
            target_N1 = flat_N[start : start + rows, None]
            parts.append(logits_NV.logsumexp(1) - logits_NV.gather(1, target_N1).squeeze(1))
        nlls = torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)
        return np.split(nlls, np.cumsum(lengths)[:-1])

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Puts rows beside each other; what fills them up is never scored, so any id will do."""
        padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return torch.from_numpy(padded).to(self.placed.device)

    def _score(self, line: str, scored: Sequence[int], nlls: Array) -> results.Score:
        tokens = None
        if self._settings.tokens:
            tokens = tuple(
                results.TokenScore(self._tokenizer.token(token), float(nll))
                for token, nll in zip(scored, nlls, strict=True)
            )
        return results.Score(
            nll_nats=float(np.sum(nlls)),
            num_tokens=len(scored),
            num_unk=sum(token == self._tokenizer.unk_id for token in scored),
            num_characters=self._num_characters(line, len(scored)),
            tokens=tokens,
        )

    def _num_characters(self, line: str, num_scored: int) -> int:
        """Characters of the cleaned line, and one for an end that is scored; of characters, what is scored."""
        if self._tokenizer.kind == "char":
            return num_scored
        return len(cleaning.clean(line, self._codec.cleaning)) + (num_scored > 0 and self._tokenizer.eos_id is not None)


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
