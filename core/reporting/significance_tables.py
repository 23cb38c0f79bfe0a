"""Tables of the page that compares runs: which differences in quality are more than chance, also by sentence length."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.reporting import page_frame


def of_runs(names: Sequence[str], significance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a table of confidence intervals, and of the probabilities of the differences to the first run."""
    systems, level = significance["systems"], significance["level"]
    baseline = next(name for name, system in zip(names, systems, strict=True) if system is not None)
    rows = []
    for metric, label in (("bleu", "BLEU"), ("chrf", "chrF"), ("ter", "TER")):
        intervals = [system and system["confidence"][metric] for system in systems]
        p_values = [system and system["p_values"].get(metric) for system in systems]
        rows += [
            {
                "label": label,
                "cells": [
                    {
                        "text": f"{interval['mean']:.2f} ± {interval['half_width']:.2f}" if interval else "–",
                        "best": False,
                    }
                    for interval in intervals
                ],
            },
            {
                "label": f"p of {label}",
                "cells": [
                    {"text": "–" if value is None else f"{value:.4f}", "best": value is not None and value < level}
                    for value in p_values
                ],
            },
        ]
    sentence = (
        f"Mean and 95 % confidence interval over bootstrap resamples of the {significance['lines']} lines. "
        f"p: probability of a difference to {baseline} at least as large by chance, by paired bootstrap resampling; "
        f"bold: significant, p < {level:g}."
    )
    return {"sentence": sentence, "rows": rows}


def by_length(names: Sequence[str], significance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a table of the differences to the first run by length of the reference."""
    translated = [name for name, system in zip(names, significance["systems"], strict=True) if system is not None]
    rows = []
    for bucket in significance["improvement_by_length"]:
        longest = bucket["longest"]
        length = f"{bucket['shortest']} or more" if longest is None else f"{bucket['shortest']} to {longest}"
        for metric, label in (("bleu", "BLEU"), ("chrf", "chrF")):
            cells = []
            for system in bucket["systems"]:
                text = f"{system[metric]:.1f}"
                if metric in system["changes"]:
                    text += f" ({system['changes'][metric]:+.1f})"
                if metric in system["p_values"]:
                    text += f", p {system['p_values'][metric]:.4f}"
                cells.append({"text": text, "best": system["significant"].get(metric, False)})
            is_first = metric == "bleu"
            rows.append(
                {
                    "length": length if is_first else "",
                    "lines": page_frame.format_count(bucket["lines"]) if is_first else "",
                    "label": label,
                    "cells": cells,
                }
            )
    sentence = (
        f"In brackets: difference to {translated[0]}. p as above, where there are enough lines for a test; bold: "
        f"significant, p < {significance['level']:g}."
    )
    return {"names": translated, "rows": rows, "sentence": sentence}
