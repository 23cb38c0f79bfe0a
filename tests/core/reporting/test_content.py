"""The report of a run as a JSON document."""

import json
import pathlib

import pytest
import yaml

from core import errors
from core.evaluation import expected_quality
from core.reporting import content, held_out_lines
from core.storage import location
from tests.core.reporting import run_folders


@pytest.fixture
def root(tmp_path: pathlib.Path) -> location.Location:
    return location.Location.parse(str(tmp_path))


def test_a_run_that_has_only_started_has_a_report(root: location.Location) -> None:
    run_folders.begin(root.path)
    report = content.build(root)
    parts = ("data", "words", "training", "gradients", "quality", "measured")
    assert [report[name] for name in parts] == [None] * len(parts)
    nothing: dict[str, object] = {"translations": [], "scored": {}, "forecast": None, "generated": [], "training": []}
    assert report["samples"] == nothing
    assert (report["headline"], report["hints"], report["held_out"]) == (None, [], None)


def test_a_folder_without_a_run_is_an_error(root: location.Location) -> None:
    with pytest.raises(errors.UsageError, match=r"holds no run .*name the root of a run"):
        content.build(root)


def test_a_damaged_file_of_the_run_is_named(root: location.Location) -> None:
    run_folders.begin(root.path)
    (root.path / "run.json").write_text("{")
    with pytest.raises(errors.IntegrityError, match=r"run\.json"):
        content.build(root)


def test_shards_are_summed_and_the_best_validation_is_found(root: location.Location) -> None:
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


def test_with_early_stopping_by_bleu_the_best_validation_has_the_highest_bleu(root: location.Location) -> None:
    run_folders.complete(root.path)
    settings = yaml.safe_load((root.path / "config.yaml").read_text())
    watching = {"validation": {"bleu_lines": 8}, "early_stop": {"metric": "bleu"}}
    settings["training"] |= watching
    settings["corpus"]["split"] = {"valid": 0.5}
    (root.path / "config.yaml").write_text(yaml.safe_dump(settings))
    written = root.path / "metrics" / "e1-00000004.jsonl"
    written.write_text(written.read_text().replace('"bleu": 9.0', '"bleu": 9.5', 1))
    assert content.build(root)["training"]["best_validation"]["step"] == 2, "of steps 2 and 4, whose loss is lower"


def test_translations_have_their_source_reference_and_attention_map(root: location.Location) -> None:
    run_folders.complete(root.path)
    first, second = content.build(root)["samples"]["translations"]
    assert first == {
        "line": 0, "is_drawn": True, "extreme": None, "chrf": None, "source": "a cat", "hypothesis": "un chat",
        "reference": "un chat", "cleaned_reference": None, "score_nats": -0.5, "attention": None,
    }  # fmt: skip
    assert (second["reference"], second["attention"]["weights"]) == ("non", [[0.75, 0.25], [0.0, 1.0]])


def test_held_out_lines_of_the_validation_split_are_found(root: location.Location) -> None:
    run_folders.complete(root.path)
    for side in ("source", "target"):
        (root.path / "outputs" / f"test.{side}.txt").rename(root.path / "outputs" / f"valid.{side}.txt")
    first = content.build(root)["samples"]["translations"][0]
    assert (first["source"], first["reference"]) == ("a cat", "un chat")


def test_samples_are_grouped_by_line_in_order_of_steps(root: location.Location) -> None:
    run_folders.complete(root.path)
    outputs = [{"step": 2, "output": "un"}, {"step": 4, "output": "un chat"}]
    expected = [{"source": "a cat", "reference": "un chat", "outputs": outputs}]
    assert content.build(root)["samples"]["training"] == expected


def test_the_spectral_radius_of_a_layer_is_the_largest_of_its_gates(root: location.Location) -> None:
    run_folders.complete(root.path)
    gradients = content.build(root)["gradients"]
    assert gradients["spectral_radii"] == {"encoder": [(2.0, 0.9), (4.0, 0.9)]}
    assert gradients["layer_norms"]["decoder"] == [(1.0, 0.4), (2.0, 0.4), (4.0, 0.4)]
    assert gradients["norms_by_lag"][1] == {"step": 4, "norms": [1.0, 0.5, None]}


def test_quality_stored_by_release_0_1_gets_the_new_names(root: location.Location) -> None:
    run_folders.complete(root.path)
    run = json.loads((root.path / "run.json").read_text())
    run["stages"]["evaluate"]["report"] |= {"documents_bleu": [0.5], "documents_bleu_k": 2}
    (root.path / "run.json").write_text(json.dumps(run))
    quality = content.build(root)["quality"]
    assert quality["d2l_bleu"] == quality["documents_bleu"] == [0.5]
    assert quality["d2l_bleu_k"] == quality["documents_bleu_k"] == 2


