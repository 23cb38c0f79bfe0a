"""The command line: standard streams, exit codes, and errors that are reported at once."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import typer

from core import errors
from core.config import loading
from core.storage import location, run_lock
from jobs import __main__ as main
from tests.golden import make

pytestmark = pytest.mark.e2e

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "pyarrow", "prometheus_client", "matplotlib")

CONFIG = """
name: x
root: runs/x
corpus: {kind: text, train: {text: [book.txt]}}
model: {kind: language_model}
"""


def jobs(*arguments: str, cwd: pathlib.Path = REPOSITORY, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command line as users do; appends the heavy libraries that it loaded to stderr, as a last line."""
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "try:\n    runpy.run_module('jobs', run_name='__main__', alter_sys=True)\n"
        f"finally:\n    sys.stderr.write(','.join(m for m in {HEAVY!r} if m in sys.modules) + '\\n')\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)


def processor_time_of_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def write_config(folder: pathlib.Path, text: str = CONFIG) -> str:
    (folder / "x.yaml").write_text(text)
    return "x.yaml"


def stored_root(folder: pathlib.Path, kind: str) -> pathlib.Path:
    """Returns a copy of the root of a finished run, whose settings name it."""
    root = pathlib.Path(shutil.copytree(RUNS[kind], folder / "root"))
    settings = root / "config.yaml"
    settings.write_text(re.sub("(?m)^root: .*$", f"root: {root}", settings.read_text()))
    return root


