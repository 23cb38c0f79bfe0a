"""A map of attention as a picture: how much each word of a translation looked at each word of the source."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

CELL = 18
_LETTER = 6.1  # width of a letter of the labels, nearly
_MARGIN = 8
_FAINTEST = 0.01
_UNKNOWN, _NOT_WORDS = "<unk>", ("<bos>", "<eos>", "<pad>")

_PICTURE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<svg class="attention" role="img" aria-label="{{ title }}" viewBox="0 0 {{ width }} {{ height }}"\
 style="width: {{ width }}px" font-size="11" font-family="sans-serif">
<rect class="field" x="{{ left }}" y="{{ top }}" width="{{ columns * cell }}" height="{{ rows * cell }}"/>
{%- for word in source %}
<text transform="translate({{ left + loop.index0 * cell + cell / 2 + 4 }} {{ top - 5 }}) rotate(-60)">{{ word }}</text>
{%- endfor %}
{%- for word in target %}
<text x="{{ left - 5 }}" y="{{ top + loop.index0 * cell + cell / 2 + 4 }}" text-anchor="end">{{ word }}</text>
{%- endfor %}
{%- for one in cells %}
<rect x="{{ one.x }}" y="{{ one.y }}" width="{{ cell - 1 }}" height="{{ cell - 1 }}" opacity="{{ one.weight }}">\
<title>{{ one.says }}</title></rect>
{%- endfor %}
</svg>"""
)


def draw(title: str, found: Mapping[str, Any]) -> str:
    """Draws one map and returns an `<svg>` element: a row for each target token, a column for each source token.

    The more a word looked at another, the fuller the colour of their cell, which says the weight when pointed at.

    Args:
        title: what a screen reader says.
        found: `source` and `target` tokens, and `weights`, a row for each target token.

    Source: Bahdanau et al. 2015, figure 3.
    """
    source, target = _shown(found["source"]), _shown(found["target"])
    left = _MARGIN + round(max(map(len, target), default=0) * _LETTER)
    # Labels of columns lean to the right by 60 degrees, so the last one goes beyond its column.
    longest = max(map(len, source), default=0) * _LETTER
    top = _MARGIN + round(longest * 0.87) + 6
    cells = [
        {
            "x": left + column * CELL,
            "y": top + row * CELL,
            "weight": f"{weight:.2f}",
            "says": f"{target[row]} → {source[column]}: {weight:.2f}",
        }
        for row, weights in enumerate(found["weights"])
        for column, weight in enumerate(weights)
        if weight >= _FAINTEST
    ]
    return _PICTURE.render(
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


def is_of(text: str, found: Mapping[str, Any]) -> bool:
    """Is this text what the target tokens of a map spell, but for spaces, case and words that were unknown?

    A line that is searched alone may come out otherwise than among others: in low precision near ties fall either way.
    """
    tokens = [token for token in found["target"] if token not in _NOT_WORDS]
    return _UNKNOWN in found["target"] or _letters("".join(tokens)) == _letters(text)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _shown(tokens: Sequence[str]) -> list[str]:
    """Tokens without the space that some tokenizers keep at the front; one that is nothing else stays visible."""
    return [token.strip() or repr(token) for token in tokens]
