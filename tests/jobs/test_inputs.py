"""Inputs of the verbs: pipes, devices, text from escapes, standard streams, and signals while an input is read."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.data.text import extensions
from core.storage import location
from jobs import evaluate, prepare, score, translate
from tests import reporters
from tests.core.data.text import test_compression
from tests.core.decoding import samples
from tests.jobs import datasets, trained

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LINES = ["the cat sees", "a dog"]


def text_of(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.fixture
def pipe(tmp_path: pathlib.Path) -> Iterator[Callable[[bytes], str]]:
    """A function that returns the name of a pipe with some bytes in it."""
    writers: list[threading.Thread] = []

    def make(data: bytes) -> str:
        path = tmp_path / f"pipe-{len(writers)}"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(data,)))
        writers[-1].start()
        return str(path)

    yield make
    for writer in writers:
        writer.join()


def scored(run: pathlib.Path, source: str, output: pathlib.Path, **more: Any) -> dict[str, Any]:
    request = score.Request(
        location.Location.parse(str(run)), source, str(output), inference_settings.ScoringConfig(), samples.FP32,
        trained.NONE, **more,
    )  # fmt: skip
    with trained.session() as session:
        return score.run(request, session, reporters.SilentReporter())


def translated(run: pathlib.Path, source: str, output: pathlib.Path, **more: Any) -> dict[str, Any]:
    request = translate.Request(
        location.Location.parse(str(run)), source, str(output), inference_settings.DecodingConfig(max_length=5),
        samples.FP32, trained.NONE, **more,
    )  # fmt: skip
    with trained.session() as session:
        return translate.run(request, session, reporters.SilentReporter())


def test_pipes_are_scored_and_translated_as_files_are(tmp_path: pathlib.Path, pipe: Callable[[bytes], str]) -> None:
    trained.save(samples.seq2seq(), tmp_path / "run")
    for name, data in (("in.txt", text_of(LINES)), ("t.txt", text_of(["tac", "god"]))):
        (tmp_path / name).write_bytes(data)
    source, target = str(tmp_path / "in.txt"), str(tmp_path / "t.txt")
    from_file = scored(tmp_path / "run", source, tmp_path / "s1.txt", targets=target)
    piped = scored(tmp_path / "run", pipe(text_of(LINES)), tmp_path / "s2.txt", targets=pipe(text_of(["tac", "god"])))
    assert piped["lines"] == 2
    assert (tmp_path / "s2.txt").read_bytes() == (tmp_path / "s1.txt").read_bytes()
    assert piped["nll_nats"] == from_file["nll_nats"]
    translated(tmp_path / "run", source, tmp_path / "t1.txt", prefixes=target)
    translated(tmp_path / "run", pipe(text_of(LINES)), tmp_path / "t2.txt", prefixes=pipe(text_of(["tac", "god"])))
    assert (tmp_path / "t2.txt").read_bytes() == (tmp_path / "t1.txt").read_bytes()
    assert len((tmp_path / "t2.txt").read_text().splitlines()) == 2


def test_the_same_text_through_another_pipe_is_the_same_output(
    tmp_path: pathlib.Path, pipe: Callable[[bytes], str]
) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    first = scored(tmp_path / "run", pipe(text_of(LINES)), tmp_path / "out.txt")
    again = scored(tmp_path / "run", pipe(text_of(LINES)), tmp_path / "out.txt")
    assert again["nll_nats"] == first["nll_nats"]
    assert again["lines_per_s"] == 0.0, "nothing was computed"
    with pytest.raises(errors.LockedError, match=r"input\.sha256"):
        scored(tmp_path / "run", pipe(b"other\n"), tmp_path / "out.txt")


def test_pipes_are_evaluated(pipe: Callable[[bytes], str]) -> None:
    lines = text_of(["the cat sat on the mat"] * 3)
    report = evaluate.run(evaluate.Request([pipe(lines)], [pipe(lines)]), reporters.SilentReporter())
    assert (report["lines"], report["bleu"]) == (3, pytest.approx(100.0))


def test_a_corpus_through_a_pipe_gives_the_shards_of_a_file(
    tmp_path: pathlib.Path, pipe: Callable[[bytes], str]
) -> None:
    lines = datasets.sentences(100)
    file = datasets.write(tmp_path / "a.txt", lines)
    corpus = {"kind": "text", "split": {"valid": 0.1}}
    plain = datasets.config(tmp_path / "plain", {**corpus, "train": {"text": [file]}})
    datasets.run(plain)

    def piped(data: bytes) -> dict[str, Any]:
        return datasets.run(datasets.config(tmp_path / "piped", {**corpus, "train": {"text": [pipe(data)]}}))

    assert piped(text_of(lines))["lines_read"] == 100
    shards = [datasets.read_files(tmp_path / name / "dataset" / "train") for name in ("plain", "piped")]
    assert shards[0] == shards[1]
    assert piped(text_of(lines))["already_done"]
    with pytest.raises(errors.LockedError, match=r"corpus\.train: is not the text"):
        piped(text_of(lines[1:]))
    assert not (tmp_path / "piped" / "dataset" / ".staging").exists()


def test_half_a_surrogate_pair_in_one_row_leaves_the_others(tmp_path: pathlib.Path) -> None:
    """Whatever the tokenizer: those of subwords, and pyarrow, refuse such text for the whole batch."""
    trained.save(samples.seq2seq(), tmp_path / "run")
    (tmp_path / "in.jsonl").write_text('{"t": "the cat"}\n{"t": "a \\ud83d"}\n{"t": "\\u0000"}\n{"t": "a dog"}\n')
    settings = inference_settings.DecodingConfig(max_length=5, replace_unknown=True)
    request = translate.Request(
        location.Location.parse(str(tmp_path / "run")), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"),
        settings, samples.FP32, trained.NONE, column="t",
    )  # fmt: skip
    with trained.session() as session:
        report = translate.run(request, session, reporters.SilentReporter())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (report["lines"], report["errors"]) == (4, 2)
    assert rows[1]["error"] == f"invalid_utf8: {tmp_path}/in.jsonl:2"
    assert rows[2]["error"] == f"control_char: {tmp_path}/in.jsonl:3"
    assert rows[0]["error"] is None
    assert rows[3]["error"] is None


@pytest.mark.parametrize("ending", [".xz", ".bz2"])
def test_a_damaged_further_stream_ends_a_verb_with_an_error(ending: str, tmp_path: pathlib.Path) -> None:
    compress = test_compression.COMPRESSORS[ending]
    streams = [bytearray(compress(text_of(datasets.sentences(100, seed)))) for seed in range(3)]
    streams[1][1] ^= 0x55
    path = tmp_path / f"in.txt{ending}"
    path.write_bytes(b"".join(streams))
    assert ending in extensions.COMPRESSED
    trained.save(samples.language_model(), tmp_path / "run")
    with pytest.raises(errors.DataError, match=f"not valid {ending[1:]}"):
        scored(tmp_path / "run", str(path), tmp_path / "out.txt")
    with pytest.raises(errors.DataError, match=f"not valid {ending[1:]}"):
        datasets.run(datasets.config(tmp_path / "data", {"kind": "text", "train": {"text": [str(path)]}}))


def test_an_odd_row_of_a_training_table_obeys_on_bad_line(tmp_path: pathlib.Path) -> None:
    rows: list[Any] = [{"s": f"line {number}"} for number in range(60)]
    rows[1], rows[5] = {"s": 7}, {"t": "elsewhere"}
    path = tmp_path / "tab.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"s": \n')
    corpus = {"kind": "text", "train": {"table": [str(path)], "columns": ["s"]}}
    report = datasets.run(datasets.config(tmp_path / "run", corpus))
    assert report["drops"] == {"invalid_json": 1, "no_text": 2}
    assert report["splits"]["train"]["lines"] == 58
    with pytest.raises(errors.DataError, match=r"tab\.jsonl: row 2 has int, not text.*on_bad_line: skip"):
        datasets.run(datasets.config(tmp_path / "strict", {**corpus, "on_bad_line": "fail"}))
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *[{"s": 1}] * 6]))
    with pytest.raises(errors.DataError, match=r"corpus: 12\.1 % of the rows have no text in the column"):
        datasets.run(datasets.config(tmp_path / "many", corpus))


def test_a_dataset_begun_with_other_settings_says_what_can_be_done(tmp_path: pathlib.Path) -> None:
    file = datasets.write(tmp_path / "a.txt", datasets.sentences(20))
    corpus = {"kind": "text", "train": {"text": [file]}}
    datasets.run(datasets.config(tmp_path / "run", corpus))
    with pytest.raises(errors.LockedError, match="use another root, or delete this folder to prepare it anew"):
        datasets.run(datasets.config(tmp_path / "run", {**corpus, "cleaning": ["lower"]}))


class Blocked:
    """An input that never comes: a pipe that nobody writes to and nobody closes."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "endless"
        os.mkfifo(self.path)
        self.descriptor = os.open(self.path, os.O_RDWR)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_verb_that_waits_for_its_input(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    blocked = Blocked(tmp_path)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    started_s = time.monotonic()
    with pytest.raises(errors.InterruptedRunError, match="stopped while it was read"):
        scored(tmp_path / "run", str(blocked.path), tmp_path / "out.txt")
    assert time.monotonic() - started_s < 3
    os.close(blocked.descriptor)
    assert not (tmp_path / "out.txt").exists()


def test_a_signal_ends_prepare_that_waits_for_its_corpus(tmp_path: pathlib.Path) -> None:
    blocked = Blocked(tmp_path)
    settings = datasets.config(tmp_path / "run", {"kind": "text", "train": {"text": [str(blocked.path)]}})
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    with trained.session() as session:
        timer.start()
        started_s = time.monotonic()
        with pytest.raises(errors.InterruptedRunError):
            prepare.run(settings, session, reporters.SilentReporter())
    assert time.monotonic() - started_s < 3
    os.close(blocked.descriptor)


def jobs(*arguments: str, stdout: int = subprocess.PIPE, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, **options
    )


@pytest.mark.e2e
def test_sigterm_ends_reading_of_an_endless_standard_input(tmp_path: pathlib.Path) -> None:
    """Without a line feed in it, one line would grow until the memory is full."""
    trained.save(samples.language_model(), tmp_path / "run")
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "jobs", "score", "--run", str(tmp_path / "run"), "--input", "-", "--output", "-"]
    for stdin in (os.open("/dev/zero", os.O_RDONLY), reader):
        process = subprocess.Popen(
            [*command, "--set", "cluster.address=none"], cwd=REPOSITORY, stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(15)  # it has started, and reads
        assert process.poll() is None
        process.terminate()
        started_s = time.monotonic()
        _, log = process.communicate()
        assert time.monotonic() - started_s < 4
        assert process.returncode == 143, log
        os.close(stdin)
    os.close(writer)


@pytest.mark.e2e
def test_result_lines_that_cannot_be_written_are_no_success(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    command = (
        "score",
        "--run",
        str(tmp_path / "run"),
        "--input",
        "-",
        "--output",
        "-",
        "--set",
        "cluster.address=none",
    )
    full = os.open("/dev/full", os.O_WRONLY)
    done = jobs(*command, stdout=full, input="the cat\n")
    assert done.returncode == 5
    assert done.stderr.splitlines()[-2:] == [
        "standard output: cannot be written (No space left on device); write to a file with free space", "exit=5"
    ]  # fmt: skip
    reader, writer = os.pipe()
    os.close(reader)
    done = jobs(*command, stdout=writer, input="the cat\n")
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    # With a committed file the document is not the result.
    (tmp_path / "in.txt").write_text("the cat\n")
    command = (*command[:3], "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt"), *command[7:])
    done = jobs(*command, stdout=full)
    assert done.returncode == 0
    assert re_warning(done.stderr)
    assert (tmp_path / "out.txt").exists()
    done = jobs("inspect", str(tmp_path / "out.txt"), stdout=full)
    assert done.returncode == 5
    os.close(full)


def re_warning(log: str) -> bool:
    lines = log.splitlines()
    return lines[-2] == "exit=0" and lines[-1].startswith("warning: standard output: cannot be written")


@pytest.mark.e2e
def test_a_closed_standard_output_is_a_warning_after_the_commit(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("the cat\n")
    arguments = f"score --run {tmp_path}/run --input {tmp_path}/in.txt --output {tmp_path}/out.txt"
    command = f"{sys.executable} -m jobs {arguments} --set cluster.address=none >&-"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re_warning(done.stderr)
