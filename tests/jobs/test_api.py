"""Laws of `jobs.api`: the rows of the commands, the errors of `--set`, no Ray, no output, nothing left changed."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import fsspec
import pytest
import torch
from pyarrow import csv

from core import errors
from core.decoding.translation import translator
from core.models import compute as computing
from core.storage import location
from jobs import api, forecast, generate, score, settings, translate
from tests import reporters
from tests.core.decoding import samples
from tests.golden import make
from tests.jobs import trained

ENGLISH, FRENCH = make.TEXTS / "source.txt", make.TEXTS / "target.txt"
STORED: dict[str, dict[str, Any]] = json.loads(make.DOCUMENTS.read_text(encoding="utf-8"))


def lines_of(path: pathlib.Path) -> list[str]:
    return path.read_text().splitlines()


def root_of(kind: str) -> str:
    return str(make.ROOTS / kind)


def rows_of_command(kind: str, verb: str, output: pathlib.Path, targets: bool, *overrides: str) -> list[dict[str, Any]]:
    """Returns the rows that a command writes for the English lines; `targets` are the French ones."""
    run = location.Location.parse(root_of(kind))
    given = settings.load_run_settings(run, overrides)
    shared: dict[str, Any] = {"run": run, "input": str(ENGLISH), "output": str(output)}
    shared |= {"compute": given.compute, "cluster": given.cluster}
    with trained.session() as session:
        reporter = reporters.SilentReporter()
        if verb == "translate":
            translate.run(translate.Request(decoding=given.decoding, **shared), session, reporter)
        else:
            shared["targets"] = str(FRENCH) if targets else None
            score.run(score.Request(scoring=given.scoring, **shared), session, reporter)
    return [json.loads(line) for line in output.read_text().splitlines()]


def plain(rows: list[Any], names: Any) -> list[dict[str, Any]]:
    """Returns rows as JSON, with the given columns."""
    return [{name: json.loads(json.dumps(dataclasses.asdict(row)[name])) for name in names} for row in rows]


TRANSLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "as stored": ("translation", {}),
    "another beam": ("translation", {"beam_size": 4, "num_best": 3, "length_penalty": 0.5, "part_lines": 7}),
    "by a sampled search with the seed of the run": ("two-corpora", {"seed": None}),
    "another direction": ("two-corpora", {"target_token": "<2en>", "method": "beam"}),
}


@pytest.mark.parametrize("case", TRANSLATIONS)
def test_translations_are_the_rows_of_the_command(case: str, tmp_path: pathlib.Path) -> None:
    kind, given = TRANSLATIONS[case]
    overrides = [f"decoding.{name}={json.dumps(value)}" for name, value in given.items()]
    expected = rows_of_command(kind, "translate", tmp_path / "out.jsonl", False, *overrides)
    rows = api.load(root_of(kind)).translate(lines_of(ENGLISH), **given)
    assert plain(rows, expected[0]) == expected
    assert [row.line for row in rows] == list(range(20))


SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "translations": ("translation", {}),
    "a stream in two lanes with a cache, by averaged weights": ("language-model", {}),
    "a stream in one lane": ("language-model", {"lanes": 1, "average_checkpoints": 1, "cache": None}),
    "single lines": ("language-model", {"unit": "line", "lanes": 1, "cache": None, "part_lines": 3}),
    "by dynamic evaluation": ("language-model", {"dynamic": {"rule": "sgd", "learning_rate": 0.1}}),
    "by dynamic evaluation with statistics": ("language-model", {"dynamic": {"rule": "rms"}, "cache": None}),
    "by an n-gram model": ("ngram", {}),
}


@pytest.mark.parametrize("case", SCORES)
def test_scores_are_the_rows_of_the_command(case: str, tmp_path: pathlib.Path) -> None:
    kind, given = SCORES[case]
    overrides = [f"scoring.{name}={json.dumps(value)}" for name, value in given.items()]
    has_targets = kind == "translation"
    expected = rows_of_command(kind, "score", tmp_path / "out.jsonl", has_targets, *overrides)
    rows = api.load(root_of(kind)).score(lines_of(ENGLISH), lines_of(FRENCH) if has_targets else None, **given)
    assert plain(rows, expected[0]) == expected


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_gives_the_rows_of_the_command(precision: str, tmp_path: pathlib.Path) -> None:
    expected = rows_of_command(
        "translation", "translate", tmp_path / "out.jsonl", False, f"compute.precision={precision}"
    )
    model = api.load(root_of("translation"), precision=precision)
    assert model.precision == precision
    assert plain(model.translate(lines_of(ENGLISH)), expected[0]) == expected


@pytest.mark.parametrize("kind", ["language-model", "ngram"])
def test_generated_text_is_that_of_the_command(kind: str) -> None:
    run = location.Location.parse(root_of(kind))
    given = settings.load_run_settings(run)
    report = generate.run(run, "the old cat", given.generation, given.compute, given.cluster)
    model = api.load(root_of(kind))
    row = model.generate("the old cat")
    assert (row.text, row.num_tokens, row.seed) == (report["text"], report["num_tokens"], report["seed"])
    assert row.ended == report["ended"] == "num_tokens"
    assert [list(pair) for pair in row.ahead or ()] == report.get("ahead", [])
    # The text of a prompt does not depend on the other prompts.
    others = model.generate(["a dog", "the old cat"])
    assert others[1] == dataclasses.replace(row, line=1)
    assert model.generate("the old cat", seed=8, top_k=None).text != row.text


def test_forecasts_are_the_rows_of_the_command(tmp_path: pathlib.Path) -> None:
    run = location.Location.parse(root_of("series"))
    given = settings.load_run_settings(run)
    output = tmp_path / "out.jsonl"
    source = make.TEXTS / "series.csv"
    forecast.run(run, str(source), str(output), given.forecasting, given.cluster, reporters.SilentReporter())
    expected = [json.loads(line) for line in output.read_text().splitlines()]
    table = csv.read_csv(source)
    model = api.load(root_of("series"))
    rows = model.forecast({name: table[name].to_pylist() for name in table.column_names})
    assert plain(rows, expected[0]) == expected
    with pytest.raises(errors.DataError, match=r"values: has no column 'y'; it has x$"):
        model.forecast({"x": [1.0] * 9})
    with pytest.raises(errors.DataError, match="values: row 2 has no number in column 'y'"):
        model.forecast({"x": [1.0] * 9, "y": [1.0, 2.0, float("nan"), *[1.0] * 6]})
    with pytest.raises(errors.DataError, match=r"different numbers of rows \(x 9, y 8\)"):
        model.forecast({"x": [1.0] * 9, "y": [1.0] * 8})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"beamsize": 3}, "decoding.beamsize=3"),
    "a value out of range": ({"beam_size": 300}, "decoding.beam_size=300"),
    "a value of another type": ({"beam_size": "3"}, 'decoding.beam_size="3"'),
    "values that do not fit together": ({"num_best": 9}, "decoding.num_best=9"),
    "a setting inside a group": ({"fusion": {"weight": 1}}, 'decoding.fusion={"weight": 1}'),
    "a setting of sampling without it": ({"temperature": 0.5}, "decoding.temperature=0.5"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_has_the_message_of_the_command_line(case: str) -> None:
    given, override = WRONG[case]
    with pytest.raises(errors.UsageError) as of_command:
        settings.load_run_settings(location.Location.parse(root_of("translation")), [override])
    with pytest.raises(errors.UsageError) as of_call:
        api.load(root_of("translation")).translate(["the cat"], **given)
    assert str(of_call.value) == str(of_command.value)


REFUSED: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any], str]] = {
    "a text instead of a list": ("translation", "translate", ("the cat",), {}, "lines: is a single text; give a list"),
    "what is not text": ("translation", "translate", (["a", None],), {}, r"lines\[1\]: is a NoneType, not text"),
    "lists that are not aligned": ("translation", "score", (["a"], ["b", "c"]), {}, "targets: has 2 lines, but lines"),
    "no translations": ("translation", "score", (["a"],), {}, "targets: a seq2seq scores given translations"),
    "translations for a language model": ("language-model", "score", (["a"], ["b"]), {}, "targets: a language_model"),
    "another kind of model": ("language-model", "translate", (["a"],), {}, "translate needs a seq2seq"),
    "text for a series": ("series", "score", (["a"],), {}, "does not score text; use forecast"),
    "a value that no setting has": ("translation", "translate", (["a"],), {"beam_size": object()}, "not a object"),
    "files of a command": ("translation", "translate", (["a"],), {"attention_maps": 1}, "decoding.attention_maps: is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_call_says_what_to_give(case: str) -> None:
    kind, method, arguments, given, message = REFUSED[case]
    with pytest.raises(errors.UsageError, match=message):
        getattr(api.load(root_of(kind)), method)(*arguments, **given)


def test_a_run_a_device_or_a_precision_that_there_is_not_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=r"--run: .*nope does not exist"):
        api.load(tmp_path / "nope")
    with pytest.raises(errors.UsageError, match=r"compute\.precision: 'fp16' is not one of auto, fp32"):
        api.load(root_of("translation"), precision="fp16")
    with pytest.raises(errors.UsageError, match="device: 'tpu' is not one of auto, cpu, cuda"):
        api.load(root_of("translation"), device="tpu")
    with pytest.raises(errors.UsageError, match=r"device: this machine has \d+ GPUs, not cuda:99; use cpu"):
        api.load(root_of("translation"), device="cuda:99")


def test_a_line_that_cannot_be_done_has_an_error_and_leaves_the_others_as_they_are() -> None:
    model = api.load(root_of("translation"))
    good = lines_of(ENGLISH)[:3]
    lines = [good[0], "a\0b", good[1], "\ud800", good[2], ""]
    rows = model.translate(lines, part_lines=2)
    assert [row.error for row in rows] == [None, "control_char: lines[1]", None, "invalid_utf8: lines[3]", None, None]
    assert [row.score_nats is None for row in rows] == [False, True, False, True, False, False]
    assert [rows[index].text for index in (0, 2, 4)] == [row.text for row in model.translate(good)]
    scores = api.load(root_of("language-model")).score(lines)
    assert [row.error is None for row in scores] == [True, False, True, False, True, True]
    pairs = model.score(good, ["un chat", "\0", "le chien"])
    assert [row.error for row in pairs] == [None, "control_char: targets[1]", None]


def test_an_empty_prompt_of_a_model_without_line_ends_fails_alone(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(line_end="none"), tmp_path)
    first, second = api.load(tmp_path).generate(["", "the cat"], num_tokens=4)
    assert first.error is not None
    assert "give it some text" in first.error
    assert (second.error, second.num_tokens) == (None, 4)


def test_no_lines_give_no_rows() -> None:
    assert api.load(root_of("translation")).translate([]) == []
    assert api.load(root_of("language-model")).score([]) == []
    assert api.load(root_of("language-model")).generate([]) == []


def test_dynamic_evaluation_leaves_the_model_as_it_was_trained() -> None:
    model = api.load(root_of("language-model"))
    lines = lines_of(ENGLISH)
    before = model.score(lines)
    adapted = model.score(lines, dynamic={"rule": "sgd", "learning_rate": 0.3})
    assert adapted != before
    assert model.score(lines) == before
    assert model.score(lines, dynamic={"rule": "sgd", "learning_rate": 0.3}) == adapted


def test_a_call_computes_with_the_threads_of_the_run_and_gives_the_process_its_own_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, str]] = []
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    original = translator.Translator.translate

    def recorded(self: translator.Translator, *arguments: Any) -> Any:
        seen.append((torch.get_num_threads(), matmul.fp32_precision))
        return original(self, *arguments)

    monkeypatch.setattr(translator.Translator, "translate", recorded)
    with computing.restored_settings():
        torch.set_num_threads(2)
        matmul.fp32_precision = "ieee"
        model = api.load(root_of("translation"))
        model.translate(["the cat"])
        assert seen == [(1, "none")], "as in the run's settings: one thread, matmul: default"
        assert (torch.get_num_threads(), matmul.fp32_precision) == (2, "ieee")
        # A setting of another model, loaded in between, does not reach the calls of this one.
        computing.use_matmul("default", "bf16")
        model.translate(["the cat"])
        assert seen[1] == (1, "none")


def test_equal_settings_prepare_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = translator.Translator.__init__

    def counted(self: translator.Translator, *arguments: Any, **given: Any) -> None:
        made.append(arguments[1])
        original(self, *arguments, **given)

    monkeypatch.setattr(translator.Translator, "__init__", counted)
    model = api.load(root_of("translation"))
    for beam_size in (2, 2, 4, 4):
        model.translate(["the cat"], beam_size=beam_size)
    assert [decoding.beam_size for decoding in made] == [2, 4]


def test_a_checkpoint_folder_or_a_url_can_be_loaded(tmp_path: pathlib.Path) -> None:
    model = api.load(make.ROOTS / "translation")
    expected = model.translate(["the old cat"])
    assert (model.kind, model.step, model.precision, model.device) == ("seq2seq", 320, "fp32", "cpu")
    memory = fsspec.filesystem("memory")
    memory.put(str(make.ROOTS / "translation") + "/", "/api-run/", recursive=True)
    assert api.load("memory://api-run").translate(["the old cat"]) == expected
    # A checkpoint that was copied out of its run has the default settings.
    made = trained.save(samples.seq2seq(), tmp_path)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    copied = api.load(made.join("checkpoints", checkpoint.name).url)
    assert copied.translate(["the cat"]) == api.load(tmp_path).translate(["the cat"])


def test_importing_it_loads_little_besides_torch() -> None:
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import jobs.api\n"
        "sys.stdout.write(','.join(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=make.HERE.parents[1]
    )
    modules = done.stdout.split(",")
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    of_settings = {"pydantic", "pydantic_core", "typing_inspection", "typing_extensions", "annotated_types", "yaml"}
    of_files = {"fsspec", "numpy", "pyarrow", "safetensors", "tokenizers"}
    built_in_extensions = {name for name in packages if name.startswith("_")} | {"cython_runtime"}
    assert packages - built_in_extensions <= {"core", "workers", "jobs"} | of_settings | of_files
    # Its optional parts, such as torch.distributed.fsdp or torch._inductor, take longer than all of ours.
    assert [name for name in modules if name.startswith("torch.")] == []
    assert len(modules) < 350


def test_ray_is_not_imported_and_nothing_is_printed_on_stdout() -> None:
    code = (
        "import sys\n"
        "from jobs.api import load\n"
        f"model = load({root_of('translation')!r})\n"
        "row, = model.translate(['the old cat'])\n"
        "assert row.text and row.error is None\n"
        "heavy = ('ray', 'pandas', 'matplotlib', 'sacrebleu', 'prometheus_client', 'typer', 'rich')\n"
        "sys.stderr.write(','.join(name for name in heavy if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=make.HERE.parents[1]
    )
    assert (done.stdout, done.stderr) == ("", "")
