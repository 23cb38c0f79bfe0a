"""Export and import of ARPA files from the command line, and against KenLM where it is installed."""

import json
import math
import os
import pathlib

import pytest

from core.data.builtin import sentences
from jobs import pipeline
from jobs.__main__ import main
from tests import reporters
from tests.jobs import conftest, trained

COUNTED = """
name: tiny-counted
root: {folder}/run
corpus: {{kind: text, train: {{text: [{folder}/english.txt]}}, split: {{valid: 0.1}}, line_end: eos}}
tokenizer: {{kind: word}}
model: {{kind: ngram, order: 3, unit: line}}
scoring: {{unit: line}}
cluster: {{address: none}}
"""


def _run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, object], str]:
    stdout = os.dup(1)
    try:
        code = main([str(word) for word in words])
    finally:
        os.dup2(stdout, 1)  # a command leaves its standard output on standard error, for the rest of its process
        os.close(stdout)
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.fixture(name="trained_root")
def _trained_root(tmp_path: pathlib.Path) -> pathlib.Path:
    sentences.write_english(tmp_path / "english.txt", 1, 0, 100)
    with trained.session() as session:
        pipeline.run(conftest.configured(COUNTED, tmp_path), session, reporters.SilentReporter())
    return tmp_path / "run"


@pytest.mark.parametrize("ending", ["arpa", "arpa.gz"])
def test_an_exported_model_scores_the_same_after_its_import(
    trained_root: pathlib.Path, ending: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, text = tmp_path / f"lm.{ending}", tmp_path / "english.txt"
    code, report, _ = _run(capfd, "export", "--run", trained_root, "--output", file)
    assert (code, report["unit"]) == (0, "line")
    assert _run(capfd, "export", "--run", trained_root, "--output", file)[0] == 6
    code, report, err = _run(capfd, "import", "--input", file, "--run", tmp_path / "imported")
    assert code == 0, err
    assert report["order"] == 3
    assert _run(capfd, "import", "--input", file, "--run", tmp_path / "imported")[0] == 6
    scored = [
        _run(capfd, "score", "--run", root, "--input", text, "--output", tmp_path / f"{root.name}.jsonl")[1]
        for root in (trained_root, tmp_path / "imported")
    ]
    assert scored[0]["tokens"] == scored[1]["tokens"]
    assert scored[0]["nll_nats"] == pytest.approx(scored[1]["nll_nats"], rel=1e-7)


def test_kenlm_gives_an_exported_model_the_same_scores(
    trained_root: pathlib.Path, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed")
    file, text, scores = (tmp_path / name for name in ("lm.arpa", "english.txt", "scores.jsonl"))
    _run(capfd, "export", "--run", trained_root, "--output", file)
    report = _run(capfd, "score", "--run", trained_root, "--input", text, "--output", scores)[1]
    model = kenlm.Model(str(file))
    total = sum(model.score(line) for line in text.read_text().splitlines())
    assert -total * math.log(10) == pytest.approx(report["nll_nats"], rel=1e-5)


def test_a_file_that_is_not_valid_ends_with_one_line(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n")
    code, _, err = _run(capfd, "import", "--input", tmp_path / "lm.arpa", "--run", tmp_path / "run")
    assert code == 3
    assert f"{tmp_path / 'lm.arpa'}: line 5: the file ends 2 n-grams before" in err
    assert _run(capfd, "import", "--input", tmp_path / "none.arpa", "--run", tmp_path / "run")[0] == 2
