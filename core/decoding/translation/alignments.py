"""Alignments and attention maps: attention weights as word alignments, as JSON, and for unknown-word replacement."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from core.data.text import cleaning
from core.data.tokens import tokenizer, vocabulary
from core.decoding.translation import decoders


class AttentionMap(NamedTuple):
    """Attention weights of each target token (a row) over the source tokens (the columns)."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: list[list[float]]


def attention_weights(
    model: decoders.Decoder[decoders.M], memory: decoders.M, tokens: Sequence[int], bos: int
) -> list[list[float]]:
    """Returns the attention weights of given target tokens by forced decoding, for the one source in memory."""
    state, rows = model.initial_state(memory), []
    for token in (bos, *tokens[:-1]):  # the last token is predicted, never read
        predictions = model.step(torch.tensor([token], device=model.device), memory, state)
        state = predictions.state
        assert predictions.attention_RS is not None
        rows.append(predictions.attention_RS[0].float().tolist())
    return rows


def to_json(maps: Mapping[int, AttentionMap | None]) -> str:
    """Serializes attention maps by the number of their line, from 0; lines without one are left out."""
    content: list[dict[str, Any]] = [
        {"line": line, "source": map_.source, "target": map_.target, "weights": _rounded(map_.weights)}
        for line, map_ in maps.items()
        if map_ is not None
    ]
    return json.dumps(content, ensure_ascii=False)


def _rounded(weights: list[list[float]]) -> list[list[float]]:
    # Maps are drawn with two digits; more than four would only enlarge the file.
    return [[round(weight, 4) for weight in row] for row in weights]


def to_pharaoh(alignment: Sequence[int] | None, num_source_tokens: int) -> str:
    """Formats an alignment as pairs `source-target` of token positions from 0, `<eos>` left out on both sides."""
    pairs = enumerate((alignment or ())[:-1])
    return " ".join(f"{source}-{target}" for target, source in pairs if source < num_source_tokens)


def replace_unknown(
    tokens: Sequence[int],
    alignment: Sequence[int],
    line: str,
    ids: Sequence[int],
    source: tokenizer.Codec,
    target: tokenizer.Codec,
) -> str:
    """Returns the text of a translation with each unknown token replaced by its most attended source word.

    With subword tokenizers it is the most attended subword. An unknown token that attends most to the `<eos>` of the
    source is not replaced.

    Source: Luong et al. 2015, Addressing the rare word problem in neural machine translation, section 3.3, with
    attention as the alignment as in Jean et al. 2015, On using very large target vocabulary for neural machine
    translation, section 4.1.
    """
    text = cleaning.clean(line, source.cleaning)
    kind = source.tokenizer.kind
    # Tokens before the line, such as a target-language tag, are no words of it.
    line_ids = ids[len(source.begin) :]
    if kind in ("char", "word"):
        # From the text: an unknown source word would decode to <unk>.
        words = vocabulary.split_units(kind, text, source.tokenizer.symbols)
    else:
        words = [source.tokenizer.token(token_id) for token_id in line_ids]
    words_by_position = [*(None for _ in source.begin), *words]
    parts: list[str] = []
    run: list[int] = []  # consecutive known tokens, decoded together for the spaces between them
    for token, position in zip(tokens, alignment, strict=True):
        is_replaced = token == target.tokenizer.unk_id and position < len(words_by_position)
        word = words_by_position[position] if is_replaced else None
        if word is not None:
            parts += [target.decode(run)] * bool(run)
            parts.append(word)
            run = []
        elif token not in (target.tokenizer.pad_id, target.tokenizer.bos_id, target.tokenizer.eos_id):
            run.append(token)
    parts += [target.decode(run)] * bool(run)
    return (" " if target.tokenizer.kind == "word" else "").join(parts)
