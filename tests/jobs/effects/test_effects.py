"""Every setting has an effect: two values of it give different results, or the one that it is meant to change."""

import ast
from pathlib import Path

import pytest

from core import errors
from core.config import inference_settings, schema
from core.decoding.translation import translator
from core.storage import location
from jobs import prepare, run_state
from tests import reporters
from tests.architecture import reference, source
from tests.core.decoding import samples
from tests.jobs import datasets
from tests.jobs.effects import experiments, inference_table, rows, training_table

EFFECTS = {
    **training_table.CORPUS,
    **training_table.MODEL,
    **training_table.TRAINING,
    **inference_table.INFERENCE,
    **inference_table.MACHINES,
}
RUN_HERE = {name: effect for name, effect in EFFECTS.items() if isinstance(effect, rows.Effect)}
ELSEWHERE = {name: effect.test for name, effect in EFFECTS.items() if isinstance(effect, rows.Elsewhere)}


def test_every_setting_of_the_schema_has_a_row() -> None:
    assert set(EFFECTS) == reference.names()


@pytest.mark.parametrize("name", RUN_HERE)
def test_two_values_of_a_setting_differ_in_what_it_is_for(name: str) -> None:
    effect = RUN_HERE[name]
    setting = name.replace("corpora.NAME.", "corpora.one.")
    first, second = (
        effect.run(effect.base, (*effect.given, *(() if value is None else (f"{setting}={value}",))))
        for value in effect.values
    )
    assert first[effect.differs] != second[effect.differs]
    if effect.same:
        assert first[effect.same] == second[effect.same]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_test_elsewhere_exists_and_its_file_names_the_setting(name: str) -> None:
    path, _, test = ELSEWHERE[name].partition("::")
    text = (source.REPOSITORY / path).read_text()
    assert test in {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert name.rpartition(".")[2] in text


def test_another_name_is_another_run(tmp_path: Path) -> None:
    run_state.check_settings(experiments.config("text", (), tmp_path))
    with pytest.raises(errors.LockedError, match=r"name: this root was started with .effects., not .other."):
        run_state.check_settings(experiments.config("text", ("name=other",), tmp_path))


def test_the_root_is_where_a_run_is_and_nothing_more(tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        prepare.run(experiments.config("text", (), tmp_path / name), datasets.Session(), reporters.SilentReporter())
        index = location.Location.parse(str(tmp_path / name / "dataset" / "index.json")).read_json()
        files.append((index["splits"], index["shards"], index["fingerprint"]))
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("base", "kind"), [("text", "seq2seq"), ("pairs", "language_model"), ("text", "autoregressive")]
)
def test_the_kinds_of_corpus_and_model_must_fit_each_other(base: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=f"model.kind: {kind} cannot be trained on a corpus of kind {base}"):
        experiments.config(base, (f"model={{kind: {kind}}}",), tmp_path)


@pytest.mark.parametrize(
    ("setting", "values"),
    [("context", ("2", "3")), ("connections", ("none", "direct")), ("nonlinearity", ("tanh", "relu"))],
)
def test_two_values_of_a_setting_of_a_feedforward_model_give_other_weights(
    setting: str, values: tuple[str, str]
) -> None:
    """The row of `model.context` is that of translation models, in which the name has another meaning."""
    weights = [
        experiments.training("text", ("model.cell=feedforward", "model.context=2", f"model.{setting}={value}"))[
            "weights"
        ]
        for value in values
    ]
    assert weights[0] != weights[1]


def test_a_batch_of_translations_has_at_most_as_many_rows_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines times hypotheses: with batch_rows of 6 and beam_size of 3 two lines are searched together."""
    made, lines = samples.seq2seq(), samples.sentences(8)
    sizes: list[int] = []
    texts = []
    for batch_rows in (6, 24):
        decoding = inference_settings.DecodingConfig(beam_size=3, batch_rows=batch_rows, max_length=5)
        ready = translator.Translator(made, decoding, samples.FP32)
        search = ready._search

        def counted(numbers: list[int], *arguments: object, search: object = search) -> object:
            sizes.append(len(numbers))
            return search(numbers, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(ready, "_search", counted)
        texts.append([translation.text for translation in ready.translate(lines)])
    assert sizes == [2] * 4 + [8]
    assert texts[0] == texts[1]


def test_a_range_of_workers_is_from_min_to_max() -> None:
    cluster = schema.ClusterConfig(num_workers=schema.WorkerRange(min=2, max=4))
    assert list(cluster.workers) == [2, 3, 4]


def test_use_gpu_selects_the_device() -> None:
    assert [schema.ClusterConfig(use_gpu=choice).device for choice in (False, True)] == ["cpu", "cuda"]
