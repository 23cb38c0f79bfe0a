"""The verb init: the configuration that it writes is valid, fits the corpus and says what was seen."""

import math
import random
from pathlib import Path

import pytest

from core import errors
from core.config import autoregressive_settings, loading, model_settings, presets, schema
from core.data.builtin import sentences
from jobs import init, pipeline, prepare, run_session
from tests import reporters
from tests.jobs import datasets


@pytest.fixture(autouse=True)
def _step_of_half_a_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("core.training.step_timing.seconds_per_step", lambda *_: 0.5)
    monkeypatch.chdir(tmp_path)


def _init(*files: str, minutes: float | None = None) -> schema.RunConfig:
    init.run(files, "run.yaml", None, minutes, True, reporters.SilentReporter())
    return loading.load("run.yaml", [])


def _write_pairs(path: str, num_pairs: int) -> None:
    sentences.write_pairs(Path(path), seed=1, start=0, count=num_pairs)


def test_the_configuration_of_pairs_passes_prepare_as_it_is() -> None:
    _write_pairs("pairs.tsv", 600)
    config = _init("pairs.tsv")
    assert config.model.kind == "seq2seq"
    assert config.tokenizer.shared
    config = loading.load("run.yaml", [f"root={Path.cwd()}/root", "cluster.address=none"])
    report = prepare.run(config, datasets.Session(), reporters.SilentReporter())
    assert report["splits"]["train"]["lines"] > 400
    text = Path("run.yaml").read_text()
    assert "600 pairs." in text
    assert "models that init configured reached BLEU less than " in text, "600 pairs are fewer than were measured"
    assert "python -m jobs pipeline run.yaml" in text


def test_no_quality_is_promised_where_a_side_is_no_sentence() -> None:
    rows = [f"the {number}th day of the year {1900 + number}\t{1900 + number}-01-01" for number in range(300)]
    Path("dates.tsv").write_text("\n".join(rows) + "\n")
    report = init.run(["dates.tsv"], "run.yaml", None, None, True, reporters.SilentReporter())
    assert (report["kind"], report["expected"]) == ("pairs", None)


def test_a_text_gets_a_language_model_of_characters_or_words_by_its_size() -> None:
    words = [f"w{number}" for number in range(500)]
    generator = random.Random(1)
    for num_words, kind in ((3_000, "char"), (500_000, "word")):
        lines = (" ".join(generator.choices(words, k=20)) for _ in range(num_words // 20))
        Path("book.txt").write_text("\n".join(lines))
        assert _init("book.txt").tokenizer.kind == kind


def test_text_without_spaces_is_modelled_in_characters() -> None:
    generator = random.Random(1)
    letters = [chr(code) for code in range(0x4E00, 0x4F00)]
    Path("text.txt").write_text("\n".join("".join(generator.choices(letters, k=40)) for _ in range(2_000)))
    config = _init("text.txt")
    assert config.tokenizer.kind == "char"
    assert "Chinese without spaces" in Path("run.yaml").read_text()
    assert "reached" not in Path("run.yaml").read_text(), "no text without spaces was measured"
    rows = Path("text.txt").read_text().splitlines()
    Path("pairs.tsv").write_text("".join(f"word number {number}\t{row}\n" for number, row in enumerate(rows)))
    assert _init("pairs.tsv").evaluation.tokenize == "zh"


def test_a_budget_cuts_epochs_first_and_then_the_model() -> None:
    _write_pairs("pairs.tsv", 3_000)
    whole = _init("pairs.tsv")
    preset = presets.PAIRS[presets.for_pairs(3_000)]
    shorter, shortest = _init("pairs.tsv", minutes=12), _init("pairs.tsv", minutes=1)
    assert whole.training.epochs == preset.epochs > shorter.training.epochs > shortest.training.epochs
    assert [config.tokenizer.max_size for config in (whole, shorter, shortest)] == [
        preset.vocabulary_size,
        preset.vocabulary_size,
        presets.PAIRS[0].vocabulary_size,
    ]


def test_alphabets_that_differ_get_two_vocabularies() -> None:
    # Greek letters for Latin ones.
    _write_pairs("pairs.tsv", 300)
    rows = [line.split("\t") for line in Path("pairs.tsv").read_text().splitlines()]
    greek = str.maketrans({chr(code): chr(code + 0x350) for code in range(ord("a"), ord("z") + 1)})
    Path("pairs.tsv").write_text("".join(f"{a}\t{b.lower().translate(greek)}\n" for a, b in rows))
    config = _init("pairs.tsv")
    assert not config.tokenizer.shared
    assert isinstance(config.model, model_settings.Seq2SeqConfig)
    assert config.model.tie_embeddings == "target"


def test_a_series_has_its_season_in_the_input_and_goes_to_its_page() -> None:
    rows = (f"{row},{math.sin(2 * math.pi * row / 12) + 0.01 * (row % 5):.4f}" for row in range(300))
    Path("values.csv").write_text("\n".join(["t,x", *rows]) + "\n")
    config = _init("values.csv")
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    assert config.model.lags == 12
    assert 12 in config.forecasting.horizons
    assert config.corpora_by_name[""].time == "t"
    config = loading.load("run.yaml", [f"root={Path.cwd()}/root", "cluster.address=none", "training.epochs=1"])
    with run_session.open_session(config) as session:
        report = pipeline.run(config, session, reporters.SilentReporter())
    assert Path(report["stages"]["report"]["html"]).exists()


def test_an_existing_file_is_kept() -> None:
    _write_pairs("pairs.tsv", 50)
    Path("run.yaml").write_text("mine")
    with pytest.raises(errors.LockedError, match=r"run\.yaml exists"):
        init.run(["pairs.tsv"], "run.yaml", None, None, False, reporters.SilentReporter())
    assert Path("run.yaml").read_text() == "mine"


def test_files_without_a_word_are_refused() -> None:
    Path("blank.txt").write_text(" \n \n")
    with pytest.raises(errors.DataError, match="no line with a word"):
        _init("blank.txt")


def test_every_preset_is_larger_than_the_one_before() -> None:
    for rows in (presets.PAIRS, presets.TEXT):
        sizes = [row[0] for row in rows]
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == float("inf")
        assert [row.epochs for row in presets.PAIRS] == sorted((row.epochs for row in presets.PAIRS), reverse=True)
