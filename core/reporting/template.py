"""The page of a run, as a Jinja template on the frame of all pages."""

PAGE = """{% extends "frame" %}
{% import "parts" as parts %}
{% block title %}{{ report.name }}: Raycurrent run{% endblock %}
{% block body %}
<h1>{{ report.name }}</h1>
<p class="quiet">{{ report.root }}{% if started %} · started {{ started }}{% endif %}</p>
<p>{{ sentence }}</p>
<nav>{% for id, name in sections %}<a href="#{{ id }}">{{ name }}</a>{% endfor %}</nav>
<dl class="figures">
{%- for figure in figures %}
<div><dt>{{ figure.label }}</dt><dd>{{ figure.text }}</dd></div>
{%- endfor %}
</dl>
{%- if training_pictures %}
<h2 id="training">Training</h2>
{%- if report.training.restarts %}
<p class="quiet">A dotted line: what is right of it was recorded by a new start, which went on from a checkpoint.</p>
{%- endif %}
{%- if smoothing %}
<p class="quiet">The training loss has label smoothing ({{ smoothing }}) in it, the validation loss and both
perplexities have not.</p>
{%- endif %}
{{ parts.plots(training_pictures) }}
{%- endif %}
{%- if task_rows %}
<h2 id="tasks">Corpora</h2>
<div class="wide"><table class="narrow">
<tr><th>corpus</th><th class="number">lines</th><th class="number">training perplexity</th>
<th class="number">validation</th><th class="number">held out</th><th class="number">BLEU</th>
<th class="number">chrF</th><th class="number">TER</th></tr>
{%- for row in task_rows %}
<tr><td>{{ row[0] }}</td>{% for text in row[1:] %}<td class="number">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{{ parts.plots(task_pictures) }}
{%- endif %}
{%- if gradient_pictures %}
<h2 id="gradients">Gradients</h2>
{{ parts.plots(gradient_pictures) }}
{%- endif %}
{%- if report.samples.training %}
<h2 id="samples">Samples while it learnt</h2>
<div class="cards">
{%- for sample in report.samples.training %}
<div class="card"><dl>
<dt>{{ "source" if report.kind == "seq2seq" else "beginning" }}</dt><dd>{{ sample.source }}</dd>
<dt>{{ "reference" if report.kind == "seq2seq" else "how the text goes on" }}</dt><dd>{{ sample.reference }}</dd>
</dl><div class="grow">
{%- for one in sample.outputs %}<span>step {{ one.step|thousands }}</span><span>{{ one.output }}</span>{% endfor -%}
</div></div>
{%- endfor %}
</div>
{%- endif %}
{%- if translations %}
<h2 id="translations">Translations</h2>
<p>The first held-out lines. <mark>Underlined</mark>: a word that the other side has not, or not as often.
{%- if with_maps %} In a map each row says how much a word of the translation looked at the words of the source;
point at a cell to read its weight.{% endif %}</p>
{%- for one in translations %}
<div class="card beside"><dl>
<dt>source</dt><dd>{{ one.source }}</dd>
<dt>translation{% if one.score_nats is not none %} ({{ "%.2f"|format(one.score_nats) }} nats){% endif %}</dt>
<dd>{{ parts.marked(one.hypothesis) }}</dd>
{%- if one.reference is not none %}
<dt>reference</dt><dd>{{ parts.marked(one.reference) }}</dd>
{%- endif %}
</dl>
{%- if one.map %}
<details{% if loop.index <= 3 %} open{% endif %}><summary>attention
{%- if not one.is_same %} (searched alone, this line came out otherwise){% endif %}</summary>
<div class="wide">{{ one.map }}</div>
</details>
{%- endif %}
</div>
{%- endfor %}
{%- endif %}
{%- if report.samples.generated %}
<h2 id="generated">Generated text</h2>
<div class="cards">
{%- for sample in report.samples.generated %}
<div class="card"><dl>
<dt>{% if "ending" in sample %}before “{{ sample.ending }}”{% else %}after “{{ sample.prefix }}”{% endif %}</dt>
<dd>{{ sample.text }}</dd></dl></div>
{%- endfor %}
</div>
{%- endif %}
{%- if quality_rows %}
<h2 id="quality">Quality</h2>
<div class="wide"><table class="narrow">
<tr><th>measure</th><th class="number">value</th><th>signature</th></tr>
{%- for row in quality_rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ row.text }}</td><td class="value">{{ row.signature }}</td></tr>
{%- endfor %}
</table></div>
<div class="curves">
{%- if length_picture %}
{{ parts.plot(length_picture) }}
{%- endif %}
{%- if length_rows %}
<div>
<h3>Lines of each length</h3>
<table class="narrow"><tr><th>words</th><th class="number">lines</th><th class="number">BLEU</th>
<th class="number">chrF</th></tr>
{%- for row in length_rows %}
<tr><td>{{ row.words }}</td><td class="number">{{ row.lines|thousands }}</td>
<td class="number">{{ "%.1f"|format(row.bleu) }}</td><td class="number">{{ "%.1f"|format(row.chrf) }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if fault_rows %}
<div><h3>What goes wrong with words</h3>
<table class="narrow"><tr><th></th><th class="number">words</th><th class="number">share</th></tr>
{%- for row in fault_rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ row.count|thousands }}</td>
<td class="number">{{ "%.1f %%"|format(100 * row.share) }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
</div>
{%- endif %}
{%- if report.data %}
<h2 id="data">Data</h2>
<div class="wide"><table class="narrow">
<tr><th>split</th><th class="number">lines</th><th class="number">shards</th>
{%- for column in report.data.vocabulary_sizes %}<th class="number">tokens: {{ column }}</th>{% endfor %}</tr>
{%- for name, split in report.data.splits.items() %}
<tr><td>{{ name }}</td><td class="number">{{ split.lines|thousands }}</td>
<td class="number">{{ split.shards|thousands }}</td>
{%- for column in report.data.vocabulary_sizes %}
<td class="number">{{ split.tokens.get(column, 0)|thousands }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
<p>Vocabulary: {% for column, size in report.data.vocabulary_sizes.items() -%}
{{ column }} {{ size|thousands }}{{ "" if loop.last else ", " }}{% endfor %}.
{% if report.data.drops -%}
Left out: {% for reason, count in report.data.drops.items() -%}
{{ count|thousands }} {{ reason }}{{ "" if loop.last else ", " }}{% endfor %}.
{%- else -%}
No line was left out.
{%- endif %}
{%- if report.data.repairs %}
Reading removed {% for what, count in report.data.repairs.items() -%}
{{ count|thousands }} {{ {"bom": "byte order marks", "crlf": "carriage returns"}[what] -}}
{{ "" if loop.last else " and " }}{% endfor %}.
{%- endif %}</p>
{%- if word_pictures %}
{{ parts.plots(word_pictures) }}
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
{%- endif %}
{%- if stage_rows or speed_pictures %}
<h2 id="throughput">Throughput</h2>
{%- if stage_rows %}
<div class="wide"><table class="narrow">
<tr><th>stage</th><th class="number">seconds</th><th class="number">lines</th><th class="number">lines/s</th>
<th class="number">tokens</th><th class="number">tokens/s</th><th>outcome</th></tr>
{%- for row in stage_rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ "%.1f"|format(row.elapsed_s) }}</td>
<td class="number">{{ row.lines }}</td><td class="number">{{ row.lines_per_s }}</td>
<td class="number">{{ row.tokens }}</td><td class="number">{{ row.tokens_per_s }}</td><td>{{ row.outcome }}</td></tr>
{%- endfor %}
</table></div>
<p class="quiet">Seconds: of the last command that worked on the stage. Tokens/s of train: the median of its record.</p>
{%- endif %}
{%- if worker_rows %}
<h3>Workers of the last start</h3>
<div class="wide"><table class="narrow"><tr><th>rank</th><th class="number">steps</th><th class="number">tokens</th>
<th class="number">tokens/s</th><th class="number">ms a step</th></tr>
{%- for row in worker_rows %}
<tr><td>{{ row.rank }}</td><td class="number">{{ row.steps|thousands }}</td>
<td class="number">{{ row.tokens|thousands }}</td><td class="number">{{ row.tokens_per_s|thousands }}</td>
<td class="number">{{ "%.1f"|format(row.step_ms) }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if speed_pictures %}
{{ parts.plots(speed_pictures) }}
{%- endif %}
{%- endif %}
<h2 id="faults">Faults survived</h2>
{%- if troubles %}
<ul>
{%- for sentence in troubles %}
<li>{{ sentence }}</li>
{%- endfor %}
</ul>
{%- else %}
<p>None: no restart, no skipped step, no damaged checkpoint, no part tried again.</p>
{%- endif %}
<h2 id="settings">Settings</h2>
<p class="quiet">Those that are not at their default, named as <code>--set</code> takes them.</p>
<div class="wide"><table class="names">
{%- for name, value in chosen %}
<tr><td>{{ name }}</td><td class="value">{{ value }}</td></tr>
{%- endfor %}
</table></div>
<details><summary>All {{ settings|length }} settings</summary><div class="wide"><table class="names">
{%- for name, value in settings %}
<tr><td>{{ name }}</td><td class="value">{{ value }}</td></tr>
{%- endfor %}
</table></div></details>
{%- for change in report.changes %}
<p>{{ change.name }} was changed from {{ change.old|setting }} to {{ change.new|setting }}.</p>
{%- endfor %}
{%- if report.versions %}
<h2 id="versions">Versions</h2>
<dl class="figures">
{%- for name, version in report.versions.items() %}
<div><dt>{{ name }}</dt><dd style="font-size: 1rem">{{ version }}</dd></div>
{%- endfor %}
</dl>
{%- endif %}
{% endblock %}
"""
