"""Translates lines with a sequence-to-sequence bundle, or with several together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from core import errors
from core.config import inference_settings, schema
from core.data import translation_table
from core.decoding import device as devices
from core.decoding.lines import results
from core.decoding.translation import (
    alignments,
    beam_search,
    constraints,
    decoders,
    fusion,
    sampled_search,
    shortlist,
    target_tokens,
)
from core.models import bundle as bundles
from core.models import seq2seq

# An encoded source is kept for each line of a batch: lines of more than so many tokens for each row of the batch's
# budget are searched in smaller batches, so that memory is bounded by the settings alone.
_POSITIONS_PER_ROW = 64
MOST_SOURCE_TOKENS = 10_000

Found = Sequence[beam_search.Hypothesis]


def check(
    members: Sequence[bundles.Bundle],
    decoding: inference_settings.DecodingConfig,
    beside: bundles.Bundle | None = None,
) -> None:
    """Makes sure that the bundles can translate, together and as the settings ask.

    Raises:
        UsageError: one is a language model, they do not share their vocabularies, or a setting asks for attention
            that there is not.
    """
    for member in members:
        if not isinstance(member.model, seq2seq.Seq2Seq):
            raise errors.UsageError(
                f"--run: translate needs a seq2seq; this run is a {member.config.kind}: use score or generate"
            )
        if member.codecs != members[0].codecs:
            raise errors.UsageError(
                "--run: an ensemble needs one vocabulary and one cleaning for each side; "
                "train its members on the same dataset, or with the same tokenizer"
            )
    if not any(member.config.kind == "seq2seq" and member.config.attention != "none" for member in members):
        for name in ("coverage_penalty", "replace_unknown", "alignments", "attention_maps"):
            if getattr(decoding, name):
                raise errors.UsageError(f"decoding.{name}: this run has no attention to look at; leave it out")
    if beside is not None:
        fusion.check(beside, members[0].codecs["target"])


class Translator:
    """Bundles ready to translate.

    Lines are sorted by length and searched in batches of `batch_rows` rows; what a line gives does not depend
    on its batch, but for rounding: scores agree to 1e-4, texts where no two hypotheses are closer than that.

    Args:
        members: one bundle, or those of an ensemble.
        decoding: how it translates.
        compute: how numbers are computed.
        device: where.
        beside: the language model of `decoding.fusion`.
        table: what goes with what, for `decoding.shortlist`.

    Raises:
        UsageError: see `check`.
    """

    def __init__(
        self,
        members: Sequence[bundles.Bundle] | bundles.Bundle,
        decoding: inference_settings.DecodingConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
        beside: bundles.Bundle | None = None,
        table: translation_table.Table | None = None,
    ) -> None:
        every = [members] if isinstance(members, bundles.Bundle) else list(members)
        every = [target_tokens.with_target_token(one, decoding.target_token, "decoding.target_token") for one in every]
        check(every, decoding, beside)
        self.placed = devices.place(every[0], compute, device, [*every[1:], *([beside] if beside else [])])
        self._settings = decoding
        self._source, self._target = every[0].codecs["source"], every[0].codecs["target"]
        target = self._target.tokenizer
        assert target.pad_id is not None
        assert target.bos_id is not None
        assert target.eos_id is not None
        self._special = constraints.Special(target.pad_id, target.bos_id, target.eos_id)
        singles = [decoders.Single(one.model) for one in every if isinstance(one.model, seq2seq.Seq2Seq)]
        self._base: Any = singles[0] if len(singles) == 1 else decoders.Ensemble(singles)
        self._shortlist = None
        if decoding.shortlist is not None:
            assert table is not None, "whoever asks for a shortlist says what it is made of"
            self._shortlist = shortlist.Shortlist(table, decoding.shortlist, [*self._special, target.unk_id])
        self._ranker = None
        if decoding.fusion is not None and beside is not None:
            self._ranker = fusion.Ranker(beside, self._target, decoding.fusion.weight, self.placed.device)

    def translate(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[results.Translation]:
        """Translates each line, in their order; `prefixes` are what the translations must begin with.

        A line in which nothing is left after cleaning has an empty translation, of score 0 and no tokens; one
        of more than 10,000 tokens, with a beginning that fills `max_length`, or for which the model's numbers are
        not finite, is an error row.
        """
        tokens = self._source.encode_lines(lines)
        begun = self._target.encode_lines(prefixes) if prefixes is not None else [[] for _ in lines]
        done: dict[int, results.Translation] = {}
        for index, ids in enumerate(tokens):
            if not ids:
                done[index] = results.Translation("", 0.0, 0)
            elif len(ids) >= MOST_SOURCE_TOKENS:
                done[index] = results.Translation("", None, 0, error=f"too_long: {len(ids)} tokens")
            elif len(begun[index]) >= self._settings.max_length:
                done[index] = results.Translation("", None, 0, error=f"prefix_too_long: {len(begun[index])} tokens")
        waiting = sorted(set(range(len(lines))) - done.keys(), key=lambda index: (-len(tokens[index]), index))
        with self.placed.inference():
            for batch in self._batches(waiting, tokens):
                found = self._found(batch, lines, tokens, begun)
                done.update(
                    (index, self._translation(one, lines[index], tokens[index]))
                    for index, one in zip(batch, found, strict=True)
                )
        return [done[index] for index in range(len(lines))]

    def attention_maps(
        self, lines: Sequence[str], prefixes: Sequence[str] | None = None
    ) -> list[alignments.Map | None]:
        """Translates each line and shows what attention looked at; None where there is nothing to show."""
        tokens = self._source.encode_lines(lines)
        begun = self._target.encode_lines(prefixes) if prefixes is not None else [[] for _ in lines]
        maps: list[alignments.Map | None] = []
        with self.placed.inference():
            for line, ids, begin in zip(lines, tokens, begun, strict=True):
                is_sane = 0 < len(ids) < MOST_SOURCE_TOKENS and len(begin) < self._settings.max_length
                found = self._found([0], [line], [ids], [begin])[0] if is_sane else []
                maps.append(self._map(ids, found[0]) if found else None)
        return maps

    def _map(self, ids: Sequence[int], found: beam_search.Hypothesis) -> alignments.Map:
        memory, _ = self._encoded([ids])
        weights_TS = alignments.attention(self._base, memory, found.tokens, self._special.bos)
        source, target = self._source.tokenizer, self._target.tokenizer
        return alignments.Map(
            source=(*map(source.token, ids), "<eos>"), target=tuple(map(target.token, found.tokens)), weights=weights_TS
        )

    def _batches(self, waiting: Sequence[int], tokens: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """Cuts the lines, longest first, into what is searched together."""
        start = 0
        while start < len(waiting):
            longest = len(tokens[waiting[start]]) + 1
            rows = min(self._settings.batch_rows, self._settings.batch_rows * _POSITIONS_PER_ROW // longest)
            num_lines = max(1, rows // self._settings.rows_of_a_line)
            yield waiting[start : start + num_lines]
            start += num_lines

    def _encoded(self, sources: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor]:
        """Returns the memory of sources and the mask of their tokens."""
        pad, eos = self._source.tokenizer.pad_id, self._source.tokenizer.eos_id
        assert pad is not None
        assert eos is not None
        lengths_B = [len(ids) + 1 for ids in sources]
        source_BS = np.full((len(sources), max(lengths_B)), pad, dtype=np.int64)
        for row, ids in enumerate(sources):
            source_BS[row, : len(ids)] = ids
            source_BS[row, len(ids)] = eos
        mask_BS = np.arange(max(lengths_B)) < np.array(lengths_B)[:, None]
        memory = self._base.encode(torch.from_numpy(source_BS).to(self.placed.device), torch.tensor(lengths_B))
        return memory, torch.from_numpy(mask_BS).to(self.placed.device)

    def _found(
        self,
        batch: Sequence[int],
        lines: Sequence[str],
        tokens: Sequence[Sequence[int]],
        begun: Sequence[Sequence[int]],
    ) -> Sequence[Found]:
        """Searches, or draws, for the lines of a batch."""
        memory, mask_NS = self._encoded([tokens[index] for index in batch])
        prefixes = [begun[index] for index in batch]
        if self._shortlist is None:
            whole = shortlist.Narrowed(self._base, memory, self._special, prefixes, None)
            return self._searched(whole, mask_NS, [lines[index] for index in batch])
        lists = [self._shortlist.of_line(tokens[index], begun[index]) for index in batch]
        narrow = shortlist.narrow(self._base, memory, lists, self._special, prefixes, self.placed.mode)
        return self._searched(narrow, mask_NS, [lines[index] for index in batch])

    def _searched(self, asked: shortlist.Narrowed, mask_NS: torch.Tensor, lines: Sequence[str]) -> Sequence[Found]:
        """Does what `_found` does, over the tokens that are asked for."""
        settings, model, memory = self._settings, asked.model, asked.memory
        if settings.method == "sample":
            seed = 1 if settings.seed is None else settings.seed
            chances = [
                [sampled_search.chances(seed, line, number, settings.max_length) for number in range(settings.num_best)]
                for line in lines
            ]
            return asked.translated(
                sampled_search.draw(model, memory, np.array(chances), settings, asked.special, asked.prefixes)
            )
        ranker = None
        if self._ranker is not None and settings.fusion is not None:
            if settings.fusion.when == "search":
                model = self._ranker.beside(model, asked.ids_U)
            else:
                # All that the beam finishes is ranked anew: the best does not depend on how many are asked for.
                ranker, settings = self._ranker, settings.model_copy(update={"num_best": settings.beam_size})
        found = asked.translated(
            beam_search.beam_search(model, memory, mask_NS, settings, asked.special, asked.prefixes)
        )
        if ranker is None:
            return found
        return [ranker.ranked(one, settings.length_penalty)[: self._settings.num_best] for one in found]

    def _translation(self, found: Found, line: str, ids: Sequence[int]) -> results.Translation:
        if not found:
            return results.Translation("", None, 0, error="not_finite: no translation has a finite score")
        best, *others = (self._text(one, line, ids) for one in found)
        return results.Translation(
            text=best,
            score_nats=found[0].score_nats,
            num_tokens=len(found[0].tokens),
            alternatives=tuple(
                results.Alternative(text, one.score_nats) for text, one in zip(others, found[1:], strict=True)
            ),
            alignment=found[0].alignment,
        )

    def _text(self, found: beam_search.Hypothesis, line: str, ids: Sequence[int]) -> str:
        if not self._settings.replace_unknown or found.alignment is None:
            return self._target.decode(found.tokens)
        return alignments.with_source_words(found.tokens, found.alignment, line, ids, self._source, self._target)
