"""The pipeline: its files and reports, and that finished stages are skipped."""

import json
import pathlib
import shutil
from typing import Any

import pytest

from core import errors
from core.storage import location, run_lock
from jobs import held_out, pipeline, prepare, run_state, train
from tests import reporters
from tests.jobs import conftest
from workers.cluster import session as sessions


def run_pipeline(text: str, folder: pathlib.Path, *overrides: str) -> dict[str, Any]:
    config = conftest.configured(text, folder, *overrides)
    with sessions.Session(config.cluster) as session:
        return pipeline.run(config, session, reporters.SilentReporter())


def contents(root: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    """Returns modification time and content of every file but `run.json` and locks."""
    files = [path for path in root.rglob("*") if path.is_file() and "_lock" not in path.parts]
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
        if path.name != "run.json"
    }


@pytest.mark.parametrize(("text", "name"), [(conftest.TRANSLATION, "translation"), (conftest.LANGUAGE, "language")])
def test_running_a_finished_pipeline_again_changes_no_file_and_says_what_was_reached(
    text: str, name: str, runs: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(runs / name)
    stages = json.loads((runs / name / "run.json").read_text())["stages"]
    capsys.readouterr()
    report = run_pipeline(text, runs)
    assert contents(runs / name) == before
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("hint: ")]
    reached, page, use = said[-3:]
    assert reached.startswith(f"tiny-{name}: {'BLEU' if name == 'translation' else 'perplexity per token'} ")
    assert reached.endswith(" (test lines)")
    assert page == f"page: {runs}/{name}/report.html"
    verb = "translate" if name == "translation" else "score"
    assert use == f"{verb} a file: python -m jobs {verb} --run {runs}/{name} --input FILE --output FILE.jsonl"
    assert json.loads((runs / name / "run.json").read_text())["stages"] == stages
    assert "report" not in report["stages"]
    done = [stage["already_done"] for stage in report["stages"].values() if "already_done" in stage]
    assert done == [True] * (4 if name == "translation" else 3)


@pytest.mark.parametrize("name", ["translation", "language"])
def test_no_file_of_a_run_is_readable_by_other_users(runs: pathlib.Path, name: str) -> None:
    modes = {str(path.relative_to(runs)): path.stat().st_mode for path in (runs / name).rglob("*")}
    assert len(modes) > 20
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o007} == {}


def test_run_json_has_the_report_of_each_stage(runs: pathlib.Path) -> None:
    stages = json.loads((runs / "translation" / "run.json").read_text())["stages"]
    assert set(stages) == {"prepare", "train", "translate", "score", "evaluate"}
    assert {name: entry["report"]["verb"] for name, entry in stages.items()} == {name: name for name in stages}


