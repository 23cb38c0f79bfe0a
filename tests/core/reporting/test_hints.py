"""Hints: for each rule a hand-made run that triggers it, and one that does not."""

import copy
import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import yaml

from core.data.dataset import statistics
from core.reporting import content, hints
from core.storage import location
from tests.core.reporting import run_folders

Row = dict[str, Any]


def losses(training: Sequence[float], validation: Sequence[float]) -> list[Row]:
    """Returns a run log: losses in nats at steps 10, 20 and so on, validations evenly spaced."""
    steps = [
        {"kind": "step", "step": 10 * number, "loss_nats": loss, "perplexity": math.exp(loss), "num_skipped": 0,
         "tokens_per_s": 1.0}
        for number, loss in enumerate(training, start=1)
    ]  # fmt: skip
    every = 10 * len(training) // max(1, len(validation))
    validations = [
        {"kind": "validation", "step": every * number, "nll_nats": nll, "perplexity": math.exp(nll)}
        for number, nll in enumerate(validation, start=1)
    ]
    return sorted([*steps, *validations], key=lambda row: int(row["step"]))


GOOD = losses([3.0, 2.5, 2.2, 2.1, 2.05, 2.02, 2.01, 2.0, 2.0, 2.0] * 1, [2.6, 2.35, 2.31, 2.30, 2.29])


