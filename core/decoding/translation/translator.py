"""Translation of lines with a sequence-to-sequence bundle, or with an ensemble of several."""

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

# Memory of a batch: the encoded source is kept for each line, so lines of more source tokens than this for each row of
# the batch's budget are searched in smaller batches.
_SOURCE_TOKENS_PER_ROW = 64
MAX_SOURCE_TOKENS = 10_000

Hypotheses = Sequence[beam_search.Hypothesis]


def check(
    members: Sequence[bundles.Bundle],
    decoding: inference_settings.DecodingConfig,
    language_model: bundles.Bundle | None = None,
) -> None:
    """Checks that the bundles can translate, together and with these settings.

    Raises:
        UsageError: a bundle is not a seq2seq model, the vocabularies differ, a setting needs attention and no model has
            it, or the language model does not fit.
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
                raise errors.UsageError(f"decoding.{name}: this run has no attention; leave it out")
    if language_model is not None:
        fusion.check(language_model, members[0].codecs["target"])


class Translator:
    """Bundles ready to translate.

    Lines are sorted by length and searched in batches of `batch_rows` rows. The translation of a line does not depend
    on its batch but for rounding: scores agree to 1e-4, texts where no two hypotheses are closer than that.

    Args:
        members: one bundle, or those of an ensemble.
        decoding: search settings.
        compute: precision.
        device: `cpu` or `cuda`.
        language_model: of `decoding.fusion`.
        table: translation table, for `decoding.shortlist`.

    Raises:
        UsageError: see `check`.
    """

    def __init__(
        self,
        members: Sequence[bundles.Bundle] | bundles.Bundle,
        decoding: inference_settings.DecodingConfig,
        compute: schema.ComputeConfig,
        device: str = "cpu",
        language_model: bundles.Bundle | None = None,
        table: translation_table.Table | None = None,
    ) -> None:
        members = [members] if isinstance(members, bundles.Bundle) else list(members)
        # Before `check`, which compares the codecs of the members.
        members = [
            target_tokens.with_target_token(member, decoding.target_token, "decoding.target_token")
            for member in members
        ]
        check(members, decoding, language_model)
        others = [*members[1:], *([language_model] if language_model else [])]
        self.context = devices.prepare(members[0], compute, device, others)
        self._settings = decoding
        self._source, self._target = members[0].codecs["source"], members[0].codecs["target"]
        target = self._target.tokenizer
        assert target.pad_id is not None
        assert target.bos_id is not None
        assert target.eos_id is not None
        self._special = constraints.SpecialTokens(target.pad_id, target.bos_id, target.eos_id)
        single_decoders = [
            decoders.SingleDecoder(member.model) for member in members if isinstance(member.model, seq2seq.Seq2Seq)
        ]
        self._decoder: Any = (
            single_decoders[0] if len(single_decoders) == 1 else decoders.EnsembleDecoder(single_decoders)
        )
        self._shortlister = None
        if decoding.shortlist is not None:
            assert table is not None, "a shortlist needs a translation table"
            self._shortlister = shortlist.Shortlister(table, decoding.shortlist, [*self._special, target.unk_id])
        self._language_model = None
        if decoding.fusion is not None and language_model is not None:
            self._language_model = fusion.TargetLanguageModel(
                language_model, self._target, decoding.fusion.weight, self.context.device
            )

    def translate(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[results.Translation]:
        """Translates lines, in their order; `prefixes` are forced beginnings of the translations.

        A line that is empty after cleaning has an empty translation, of score 0 and no tokens. A line of 10,000 tokens
        or more, with a prefix that fills `max_length`, or with no hypothesis of finite score gives an error row.
        """
        sources = self._source.encode_lines(lines)
        # Without `<eos>`: the search continues the prefix.
        prefix_ids = self._target.encode_lines(prefixes) if prefixes is not None else [[] for _ in lines]
        translations: dict[int, results.Translation] = {}
        for index, ids in enumerate(sources):
            if not ids:
                translations[index] = results.Translation("", 0.0, 0)
            elif len(ids) >= MAX_SOURCE_TOKENS:
                # An error row: one such line must not fail the others of its part.
                translations[index] = results.Translation("", None, 0, error=f"too_long: {len(ids)} tokens")
            elif len(prefix_ids[index]) >= self._settings.max_length:
                error = f"prefix_too_long: {len(prefix_ids[index])} tokens"
                translations[index] = results.Translation("", None, 0, error=error)
        # Longest first: lines of similar length share a batch with little padding.
        remaining = sorted(
            set(range(len(lines))) - translations.keys(), key=lambda index: (-len(sources[index]), index)
        )
        with self.context.inference():
            for batch in self._batches(remaining, sources):
                hypotheses_N = self._search(batch, lines, sources, prefix_ids)
                for index, hypotheses in zip(batch, hypotheses_N, strict=True):
                    translations[index] = self._translation(hypotheses, lines[index], sources[index])
        return [translations[index] for index in range(len(lines))]

    def attention_maps(
        self, lines: Sequence[str], prefixes: Sequence[str] | None = None
    ) -> list[alignments.AttentionMap | None]:
        """Translates lines and returns the attention map of each; None for an empty line and for an error."""
        sources = self._source.encode_lines(lines)
        prefix_ids = self._target.encode_lines(prefixes) if prefixes is not None else [[] for _ in lines]
        maps: list[alignments.AttentionMap | None] = []
        with self.context.inference():
            for line, source, prefix in zip(lines, sources, prefix_ids, strict=True):
                is_valid = 0 < len(source) < MAX_SOURCE_TOKENS and len(prefix) < self._settings.max_length
                # Searched again, line by line: a search keeps only the most attended position of each token.
                hypotheses = self._search([0], [line], [source], [prefix])[0] if is_valid else []
                maps.append(self._attention_map(source, hypotheses[0]) if hypotheses else None)
        return maps

    def _attention_map(self, source: Sequence[int], hypothesis: beam_search.Hypothesis) -> alignments.AttentionMap:
        # Over the whole vocabulary: a shortlist changes which tokens compete, not the attention for given tokens.
        memory, _ = self._encode([source])
        weights_TS = alignments.attention_weights(self._decoder, memory, hypothesis.tokens, self._special.bos)
        return alignments.AttentionMap(
            source=(*map(self._source.tokenizer.token, source), "<eos>"),
            target=tuple(map(self._target.tokenizer.token, hypothesis.tokens)),
            weights=weights_TS,
        )

    def _batches(self, remaining: Sequence[int], sources: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
        """Yields batches of line numbers, longest lines first."""
        start = 0
        while start < len(remaining):
            # The first line is the longest of its batch.
            longest = len(sources[remaining[start]]) + 1
            rows = min(self._settings.batch_rows, self._settings.batch_rows * _SOURCE_TOKENS_PER_ROW // longest)
            # Rows are hypotheses, of which each line has as many as its beam or its samples.
            num_lines = max(1, rows // self._settings.rows_per_line)
            yield remaining[start : start + num_lines]
            start += num_lines

    def _encode(self, sources: Sequence[Sequence[int]]) -> tuple[Any, torch.Tensor]:
        """Returns the memory of encoded sources and the mask of their tokens, `<eos>` included."""
        pad, eos = self._source.tokenizer.pad_id, self._source.tokenizer.eos_id
        assert pad is not None
        assert eos is not None
        lengths_B = [len(ids) + 1 for ids in sources]
        source_BS = np.full((len(sources), max(lengths_B)), pad, dtype=np.int64)
        for row, ids in enumerate(sources):
            source_BS[row, : len(ids)] = ids
            source_BS[row, len(ids)] = eos
        mask_BS = np.arange(max(lengths_B)) < np.array(lengths_B)[:, None]
        memory = self._decoder.encode(torch.from_numpy(source_BS).to(self.context.device), torch.tensor(lengths_B))
        return memory, torch.from_numpy(mask_BS).to(self.context.device)

    def _search(
        self,
        batch: Sequence[int],
        lines: Sequence[str],
        sources: Sequence[Sequence[int]],
        prefix_ids: Sequence[Sequence[int]],
    ) -> Sequence[Hypotheses]:
        """Returns the hypotheses of each line of a batch, by beam search or by sampling."""
        memory, mask_NS = self._encode([sources[index] for index in batch])
        prefixes = [prefix_ids[index] for index in batch]
        if self._shortlister is None:
            decoder = shortlist.ShortlistedDecoder(self._decoder, memory, self._special, prefixes, None)
        else:
            shortlists = [self._shortlister.shortlist(sources[index], prefix_ids[index]) for index in batch]
            decoder = shortlist.restrict(self._decoder, memory, shortlists, self._special, prefixes, self.context.mode)
        return self._search_with(decoder, mask_NS, [lines[index] for index in batch])

    def _search_with(
        self, shortlisted: shortlist.ShortlistedDecoder, mask_NS: torch.Tensor, lines: Sequence[str]
    ) -> Sequence[Hypotheses]:
        settings, decoder, memory = self._settings, shortlisted.decoder, shortlisted.memory
        special, prefixes = shortlisted.special, shortlisted.prefixes
        if settings.method == "sample":
            # The command fills in the seed of the run; 1 is for calls without a run.
            seed = 1 if settings.seed is None else settings.seed
            uniform_NDT = np.array(
                [
                    [
                        sampled_search.uniform_numbers(seed, line, sample, settings.max_length)
                        for sample in range(settings.num_best)
                    ]
                    for line in lines
                ]
            )
            return shortlisted.with_vocabulary_ids(
                sampled_search.sample(decoder, memory, uniform_NDT, settings, special, prefixes)
            )
        reranker = None
        if self._language_model is not None and settings.fusion is not None:
            if settings.fusion.when == "search":
                decoder = self._language_model.fuse(decoder, shortlisted.ids_U)
            else:
                # All hypotheses of the beam are reranked: the best does not depend on how many are asked for.
                reranker, settings = self._language_model, settings.model_copy(update={"num_best": settings.beam_size})
        hypotheses_N = shortlisted.with_vocabulary_ids(
            beam_search.beam_search(decoder, memory, mask_NS, settings, special, prefixes)
        )
        if reranker is None:
            return hypotheses_N
        return [
            # Cut to `num_best` only now: any hypothesis of the beam may have become the best.
            reranker.rerank(hypotheses, settings.length_penalty)[: self._settings.num_best]
            for hypotheses in hypotheses_N
        ]

    def _translation(self, hypotheses: Hypotheses, line: str, source: Sequence[int]) -> results.Translation:
        if not hypotheses:
            return results.Translation("", None, 0, error="not_finite: no translation has a finite score")
        best, *others = (self._text(hypothesis, line, source) for hypothesis in hypotheses)
        return results.Translation(
            text=best,
            score_nats=hypotheses[0].score_nats,
            num_tokens=len(hypotheses[0].tokens),
            alternatives=tuple(
                results.Alternative(text, hypothesis.score_nats, hypothesis.ranking_score)
                for text, hypothesis in zip(others, hypotheses[1:], strict=True)
            ),
            alignment=hypotheses[0].alignment,
            ranking_score=hypotheses[0].ranking_score,
        )

    def _text(self, hypothesis: beam_search.Hypothesis, line: str, source: Sequence[int]) -> str:
        tokens, alignment = hypothesis.tokens, hypothesis.alignment
        if not self._settings.replace_unknown or alignment is None:
            return self._target.decode(tokens)
        return alignments.replace_unknown(tokens, alignment, line, source, self._source, self._target)