VERBS = {
    *("prepare", "train", "translate", "score", "generate", "forecast", "evaluate", "pipeline"),
    *("demo", "report", "inspect", "submit", "sweep"),
}
RUNS = {
    "seq2seq": str(make.ROOTS / "translation"),
    "language_model": str(make.ROOTS / "language-model"),
    "ngram": str(make.ROOTS / "ngram"),
    "autoregressive": str(make.ROOTS / "series"),
}
USAGE_ERRORS = {
    "no verb": ([], "command line: Missing command; see python -m jobs --help"),
    "a misspelt verb": (["trian", "x.yaml"], "command line: .*Did you mean 'train'"),
    "a missing file": (["train", "nope.yaml"], "nope.yaml: there is no such file; check"),
    "a folder": (["prepare", "."], r"\.: is a folder; name a YAML file"),
    "an unknown setting": (["train", "x.yaml", "--set", "training.epoch=3"], ".*training.epoch.*epochs"),
    "a value out of range": (["pipeline", "x.yaml", "--set", "training.epochs=0"], ".*training.epochs.*1"),
    "a misspelt scheme": (["train", "x.yaml", "--set", "root=S3://b/k"], r"root: S3://.*; write s3://"),
    "a root on the web": (["prepare", "x.yaml", "--set", "root=https://a.b/c"], "root: .*only be read"),
    "a missing run": (["translate", "--run", "nope", "--input", "a", "--output", "b.txt"], "--run: .*/nope"),
    "a setting of the model": (
        ["score", "--run", ".", "--input", "a", "--output", "b.txt", "--set", "model.cell=gru"],
        "--set model.cell=gru: cannot change after training; allowed here: decoding",
    ),
    "no input and no terminal": (
        ["translate", "--run", str(make.ROOTS / "translation")],
        "--input: is missing; name a file with --output, or - for both; on a terminal, type",
    ),
    "no prefix and no terminal": (
        ["generate", "--run", str(make.ROOTS / "language-model")],
        "--prefix: is missing; give the beginning of the text, or --ending",
    ),
    "an input without an output": (["translate", "--run", ".", "--input", "x"], "--output: is missing; name a file"),
    "an output without an input": (["translate", "--run", ".", "--output", "x"], "--input: is missing; name a file"),
    "an empty location": (["inspect", ""], "PATH: the location is empty"),
    "an n-gram order of 0": (
        ["evaluate", "--hypotheses", "a", "--references", "b", "--d2l-bleu-k", "0"],
        "command line: .*--d2l-bleu-k.* 1; see",
    ),
    "a missing artefact": (["inspect", "nope/nope"], r"PATH: /.*nope/nope does not exist; check"),
    "a missing value": (["train", "x.yaml", "--set"], "command line: .*--set.* requires an argument"),
    "an argument that is not UTF-8": (["train", "x.yaml", "--set", "root=\udcff"], r".*\\udcff"),
    "a prefix that is not UTF-8": (
        ["generate", "--run", ".", "--prefix", "ab\udcff"],
        "--prefix: has bytes that are not valid UTF-8; set",
    ),
    "an ending that is not UTF-8": (
        ["generate", "--run", ".", "--ending", "ab\udcff"],
        "--ending: has bytes that are not valid UTF-8; set",
    ),
    "an escape that is no text": (
        ["train", "x.yaml", "--set", 'name="\\ud800"'],
        "--set name=.*half a surrogate pair",
    ),
    "a device as the configuration": (["train", "/dev/zero"], "/dev/zero: is a pipe, a device or a socket; name"),
    "a device as an input": (
        ["score", "--run", ".", "--input", "/dev/zero", "--output", "b.txt"],
        "--input: '/dev/zero' is a device, not a regular file or a pipe; name a file",
    ),
    "standard input among several": (
        ["score", "--run", str(make.ROOTS / "language-model"), "--input", "-", "--input", "x.yaml", "--output", "out"],
        "--input: standard input cannot be combined with other inputs; write",
    ),
    "several inputs and a file for their results": (
        ["translate", "--run", str(make.ROOTS / "translation"), "--input", "*.y*ml", "--output", "out.jsonl"],
        "--output: several inputs give a folder of files, and .*out.jsonl is a file; name a folder, and the format",
    ),
    "several inputs and a target without a name of theirs": (
        [
            *("score", "--run", str(make.ROOTS / "translation"), "--input", "*.yaml"),
            *("--targets", "x.yaml", "--targets", str(make.ROOTS / "translation" / "config.yaml"), "--output", "out"),
        ],
        r"--targets: .*config.yaml \(config\) has no input of its name; files pair",
    ),
    "a folder without files": (
        ["score", "--run", str(make.ROOTS / "language-model"), "--input", str(make.ROOTS), "--output", "out"],
        "--input: .*roots has no visible files directly in it; name them, or use a glob",
    ),
    "a glob that the shell expanded": (
        ["translate", "--run", ".", "--input", "a.txt", "b.txt", "--output", "out"],
        "command line: .*unexpected extra argument.*b.txt.*; put a glob in quotes; see",
    ),
    "a format of a single input": (
        [
            *("translate", "--run", str(make.ROOTS / "translation"), "--input", "x.yaml", "--output", "o.txt"),
            *("--format", "txt"),
        ],
        "--format: is for several inputs; the ending of --output gives the format of a single one",
    ),
    "a device among the references": (
        ["evaluate", "--hypotheses", "x.yaml", "--references", "/dev/null"],
        "--references: '/dev/null' is a device, not",
    ),
    "an output without a known extension": (
        ["translate", "--run", RUNS["seq2seq"], "--input", "x.yaml", "--output", "b.csv"],
        "--output: 'b.csv' has no known extension; use .txt, ",
    ),
    "no targets": (
        ["score", "--run", RUNS["seq2seq"], "--input", "x.yaml", "--output", "b.txt"],
        "--targets: a seq2seq scores given translations; name",
    ),
    "targets of a language model": (
        ["score", "--run", RUNS["language_model"], "--input", "x.yaml", "--targets", "x.yaml", "--output", "b.txt"],
        "--targets: a language_model scores single lines",
    ),
    "a column of text": (
        ["score", "--run", RUNS["ngram"], "--input", "x.yaml", "--output", "b.txt", "--column", "c"],
        "--input: .* is read as plain text, which has no columns",
    ),
    "a language model that should translate": (
        ["translate", "--run", RUNS["language_model"], "--input", "x.yaml", "--output", "b.txt"],
        "--run: translate needs a seq2seq; this run is of kind language_model: use score or generate",
    ),
    "a seq2seq that should generate": (
        ["generate", "--run", RUNS["seq2seq"], "--prefix", "a"],
        "--run: generate needs a language_model; this run is of kind seq2seq: use translate or score",
    ),
    "text that should be forecast": (
        ["forecast", "--run", RUNS["ngram"], "--input", "x.yaml", "--output", "b.txt"],
        "--run: forecast needs an autoregressive model; this run is of kind ngram: use score or generate",
    ),
    "a series that should be scored": (
        ["score", "--run", RUNS["autoregressive"], "--input", "x.yaml", "--output", "b.txt"],
        "--run: score needs a model of text; this run is of kind autoregressive: use forecast",
    ),
    "an output that is also an input": (
        ["translate", "--run", RUNS["seq2seq"], "--input", "x.txt", "--output", "./x.txt", "--overwrite"],
        "--output: .*x.txt is also an input; write to another path",
    ),
    "forecasts into the series": (
        ["forecast", "--run", RUNS["autoregressive"], "--input", "x.txt", "--output", "x.txt"],
        "--output: .*x.txt is also an input; write to another path",
    ),
    "a series from standard input": (
        ["forecast", "--run", RUNS["autoregressive"], "--input", "-", "--output", "y.jsonl"],
        "--input, --output: a series is read as a whole; name files",
    ),
    "standard input into a file": (
        ["translate", "--run", RUNS["seq2seq"], "--input", "-", "--output", "y.jsonl"],
        "--input, --output: standard input requires standard output; set both",
    ),
    "prefixes of standard input": (
        ["translate", "--run", RUNS["seq2seq"], "--input", "-", "--output", "-", "--prefixes", "x.txt"],
        "--prefixes: requires an input file, not standard input",
    ),
    "alignments without a file": (
        [
            *("translate", "--run", RUNS["seq2seq"], "--input", "x.txt", "--output", "out/"),
            *("--set", "decoding.alignments=true"),
        ],
        "decoding.alignments: is written next to an output file",
    ),
    "an ensemble with a language model": (
        [
            *("translate", "--run", RUNS["seq2seq"], "--run", RUNS["language_model"]),
            *("--input", "x.txt", "--output", "y.txt"),
        ],
        "--run: translate needs a seq2seq; .*language-model is of kind language_model",
    ),
    "a mixture with a seq2seq": (
        [
            *("score", "--run", RUNS["ngram"], "--run", RUNS["seq2seq"]),
            *("--input", "x.txt", "--output", "y.txt", "--set", "scoring.cache=null"),
        ],
        "--run: .*translation is a seq2seq, and only language models are mixed",
    ),
    "a cache of an n-gram model": (
        [
            *("score", "--run", RUNS["ngram"], "--input", "x.txt", "--output", "y.txt"),
            *("--set", "scoring.cache={size: 10}"),
        ],
        "scoring.cache: an n-gram model has no hidden states",
    ),
    "a stream from standard input": (
        [
            *("score", "--run", RUNS["language_model"], "--input", "-", "--output", "-"),
            *("--set", "scoring.unit=stream"),
        ],
        "--input: only single lines are scored from standard input",
    ),
    "an ending of a model that reads forward": (
        ["generate", "--run", RUNS["language_model"], "--ending", "a"],
        "--ending: this run's model reads forward; give it a --prefix",
    ),
    "both ends of a text": (
        ["generate", "--run", RUNS["language_model"], "--prefix", "a", "--ending", "b"],
        "--prefix, --ending: give exactly one",
    ),
    "a comparison without a page": (
        ["report", RUNS["seq2seq"], RUNS["ngram"]],
        "RUN: several runs are compared on one page; name the page",
    ),
    "a page that is not HTML": (["report", RUNS["ngram"], "--output", "p.pdf"], "--output: .*p.pdf must end in .html"),
    "an inspection of what is not ours": (
        ["inspect", "x.txt"],
        "PATH: /.*x.txt is not a dataset, checkpoint, run or output of Raycurrent; check the path",
    ),
    "an inspection of a folder of others": (["inspect", "."], "PATH: /.* is not a dataset, checkpoint, run or output"),
    "an inspection of what is not there": (["inspect", "nope.txt"], "PATH: /.*nope.txt does not exist; check"),
    "a training before its dataset": (["train", "x.yaml"], ".*/dataset: has no finished dataset; run prepare first"),
    "forecasts further ahead than the outputs of the model": (
        [
            *("forecast", "--run", RUNS["autoregressive"], "--input", "x.txt", "--output", "y.jsonl"),
            *("--set", "forecasting.method=direct", "--set", "forecasting.horizons=[1,400]"),
        ],
        "forecasting.horizons: this model has outputs for .* steps, not for 400; name fewer",
    ),
    "a report on no run": (["report", "."], "RUN: .* holds no run"),
    "a test of a single system": (
        ["evaluate", "--hypotheses", "x.txt", "--references", "x.txt", "--significance", "bootstrap"],
        "--significance: compares several systems",
    ),
    "both names of an option": (
        [
            *("evaluate", "--hypotheses", "x.txt", "--references", "x.txt"),
            *("--d2l-bleu-k", "2", "--documents-k", "2"),
        ],
        "--documents-k: --d2l-bleu-k is given, too",
    ),
    "a cluster without a port": (
        ["train", "x.yaml", "--set", "cluster.address=head"],
        ".*cluster.address: 'head' is not auto, local",
    ),
}


