"""Attention maps as inline SVG: the weight of each source token for each target token."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

CELL = 18  # width and height of a cell, in pixels like all lengths here
_LETTER = 6.1  # approximate width of a letter in the labels
_MARGIN = 8
_FAINTEST = 0.01  # weights below are invisible and not drawn
_UNKNOWN, _SPECIAL = "<unk>", ("<bos>", "<eos>", "<pad>")

_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<svg class="attention" role="img" aria-label="{{ title }}" viewBox="0 0 {{ width }} {{ height }}"\
 style="width: {{ width }}px" font-size="11" font-family="sans-serif">
<rect class="field" x="{{ left }}" y="{{ top }}" width="{{ columns * cell }}" height="{{ rows * cell }}"/>
{%- for word in source %}
<text transform="translate({{ left + loop.index0 * cell + cell / 2 + 4 }} {{ top - 5 }}) rotate(-60)">{{ word }}</text>
{%- endfor %}
{%- for word in target %}
<text x="{{ left - 5 }}" y="{{ top + loop.index0 * cell + cell / 2 + 4 }}" text-anchor="end">{{ word }}</text>
{%- endfor %}
{%- for rect in cells %}
<rect x="{{ rect.x }}" y="{{ rect.y }}" width="{{ cell - 1 }}" height="{{ cell - 1 }}" opacity="{{ rect.weight }}">\
<title>{{ rect.title }}</title></rect>
{%- endfor %}
</svg>"""
)


def draw(title: str, attention: Mapping[str, Any]) -> str:
    """Draws one attention map as an `<svg>` element: a row for each target token, a column for each source token.

    The opacity of a cell is the attention weight, which is also its tooltip.

    Args:
        title: accessible name of the map.
        attention: `source` and `target` tokens, and `weights`, a row for each target token.

    Source: Bahdanau et al. (2015), "Neural Machine Translation by Jointly Learning to Align and Translate", figure 3.
    """
    source, target = _printable(attention["source"]), _printable(attention["target"])
    left = _MARGIN + round(max(map(len, target), default=0) * _LETTER)
    # Column labels are rotated by 60 degrees (sin 0.87, cos 0.5), so the last one extends beyond its column.
    longest = max(map(len, source), default=0) * _LETTER
    top = _MARGIN + round(longest * 0.87) + 6
    cells = [
        {
            "x": left + column * CELL,
            "y": top + row * CELL,
            "weight": f"{weight:.2f}",
            "title": f"{target[row]} → {source[column]}: {weight:.2f}",
        }
        for row, weights in enumerate(attention["weights"])
        for column, weight in enumerate(weights)
        if weight >= _FAINTEST
    ]
    return _TEMPLATE.render(
        title=title,
        source=source,
        target=target,
        cells=cells,
        cell=CELL,
        left=left,
        top=top,
        columns=len(source),
        rows=len(target),
        width=left + len(source) * CELL + max(_MARGIN, round(longest * 0.55)),
        height=top + len(target) * CELL + 4,
    )


def matches(text: str, attention: Mapping[str, Any]) -> bool:
    """Returns whether the target tokens of a map spell this text, apart from spaces, case and unknown words.

    They may differ: maps are computed by translating a line alone, and in low precision near ties in the beam search
    can be decided differently than in a batch.
    """
    tokens = [token for token in attention["target"] if token not in _SPECIAL]
    return _UNKNOWN in attention["target"] or _letters("".join(tokens)) == _letters(text)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _printable(tokens: Sequence[str]) -> list[str]:
    """Returns tokens without the leading space of some tokenizers; a token of spaces only is quoted."""
    return [token.strip() or repr(token) for token in tokens]
