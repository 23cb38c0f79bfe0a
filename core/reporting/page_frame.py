"""Frame and style of all pages.

A page is a single HTML file without scripts that loads nothing from the network; it has a light and a dark colour
scheme and fits wide and narrow screens.
"""

import json
import re
from typing import Any

import jinja2

from core import errors

THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
GENERATOR = "raycurrent report"
# Control characters but tabs and line ends, and what orders text against its direction: a name could look like another.
# Marks of direction (U+200E, U+200F) and joiners stay: text in some scripts needs them, and they reorder no letters.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="{{ generator }}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{% block title %}{% endblock %}</title>
<style>{% include "style" %}</style>
</head>
<body>
{% block body %}{% endblock %}
</body>
</html>
"""

_STYLE = """
:root { --page: #ffffff; --ink: #1c2330; --quiet: #5b6575; --grid: #d9dde4; --panel: #f5f7fa; --mark: #b3261e;
  --series-1: #1f5fc4; --series-2: #c2570c; --series-3: #2a7a4b; --series-4: #8a3ab9; --series-5: #b01e5b;
  --series-6: #0b7285; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161d; --ink: #e6e9ee; --quiet: #9aa5b5; --grid: #343c49; --panel: #1b212b; --mark: #ff9d94;
    --series-1: #6ea8ff; --series-2: #f2a057; --series-3: #6cc58f; --series-4: #c79bf2; --series-5: #ff85b3;
    --series-6: #5ccfe0; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; border-bottom: 1px solid var(--grid); padding-bottom: .3rem;
  scroll-margin-top: 3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
code { white-space: nowrap; }
.quiet { color: var(--quiet); font-weight: 400; overflow-wrap: anywhere; }
.quiet { margin: .1rem 0; font-size: .92rem; }
nav { position: sticky; top: 0; z-index: 1; background: var(--page); margin: .8rem -1.25rem 0; padding: .45rem 1.25rem;
  display: flex; gap: 1.1rem; overflow-x: auto; scrollbar-width: none; border-bottom: 1px solid var(--grid); }
a { color: var(--series-1); text-decoration: none; white-space: nowrap; }
a:hover { text-decoration: underline; }
.verdict { display: grid; grid-template-columns: minmax(0, 1fr); gap: .8rem; margin: .9rem 0 0; }
@media (min-width: 52rem) { .verdict { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); } }
.verdict > div { background: var(--panel); border-radius: .5rem; padding: .8rem 1rem; }
.verdict h3 { font-size: .85rem; color: var(--quiet); margin: 0 0 .2rem; }
.verdict .value { font-size: 2.4rem; line-height: 1.15; font-variant-numeric: tabular-nums; }
.verdict p { margin: .35rem 0 0; font-size: .95rem; }
.verdict ul { margin: .3rem 0 0; padding-left: 1.1rem; }
.verdict li { margin: .35rem 0; font-size: .95rem; overflow-wrap: anywhere; }
.groups { display: flex; flex-wrap: wrap; gap: 0 1.4rem; }
.groups section { min-width: min(100%, 9.5rem); max-width: 100%; }
.groups h3 { margin: 1.1rem 0 0; font-size: .85rem; color: var(--quiet); }
.groups .figures { margin: .4rem 0 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.figures div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; display: flex;
  flex-direction: column; justify-content: space-between; }
.figures dt { color: var(--quiet); font-size: .85rem; line-height: 1.3; }
.figures dd { margin: .15rem 0 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.unit { display: block; font-size: .75rem; font-weight: 400; white-space: normal; overflow-wrap: anywhere; }
td .unit { color: var(--quiet); min-width: min(9rem, 24vw); }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem 1.4rem; }
.wide + .curves, p + .curves, table + .curves { margin-top: 1.4rem; }
.curves h3 { margin: 0 0 .3rem; font-size: .95rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: .8rem; }
.cards .card { margin: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .9rem; display: flex; flex-wrap: wrap; justify-content: space-between;
  gap: 0 .8rem; align-items: baseline; min-height: 1.9rem; }