class Run:
    """A hand-made run of a translation model; `rules` reads it."""

    def __init__(self, folder: pathlib.Path) -> None:
        run_folders.complete(folder)
        self.folder = folder
        self.change("config.yaml", corpus={"split": {"valid": 0.1, "test": 0.1}})
        self.log(GOOD)
        index = copy.deepcopy(run_folders.INDEX)
        index["splits"]["valid"] = index["splits"]["test"]
        self.write("dataset/index.json", {**index, "drops": {}})
        self.stage("score", {"perplexity": 1.5, "tokens": 200, "unk": 0})
        faults = {**run_folders.FAULTS, "words": 100, "reference_words": 100}
        self.stage("evaluate", {**run_folders.EVALUATED, "lines": 400, "faults": faults})

    def write(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        written = self.folder / "metrics" / "e1-00000004.jsonl"
        written.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def change(self, name: str, **sections: Mapping[str, Any]) -> None:
        """Changes settings section by section."""
        settings = yaml.safe_load((self.folder / name).read_text())
        for section, values in sections.items():
            settings[section] = {**settings.get(section, {}), **values}
        (self.folder / name).write_text(yaml.safe_dump(settings))

    def settings(self, **sections: Mapping[str, Any]) -> None:
        self.change("config.yaml", **sections)

    def index(self, **values: Any) -> None:
        index = json.loads((self.folder / "dataset" / "index.json").read_text())
        self.write("dataset/index.json", {**index, **values})

    def stage(self, name: str, report: Mapping[str, Any]) -> None:
        run = json.loads((self.folder / "run.json").read_text())
        run["stages"][name] = {"outcome": "done", "elapsed_s": 1.0, "report": report}
        self.write("run.json", run)

    def words(self, **columns: Mapping[str, Any]) -> None:
        """Writes word statistics: occurrences by rank and lines by length, by column."""
        summaries = {
            name: {
                "lines": 100, "tokens": 1000, "unknown": 0, "head_shares": [], "coverage": [],
                "lengths": [[1, 100]],
                "orders": [{"order": 1, "counted": 1000, "distinct": 100, "zipf_exponent": None, "top": [],
                            "ranks": [[1, 50], [100, 9]]}],
                **values,
            }
            for name, values in columns.items()
        }  # fmt: skip
        data = json.dumps(statistics.document(summaries, 1)).encode()
        (self.folder / "dataset" / "statistics-1.json").write_bytes(data)
        record = {"name": "statistics-1.json", "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        self.index(statistics=record)

    def translate(self, *triples: tuple[str, str, str]) -> None:
        """Writes source, translation and reference of held-out lines."""
        sources, translations, references = zip(*triples, strict=True)
        for side, lines in (("source", sources), ("target", references)):
            (self.folder / "outputs" / f"test.{side}.txt").write_text("".join(f"{line}\n" for line in lines))
        rows = [{"line": n, "text": text, "num_tokens": len(text.split()) + 1} for n, text in enumerate(translations)]
        (self.folder / "outputs" / "translations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def report(self, overlap: Mapping[str, Any] | None = None) -> content.Report:
        return content.build(location.Location.parse(str(self.folder)), overlap)

    def rules(self, overlap: Mapping[str, Any] | None = None) -> list[str]:
        return [hint["rule"] for hint in self.report(overlap)["hints"]]

    def text(self) -> str:
        """Returns the text of the only hint."""
        (hint,) = self.report()["hints"]
        return str(hint["text"])


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path)


def test_a_run_without_faults_has_no_hint(run: Run) -> None:
    run.words(source={}, target={})
    assert run.report({"split": "test", "lines": 100, "in_training": 0, "is_all": True})["hints"] == []


def test_a_rising_validation_and_a_falling_training_loss_are_over_fitting(run: Run) -> None:
    run.log(losses([3.0, 2.5, 2.2, 2.0, 1.8, 1.6, 1.4, 1.3, 1.2, 1.1], [2.6, 2.3, 2.35, 2.45, 2.6]))
    hint = run.text()
    assert hint.startswith(
        "Over-fitting: the validation perplexity was lowest, 9.974, at step 40, and rose to 13.46 while the training "
        "loss fell; raise model.embedding_dropout and model.output_dropout, lower training.epochs or model.hidden_size"
    )
    run.settings(model={"num_layers": 2})
    assert "raise model.dropout, model.embedding_dropout and model.output_dropout, lower" in run.text()


def test_a_validation_that_rises_with_the_training_loss_is_not_over_fitting(run: Run) -> None:
    run.log(losses([3.0, 2.5, 2.2, 2.2, 2.3, 2.35, 2.4, 2.4, 2.4, 2.4], [2.6, 2.3, 2.35, 2.45, 2.6]))
    assert "over_fitting" not in run.rules()


def test_a_series_whose_validation_error_rises_is_over_fitted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "name: a\nroot: r\ncorpus: {kind: series, train: {csv: [a]}, inputs: [x], targets: [x],"
        " split: {valid: 0.1, test: 0.2}}\nmodel: {kind: autoregressive}\ntraining: {batch_lines: 4}\n"
    )
    for valid, rules in (([4.0, 2.0, 1.5, 1.7, 2.0], ["over_fitting"]), ([4.0, 2.0, 1.5, 1.52, 1.51], [])):
        fitted = {"train_mse": [4.0, 2.0, 1.4, 1.3, 1.2], "valid_mse": valid}
        stages = {"train": {"outcome": "done", "elapsed_s": 1.0, "report": fitted}}
        (tmp_path / "run.json").write_text(json.dumps({"stages": stages}))
        report = content.build(location.Location.parse(str(tmp_path)))
        assert [hint["rule"] for hint in report["hints"]] == rules


@pytest.mark.parametrize(
    ("schedule", "validation", "expected"),
    [
        ("constant", [3.0, 2.7, 2.5, 2.4, 2.3], True),  # exp(0.1) is more than 5 % in the last fifth
        ("constant", [3.0, 2.5, 2.4, 2.33, 2.3], False),  # 3 % in the last fifth
        ("cosine", [3.0, 2.5, 2.38, 2.33, 2.3], True),  # in the second half, which begins at 2.5: 22 %
        ("cosine", [3.0, 2.35, 2.33, 2.31, 2.3], False),  # 5 %
    ],
)
def test_a_validation_that_still_falls_asks_for_more_epochs(
    run: Run, schedule: str, validation: list[float], expected: bool
) -> None:
    run.settings(training={"schedule": schedule})
    run.log(losses([3.0, 2.8, 2.6, 2.5, 2.4, 2.35, 2.3, 2.25, 2.2, 2.15], validation))
    assert ("under_training" in run.rules()) == expected
    if expected:
        assert run.text().endswith("raise training.epochs.")


def test_a_solved_task_asks_for_no_more_epochs(run: Run) -> None:
    run.log(losses([1.0, 0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.1, 0.1, 0.1], [0.9, 0.5, 0.3, 0.2, 0.1]))
    assert run.rules() == []


@pytest.mark.parametrize(("skipped", "expected"), [(3, True), (0, False)])
def test_skipped_steps_ask_for_a_lower_learning_rate(run: Run, skipped: int, expected: bool) -> None:
    rows = copy.deepcopy(GOOD)
    for row in rows:
        if row["kind"] == "step":
            row["num_skipped"] = skipped
    run.log(rows)
    assert ("learning_rate" in run.rules()) == expected
    if expected:
        assert run.text() == (
            "Gradients were not finite: 3 of 100 steps were skipped; lower training.learning_rate (0.001), or raise "
            "training.schedule.warmup_steps."
        )


def test_a_training_loss_that_rises_asks_for_a_lower_learning_rate(run: Run) -> None:
    run.log(losses([3.0, 2.5, 2.0, 1.8, 1.9, 2.2, 2.4, 2.5, 2.5, 2.5], [2.6, 2.3]))
    assert run.text().startswith(
        "The training loss rose from 1.8 at step 40 to 2.5 at the end; lower training.learning"
    )
    run.settings(training={"scheduled_sampling": {}})
    assert run.rules() == [], "its inputs become harder"


@pytest.mark.parametrize(("last", "expected"), [(2.0, True), (1.8, False)])
def test_losses_that_stand_still_ask_for_another_schedule(run: Run, last: float, expected: bool) -> None:
    training = [3.0, 2.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, last, last]
    run.log(losses(training, [2.31, 2.3, 2.3, 2.3, 2.3]))
    assert ("standstill" in run.rules()) == expected
    if expected:
        assert "training.schedule: plateau" in run.text()


def test_rare_vocabulary_entries_ask_for_a_smaller_vocabulary(run: Run) -> None:
    few = {"order": 1, "counted": 900, "distinct": 100, "zipf_exponent": None, "top": [], "ranks": [[1, 50], [30, 5],
           [40, 4], [100, 1]]}  # fmt: skip
    run.words(source={}, target={"orders": [few]})
    # Between ranks 30 and 40, where the count falls below 5: at their geometric mean, 34.6.
    assert run.text() == (
        "target: about 65 % of the 100 vocabulary entries occur fewer than 5 times in training, too few to learn them; "
        "lower tokenizer.max_size or raise tokenizer.min_freq."
    )
    run.settings(tokenizer={"shared": True})
    assert run.rules() == [], "the other side has all entries often enough"


@pytest.mark.parametrize(("num_unk", "expected"), [(4, True), (3, False)])
def test_unknown_words_ask_for_subwords(run: Run, num_unk: int, expected: bool) -> None:
    run.stage("score", {"perplexity": 1.5, "tokens": 200, "unk": num_unk})
    assert ("unknown_words" in run.rules()) == expected
    if expected:
        assert "2.0 % of the held-out tokens are unknown; use subwords (tokenizer.kind: bpe" in run.text()


def test_unknown_words_that_the_text_itself_has_are_no_fault(run: Run) -> None:
    run.words(source={}, target={"unknown": 20})  # of 1,000 tokens, with a vocabulary of all words
    run.stage("score", {"perplexity": 1.5, "tokens": 200, "unk": 4})
    assert run.rules() == []


@pytest.mark.parametrize(
    ("drops", "setting", "rules"),
    [
        ({"too_long": 3, "empty": 1}, "corpus.filters.max_length", ["dropped_lines"]),
        ({"encoding": 3}, "corpus.on_bad_line", ["dropped_lines"]),
        ({"too_long": 2}, "", []),  # of 105: less than 2 %
        ({"duplicate": 50, "limit": 50}, "", []),  # as asked for
    ],
)
def test_many_dropped_lines_are_named_with_their_filter(
    run: Run, drops: dict[str, int], setting: str, rules: list[str]
) -> None:
    run.index(drops=drops)
    assert run.rules() == rules
    if rules:
        assert setting in run.text()


def test_lines_that_were_cut_are_counted_by_their_missing_end(run: Run) -> None:
    run.settings(corpus={"filters": {"max_length": 20, "too_long": "cut"}})
    # A whole line has at most 19 tokens and <eos>.
    run.words(source={"lengths": [[5, 70], [19, 30]]}, target={"lengths": [[5, 98], [20, 2]]})
    assert run.report()["hints"][0]["rule"] == "cut_lines"
    assert hints.count_cut(run.report()) == 2
    run.words(source={"lengths": [[5, 70], [19, 30]]}, target={"lengths": [[19, 99], [20, 1]]})
    assert run.rules() == [], "less than 2 % of 100 lines"


def test_copied_empty_and_cut_translations_are_counted(run: Run) -> None:
    good = [("a cat", "un chat", "un chat")] * 90
    copied = [("a cat", "a cat", "un chat")] * 3
    run.translate(*good, *copied, *[("Bob", "Bob", "Bob")] * 7)
    assert run.rules() == ["copied_translations"], "a name that the reference repeats, too, is no copy"
    assert run.text().startswith("3 of 100 translations repeat their source although the reference does not")
    run.translate(*good, *[("a cat", "", "un chat")] * 3)
    assert run.rules() == ["empty_translations"]
    run.translate(*good, *[("a cat", "un " * 99, "un chat")] * 3)  # and <eos>
    assert run.rules() == ["cut_translations"]
    run.translate(*good, ("a cat", "a cat", "un chat"), ("a cat", "", "un chat"))
    assert run.rules() == [], "one or two are chance"


@pytest.mark.parametrize(
    ("words", "rules"),
    [(89, ["short_translations"]), (90, []), (115, []), (116, ["long_translations"])],
)
def test_the_length_of_translations_is_compared_with_the_references(run: Run, words: int, rules: list[str]) -> None:
    faults = {**run_folders.FAULTS, "words": words, "reference_words": 100}
    run.stage("evaluate", {**run_folders.EVALUATED, "lines": 400, "faults": faults})
    assert run.rules() == rules
    if rules:
        direction = "raise" if words < 100 else "lower"
        assert f"{direction} decoding.length_penalty (1)" in run.text()


@pytest.mark.parametrize(("in_training", "rules"), [(4, ["overlap"]), (3, [])])
def test_held_out_lines_that_were_trained_on_are_named(run: Run, in_training: int, rules: list[str]) -> None:
    overlap = {"split": "test", "lines": 400, "in_training": in_training, "is_all": True}
    assert run.rules(overlap) == rules


def test_few_held_out_lines_make_bleu_uncertain(run: Run) -> None:
    faults = {**run_folders.FAULTS, "words": 100, "reference_words": 100}
    for lines, rules in ((99, ["few_lines"]), (100, [])):
        run.stage("evaluate", {**run_folders.EVALUATED, "lines": lines, "faults": faults})
        assert run.rules() == rules


def test_without_a_test_split_the_figures_flatter(run: Run) -> None:
    splits = copy.deepcopy(run_folders.INDEX["splits"])
    run.index(splits={"train": splits["train"], "valid": splits["test"]})
    assert run.text().startswith("There is no test split: the figures are of the validation split")
    run.index(splits={"train": splits["train"]})
    assert run.text().startswith("Nothing is held out")


def test_forecasts_that_are_no_better_than_naive_ones_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "name: a\nroot: r\ncorpus: {kind: series, train: {csv: [a]}, inputs: [x], targets: [x],"
        " split: {valid: 0.1, test: 0.2}}\nmodel: {kind: autoregressive, lags: 4}\ntraining: {batch_lines: 4}\n"
    )
    for seasonal, split, rules in ((1.0, "test", ["naive_forecasts"]), (1.2, "test", []), (1.0, "train", [])):
        row = {"target": "x", "horizon": 1, "count": 9, "rmse": 1.0, "persistence_rmse": 3.0, "seasonal_rmse": seasonal}
        forecasts = {"headline": {"split": split, "errors": [row]}, "errors_by_split": {}}
        stages = {"forecast": {"outcome": "done", "elapsed_s": 1.0, "report": forecasts}}
        (tmp_path / "run.json").write_text(json.dumps({"stages": stages}))
        report = content.build(location.Location.parse(str(tmp_path)))
        assert [hint["rule"] for hint in report["hints"]] == rules


