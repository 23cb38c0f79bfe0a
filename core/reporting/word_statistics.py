"""Word statistics of a dataset as pictures and tables: how frequent, how long, how much a vocabulary covers."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.ticker

from core import errors
from core.data.dataset import statistics
from core.reporting import curves
from core.storage import location

SHOWN_NGRAMS = 10
_ORDERS = {1: "single", 2: "pairs", 3: "triples"}
_PERCENTILE = 0.995
_AS_GOOD_AS_ALL = 0.9995

Statistics = Mapping[str, Any]


def read(dataset: location.Location, index: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the statistics that an index names; None where there are none.

    Raises:
        IntegrityError: it is not in the format that this version reads.
    """
    record = index.get("statistics")
    if not record:
        return None
    place = dataset.join(record["name"])
    content = place.read_json()
    known = (statistics.FORMAT, statistics.FORMAT_VERSION)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != known:
        raise errors.IntegrityError(f"{place}: is not in the format {known[0]} {known[1]}; prepare the dataset again")
    return content


def pictures(found: Statistics) -> list[tuple[str, str]]:
    """Returns the title and `<svg>` element of each picture."""
    columns: Mapping[str, Any] = found["columns"]
    drawn = [(_title("Frequency by rank", name, columns), zipf(column)) for name, column in columns.items()]
    drawn.append(("Lengths of lines", lengths(columns)))
    if all(column["coverage"] for column in columns.values()) and _is_cut(columns.values()):
        drawn.append(("Share of the text that min_freq keeps", coverage(columns)))
    return drawn


def _is_cut(columns: Iterable[Statistics]) -> bool:
    """Would `min_freq` leave anything out that can be seen? Of characters it hardly does."""
    return any(row["share"] < _AS_GOOD_AS_ALL for column in columns for row in column["coverage"])


def tables(found: Statistics) -> list[dict[str, Any]]:
    """Returns the most frequent units and n-grams of each column, side by side."""
    made = []
    for name, column in found["columns"].items():
        tops = [[(_shown(units), count) for units, count in order["top"][:SHOWN_NGRAMS]] for order in column["orders"]]
        rows = [list(row) for row in itertools.zip_longest(*tops, fillvalue=("", ""))]
        orders = [_ORDERS[order["order"]] for order in column["orders"]]
        made.append({"title": _title("Most frequent", name, found["columns"]), "orders": orders, "rows": rows})
    return made


def sentences(found: Statistics) -> list[str]:
    """Says how much of the text the most frequent units are: of words, mostly stop words."""
    return [
        _title("Share of the most frequent units", name, found["columns"])
        + ": "
        + ", ".join(f"the first {row['units']} are {100 * row['share']:.1f} %" for row in column["head_shares"])
        + " of the text."
        for name, column in found["columns"].items()
        if column["head_shares"]
    ]


def zipf(column: Statistics) -> str:
    """Draws how often the n-grams of each order occur, by their rank, both in logarithms.

    Source: document 000 section 8.3.3.
    """

    def plot(axes: Any) -> None:
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

    return curves.picture("Frequency by rank", plot)


def lengths(columns: Mapping[str, Statistics]) -> str:
    """Draws how many lines have which length, up to a length that nearly all lines keep below."""

    def plot(axes: Any) -> None:
        for colour, (name, column) in zip(curves.SERIES, columns.items(), strict=False):
            by_length = dict(column["lengths"])
            last = _covering(by_length, _PERCENTILE * column["lines"])
            values = [by_length.get(length, 0) for length in range(last + 1)]
            axes.stairs(values, [length - 0.5 for length in range(last + 2)], color=colour, linewidth=1.6, label=name)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
        axes.set_xlabel("units of a line")
        axes.set_ylabel("lines")
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        if len(columns) > 1:
            axes.legend(loc="best")

    return curves.picture("Lengths of lines", plot)


def coverage(columns: Mapping[str, Statistics]) -> str:
    """Draws which share of the text stays known when rarer units are left out of the vocabulary."""

    def plot(axes: Any) -> None:
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
        axes.set_ylabel("% of the text")
        if len(columns) > 1:
            axes.legend(loc="best")

    return curves.picture("Coverage by min_freq", plot)


def _covering(by_length: Mapping[int, int], num_lines: float) -> int:
    """Returns the length up to which at least so many lines are."""
    seen = 0
    for length in sorted(by_length):
        seen += by_length[length]
        if seen >= num_lines:
            return length
    return max(by_length, default=0)


def _title(what: str, name: str, columns: Mapping[str, Any]) -> str:
    return what if len(columns) == 1 else f"{what}: {name}"


def _shown(units: Sequence[str]) -> str:
    return " ".join(unit if unit.strip() else repr(unit) for unit in units)