.scale { font-weight: 400; font-size: .8rem; color: var(--quiet); white-space: nowrap; cursor: pointer; }
.scale input { accent-color: var(--series-1); margin: 0 .3rem 0 0; vertical-align: -.12em; }
figure:not(:has(:checked)) .logarithmic, figure:has(:checked) .linear { display: none; }
svg { width: 100%; height: auto; display: block; color: var(--ink); }
svg.attention { max-width: none; fill: var(--quiet); }
svg.attention rect { fill: var(--series-1); }
svg.attention rect.field { fill: var(--panel); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid var(--grid); }
th { font-size: .85rem; font-weight: 600; color: var(--quiet); }
td { overflow-wrap: break-word; }
td.value { overflow-wrap: anywhere; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.runs :is(td, th):first-child { position: sticky; left: 0; background: var(--page); min-width: 7.5rem; }
table.runs td.value { min-width: 7rem; }
table.narrow { width: auto; min-width: min(100%, 24rem); }
table.names { width: auto; }
table.names td:first-child, td.value { font: .85rem/1.6 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
td.best { font-weight: 700; }
.card { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; margin: 0 0 .8rem; }
.card svg.attention rect.field { fill: var(--page); }
.card dl { margin: 0; min-width: 0; }
.card dt { color: var(--quiet); font-size: .82rem; margin-top: .45rem; }
.card dt:first-child { margin-top: 0; }
.card dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.beside { display: grid; grid-template-columns: minmax(0, 1fr); gap: .6rem 1.6rem; }
@media (min-width: 52rem) { .beside { grid-template-columns: minmax(0, 1fr) 26rem; } }
mark { background: none; color: inherit; text-decoration: underline 2px var(--mark); text-underline-offset: .2em;
  text-decoration-skip-ink: none; }
details { margin: .7rem 0; }
.card details { margin: 0; }
summary { cursor: pointer; color: var(--quiet); }
summary:hover { color: var(--ink); }
.grow { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem .9rem; margin: .4rem 0 0; }
.grow span { min-width: 0; overflow-wrap: anywhere; }
.grow span:nth-child(odd) { color: var(--quiet); font-size: .85rem; text-align: right; padding-top: .1rem;
  font-variant-numeric: tabular-nums; }
@media (max-width: 30rem) {
  body { padding: .5rem 1rem 3rem; } nav { margin: .8rem -1rem 0; padding: .45rem 1rem; }
  .groups { display: block; } .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { nav { position: static; } details { display: block; } .card, figure { break-inside: avoid; } }
"""

_PARTS = """
{%- macro figure(plot) -%}
<figure><figcaption><span>{{ plot.title }}</span>
{%- if plot.logarithmic %}
<label class="scale"><input type="checkbox"{% if plot.opens_logarithmic %} checked{% endif %}>log scale</label>
{%- endif -%}
</figcaption>
<div class="linear">{{ plot.linear }}</div>
{%- if plot.logarithmic %}
<div class="logarithmic">{{ plot.logarithmic }}</div>
{%- endif %}
</figure>
{%- endmacro -%}
{%- macro figures(plots) -%}
<div class="curves">
{%- for plot in plots %}
{{ figure(plot) }}
{%- endfor %}
</div>
{%- endmacro -%}
{%- macro marked(words) -%}
{%- for text, is_marked in words %}{% if is_marked %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %}{% endfor -%}
{%- endmacro -%}
"""


def render(template: str, **content: object) -> str:
    """Renders a page whose template extends `frame`; all texts are escaped, and control characters are shown.

    Raises:
        LookupError: the content lacks what the template shows.
    """
    sources = {"frame": _FRAME, "style": _STYLE, "parts": _PARTS, "page": template}
    # Strict: a misspelled name in a template is an error, not an empty text.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(sources)
    )
    environment.filters["thousands"] = format_count
    environment.filters["setting"] = format_setting
    try:
        html = environment.get_template("page").render(generator=GENERATOR, **content)
        # At the end, so that no text of a page, a title or a picture is left out; our own templates have none.
        return _UNSEEN.sub(lambda match: errors.escaped(match[0]), html)
    except jinja2.UndefinedError as error:
        raise LookupError(str(error)) from error


def format_setting(value: Any) -> str:
    """Formats the value of a setting: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def format_count(number: float) -> str:
    """Formats a number without decimals, with a thin space between groups of three digits."""
    return f"{round(number):,}".replace(",", THIN_SPACE)
