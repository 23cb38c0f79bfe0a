"""What attention says of a translation: which source words it goes back to, as pairs and as a picture's numbers."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from core.data.text import cleaning
from core.data.tokens import tokenizer
from core.decoding.translation import decoders


class Map(NamedTuple):
    """How much of its attention each target token (a row) gave to each source token (a column)."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: list[list[float]]


def attention(
    model: decoders.Decoder[decoders.M], memory: decoders.M, tokens: Sequence[int], bos: int
) -> list[list[float]]:
    """Returns the attention with which given tokens are produced for the one source in memory."""
    state, rows = model.initial_state(memory), []
    for token in (bos, *tokens[:-1]):
        said = model.step(torch.tensor([token], device=model.device), memory, state)
        state = said.state
        assert said.attention_RS is not None
        rows.append(said.attention_RS[0].float().tolist())
    return rows


def to_json(maps: Sequence[Map | None]) -> str:
    """Writes maps, numbered by their line from 0; a line without one is left out."""
    content: list[dict[str, Any]] = [
        {"line": line, "source": one.source, "target": one.target, "weights": _rounded(one.weights)}
        for line, one in enumerate(maps)
        if one is not None
    ]
    return json.dumps(content, ensure_ascii=False)


def _rounded(weights: list[list[float]]) -> list[list[float]]:
    return [[round(weight, 4) for weight in row] for row in weights]


def pharaoh(alignment: Sequence[int] | None, num_source_tokens: int) -> str:
    """Writes an alignment as pairs `source-target` of token numbers from 0, ends of line left out."""
    pairs = enumerate((alignment or ())[:-1])
    return " ".join(f"{source}-{target}" for target, source in pairs if source < num_source_tokens)


def with_source_words(
    tokens: Sequence[int],
    alignment: Sequence[int],
    line: str,
    ids: Sequence[int],
    source: tokenizer.Codec,
    target: tokenizer.Codec,
) -> str:
    """Returns the text of a translation, each unknown token replaced by what attention looked at most.

    That is a source word as it was written, or where words are cut into pieces the piece. An unknown token that
    looked at the end of the source stays as it is.

    Source: Luong et al. 2015b, section 3.3, with attention as the alignment (Jean et al. 2015, section 4.1).
    """
    text = cleaning.clean(line, source.cleaning)
    kind = source.tokenizer.kind
    # What stands before the line is no word of it; an unknown token that looked there stays as it is.
    own = ids[len(source.begin) :]
    if kind in ("char", "word"):
        words = tokenizer.units(kind, text, source.tokenizer.symbols)
    else:
        words = [source.tokenizer.token(one) for one in own]
    written = [*(None for _ in source.begin), *words]
    pieces: list[str] = []
    run: list[int] = []
    for token, position in zip(tokens, alignment, strict=True):
        word = written[position] if token == target.tokenizer.unk_id and position < len(written) else None
        if word is not None:
            pieces += [target.decode(run)] * bool(run)
            pieces.append(word)
            run = []
        elif token not in (target.tokenizer.pad_id, target.tokenizer.bos_id, target.tokenizer.eos_id):
            run.append(token)
    pieces += [target.decode(run)] * bool(run)
    return (" " if target.tokenizer.kind == "word" else "").join(pieces)
