"""Plots and tables of a dataset's word statistics: frequencies, line lengths, vocabulary coverage."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.ticker

from core import errors
from core.data.dataset import statistics
from core.reporting import curves
from core.storage import commit, control_files, json_values, location

SHOWN_NGRAMS = 10
_ORDERS = {1: "unigrams", 2: "bigrams", 3: "trigrams"}
_PERCENTILE = 0.995  # of the lines that the plot of lengths shows; a few very long lines would squeeze the others
_FULL_COVERAGE = 0.9995  # shares from here on are not visibly below 100 %

Statistics = Mapping[str, Any]


def read(dataset: location.Location, index: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the statistics file that a dataset index names; None if it names none.

    Raises:
        IntegrityError: the file is damaged, or not in the format that this version reads.
    """
    if not index.get("statistics"):
        return None
    record = commit.FileRecord.from_json(index["statistics"], str(dataset))
    path = dataset.join(record.name)
    content = json_values.parse(commit.read_file(dataset, record, control_files.MAX_BYTES), str(path))
    known = (statistics.FORMAT, statistics.FORMAT_VERSION)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != known:
        raise errors.IntegrityError(f"{path}: is not in the format {known[0]} {known[1]}; prepare the dataset again")
    return content


def make_plots(content: Statistics) -> list[tuple[str, str]]:
    """Returns the title and `<svg>` element of each plot."""
    columns: Mapping[str, Any] = content["columns"]
    plots = [(_title("Frequency by rank", name, columns), plot_zipf(column)) for name, column in columns.items()]
    plots.append(("Line lengths", plot_lengths(columns)))
    if all(column["coverage"] for column in columns.values()) and _is_reduced(columns.values()):
        plots.append(("Vocabulary coverage by min_freq", plot_coverage(columns)))
    return plots


def _is_reduced(columns: Iterable[Statistics]) -> bool:
    """Returns whether `min_freq` visibly reduces the coverage of any column; with characters it hardly does."""
    return any(row["share"] < _FULL_COVERAGE for column in columns for row in column["coverage"])


def make_tables(content: Statistics) -> list[dict[str, Any]]:
    """Returns a table per column of its most frequent tokens and n-grams, the orders side by side."""
    tables = []
    for name, column in content["columns"].items():
        tops = [
            [(_printable(units), count) for units, count in order["top"][:SHOWN_NGRAMS]] for order in column["orders"]
        ]
        # A short text may have fewer trigrams than words.
        rows = [list(row) for row in itertools.zip_longest(*tops, fillvalue=("", ""))]
        orders = [_ORDERS[order["order"]] for order in column["orders"]]
        tables.append({"title": _title("Most frequent", name, content["columns"]), "orders": orders, "rows": rows})
    return tables


def describe(content: Statistics) -> list[str]:
    """Returns sentences on the share of the most frequent tokens in the text; of words, these are mostly stop words."""
    return [
        _title("Most frequent tokens", name, content["columns"])
        + ": "
        + ", ".join(f"the top {row['units']} make up {100 * row['share']:.1f} %" for row in column["head_shares"])
        + " of the text."
        for name, column in content["columns"].items()
        if column["head_shares"]
    ]


def plot_zipf(column: Statistics) -> str:
    """Plots the frequency of n-grams by rank, log-log, one line per order with its Zipf exponent.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3 "Language Models and the Dataset"; Zipf (1949),
    "Human Behavior and the Principle of Least Effort".
    """

    def draw(axes: Any) -> None:
        for colour, order in zip(curves.SERIES, column["orders"], strict=False):
            if not order["ranks"]:
                continue
            ranks, counts = zip(*order["ranks"], strict=True)
            exponent = order["zipf_exponent"]
            label = _ORDERS[order["order"]] + (
                "" if exponent is None else f", \N{GREEK SMALL LETTER ALPHA} = {exponent:.2f}"
            )
            axes.plot(ranks, counts, color=colour, label=label, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xlabel("rank")
        axes.set_ylabel("occurrences")
        axes.legend(loc="best")

    return curves.render_svg("Frequency by rank", draw)


def plot_lengths(columns: Mapping[str, Statistics]) -> str:
    """Plots the number of lines by length, up to a length that covers nearly all lines."""

    def draw(axes: Any) -> None:
        for colour, (name, column) in zip(curves.SERIES, columns.items(), strict=False):
            by_length = dict(column["lengths"])
            last = _covering_length(by_length, _PERCENTILE * column["lines"])
            values = [by_length.get(length, 0) for length in range(last + 1)]
            axes.stairs(values, [length - 0.5 for length in range(last + 2)], color=colour, linewidth=1.6, label=name)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
        axes.set_xlabel("tokens per line")
        axes.set_ylabel("lines")
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        if len(columns) > 1:
            axes.legend(loc="best")

    return curves.render_svg("Line lengths", draw)


def plot_coverage(columns: Mapping[str, Statistics]) -> str:
    """Plots the share of the text that is in the vocabulary by `min_freq`, the lowest frequency of its tokens."""

    def draw(axes: Any) -> None:
        for colour, (name, column) in zip(curves.SERIES, columns.items(), strict=False):
            rows: Sequence[Mapping[str, float]] = column["coverage"]
            axes.plot(
                [row["min_freq"] for row in rows],
                [100 * row["share"] for row in rows],
                color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axes.set_xlabel("min_freq")
        axes.set_ylabel("% of tokens covered")
        if len(columns) > 1:
            axes.legend(loc="best")

    return curves.render_svg("Coverage by min_freq", draw)


def _covering_length(by_length: Mapping[int, int], num_lines: float) -> int:
    """Returns the shortest length such that at least `num_lines` lines are no longer."""
    seen = 0
    for length in sorted(by_length):
        seen += by_length[length]
        if seen >= num_lines:
            return length
    return max(by_length, default=0)


def _title(title: str, name: str, columns: Mapping[str, Any]) -> str:
    return title if len(columns) == 1 else f"{title}: {name}"


def _printable(units: Sequence[str]) -> str:
    # White space would be invisible in a table, so it is quoted.
    return " ".join(unit if unit.strip() else repr(unit) for unit in units)