@pytest.mark.parametrize("name", USAGE_ERRORS)
def test_a_usage_error_is_one_line_with_exit_code_2_before_torch_is_loaded(name: str, tmp_path: pathlib.Path) -> None:
    arguments, message = USAGE_ERRORS[name]
    write_config(tmp_path)
    (tmp_path / "x.txt").write_text("a line\n")
    before = sorted(tmp_path.iterdir())
    started_s = processor_time_of_children_s()
    done = jobs(*arguments, cwd=tmp_path)
    used_s = processor_time_of_children_s() - started_s
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert lines[1:] == ["exit=2", ""], done.stderr
    assert re.match(message, lines[0]), lines[0]
    assert done.stdout == ""
    # What users wait for on a machine that does nothing else.
    assert used_s < 2
    assert sorted(tmp_path.iterdir()) == before


MISSING = [
    *(["prepare", "x.yaml"], ["pipeline", "x.yaml"]),
    ["sweep", "x.yaml", "--grid", "training.epochs=1,2"],
]


@pytest.mark.parametrize("arguments", MISSING, ids=lambda arguments: arguments[0])
def test_a_corpus_that_is_missing_is_told_before_torch_is_loaded(arguments: list[str], tmp_path: pathlib.Path) -> None:
    write_config(tmp_path)
    done = jobs(*arguments, cwd=tmp_path)
    message = f"corpus.train.text: '{tmp_path}/book.txt' matches no file; check the path"
    assert done.stderr.splitlines() == [message, "exit=3", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


CONTRADICTIONS = {
    "a limit of tokens with subwords": (
        ["prepare", "x.yaml", "--set", "tokenizer={kind: bpe, max_size: 300}", "--set", "corpus.limit.tokens=5"],
        "corpus.limit.tokens: counts characters or words; with subwords",
    ),
    "a setting of another tokenizer": (
        ["pipeline", "x.yaml", "--set", "tokenizer={kind: bpe, max_size: 300, min_freq: 3}"],
        "tokenizer.min_freq: has no effect with kind bpe, whose vocabulary",
    ),
    "a tokenizer too many": (
        ["pipeline", "x.yaml", "--set", "tokenizer.load=[a.json, b.json]"],
        "tokenizer.load: names 2 files for 1 vocabularies",
    ),
    "a pipe as the corpus of a pipeline": (
        ["pipeline", "x.yaml", "--set", "corpus.train.text=[/dev/stdin]"],
        "corpus.train: /dev/stdin can be read only once",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_settings_that_contradict_the_corpus_are_told_before_torch_is_loaded(name: str, tmp_path: pathlib.Path) -> None:
    arguments, message = CONTRADICTIONS[name]
    write_config(tmp_path)
    (tmp_path / "book.txt").write_text("a line\n")
    done = jobs(*arguments, cwd=tmp_path)
    *_, told, code, loaded = done.stderr.splitlines()  # after warnings
    assert re.match(message, told), done.stderr
    assert (code, loaded) == ("exit=2", "")


BEGINNINGS = {
    "word vectors": (
        {"training.embeddings": "{text: vectors.txt}"},
        "training.embeddings.text: {}/vectors.txt does not exist; check the path",
    ),
    "the weights of another run": (
        {"training.init_from": "other"},
        "training.init_from: {}/other holds no run (there is no config.yaml); name the root of a run",
    ),
    "a run that is not trained": (
        {"training.init_from": "."},
        "training.init_from: {} has no checkpoint; train it first, or name another run",
    ),
    "a tokenizer": (
        {"tokenizer.load": "[none.json]"},
        "tokenizer.load: '{}/none.json' matches no file; check the path",
    ),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_file_that_training_begins_with_and_that_is_missing_is_told_before_torch_is_loaded(
    name: str, tmp_path: pathlib.Path
) -> None:
    overrides, message = BEGINNINGS[name]
    write_config(tmp_path)
    (tmp_path / "book.txt").write_text("a line\n")
    (tmp_path / "config.yaml").write_text("")  # as of a run
    arguments = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    done = jobs("pipeline", "x.yaml", *arguments, cwd=tmp_path)
    *_, told, code, loaded = done.stderr.splitlines()  # after warnings
    assert told == message.format(tmp_path), done.stderr
    assert (code, loaded) == ("exit=3" if name == "a tokenizer" else "exit=2", "")


@pytest.mark.parametrize("verb", ["train", "pipeline"])
def test_settings_of_another_run_are_told_before_torch_is_loaded(verb: str, tmp_path: pathlib.Path) -> None:
    root = stored_root(tmp_path, "language_model")
    done = jobs(verb, str(root / "config.yaml"), "--set", "model.hidden_size=17")
    *_, told, code, loaded = done.stderr.splitlines()  # after warnings on former names
    assert told.startswith("model.hidden_size: this root was started with 28, not 17; use another root")
    assert (code, loaded) == ("exit=6", "")


@pytest.mark.parametrize("verb", ["train", "pipeline"])
def test_a_root_that_is_in_use_is_told_before_torch_is_loaded(verb: str, tmp_path: pathlib.Path) -> None:
    root = stored_root(tmp_path, "language_model")
    with run_lock.RunLock(location.Location.parse(str(root)), "train"):
        done = jobs(verb, str(root / "config.yaml"))
        *_, told, code, loaded = done.stderr.splitlines()
        assert told.startswith(f"{root}: is in use by train on host")
        assert (code, loaded) == ("exit=6", "")


OUTPUTS_IN_USE = {
    "translate": ("seq2seq", ("--input", "x.txt", "--output", "y.jsonl"), "y.jsonl.parts"),
    "score": ("language_model", ("--input", "x.txt", "--output", "scores/"), "scores"),
    "score of several inputs": ("ngram", ("--input", "x.txt", "--input", "x.yaml", "--output", "all/"), "all"),
    "forecast": ("autoregressive", ("--input", "x.txt", "--output", "y.txt"), "y.txt.parts"),
}


@pytest.mark.parametrize("case", OUTPUTS_IN_USE)
def test_an_output_that_is_in_use_is_told_before_torch_is_loaded(case: str, tmp_path: pathlib.Path) -> None:
    kind, files, folder = OUTPUTS_IN_USE[case]
    stored_root(tmp_path, kind)
    write_config(tmp_path)
    (tmp_path / "x.txt").write_text("a line\n")
    with run_lock.RunLock(location.Location.parse(str(tmp_path / folder)), "score"):
        before_s = processor_time_of_children_s()
        done = jobs(case.split()[0], "--run", "root", *files, cwd=tmp_path)
        assert processor_time_of_children_s() - before_s < 3
    *_, told, code, loaded = done.stderr.splitlines()
    assert told.startswith(f"{tmp_path / folder}: is in use by score on host"), done.stderr
    assert (code, loaded) == ("exit=6", "")


def test_a_new_run_that_is_in_use_is_told_before_torch_is_loaded(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.arpa").write_text("")
    with run_lock.RunLock(location.Location.parse(str(tmp_path / "new")), "import"):
        done = jobs("import", "--run", "new", "--input", "x.arpa", cwd=tmp_path)
    *_, told, code, loaded = done.stderr.splitlines()
    assert told.startswith(f"{tmp_path / 'new'}: is in use by import on host")
    assert (code, loaded) == ("exit=6", "")


def test_an_arpa_file_and_a_model_that_exist_are_told_before_torch_is_loaded(tmp_path: pathlib.Path) -> None:
    root, file = stored_root(tmp_path, "ngram"), tmp_path / "x.arpa"
    file.write_text("")
    done = jobs("export", "--run", str(root), "--output", str(file))
    assert done.stderr.splitlines() == [
        *(f"--output: {file} exists; name another file, or add --overwrite", "exit=6", "")
    ]
    done = jobs("import", "--run", str(root), "--input", str(file))
    assert done.stderr.splitlines() == [f"--run: {root} has a model already; name another root", "exit=6", ""]


@pytest.mark.parametrize("verb", ["translate", "score"])
def test_a_run_that_is_not_trained_is_refused_before_torch_is_loaded(verb: str, tmp_path: pathlib.Path) -> None:
    shutil.copy(pathlib.Path(RUNS["seq2seq"]) / "config.yaml", tmp_path)
    (tmp_path / "x.txt").write_text("a line\n")
    files = [*("--input", "x.txt"), *(("--targets", "x.txt") if verb == "score" else ()), *("--output", "y.txt")]
    done = jobs(verb, "--run", ".", *files, cwd=tmp_path)
    message = f"{tmp_path}: has no checkpoint; train first, or name the root of a trained run"
    assert done.stderr.splitlines() == [message, "exit=2", ""]


def test_init_refuses_an_output_that_exists_before_torch_is_loaded(tmp_path: pathlib.Path) -> None:
    done = jobs("init", write_config(tmp_path), "--output", "x.yaml", cwd=tmp_path)
    assert done.stderr.splitlines() == ["--output: x.yaml exists; name another file, or add --overwrite", "exit=6", ""]


def test_exit_codes_of_errors_are_those_of_the_readme() -> None:
    kinds = {
        errors.UsageError: 2,
        errors.DataError: 3,
        errors.IntegrityError: 4,
        errors.StorageError: 5,
        errors.LockedError: 6,
        errors.DivergedError: 7,
        errors.ClusterError: 8,
    }
    assert {kind: kind.exit_code for kind in kinds} == kinds
    listed = re.findall(r"\| (\d+(?:, \d+)?) \| [a-z]", (REPOSITORY / "jobs" / "README.md").read_text())
    codes = {int(code) for cell in listed for code in cell.split(", ")}
    assert codes == {0, 1, *kinds.values(), 130, errors.ClosedOutputError.exit_code, 143}


@pytest.mark.parametrize("kind", ["StorageError", "DivergedError", "ClusterError"])
def test_an_error_of_a_running_job_is_one_line_and_its_exit_code(kind: str) -> None:
    code = (
        "import sys\nfrom core import errors\nfrom jobs import __main__ as main, options\n"
        f"def fails(stdout): print('chatter'); raise errors.{kind}('root: what is wrong; what to\\ndo')\n"
        "main.app = lambda **_: options.Job(fails)\nsys.exit(main.main([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == getattr(errors, kind).exit_code
    assert done.stderr.splitlines() == ["chatter", "root: what is wrong; what to do", f"exit={done.returncode}"]
    assert done.stdout == ""


def test_help_is_printed_to_stdout_without_loading_heavy_libraries() -> None:
    done = jobs("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", done.stdout), verb
    assert done.stderr == "\n"


def as_console_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point that `pyproject.toml` names, as the script does that pip makes of it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["raycurrent"].partition(":")
    code = f"import sys\nsys.argv[0] = '/x/bin/raycurrent'\nfrom {module} import {function}\nsys.exit({function}())\n"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_console_command_names_itself_in_help_and_errors() -> None:
    assert "Usage: raycurrent [OPTIONS] COMMAND" in as_console_command("--help").stdout
    wrong = as_console_command("trian")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[0].endswith("see raycurrent --help")
    assert "Usage: python -m jobs [OPTIONS] COMMAND" in jobs("--help").stdout


def test_a_shell_completes_the_console_command() -> None:
    words = {"COMP_WORDS": "raycurrent tr", "COMP_CWORD": "1"}
    assert as_console_command(_RAYCURRENT_COMPLETE="complete_bash", **words).stdout.split() == ["train", "translate"]
    options = {"COMP_WORDS": "raycurrent translate --pre", "COMP_CWORD": "2"}
    assert as_console_command(_RAYCURRENT_COMPLETE="complete_bash", **options).stdout.split() == ["--prefixes"]
    # Else typer takes the shell that runs the tests, if any does.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "complete_bash $1" in as_console_command("--show-completion", "bash", **named).stdout
    # As the module it has no name that a shell could complete.
    assert "completion" not in jobs("--help").stdout


def test_print_config_prints_a_configuration_file_of_the_resolved_settings(tmp_path: pathlib.Path) -> None:
    printed = jobs(
        "train", write_config(tmp_path), "--print-config", "--set", "training.learning_rate=5e-4", cwd=tmp_path
    )
    assert printed.returncode == 0
    config = loading.parse(printed.stdout, "printed")
    assert config.training.learning_rate == 5e-4
    assert config.root == f"{tmp_path}/runs/x"
    assert config.corpora_by_name[""].train.text == (f"{tmp_path}/book.txt",)
    (tmp_path / "again.yaml").write_text(printed.stdout)
    assert jobs("train", "again.yaml", "--print-config", cwd=tmp_path).stdout == printed.stdout
    assert printed.stderr == "\n"


def test_print_config_is_utf8_whatever_the_terminal_is(tmp_path: pathlib.Path) -> None:
    write_config(tmp_path, CONFIG.replace("book", "büch"))
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [sys.executable, "-m", "jobs", "train", str(tmp_path / "x.yaml"), "--print-config"],
            cwd=REPOSITORY, capture_output=True, check=False, env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "büch" in done.stdout.decode()


def test_a_cluster_that_does_not_answer_ends_with_exit_code_8_before_ray_is_loaded(tmp_path: pathlib.Path) -> None:
    (tmp_path / "book.txt").write_text("a line\n" * 20)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    done = jobs("prepare", write_config(tmp_path), "--set", f"cluster.address={address}", cwd=tmp_path)
    assert done.returncode == 8
    *_, message, code, loaded = done.stderr.splitlines()
    assert message.startswith(f"cluster.address: {address} does not answer")
    assert (code, "ray" in loaded) == ("exit=8", False)


def test_stdout_has_one_document_and_the_log_ends_with_the_exit_code(runs: pathlib.Path) -> None:
    done = jobs("inspect", str(runs / "translation" / "dataset"))
    assert json.loads(done.stdout)["kind"] == "dataset"
    assert done.stderr.splitlines()[-2] == "exit=0"
    assert done.returncode == 0


def test_quiet_leaves_the_document_and_warnings_and_verbose_adds_the_debug_log(runs: pathlib.Path) -> None:
    path = str(runs / "translation" / "dataset")
    quiet, verbose = jobs("inspect", path, "--quiet"), jobs("inspect", path, "--verbose")
    assert json.loads(quiet.stdout) == json.loads(verbose.stdout) == json.loads(jobs("inspect", path).stdout)
    assert len(quiet.stderr.splitlines()) == 1, "the list of libraries alone"
    assert " D core.storage.location: read " in verbose.stderr
    assert jobs("inspect", "nope/nope", "--quiet").stderr.splitlines()[1] == "exit=2"
    both = jobs("inspect", path, "--quiet", "--verbose")
    assert (both.returncode, both.stderr.splitlines()[0]) == (
        2,
        "--quiet, --verbose: contradict each other; leave one of them out",
    )
    old_name = jobs(
        "translate", "--run", str(runs / "translation"), "--print-config", "--quiet", "--set", "decoding.method=greedy"
    )
    assert " W core.config.old_names: decoding.method" in old_name.stderr


def test_every_verb_has_quiet_and_verbose() -> None:
    group: Any = typer.main.get_command(main.app)
    for verb, command in group.commands.items():
        assert {"--quiet", "--verbose"} <= {option for parameter in command.params for option in parameter.opts}, verb


def test_a_bug_prints_its_traceback_and_ends_with_exit_code_1(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys\nfrom jobs import __main__ as main\n"
        "def broken(*_): raise ZeroDivisionError('broken on purpose')\n"
        "main.loading.load = broken\nsys.exit(main.main(['train', 'x.yaml']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-2:] == ["ZeroDivisionError: broken on purpose", "exit=1"]


def test_a_closed_stdout_is_not_a_failure(tmp_path: pathlib.Path) -> None:
    write_config(tmp_path)
    command = f"{sys.executable} -m jobs train {tmp_path}/x.yaml --print-config; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "0"
    assert "Traceback" not in done.stderr
