"""Jinja template of the report page of a run."""

PAGE = """{% extends "frame" %}
{% import "parts" as parts %}
{% block title %}{{ report.name }}: Raycurrent run{% endblock %}
{% block body %}
<h1>{{ report.name }}</h1>
<p class="quiet">{{ report.root }}{% if started %} · started {{ started }}{% endif %}</p>
<p>{{ sentence }}</p>
<nav>{% for id, name in sections %}<a href="#{{ id }}">{{ name }}</a>{% endfor %}</nav>
{%- if headline %}
<div class="verdict">
<div><h3>{{ headline.label }}</h3>
<div class="value">{{ headline.text }}</div>
{%- if headline.measured_on %}
<p class="quiet">{{ headline.measured_on }}</p>
{%- endif %}
{%- for sentence in headline.meaning %}
<p>{{ sentence }}</p>
{%- endfor %}
</div>
<div><h3>What would make it better</h3>
{%- if report.hints %}
<ul>
{%- for hint in report.hints %}
<li>{{ hint.text }}</li>
{%- endfor %}
</ul>
{%- else %}
<p>No rule applies: the figures show no fault. More data, a larger model, or an ensemble of several may still help.</p>
{%- endif %}
</div>
</div>
{%- endif %}
<div class="groups">
{%- for title, figures in figure_groups %}
<section style="flex: {{ figures|length }} 1 {{ 9.5 * figures|length }}rem"><h3>{{ title }}</h3>
<dl class="figures">
{%- for figure in figures %}
<div><dt>{{ figure.label }}{% if figure.unit %} <span class="unit">{{ figure.unit }}</span>{% endif %}</dt>
<dd>{{ figure.text }}</dd></div>
{%- endfor %}
</dl></section>
{%- endfor %}
</div>
{%- if training_plots %}
<h2 id="training">Training</h2>
{%- if best_step %}
<p>Best: the checkpoint of step {{ best_step|thousands }}, whose weights are used: it has the {{ best_by }} of all
validations.</p>
{%- endif %}
{%- if report.training and report.training.restarts %}
<p class="quiet">Dotted lines: training resumed from a checkpoint.</p>
{%- endif %}
{%- if smoothing %}
<p class="quiet">The training loss includes label smoothing ({{ smoothing }}); the validation loss and both
perplexities do not.</p>
{%- endif %}
{%- if training_units %}
<p class="quiet">{{ training_units }}</p>
{%- endif %}
{%- if bleu_signature %}
<p class="quiet">Validation BLEU: {{ bleu_signature }}</p>
{%- endif %}
{{ parts.figures(training_plots) }}
{%- endif %}
{%- if corpus_rows %}
<h2 id="corpora">Corpora</h2>
<div class="wide"><table class="narrow">
<tr><th>corpus</th><th class="number">training lines</th><th class="number">training perplexity</th>
<th class="number">validation perplexity</th><th class="number">held-out perplexity</th><th class="number">BLEU</th>
<th class="number">chrF</th><th class="number">TER</th></tr>
{%- for row in corpus_rows %}
<tr><td>{{ row[0] }}</td>{% for text in row[1:] %}<td class="number">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- if corpus_units %}
<p class="quiet">{{ corpus_units }}</p>
{%- endif %}
{{ parts.figures(corpus_plots) }}
{%- endif %}
{%- if gradient_plots %}
<h2 id="gradients">Gradients</h2>
{{ parts.figures(gradient_plots) }}
{%- endif %}
{%- if report.samples.training %}
<h2 id="samples">Samples during training</h2>
<p class="quiet">Output of the model for the same lines, of all lengths, at each validation; greedy search.</p>
<div class="cards">
{%- for sample in report.samples.training %}
<div class="card"><dl>
<dt>{{ "source" if report.kind == "seq2seq" else "prefix" }}</dt><dd>{{ sample.source }}</dd>
<dt>{{ "reference" if report.kind == "seq2seq" else "actual continuation" }}</dt><dd>{{ sample.reference }}</dd>
</dl><div class="grow">
{%- for row in sample.outputs %}<span>step {{ row.step|thousands }}</span><span>{{ row.output }}</span>{% endfor -%}
</div></div>
{%- endfor %}
</div>
{%- endif %}
{%- if translations %}
<h2 id="translations">Translations</h2>
<p>Held-out lines of all lengths, the same ones for all runs that hold them out. <mark>Underlined</mark>: words that
the other side lacks or has less often.
{%- if with_cleaned %} The model writes text as cleaned for training, and is compared with the reference after the same
cleaning.{% endif %}
{%- if with_maps %} In an attention map, each row shows the attention weights of one target token over the source
tokens; hover over a cell for its weight.{% endif %}</p>
{%- for title, rows in translations %}
{%- if title %}
<h3>{{ title }}</h3>
{%- endif %}
<div{% if not with_maps %} class="cards"{% endif %}>
{%- for row in rows %}
<div class="card{% if row.map %} beside{% endif %}"><dl>
<dt>source</dt><dd>{{ row.source }}</dd>
<dt>translation{% if row.note %} ({{ row.note }}){% endif %}</dt>
<dd>{{ parts.marked(row.hypothesis) }}</dd>
{%- if row.expected is not none %}
<dt>reference{% if row.written is not none %}, cleaned{% endif %}</dt><dd>{{ parts.marked(row.expected) }}</dd>
{%- endif %}
{%- if row.written is not none %}
<dt>reference as written</dt><dd>{{ row.written }}</dd>
{%- endif %}
</dl>
{%- if row.map %}
<details{% if loop.index <= 3 %} open{% endif %}><summary>attention map
{%- if not row.is_same %} (of this line translated alone, with a different result){% endif %}</summary>
<div class="wide">{{ row.map }}</div>
</details>
{%- endif %}
</div>
{%- endfor %}
</div>
{%- endfor %}
{%- endif %}
{%- if scored %}
<h2 id="scored">Held-out lines</h2>
<p>The perplexity per token of single lines: where it is high, the model did not expect what was written.</p>
{%- for title, rows in scored %}
<h3>{{ title }}</h3>
<div class="wide"><table class="lines"><tr><th>line</th><th class="number">tokens</th><th class="number">perplexity</th>
</tr>
{%- for row in rows %}
<tr><td>{{ row.text }}</td><td class="number">{{ row.num_tokens|thousands }}</td>
<td class="number">{{ row.perplexity }}</td></tr>
{%- endfor %}
</table></div>
{%- endfor %}
{%- endif %}
{%- if report.samples.generated %}
<h2 id="generated">Generated text</h2>
{%- if generation %}
<p class="quiet">{{ generation }}</p>
{%- endif %}
<div class="cards">
{%- for sample in report.samples.generated %}
<div class="card"><dl>
<dt>{% if "ending" in sample %}text before “{{ sample.ending }}”{% else %}prefix “{{ sample.prefix }}”{% endif %}</dt>
<dd>{{ sample.text }}</dd></dl></div>
{%- endfor %}
</div>
{%- endif %}
{%- if forecast_rows %}
<h2 id="forecasts">Forecasts</h2>
<p class="quiet">RMSE in units of the column, beside that of naive forecasts of the same rows. MASE is below 1 where
the mean absolute error is smaller than that of the naive forecast on the training split.
Curves of all horizons: {{ report.forecasts.pictures }}</p>
{{ parts.figures(forecast_plots) }}
<div class="wide"><table class="narrow">
<tr><th>split</th><th>column</th><th class="number">steps ahead</th><th class="number">rows</th>
<th class="number">RMSE</th><th class="number">persistence</th><th class="number">seasonal naive</th>
<th class="number">MASE</th></tr>
{%- for row in forecast_rows %}
<tr><td>{{ row[0] }}</td><td>{{ row[1] }}</td>
{%- for text in row[2:] %}<td class="number">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if quality_rows %}
<h2 id="quality">Quality</h2>
{%- for warning in warnings %}
<p>{{ warning }}</p>
{%- endfor %}
{%- if cleaned_by %}
<p>The model writes text as cleaned for training ({{ cleaned_by }}). Against references as written, what cleaning took
away counts as errors; quality by length and word errors are against references cleaned in the same way.</p>
{%- endif %}
<div class="wide"><table class="narrow">
<tr><th>metric</th><th class="number">value</th><th>signature</th></tr>
{%- for row in quality_rows %}
<tr><td>{{ row.name }}</td><td class="number">{{ row.text }}</td><td class="value">{{ row.signature }}</td></tr>
{%- endfor %}
</table></div>
<div class="curves">
{%- if length_plot %}
{{ parts.figure(length_plot) }}
{%- endif %}
{%- if length_rows %}
<div>
<h3>Quality by length of the reference</h3>
<table class="narrow"><tr><th>words</th><th class="number">lines</th><th class="number">BLEU</th>
<th class="number">chrF</th></tr>
{%- for row in length_rows %}
<tr><td>{{ row.words }}</td><td class="number">{{ row.lines|thousands }}</td>
<td class="number">{{ "%.1f"|format(row.bleu) }}</td><td class="number">{{ "%.1f"|format(row.chrf) }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if error_rows %}
<div><h3>Word errors</h3>
<table class="narrow"><tr><th></th><th class="number">count</th><th class="number">share</th></tr>
{%- for row in error_rows %}
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
<p>Vocabulary size: {% for column, size in report.data.vocabulary_sizes.items() -%}
{{ column }} {{ size|thousands }}{{ "" if loop.last else ", " }}{% endfor %}.

{%- if not drop_rows %} No line was dropped.{% endif %}
{%- if report.data.repairs %}
Removed while reading: {% for name, count in report.data.repairs.items() -%}
{{ count|thousands }} {{ {"bom": "byte order marks", "crlf": "carriage returns"}[name] -}}
{{ "" if loop.last else ", " }}{% endfor %}.
{%- endif %}</p>
{%- if drop_rows %}
<h3>Dropped lines</h3>
<div class="wide"><table class="narrow"><tr><th>lines</th><th class="number">count</th>
<th class="number">share of those read</th></tr>
{%- for row in drop_rows %}
<tr><td>{{ row.words }}</td><td class="number">{{ row.count|thousands }}</td>
<td class="number">{{ row.share }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if num_cut %}
<p>{{ num_cut|thousands }} training lines were cut at corpus.filters.max_length.</p>
{%- endif %}
{%- if word_plots %}
{{ parts.figures(word_plots) }}
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
{%- if stage_rows or throughput_plots %}
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
<p class="quiet">Seconds are those of all commands that ran a stage
{%- if not all_timed %}, but of train those of the last one{% endif %}. Tokens/s of train is the median over the run
log, other rates are those of the last command.</p>
{%- endif %}
{%- if worker_rows %}
<h3>Ranks of the last start</h3>
<div class="wide"><table class="narrow"><tr><th>rank</th><th class="number">steps</th><th class="number">tokens</th>
<th class="number">tokens/s</th><th class="number">ms/step</th></tr>
{%- for row in worker_rows %}
<tr><td>{{ row.rank }}</td><td class="number">{{ row.steps|thousands }}</td>
<td class="number">{{ row.tokens|thousands }}</td><td class="number">{{ row.tokens_per_s|thousands }}</td>
<td class="number">{{ "%.1f"|format(row.step_ms) }}</td></tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if throughput_plots %}
{{ parts.figures(throughput_plots) }}
{%- endif %}
{%- endif %}
<h2 id="failures">Failures and recoveries</h2>
{%- if failures %}
<ul>
{%- for sentence in failures %}
<li>{{ sentence }}</li>
{%- endfor %}
</ul>
{%- else %}
<p>None: no restarts, skipped steps, damaged checkpoints or retried parts.</p>
{%- endif %}
<h2 id="settings">Settings</h2>
<p class="quiet">Settings that differ from their default, named as for <code>--set</code>.</p>
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
