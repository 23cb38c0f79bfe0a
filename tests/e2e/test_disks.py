"""Full disks and disks that cannot be written, under every verb: one line and exit code 5, and what was there stays."""

import gzip
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import disks, driving
from tests.golden import make

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SIZE_BYTES = 24 << 20
# Of free bytes: too little for one or another of the things that a command writes, and enough.
LEVELS = (0, 8 << 10, 64 << 10, 512 << 10, SIZE_BYTES)
NONE = ("--set", "cluster.address=none")
# No space, or nothing can be written: the path, and of a full disk the bytes that are free.
FULL = re.compile(r"(--output: )?/\S+: .*no space left: \d+ bytes are free; \S.*")
READ_ONLY = re.compile(r".*/\S+: .*[Rr]ead-only file system.*")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[disks.Disk]:
    with disks.mounted(tmp_path_factory.mktemp("disks"), SIZE_BYTES) as made:
        yield made


@pytest.fixture
def full(disk: disks.Disk) -> Iterator[disks.Disk]:
    yield disk
    disk.empty()


def put(disk: disks.Disk, kind: str) -> str:
    """Puts a finished run of an older release on the disk, and returns its root."""
    shutil.copytree(make.ROOTS / kind, disk.inside / kind)
    return str(disk.path / kind)


def config(kind: str, root: str) -> list[str]:
    """Returns a configuration and settings that make its run short."""
    short = [] if kind == "ngram" else ["training.max_steps=8"]
    if kind in ("translation", "language-model"):
        short += ["training.checkpoint_every_steps=4", "training.validate_every_steps=4"]
    return [
        *(str(make.CONFIGS / f"{kind}.yaml"), *make.settings(f"root={root}", *short)),
        *(*make.sources(kind, make.TEXTS), *NONE),
    ]


def check_failed(ended: driving.Ended, message: re.Pattern[str]) -> None:
    """Checks that a command ended with one line that says what is wrong, and exit code 5."""
    *_, line, last = ended.log.splitlines()
    assert (ended.code, last) == (5, "exit=5"), ended.log
    assert message.fullmatch(line), line
    assert "Traceback" not in ended.log


def check_until_it_fits(disk: disks.Disk, *command: str, final: str = "") -> None:
    """Runs a command with more and more space, until it ends; what fails leaves what was there, and nothing of its own.

    Args:
        disk: the disk, with what is there before.
        command: the command.
        final: name of the file on the disk that is there only if it is whole.
    """
    before, num_failures = disk.files(), 0
    for free_bytes in LEVELS:
        disk.fill(free_bytes)
        ended = disk.run(*command)
        assert disk.temporary_names() == []
        if ended.code == 0:
            break
        num_failures += 1
        check_failed(ended, FULL)
        now = disk.files()
        assert {name: now.get(name) for name in before} == before
        assert final not in now
        saved = {Path(name).parts[:3] for name in now if "checkpoints" in name}
        assert all(str(Path(*parts, "MANIFEST.json")) in now for parts in saved), "a torn checkpoint"
    assert ended.code == 0, ended.log
    assert num_failures > 0