def test_a_restart_is_marked_at_its_first_logged_step(root: location.Location) -> None:
    run_folders.complete(root.path)
    row = {"kind": "step", "step": 3, "loss_nats": 0.5}
    (root.path / "metrics" / "e2-00000003.jsonl").write_text(json.dumps(row) + "\n")
    training = content.build(root)["training"]
    assert training["restarts"] == [3]
    assert training["curves"]["Loss (nats per token)"]["training"] == [(1.0, 4.0), (2.0, 2.0), (3.0, 0.5)]


def test_chosen_settings_name_the_kind_of_each_group_that_differs(root: location.Location) -> None:
    text = """\
name: a
root: r
corpus: {kind: text, train: {text: [a]}, split: {valid: 0.1}}
model: {kind: language_model}
training:
  optimizer: sgd
  schedule: {kind: plateau, patience: 2}
  truncation: random
"""
    (root.path / "config.yaml").write_text(text)
    chosen = content.build(root)["chosen"]
    assert {name: value for name, value in chosen.items() if name.startswith(("training.", "model."))} == {
        "model.kind": "language_model",
        "training.optimizer.kind": "sgd",
        "training.schedule.kind": "plateau",
        "training.schedule.patience": 2,
        "training.truncation.kind": "random",
    }


def test_chosen_settings_are_those_that_differ_from_their_default(root: location.Location) -> None:
    run_folders.begin(root.path)
    report = content.build(root)
    chosen = report["chosen"]
    assert chosen["model.hidden_size"] == 16
    assert chosen["training.batch_lines"] == 4
    assert "training.learning_rate" not in chosen
    assert chosen.items() <= content.flat(report["settings"]).items()


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def test_shown_translations_are_of_all_lengths_and_the_same_for_every_run(tmp_path: pathlib.Path) -> None:
    """The corpus is sorted by length, so that its first lines are all short."""
    sources = ["x" * (1 + number // 10) for number in range(240)]
    shown = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        run_folders.complete(folder, name)
        _write_lines(folder / "outputs" / "test.source.txt", sources)
        _write_lines(folder / "outputs" / "test.target.txt", sources)
        texts = [json.dumps({"line": number, "text": name}) for number in range(240)]
        _write_lines(folder / "outputs" / "translations.jsonl", texts)
        (folder / "outputs" / "translations.jsonl.attention.json").unlink()
        shown.append(content.build(location.Location.parse(str(folder)))["samples"]["translations"])
    assert [row["line"] for row in shown[0]] == [row["line"] for row in shown[1]]
    assert [sources[row["line"]] for row in shown[0]] == [row["source"] for row in shown[0]]
    lengths = [len(row["source"]) for row in shown[0]]
    assert len(lengths) == held_out_lines.MAX_SAMPLES
    # 240 lines, ten of each length: twelve to a quantile.
    assert all(1.2 * number < length <= 1.2 * number + 2.2 for number, length in enumerate(lengths))


def test_lines_with_an_attention_map_are_shown_besides(root: location.Location) -> None:
    run_folders.complete(root.path)
    _write_lines(root.path / "outputs" / "test.source.txt", ["a"] * 500)
    _write_lines(root.path / "outputs" / "translations.jsonl", [json.dumps({"text": "b"})] * 500)
    rows = content.build(root)["samples"]["translations"]
    assert len(rows) == held_out_lines.MAX_SAMPLES + 1
    assert [row["line"] for row in rows if row["attention"]] == [1]
    assert [row["line"] for row in rows if not row["is_drawn"]] == [1]


def test_the_reference_is_also_given_as_cleaned_for_training(root: location.Location) -> None:
    run_folders.complete(root.path)
    settings = yaml.safe_load((root.path / "config.yaml").read_text())
    settings["corpus"]["cleaning"] = ["lower", "digits"]
    (root.path / "config.yaml").write_text(yaml.safe_dump(settings))
    (root.path / "outputs" / "test.target.txt").write_text("Un Chat de 12 ans\nnon\n")
    first, second = content.build(root)["samples"]["translations"]
    assert (first["reference"], first["cleaned_reference"]) == ("Un Chat de 12 ans", "un chat de 0 ans")
    assert second["cleaned_reference"] is None


def test_the_best_and_the_worst_translations_are_shown_besides(root: location.Location) -> None:
    run_folders.complete(root.path)
    lines = [f"line {number}" for number in range(300)]
    for name in ("test.source.txt", "test.target.txt"):
        _write_lines(root.path / "outputs" / name, lines)
    _write_lines(root.path / "outputs" / "translations.jsonl", [json.dumps({"text": line}) for line in lines])
    run = json.loads((root.path / "run.json").read_text())
    chosen = {"best": [{"line": 7, "chrf": 100.0}], "worst": [{"line": 211, "chrf": 1.5}]}
    run["stages"]["evaluate"]["report"] |= chosen
    (root.path / "run.json").write_text(json.dumps(run))
    rows = content.build(root)["samples"]["translations"]
    extremes = {row["line"]: (row["extreme"], row["chrf"], row["hypothesis"]) for row in rows if row["extreme"]}
    assert extremes == {7: ("best", 100.0, "line 7"), 211: ("worst", 1.5, "line 211")}


def test_scored_lines_of_text_are_drawn_over_lengths_with_the_least_and_most_expected(root: location.Location) -> None:
    settings = "name: a\nroot: r\ncorpus: {kind: text, train: {text: [a]}, split: {valid: 0.1, test: 0.1}}\n"
    (root.path / "config.yaml").write_text(settings + "model: {kind: language_model}\n")
    (root.path / "outputs").mkdir()
    _write_lines(root.path / "outputs" / "test.text.txt", [f"{'w ' * number}" for number in range(100)])
    rows = [{"nll_nats": 0.01 * n * n, "num_tokens": n, "num_unk": 0} for n in range(100)]
    _write_lines(root.path / "outputs" / "scores.jsonl", [json.dumps(row) for row in rows])
    scored = content.build(root)["samples"]["scored"]
    assert len(scored["drawn"]) >= held_out_lines.MAX_SAMPLES - 1, "an empty line has no perplexity"
    # Perplexities are exp(n / 100), of lines of at least 5 tokens.
    assert [row["line"] for row in scored["worst"]] == [99, 98, 97, 96, 95]
    assert [row["line"] for row in scored["best"]] == [5, 6, 7, 8, 9]
    assert scored["best"][0]["perplexity"] == pytest.approx(1.0513, abs=1e-4)


def test_samples_of_many_lines_are_drawn_from_those_that_are_read(
    root: location.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out_lines, "MAX_LINES", 50)
    run_folders.complete(root.path)
    lines = ["x" * (1 + number) for number in range(300)]
    for name in ("test.source.txt", "test.target.txt"):
        _write_lines(root.path / "outputs" / name, lines)
    _write_lines(root.path / "outputs" / "translations.jsonl", [json.dumps({"text": line}) for line in lines])
    run = json.loads((root.path / "run.json").read_text())
    run["stages"]["evaluate"]["report"] |= {"worst": [{"line": 211, "chrf": 1.5}]}
    (root.path / "run.json").write_text(json.dumps(run))
    rows = content.build(root)["samples"]["translations"]
    assert sum(row["is_drawn"] for row in rows) == held_out_lines.MAX_SAMPLES
    assert all(row["line"] < 50 for row in rows if row["is_drawn"])
    assert [row["hypothesis"] for row in rows if row["extreme"]] == ["x" * 212], "of all lines"


@pytest.mark.parametrize(("split", "words"), [("test", "2 test lines"), ("valid", "which chose the checkpoint")])
def test_the_headline_says_on_which_lines_it_was_measured(root: location.Location, split: str, words: str) -> None:
    run_folders.complete(root.path)
    for side in ("source", "target"):
        (root.path / "outputs" / f"test.{side}.txt").rename(root.path / "outputs" / f"{split}.{side}.txt")
    headline = content.build(root)["headline"]
    assert (headline["label"], headline["value"]) == ("BLEU", 91.25)
    assert words in headline["measured_on"]


def test_the_headline_stands_beside_what_other_corpora_of_the_size_gave(root: location.Location) -> None:
    run_folders.complete(root.path)
    report = content.build(root)
    num_pairs = report["data"]["splits"]["train"]["lines"]
    assert expected_quality.sentence("pairs", num_pairs) in report["headline"]["meaning"]
    # Measured with 13a: BLEU by another tokenizer is not comparable.
    (root.path / "config.yaml").open("a").write("evaluation: {tokenize: intl}\n")
    assert not any("more varied text" in sentence for sentence in content.build(root)["headline"]["meaning"])


def test_no_figure_of_training_lines_is_a_headline(root: location.Location) -> None:
    settings = "name: a\nroot: r\ncorpus: {kind: series, train: {csv: [a]}, inputs: [x], targets: [x]}\n"
    settings += "model: {kind: autoregressive}\ntraining: {batch_lines: 4}\n"
    (root.path / "config.yaml").write_text(settings)
    row = {"target": "x", "horizon": 1, "count": 9, "rmse": 0.5, "persistence_rmse": 3.0}
    forecast = {"headline": {"split": "train", "errors": [row]}, "errors_by_split": {}}
    reports = {"train": {"train_mse": [1.0], "valid_mse": []}, "forecast": forecast}
    stages = {name: {"outcome": "done", "elapsed_s": 1.0, "report": report} for name, report in reports.items()}
    (root.path / "run.json").write_text(json.dumps({"stages": stages}))
    headline = content.build(root)["headline"]
    assert headline["value"] is None
    assert "say nothing of new data" in headline["meaning"][0]