@pytest.mark.parametrize(
    ("period", "remedy"), [(7, "raise model.lags (4) to a season, 7,"), (3, "raise model.lags (4), or model.hidden")]
)
def test_lags_of_a_season_are_not_asked_for_where_they_are_set(
    tmp_path: pathlib.Path, period: int, remedy: str
) -> None:
    (tmp_path / "config.yaml").write_text(
        "name: a\nroot: r\ncorpus: {kind: series, train: {csv: [a]}, inputs: [x], targets: [x],"
        " split: {valid: 0.1, test: 0.2}}\nmodel: {kind: autoregressive, lags: 4}\ntraining: {batch_lines: 4}\n"
    )
    row = {"target": "x", "horizon": 1, "count": 9, "rmse": 1.0, "persistence_rmse": 1.0, "period": period}
    forecasts = {"headline": {"split": "test", "errors": [row]}, "errors_by_split": {}}
    stages = {"forecast": {"outcome": "done", "elapsed_s": 1.0, "report": forecasts}}
    (tmp_path / "run.json").write_text(json.dumps({"stages": stages}))
    (hint,) = content.build(location.Location.parse(str(tmp_path)))["hints"]
    assert remedy in hint["text"]


def test_settings_of_several_corpora_are_named_as_theirs(run: Run) -> None:
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    corpus = settings.pop("corpus")
    for name in ("a", "b"):
        settings.setdefault("corpora", {})[name] = {**copy.deepcopy(corpus), "train": {"tsv": [f"{name}.tsv"]}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(settings))
    run.index(drops={"too_long": 50})
    assert "longer than corpora.NAME.filters.max_length" in run.text()