WRITERS = {
    "translate": ("translation", "--input", str(make.TEXTS / "source.txt"), "out.jsonl"),
    "translate to a folder": ("translation", "--input", str(make.TEXTS / "source.txt"), "out/"),
    "score": ("language-model", "--input", str(make.TEXTS / "english.txt"), "out.txt"),
    "score by n-grams": ("ngram", "--input", str(make.TEXTS / "english.txt"), "out.parquet"),
    "forecast": ("series", "--input", str(make.TEXTS / "series.csv"), "out.arrow"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_on_a_full_disk_is_refused_or_whole(full: disks.Disk, name: str) -> None:
    kind, *source, output = WRITERS[name]
    command = [name.split()[0], "--run", str(make.ROOTS / kind), *source, "--output", f"{full.path}/{output}", *NONE]
    final = f"{output}_MANIFEST.json" if output.endswith("/") else output
    check_until_it_fits(full, *command, final=final)


def test_an_output_that_cannot_be_replaced_stays(full: disks.Disk) -> None:
    source = ("--input", str(make.TEXTS / "source.txt"), "--output", str(full.path / "out.jsonl"))
    command = ("translate", "--run", str(make.ROOTS / "translation"), *source, *NONE)
    assert full.run(*command).code == 0
    before = full.files()
    full.fill(4 << 10)
    check_failed(full.run(*command, "--overwrite", "--set", "decoding.beam_size=5"), FULL)
    assert full.files() == {**full.files(), **before}


@pytest.mark.parametrize("kind", ["translation", "language-model", "ngram", "series"])
def test_a_pipeline_on_a_full_disk_goes_on_when_there_is_space(full: disks.Disk, kind: str) -> None:
    check_until_it_fits(full, "pipeline", *config(kind, str(full.path / "run")), final="run/report.html")


def test_prepare_and_train_on_a_full_disk_go_on_when_there_is_space(full: disks.Disk) -> None:
    root = str(full.path / "run")
    check_until_it_fits(full, "prepare", *config("translation", root), final="run/dataset/index.json")
    check_until_it_fits(full, "train", *config("translation", root))


def test_a_compressed_corpus_on_a_full_disk(full: disks.Disk, tmp_path: Path) -> None:
    text = (make.TEXTS / "english.txt").read_bytes() * 40
    (tmp_path / "english.txt.gz").write_bytes(gzip.compress(text))
    sources = ("--set", f"corpus.train.text=[{tmp_path}/english.txt.gz]")
    command = [*config("language-model", str(full.path / "run")), *sources]
    check_until_it_fits(full, "prepare", *command, final="run/dataset/index.json")


def test_a_report_and_a_configuration_on_a_full_disk(full: disks.Disk) -> None:
    page, written = str(full.path / "page.html"), str(full.path / "run.yaml")
    check_until_it_fits(full, "report", str(make.ROOTS / "translation"), "--output", page, final="page.html")
    full.empty()
    check_until_it_fits(full, "init", str(make.TEXTS / "pairs.tsv"), "--output", written, final="run.yaml")
    full.empty()
    root = put(full, "translation")
    check_until_it_fits(full, "report", root, final="translation/report.html")


def readers(root: Path, output: Path) -> dict[str, list[str]]:
    """Returns commands that write nothing below the root of their run."""
    texts, translation, model = make.TEXTS, str(root / "translation"), str(root / "language-model")
    translate = ["translate", "--run", translation, "--input", str(texts / "source.txt")]
    forecast = ["forecast", "--run", str(root / "series"), "--input", str(texts / "series.csv")]
    return {
        "translate": [*translate, "--output", f"{output}/a.jsonl", *NONE],
        "score": ["score", "--run", model, "--input", str(texts / "english.txt"), "--output", f"{output}/b.txt", *NONE],
        "forecast": [*forecast, "--output", f"{output}/c.jsonl", *NONE],
        "generate": ["generate", "--run", model, "--prefix", "the", *NONE],
        "report": ["report", translation, "--output", f"{output}/page.html"],
        "inspect": ["inspect", translation],
        "inspect a dataset": ["inspect", f"{translation}/dataset"],
        "inspect an output": ["inspect", f"{translation}/outputs/translated"],
        "evaluate": [
            *("evaluate", "--run", translation),
            *("--hypotheses", str(texts / "target.txt"), "--references", str(texts / "target.txt")),
        ],
        "train that would be": ["train", *config("translation", translation), "--dry-run"],
    }


def writers(root: Path) -> dict[str, list[str]]:
    """Returns commands that write where nothing can be written."""
    texts, translation = make.TEXTS, str(root / "translation")
    translate = ["translate", "--run", translation, "--input", str(texts / "source.txt"), *NONE]
    return {
        "init": ["init", str(texts / "pairs.tsv"), "--output", f"{root}/run.yaml"],
        "prepare": ["prepare", *config("translation", f"{root}/new")],
        "prepare again": ["prepare", *config("translation", translation)],
        "train": ["train", *config("translation", translation)],
        "pipeline": ["pipeline", *config("translation", f"{root}/new")],
        "translate": [*translate, "--output", f"{root}/out.jsonl"],
        "translate to a folder": [*translate, "--output", f"{root}/out/"],
        "report": ["report", translation],
        "report to a page": ["report", translation, "--output", f"{root}/page.html"],
    }


PRINTING = ("generate", "inspect", "inspect a dataset", "inspect an output", "evaluate", "train that would be")


def test_what_is_only_printed_needs_no_space(full: disks.Disk) -> None:
    """Neither in the root of the run, nor for temporary files."""
    for kind in ("translation", "language-model"):
        put(full, kind)
    before = full.files()
    full.fill(0)
    commands = readers(full.path, full.path)
    for name in PRINTING:
        ended = full.run(*commands[name], scratch=full.path)
        assert ended.code == 0, f"{name}: {ended.log}"
    assert full.files() == before


def test_a_root_that_cannot_be_written_is_used_and_refuses_what_would_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with disks.mounted(tmp_path, SIZE_BYTES) as disk:
        for kind in ("translation", "language-model", "series"):
            put(disk, kind)
        before = disk.files()
        disk.forbid_writing()
        for name, command in readers(disk.path, tmp_path / "out").items():
            ended = disk.run(*command)
            assert ended.code == 0, f"{name}: {ended.log}"
        for name, command in writers(disk.path).items():
            ended = disk.run(*command)
            assert ended.code == 5, f"{name}: {ended.log}"
            check_failed(ended, READ_ONLY)
        assert disk.files() == before
