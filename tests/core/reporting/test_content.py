"""The report as a document: what a run left behind, gathered and added up."""

import json
import pathlib

import pytest
import yaml

from core import errors
from core.reporting import content
from core.storage import location
from tests.core.reporting import run_folders


@pytest.fixture
def root(tmp_path: pathlib.Path) -> location.Location:
    return location.Location.parse(str(tmp_path))


def test_a_run_that_has_only_begun_has_a_report(root: location.Location) -> None:
    run_folders.begin(root.path)
    report = content.build(root)
    parts = ("data", "words", "training", "gradients", "quality", "measured")
    assert [report[name] for name in parts] == [None] * len(parts)
    assert report["samples"] == {"translations": [], "generated": [], "training": []}


def test_what_is_no_run_is_refused(root: location.Location) -> None:
    with pytest.raises(errors.UsageError, match=r"holds no run .*name the root of a run"):
        content.build(root)


def test_a_damaged_file_of_the_run_is_named(root: location.Location) -> None:
    run_folders.begin(root.path)
    (root.path / "run.json").write_text("{")
    with pytest.raises(errors.IntegrityError, match=r"run\.json"):
        content.build(root)


def test_the_report_adds_up_shards_and_finds_the_best_validation(root: location.Location) -> None:
    run_folders.complete(root.path)
    report = content.build(root)
    assert report["data"]["splits"]["train"] == {"lines": 100, "shards": 2, "tokens": {"source": 1000, "target": 1000}}
    assert report["data"]["drops"] == {"too_long": 3}
    assert report["training"]["steps"] == 4
    assert report["training"]["last"]["kind"] == "step", "of the rows of step 4, that of the step"
    assert report["training"]["best_validation"]["nll_nats"] == 1.0
    assert report["training"]["curves"]["Loss (nats per token)"] == {
        "training": [(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)],
        "validation": [(2.0, 1.5), (4.0, 1.0)],
    }


def test_where_bleu_decides_the_best_validation_is_the_one_with_the_best_bleu(root: location.Location) -> None:
    run_folders.complete(root.path)
    settings = yaml.safe_load((root.path / "config.yaml").read_text())
    watching = {"validation": {"bleu_lines": 8}, "early_stop": {"metric": "bleu"}}
    settings["training"] |= watching
    settings["corpus"]["split"] = {"valid": 0.5}
    (root.path / "config.yaml").write_text(yaml.safe_dump(settings))
    written = root.path / "metrics" / "e1-00000004.jsonl"
    written.write_text(written.read_text().replace('"bleu": 9.0', '"bleu": 9.5', 1))
    assert content.build(root)["training"]["best_validation"]["step"] == 2, "of steps 2 and 4, whose loss is lower"


def test_each_translation_has_its_source_its_reference_and_its_own_map(root: location.Location) -> None:
    run_folders.complete(root.path)
    first, second = content.build(root)["samples"]["translations"]
    assert first == {
        "source": "a cat", "hypothesis": "un chat", "reference": "un chat", "score_nats": -0.5, "attention": None
    }  # fmt: skip
    assert (second["reference"], second["attention"]["weights"]) == ("non", [[0.75, 0.25], [0.0, 1.0]])


def test_held_out_lines_of_the_validation_split_are_found_too(root: location.Location) -> None:
    run_folders.complete(root.path)
    for side in ("source", "target"):
        (root.path / "outputs" / f"test.{side}.txt").rename(root.path / "outputs" / f"valid.{side}.txt")
    first = content.build(root)["samples"]["translations"][0]
    assert (first["source"], first["reference"]) == ("a cat", "un chat")


def test_samples_of_a_line_are_together_in_order_of_steps(root: location.Location) -> None:
    run_folders.complete(root.path)
    outputs = [{"step": 2, "output": "un"}, {"step": 4, "output": "un chat"}]
    expected = [{"source": "a cat", "reference": "un chat", "outputs": outputs}]
    assert content.build(root)["samples"]["training"] == expected


def test_of_the_radii_of_a_layer_the_largest_counts(root: location.Location) -> None:
    run_folders.complete(root.path)
    gradients = content.build(root)["gradients"]
    assert gradients["spectral_radii"] == {"encoder": [(2.0, 0.9), (4.0, 0.9)]}
    assert gradients["layer_norms"]["decoder"] == [(1.0, 0.4), (2.0, 0.4), (4.0, 0.4)]
    assert gradients["norms_by_lag"][1] == {"step": 4, "norms": [1.0, 0.5, None]}


def test_a_second_start_is_told_by_the_step_from_which_it_wrote(root: location.Location) -> None:
    run_folders.complete(root.path)
    row = {"kind": "step", "step": 3, "loss_nats": 0.5}
    (root.path / "metrics" / "e2-00000003.jsonl").write_text(json.dumps(row) + "\n")
    training = content.build(root)["training"]
    assert training["restarts"] == [3]
    assert training["curves"]["Loss (nats per token)"]["training"] == [(1.0, 4.0), (2.0, 2.0), (3.0, 0.5)]


def test_chosen_settings_are_those_that_are_not_at_their_default(root: location.Location) -> None:
    run_folders.begin(root.path)
    report = content.build(root)
    chosen = report["chosen"]
    assert chosen["model.hidden_size"] == 16
    assert chosen["training.batch_lines"] == 4
    assert "training.learning_rate" not in chosen
    assert chosen.items() <= content.flat(report["settings"]).items()
