"""The page of a run, as a Jinja template: one file, no scripts, nothing fetched."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ report.name }}: Raycurrent run</title>
<style>
:root { --page: #ffffff; --ink: #1c2330; --quiet: #5b6575; --grid: #d5dae2; --panel: #f5f7fa;
        --series-1: #1f5fc4; --series-2: #c2570c; --series-3: #2a7a4b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181f; --ink: #e6e9ee; --quiet: #9aa5b5; --grid: #343c49; --panel: #1c222c;
          --series-1: #6ea8ff; --series-2: #f2a057; --series-3: #6cc58f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem 1rem 3rem; background: var(--page); color: var(--ink);
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 1rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--grid); padding-bottom: .25rem; }
.quiet { color: var(--quiet); overflow-wrap: anywhere; margin: .2rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.figures div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
.figures dt { color: var(--quiet); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; color: var(--ink); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--grid);
         overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.sample { margin: 0 0 1rem; padding: .6rem .8rem; background: var(--panel); border-radius: .5rem; }
.sample dt { color: var(--quiet); font-size: .85rem; }
.sample dd { margin: 0 0 .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--panel); padding: .8rem; border-radius: .5rem; }
</style>
</head>
<body>
<h1>{{ report.name }}</h1>
<p class="quiet">{{ report.root }}</p>
<p>{{ sentence }}</p>
<dl class="figures">
{%- for figure in figures %}
<div><dt>{{ figure.label }}</dt><dd>{{ figure.text }}</dd></div>
{%- endfor %}
</dl>
{%- if pictures %}
<h2>Training</h2>
<div class="curves">
{%- for picture in pictures %}
<figure><figcaption>{{ picture.title }}</figcaption>{{ picture.svg }}</figure>
{%- endfor %}
</div>
{%- endif %}
{%- if report.samples.translations %}
<h2>Translations</h2>
{%- for sample in report.samples.translations %}
<dl class="sample">
<dt>source</dt><dd>{{ sample.source }}</dd>
<dt>translation{% if sample.score_nats is not none %} ({{ "%.2f"|format(sample.score_nats) }} nats){% endif %}</dt>
<dd>{{ sample.hypothesis }}</dd>
{%- if sample.reference is not none %}
<dt>reference</dt><dd>{{ sample.reference }}</dd>
{%- endif %}
</dl>
{%- endfor %}
{%- endif %}
{%- if report.samples.generated %}
<h2>Generated text</h2>
{%- for sample in report.samples.generated %}
<dl class="sample"><dt>after “{{ sample.prefix }}”</dt><dd>{{ sample.text }}</dd></dl>
{%- endfor %}
{%- endif %}
{%- if report.quality %}
<h2>Quality</h2>
<div class="wide"><table>
<tr><th>measure</th><th class="number">value</th><th>signature</th></tr>
{%- for row in quality_rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ row.text }}</td><td>{{ row.signature }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if report.data %}
<h2>Data</h2>
<div class="wide"><table>
<tr><th>split</th><th class="number">lines</th><th class="number">shards</th><th class="number">tokens</th></tr>
{%- for name, split in report.data.splits.items() %}
<tr><td>{{ name }}</td><td class="number">{{ split.lines|thousands }}</td>
<td class="number">{{ split.shards }}</td>
<td class="number">{% for column, count in split.tokens.items() -%}
{{ column }} {{ count|thousands }}{{ "" if loop.last else ", " }}{% endfor %}</td></tr>
{%- endfor %}
</table></div>
<p>Vocabulary: {% for column, size in report.data.vocabulary_sizes.items() -%}
{{ column }} {{ size|thousands }}{{ "" if loop.last else ", " }}{% endfor %}.</p>
{%- if word_pictures %}
<div class="curves">
{%- for picture in word_pictures %}
<figure><figcaption>{{ picture.title }}</figcaption>{{ picture.svg }}</figure>
{%- endfor %}
</div>
{%- for sentence in word_sentences %}
<p>{{ sentence }}</p>
{%- endfor %}
{%- for table in word_tables %}
<details><summary>{{ table.title }}</summary><div class="wide"><table>
<tr>{% for order in table.orders %}<th>{{ order }}</th><th class="number">count</th>{% endfor %}</tr>
{%- for row in table.rows %}
<tr>{% for text, count in row %}<td>{{ text }}</td><td class="number">{{ count }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div></details>
{%- endfor %}
{%- endif %}
{%- if report.data.drops %}
<p>Left out: {% for reason, count in report.data.drops.items() -%}
{{ count|thousands }} {{ reason }}{{ "" if loop.last else ", " }}{% endfor %}.</p>
{%- else %}
<p>No line was left out.</p>
{%- endif %}
{%- endif %}
<h2>How it was made</h2>
{%- if report.stages %}
<div class="wide"><table>
<tr><th>stage</th><th class="number">seconds</th><th>outcome</th></tr>
{%- for stage in report.stages %}
<tr><td>{{ stage.name }}</td><td class="number">{{ "%.1f"|format(stage.elapsed_s) }}</td>
<td>{{ stage.outcome }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
<details><summary>Settings</summary><pre>{{ settings }}</pre></details>
{%- if report.versions %}
<details><summary>Versions</summary><div class="wide"><table>
{%- for name, version in report.versions.items() %}
<tr><td>{{ name }}</td><td>{{ version }}</td></tr>
{%- endfor %}
</table></div></details>
{%- endif %}
</body>
</html>
"""
