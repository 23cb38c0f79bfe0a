"""Summary of the final metrics of a run."""

import pathlib

from core.reporting import metrics_summary
from core.storage import location
from tests.core.reporting import run_folders


def test_values_of_all_nodes_are_summed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "metrics").mkdir()
    for node in ("a", "b"):
        (tmp_path / "metrics" / f"final-{node}.prom").write_text(run_folders.PROM)
    (tmp_path / "metrics" / "targets.json").write_text("[]")
    assert metrics_summary.read(location.Location.parse(str(tmp_path))) == {
        "workers": [
            {"rank": 0, "steps": 8.0, "tokens": 20.0, "elapsed_s": 4.0},
            {"rank": 1, "steps": 8.0, "tokens": 60.0, "elapsed_s": 2.0},
        ],
        "stages": {"translate": {"done": 14.0, "retried": 2.0, "worker_deaths": 4.0}},
    }


def test_a_run_without_metrics_has_no_summary(tmp_path: pathlib.Path) -> None:
    assert metrics_summary.read(location.Location.parse(str(tmp_path))) is None


def test_samples_without_labels_are_parsed_and_buckets_are_not() -> None:
    samples = list(metrics_summary.parse(run_folders.PROM))
    assert metrics_summary.Sample("raycurrent_train_workers", {}, 2.0) in samples
    assert not [sample for sample in samples if "le" in sample.labels]