def test_train_of_a_moved_finished_run_reports_its_new_location(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(runs / "language", root)
    config = conftest.configured(conftest.LANGUAGE, runs, f"root={root}")
    with sessions.Session(config.cluster) as session:
        report = train.run(config, session, reporters.SilentReporter())
    assert report["already_done"]
    assert report["root"] == str(root)
    assert pathlib.Path(report["checkpoint"]).parent == root / "checkpoints"
    assert pathlib.Path(report["checkpoint"]).is_dir()


@pytest.mark.parametrize(("text", "name"), [(conftest.TRANSLATION, "translation"), (conftest.LANGUAGE, "language")])
def test_outputs_of_a_moved_run_are_not_made_again(
    text: str, name: str, runs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "moved"
    shutil.copytree(runs / name, root)
    before = contents(root / "outputs")
    run_pipeline(text, runs, f"root={root}")
    assert contents(root / "outputs") == before


def test_every_held_out_pair_is_translated_and_scored(runs: pathlib.Path) -> None:
    outputs = runs / "translation" / "outputs"
    index = json.loads((runs / "translation" / "dataset" / "index.json").read_text())
    expected = sum(shard["rows"] for shard in index["splits"]["test"])
    assert expected > 5
    for name in ("test.source.txt", "test.target.txt", "translations.jsonl", "scores.jsonl"):
        assert len((outputs / name).read_text().splitlines()) == expected, name


def test_held_out_lines_are_pairs_of_the_corpus(runs: pathlib.Path) -> None:
    pairs = set((runs / "pairs.tsv").read_text().splitlines())
    outputs = runs / "translation" / "outputs"
    sources = (outputs / "test.source.txt").read_text().splitlines()
    targets = (outputs / "test.target.txt").read_text().splitlines()
    assert {f"{source}\t{target}" for source, target in zip(sources, targets, strict=True)} <= pairs
    # A text corpus holds out its last lines, in order.
    english = (runs / "english.txt").read_text().splitlines()
    assert (runs / "language" / "outputs" / "test.text.txt").read_text().splitlines() == english[-20:]


def test_a_split_with_a_source_of_its_own_keeps_lines_that_filters_dropped(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    (tmp_path / "test.tsv").write_bytes("a b c d e f g h i j k l m\tb\nshort\tc\n\xe9\td\n".encode("latin-1"))
    config = conftest.configured(
        conftest.TRANSLATION, tmp_path, f"corpus.test={{tsv: [{tmp_path}/test.tsv]}}", "corpus.split.test=0",
        "corpus.filters.max_length=12",
    )  # fmt: skip
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
    texts = held_out.write(config)
    assert texts is not None
    assert (texts.split, texts.num_lines) == ("test", 2)
    assert texts.files["source"].read_bytes() == b"a b c d e f g h i j k l m\nshort\n"
    assert texts.files["target"].read_bytes() == b"b\nc\n"


def test_a_deleted_corpus_is_reported_before_training(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    config = conftest.configured(conftest.TRANSLATION, tmp_path, "sharding.statistics=false")
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
    (tmp_path / "pairs.tsv").unlink()
    with pytest.raises(errors.DataError, match="matches no file"):
        run_pipeline(conftest.TRANSLATION, tmp_path, "sharding.statistics=false")
    assert not (tmp_path / "translation" / "checkpoints").exists()


def test_a_corpus_without_its_held_out_lines_is_refused(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    config = conftest.configured(conftest.TRANSLATION, tmp_path, "sharding.statistics=false")
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
    pairs = (tmp_path / "pairs.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "pairs.tsv").write_text("".join(pairs[:10]))
    with pytest.raises(errors.DataError, match=r"train: is shorter than when it was prepared: line \d+ is missing"):
        held_out.write(config)


def test_longer_training_replaces_outputs_of_the_older_checkpoint(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    run_pipeline(conftest.TRANSLATION, tmp_path, "sharding.statistics=false")
    first = json.loads((tmp_path / "translation" / "outputs" / "scores.jsonl").read_text().splitlines()[0])
    report = run_pipeline(conftest.TRANSLATION, tmp_path, "training.epochs=2", "sharding.statistics=false")
    second = json.loads((tmp_path / "translation" / "outputs" / "scores.jsonl").read_text().splitlines()[0])
    assert second["nll_nats"] < first["nll_nats"]
    assert report["stages"]["train"]["epochs_done"] == 2
    run = json.loads((tmp_path / "translation" / "run.json").read_text())
    assert [(change["name"], change["old"], change["new"]) for change in run["changes"]] == [("training.epochs", 1, 2)]
    assert run["exit_code"] == 0


def test_scoring_averages_the_configured_number_of_checkpoints(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "averaged"
    shutil.copytree(runs / "translation", root)
    single = run_pipeline(conftest.TRANSLATION, runs, f"root={root}")
    averaging = ["decoding.average_checkpoints=2", f"root={root}"]
    averaged = run_pipeline(conftest.TRANSLATION, runs, "scoring.average_checkpoints=2", *averaging)
    stages = averaged["stages"]
    assert stages["score"]["members"] == stages["translate"]["members"]
    assert len(stages["score"]["members"][0]["checkpoints"]) == 2
    assert stages["score"]["perplexity"] != single["stages"]["score"]["perplexity"]
    assert "warnings" not in averaged

    # Scores of the best checkpoint beside translations of the averaged ones: a warning says so.
    mixed = run_pipeline(conftest.TRANSLATION, runs, *averaging)
    assert "set both to the same number" in mixed["warnings"][0]
    assert mixed["stages"]["translate"] == {**stages["translate"], "already_done": True}
    assert mixed["stages"]["score"]["perplexity"] == single["stages"]["score"]["perplexity"]
    assert "members" not in mixed["stages"]["score"]


def test_a_corpus_without_held_out_lines_is_only_trained_on_and_reported(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    report = run_pipeline(
        conftest.LANGUAGE, tmp_path, "corpus.split.valid=0", "corpus.split.test=0", "sharding.statistics=false"
    )
    assert report["held_out"] is None
    assert sorted(report["stages"]) == ["prepare", "report", "train"]


def test_a_second_driver_is_refused_and_changes_nothing(runs: pathlib.Path) -> None:
    root = location.Location.parse(str(runs / "language"))
    before = run_state.read(root)
    with run_lock.RunLock(root, "train"), pytest.raises(errors.LockedError, match="train on host"):
        run_pipeline(conftest.LANGUAGE, runs)
    assert run_state.read(root) == before


def test_run_json_has_the_exit_code_of_a_failed_pipeline(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DataError):
        run_pipeline(conftest.LANGUAGE, tmp_path)
    assert run_state.read(location.Location.parse(str(tmp_path / "language")))["exit_code"] == 3


def test_a_root_keeps_the_prompts_of_the_release_that_began_it(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "language"
    shutil.copytree(runs / "language", root)
    shutil.copy(runs / "english.txt", tmp_path)
    state = json.loads((root / "run.json").read_text())
    samples = state["stages"]["generate"]["report"]["samples"]
    samples[0]["prefix"] = "Our baker"
    state["stages"]["generate"]["made_with"] = "of other weights"
    del state["sha256"]  # as that release wrote it
    (root / "run.json").write_text(json.dumps(state))
    again = run_pipeline(conftest.LANGUAGE, tmp_path)["stages"]["generate"]
    assert [sample["prefix"] for sample in again["samples"]] == [sample["prefix"] for sample in samples]
    assert (again["method"], again["top_k"]) == ("greedy", None)


def test_other_evaluation_settings_evaluate_again_and_translate_nothing(
    runs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "translation"
    shutil.copytree(runs / "translation", root)
    shutil.copy(runs / "pairs.tsv", tmp_path)
    before = contents(root / "outputs")
    stages = run_pipeline(conftest.TRANSLATION, tmp_path, "evaluation.tokenize=char")["stages"]
    assert contents(root / "outputs") == before
    assert "tok:char" in stages["evaluate"]["signatures"]["bleu"]
    assert run_pipeline(conftest.TRANSLATION, tmp_path)["stages"]["evaluate"]["tokenize"] == "13a"


def test_the_tokenizer_of_bleu_cannot_change_where_checkpoints_are_compared_by_it(tmp_path: pathlib.Path) -> None:
    early = ("training.validation.bleu_lines=4", "training.early_stop.metric=bleu")
    first = conftest.configured(conftest.TRANSLATION, tmp_path, *early)
    assert run_state.check_settings(first) == []
    other = conftest.configured(conftest.TRANSLATION, tmp_path, *early, "evaluation.tokenize=char")
    with pytest.raises(errors.LockedError, match=r"evaluation\.tokenize: this root was started with \"13a\""):
        run_state.check_settings(other)
    free = conftest.configured(conftest.TRANSLATION, tmp_path, early[0], "evaluation.tokenize=char")
    assert "evaluation.tokenize" in [change.name for change in run_state.check_settings(free)]
