"""Hand-written run folders with small numbers that are easy to check."""

import json
import pathlib
from typing import Any

SETTINGS = """
name: {name}
root: {root}
corpus: {{kind: pairs, train: {{tsv: [a.tsv]}}}}
training: {{batch_lines: 4}}
model: {{kind: seq2seq, cell: {cell}, hidden_size: 16}}
"""
INDEX: dict[str, Any] = {
    "kind": "pairs",
    "fingerprint": "f1",
    "lines_read": 105,
    "splits": {
        "train": [
            {"rows": 60, "tokens": {"source": 600, "target": 700}},
            {"rows": 40, "tokens": {"source": 400, "target": 300}},
        ],
        "test": [{"rows": 2, "tokens": {"source": 9, "target": 11}}],
    },
    "drops": {"too_long": 3, "empty": 0},
    "repairs": {"crlf": 1200},
    "tokenizers": {"source": {"vocabulary_size": 1234}, "target": {"vocabulary_size": 99}},
}
BY_LENGTH = [
    {"shortest": 0, "longest": 5, "lines": 1, "bleu": 100.0, "chrf": 100.0},
    {"shortest": 51, "longest": None, "lines": 1, "bleu": 50.0, "chrf": 75.0},
]
FAULTS = {
    "words": 4, "reference_words": 5, "omitted": 1, "added": 2, "repeated": 0, "pairs": 3, "swapped": 3,
    "omitted_share": 0.2, "added_share": 0.5, "repeated_share": 0.0, "swapped_share": 1.0,
}  # fmt: skip
EVALUATED = {
    "verb": "evaluate", "lines": 2, "bleu": 91.25, "chrf": 95.5, "ter": 3.5, "signatures": {"bleu": "nrefs:1"},
    "by_length": BY_LENGTH, "faults": FAULTS,
}  # fmt: skip
PROM = """# HELP raycurrent_train_steps_total Optimizer steps applied
# TYPE raycurrent_train_steps_total counter
raycurrent_train_steps_total{rank="1"} 4.0
raycurrent_train_steps_total{rank="0"} 4.0
raycurrent_train_tokens_total{rank="1"} 30.0
raycurrent_train_tokens_total{rank="0"} 1.0e+01
raycurrent_train_step_seconds_bucket{le="+Inf",rank="0"} 4.0
raycurrent_train_step_seconds_sum{rank="0"} 2.0
raycurrent_train_step_seconds_sum{rank="1"} 1.0
raycurrent_fanout_parts_total{outcome="done",stage="translate"} 7.0
raycurrent_fanout_parts_total{outcome="retried",stage="translate"} 1.0
raycurrent_fanout_worker_deaths_total{stage="translate"} 2.0
raycurrent_train_workers 2.0
"""
ATTENTION = [
    {"line": 1, "source": ["<b>", "x"], "target": ["oui", "<eos>"], "weights": [[0.75, 0.25], [0.0, 1.0]]},
]


def begin(folder: pathlib.Path, name: str = "small", cell: str = "gru") -> None:
    """Writes a run that has only started: its settings."""
    (folder / "config.yaml").write_text(SETTINGS.format(root=folder, name=name, cell=cell))


def rows() -> list[dict[str, Any]]:
    """Returns the run log of one start: three logged steps, two validations with samples and gradients."""
    log: list[dict[str, Any]] = [
        {"kind": "step", "step": step, "loss_nats": 4 / step, "perplexity": 2.0, "gradient_norm": 0.5,
         "learning_rate": 0.01, "tokens_per_s": 1500.0, "num_tokens": 10 * step, "num_skipped": step // 4,
         "layer_norms": {"encoder": 0.3, "decoder": 0.4}}
        for step in (1, 2, 4)
    ]  # fmt: skip
    for step, nll_nats, output in ((2, 1.5, "un"), (4, 1.0, "un chat")):
        log.append(
            {
                "kind": "validation",
                "step": step,
                "nll_nats": nll_nats,
                "perplexity": 2.7183,
                "accuracy": 0.5,
                "bleu": 9.0,
            }
        )
        sample = {"source": "a cat", "output": output, "reference": "un chat"}
        log.append({"kind": "samples", "step": step, "epoch": 0, "samples": [sample]})
        log.append(
            {"kind": "gradients", "step": step, "epoch": 0, "spectral_radii": {"encoder": [0.5, 0.9, 0.25]},
             "forget_gates": {"encoder": 0.75}, "norms_by_lag": [1.0, 0.5, None]}
        )  # fmt: skip
    return log


def complete(folder: pathlib.Path, name: str = "small", cell: str = "gru", bleu: float = 91.25) -> None:
    """Writes a run with all files that a report reads."""
    begin(folder, name, cell)
    for inner in ("dataset", "metrics", "outputs"):
        (folder / inner).mkdir()
    (folder / "dataset" / "index.json").write_text(json.dumps(INDEX))
    (folder / "metrics" / "e1-00000004.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "metrics" / "final-here.prom").write_text(PROM)
    (folder / "outputs" / "test.source.txt").write_text("a cat\n<script>alert(1)</script>\n")
    (folder / "outputs" / "test.target.txt").write_text("un chat\nnon\n")
    translations = [{"line": 0, "text": "un chat", "score_nats": -0.5}, {"line": 1, "text": "oui", "score_nats": None}]
    (folder / "outputs" / "translations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in translations))
    (folder / "outputs" / "translations.jsonl.attention.json").write_text(json.dumps(ATTENTION))
    stages = {
        "train": {"outcome": "done", "elapsed_s": 8.0, "report": {"num_tokens": 40}},
        "translate": {"outcome": "done", "elapsed_s": 0.5, "report": {"lines": 2, "tokens": 6, "errors": 1}},
        "evaluate": {"outcome": "done", "elapsed_s": 1.25, "report": {**EVALUATED, "bleu": bleu}},
        "score": {"outcome": "done", "elapsed_s": 2.0, "report": {"perplexity": 1.5, "tokens": 200, "unk": 13}},
    }
    change = {"name": "training.epochs", "old": 1, "new": 2, "unix_s": 0.0}
    run = {"stages": stages, "versions": {"torch": "2.13.0"}, "exit_code": 0, "starts": 2, "faults": ["step-3: torn"]}
    (folder / "run.json").write_text(json.dumps({**run, "changes": [change], "started_unix_s": 86400.0}))
