"""The command line end to end: pipelines, streams, exit codes."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs import conftest

pytestmark = pytest.mark.e2e

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
Done = subprocess.CompletedProcess[str]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jobs", *arguments]


def jobs(*arguments: str, stdin: str = "", code: int = 0, timeout_s: float = 240) -> Done:
    """Runs a command line, and checks its exit code."""
    done = subprocess.run(
        command(*arguments), cwd=REPOSITORY, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def report(*arguments: str) -> dict[str, object]:
    """Runs a command line and returns the JSON document on its stdout."""
    done = jobs(*arguments)
    assert done.stderr.splitlines()[-1] == "exit=0"
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns a folder with a corpus and a finished run of each kind."""
    folder = tmp_path_factory.mktemp("e2e")
    conftest.write_corpus(folder)
    for name, text in (("translation", conftest.TRANSLATION), ("language", conftest.LANGUAGE)):
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
        pipeline_report = report("pipeline", str(folder / f"{name}.yaml"))
        assert pipeline_report["held_out"] == "test"
    return folder


@pytest.mark.parametrize("name", ["translation", "language"])
def test_a_pipeline_run_again_does_nothing(name: str, folder: pathlib.Path) -> None:
    def artefacts() -> dict[str, int]:
        parts = [folder / name / part for part in ("dataset", "checkpoints", "epochs", "outputs", "report.html")]
        files = [path for part in parts for path in (part, *part.rglob("*")) if path.is_file()]
        return {str(path): path.stat().st_mtime_ns for path in files if "_lock" not in path.parts}

    before = artefacts()
    done = jobs("pipeline", str(folder / f"{name}.yaml"))
    assert artefacts() == before
    assert "train:" not in done.stderr


def test_pipeline_stages_report_the_same_values_as_the_verbs(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outputs = folder / "translation" / "outputs"
    run, source, target = (
        str(folder / "translation"),
        str(outputs / "test.source.txt"),
        str(outputs / "test.target.txt"),
    )
    stages = json.loads((folder / "translation" / "run.json").read_text())["stages"]
    report("translate", "--run", run, "--input", source, "--output", f"{tmp_path}/out.txt")
    scored = report("score", "--run", run, "--input", source, "--targets", target, "--output", f"{tmp_path}/out.jsonl")
    evaluated = report("evaluate", "--hypotheses", f"{tmp_path}/out.txt", "--references", target)
    assert evaluated["bleu"] == stages["evaluate"]["report"]["bleu"]
    assert scored["nll_nats"] == stages["score"]["report"]["nll_nats"]
    translations = [json.loads(line)["text"] for line in (outputs / "translations.jsonl").read_text().splitlines()]
    assert (tmp_path / "out.txt").read_text().splitlines() == translations


def test_stdout_has_only_lines_and_stderr_ends_with_the_document(folder: pathlib.Path) -> None:
    source = (folder / "translation" / "outputs" / "test.source.txt").read_text()
    done = jobs("translate", "--run", str(folder / "translation"), "--input", "-", "--output", "-", stdin=source)
    assert len(done.stdout.splitlines()) == len(source.splitlines())
    assert done.stderr.splitlines()[-2] == "exit=0"
    assert json.loads(done.stderr.splitlines()[-1])["lines"] == len(source.splitlines())


def test_generate_continues_the_prefix(folder: pathlib.Path) -> None:
    arguments = ("generate", "--run", str(folder / "language"), "--prefix", "The", "--set", "generation.num_tokens=7")
    first = report(*arguments)
    assert re.match("The", str(first["text"]))
    assert report(*arguments) == first


@pytest.mark.parametrize(
    ("verb", "run", "remedy"),
    [
        (("translate", "--input", "{folder}/language.yaml", "--output", "b.txt"), "language", "language_model"),
        (("generate", "--prefix", "The"), "translation", "use translate"),
        (("score", "--input", "{folder}/language.yaml", "--output", "b.txt"), "translation", "--targets"),
    ],
)
def test_a_model_of_the_wrong_kind_is_refused(
    verb: tuple[str, ...], run: str, remedy: str, folder: pathlib.Path
) -> None:
    arguments = [argument.format(folder=folder) for argument in verb[1:]]
    done = jobs(verb[0], "--run", str(folder / run), *arguments, code=2)
    assert remedy in done.stderr.splitlines()[-2]
    assert "Traceback" not in done.stderr


def test_inspect_verifies_a_run(folder: pathlib.Path) -> None:
    inspected = report("inspect", str(folder / "translation"))
    assert (inspected["kind"], inspected["verified"]) == ("run", True)


def test_a_stopped_run_resumes_to_the_same_weights(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = str(folder / "language.yaml")
    longer = ["--set", "training.epochs=20"]
    straight, stopped = (["--set", f"root={tmp_path}/{name}", *longer] for name in ("straight", "stopped"))
    assert report("pipeline", config, *straight)["verb"] == "pipeline"
    jobs("prepare", config, *stopped)
    with subprocess.Popen(command("train", config, *stopped), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as run:
        deadline_s = time.monotonic() + 60
        while not list((tmp_path / "stopped" / "checkpoints").glob("*/MANIFEST.json")):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, stderr = run.communicate(timeout=60)
    assert run.returncode == 143, stderr
    assert stderr.splitlines()[-1] == "exit=143"
    assert "run it again to resume" in stderr.splitlines()[-2]
    jobs("train", config, *stopped)
    ends = [sorted((tmp_path / name / "checkpoints").iterdir())[-1] for name in ("straight", "stopped")]
    assert ends[0].name[:13] == ends[1].name[:13]
    weights = [(end / "bundle" / "model.safetensors").read_bytes() for end in ends]
    assert weights[0] == weights[1]


@pytest.mark.ray
def test_the_demo_runs_on_a_cluster_of_its_own(tmp_path: pathlib.Path) -> None:
    small = ["--set", "corpus.limit.lines=1000", "--set", "training.max_steps=4", "--set", "decoding.max_length=12"]
    done = jobs("demo", "--set", f"root={tmp_path}/demo", *small, timeout_s=280)
    runs = json.loads(done.stdout)["runs"]
    assert {run["steps"] for run in runs.values()} == {4}
    assert "bleu" in runs["demo-translation"]
    assert "bits_per_character" in runs["demo-language"]
    records = [json.loads(pathlib.Path(run["root"], "run.json").read_text()) for run in runs.values()]
    assert {record["stages"]["train"]["report"]["world_size"] for record in records} == {2}
    assert (tmp_path / "demo" / "language" / "report.html").exists()
    for text in ("BLEU", "bits per character", "time per stage", "reference", "report.html"):
        assert text in done.stderr, text
    assert len(done.stdout.splitlines()) > 1
    assert not list((tmp_path / "demo").glob("*/.ray"))
