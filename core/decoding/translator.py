"""Translates lines with a sequence-to-sequence bundle."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from core import errors
from core.config import inference_settings, schema
from core.decoding import device as devices
from core.decoding import results, search
from core.models import bundle as bundles
from core.models import seq2seq

# An encoded source is kept for each line of a batch: lines of more than so many tokens for each row of the batch's
# budget are searched in smaller batches, so that memory is bounded by the settings alone.
_POSITIONS_PER_ROW = 64
MOST_SOURCE_TOKENS = 10_000


def check(bundle: bundles.Bundle) -> None:
    """Makes sure that the bundle can translate.

    Raises:
        UsageError: it is a language model.
    """
    if not isinstance(bundle.model, seq2seq.Seq2Seq):
        raise errors.UsageError(
            f"--run: translate needs a seq2seq; this run is a {bundle.config.kind}: use score or generate"
        )


class Translator:
    """A bundle ready to translate.

    Lines are sorted by length and searched in batches of `batch_rows` rows; what a line gives does not depend
    on its batch, but for rounding: scores agree to 1e-4, texts where no two hypotheses are closer than that.

    Raises:
        UsageError: the bundle is a language model.
    """

    def __init__(
        self,
        bundle: bundles.Bundle,
        decoding: inference_settings.DecodingConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
    ) -> None:
        check(bundle)
        assert isinstance(bundle.model, seq2seq.Seq2Seq)
        self.placed = devices.place(bundle, compute, device)
        self._model = bundle.model
        self._settings = decoding
        self._source, self._target = bundle.codecs["source"], bundle.codecs["target"]
        target = self._target.tokenizer
        assert target.pad_id is not None
        assert target.bos_id is not None
        assert target.eos_id is not None
        self._special = search.Special(target.pad_id, target.bos_id, target.eos_id)

    def translate(self, lines: Sequence[str]) -> list[results.Translation]:
        """Translates each line, in their order.

        A line in which nothing is left after cleaning has an empty translation, of score 0 and no tokens; one
        of more than 10,000 tokens, or for which the model's numbers are not finite, is an error row.
        """
        tokens = self._source.encode_lines(lines)
        done: dict[int, results.Translation] = {}
        for index, ids in enumerate(tokens):
            if not ids:
                done[index] = results.Translation("", 0.0, 0)
            elif len(ids) >= MOST_SOURCE_TOKENS:
                done[index] = results.Translation("", None, 0, error=f"too_long: {len(ids)} tokens")
        waiting = sorted(set(range(len(lines))) - done.keys(), key=lambda index: (-len(tokens[index]), index))
        with self.placed.inference():
            for batch in self._batches(waiting, tokens):
                found = self._search([tokens[index] for index in batch])
                done.update(zip(batch, map(self._translation, found), strict=True))
        return [done[index] for index in range(len(lines))]

    def _batches(self, waiting: Sequence[int], tokens: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """Cuts the lines, longest first, into what is searched together."""
        start = 0
        while start < len(waiting):
            longest = len(tokens[waiting[start]]) + 1
            rows = min(self._settings.batch_rows, self._settings.batch_rows * _POSITIONS_PER_ROW // longest)
            num_lines = max(1, rows // self._settings.beam_size)
            yield waiting[start : start + num_lines]
            start += num_lines

    def _search(self, sources: Sequence[Sequence[int]]) -> list[list[search.Hypothesis]]:
        pad, eos = self._source.tokenizer.pad_id, self._source.tokenizer.eos_id
        assert pad is not None
        assert eos is not None
        lengths_B = [len(ids) + 1 for ids in sources]
        source_BS = np.full((len(sources), max(lengths_B)), pad, dtype=np.int64)
        for row, ids in enumerate(sources):
            source_BS[row, : len(ids)] = ids
            source_BS[row, len(ids)] = eos
        memory = self._model.encode(torch.from_numpy(source_BS).to(self.placed.device), torch.tensor(lengths_B))
        return search.beam_search(self._model, memory, len(sources), self._settings, self._special)

    def _translation(self, found: Sequence[search.Hypothesis]) -> results.Translation:
        if not found:
            return results.Translation("", None, 0, error="not_finite: no translation has a finite score")
        best, *others = found
        return results.Translation(
            text=self._target.decode(best.tokens),
            score_nats=best.score_nats,
            num_tokens=len(best.tokens),
            alternatives=tuple(
                results.Alternative(self._target.decode(other.tokens), other.score_nats) for other in others
            ),
            alignment=best.alignment,
        )
