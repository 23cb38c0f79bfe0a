"""Laws of several inputs: a folder of files is done as each file alone, in one plan, whatever happens on the way."""

import gzip
import json
import pathlib
import pickle
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.config import inference_settings, schema
from core.storage import location, run_lock
from jobs import inspect, score, translate
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import datasets, trained
from workers.infer import part_worker

FILES = {"a": ["the cat", "", "a dog sees the house", "the zebra", "big cat"], "b": [], "c": ["a cat", "old", "dog"]}
DECODING = inference_settings.DecodingConfig(beam_size=3, num_best=2, max_length=6, part_lines=2)


def _write(path: pathlib.Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    trained.save(samples.seq2seq(), tmp_path / "run")
    for name, lines in FILES.items():
        _write(tmp_path / "in" / f"{name}.txt{'.gz' if name == 'c' else ''}", lines)
    return tmp_path


def _translate(
    folder: pathlib.Path,
    output: str = "out",
    source: Any = "in",
    cluster: schema.ClusterConfig = trained.NONE,
    decoding: inference_settings.DecodingConfig = DECODING,
    **options: Any,
) -> dict[str, Any]:
    names = f"{folder}/{source}" if isinstance(source, str) else tuple(f"{folder}/{name}" for name in source)
    run = location.Location.parse(str(folder / "run"))
    request = translate.Request(run, names, f"{folder}/{output}", decoding, samples.FP32, cluster, **options)
    with trained.session(cluster) as session:
        return translate.run(request, session, reporters.SilentReporter())


def _score(
    folder: pathlib.Path, output: str = "out", source: str = "in", targets: str | None = None, **scoring: Any
) -> dict[str, Any]:
    request = score.Request(
        location.Location.parse(str(folder / "run")),
        f"{folder}/{source}",
        f"{folder}/{output}",
        inference_settings.ScoringConfig(**{"part_lines": 2, **scoring}),
        samples.FP32,
        trained.NONE,
        targets=None if targets is None else f"{folder}/{targets}",
    )
    with trained.session() as session:
        return score.run(request, session, reporters.SilentReporter())


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The files of results, and nothing that begins with `_`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("_")}


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet", "arrow"])
def test_a_folder_gives_the_files_of_calls_with_one_each(folder: pathlib.Path, ending: Any) -> None:
    report = _translate(folder, format=None if ending == "jsonl" else ending)
    alone = {}
    for name in FILES:
        file = "c.txt.gz" if name == "c" else f"{name}.txt"
        alone[name] = _translate(folder, f"alone/{name}.{ending}", f"in/{file}")
    assert _contents(folder / "out") == {
        f"{name}.{ending}": (folder / "alone" / f"{name}.{ending}").read_bytes() for name in FILES
    }
    assert (report["inputs"], report["lines"], report["errors"], report["already_done"]) == (3, 8, 0, False)
    assert report["tokens"] == sum(each["tokens"] for each in alone.values())
    for name, entry in zip(FILES, report["files"], strict=True):
        for key in ("input", "lines", "tokens", "score_nats", "errors"):
            assert entry[key] == alone[name][key], (name, key)
        assert entry["output"] == str(folder / "out" / f"{name}.{ending}")


def test_lines_are_counted_in_each_file(folder: pathlib.Path) -> None:
    _translate(folder)
    rows = [json.loads(line) for line in (folder / "out" / "c.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2]


def test_alignments_lie_beside_each_file(folder: pathlib.Path) -> None:
    decoding = DECODING.model_copy(update={"alignments": True})
    _translate(folder, decoding=decoding)
    _translate(folder, "alone/a.jsonl", "in/a.txt", decoding=decoding)
    assert sorted(_contents(folder / "out")) == sorted(
        name for each in FILES for name in (f"{each}.jsonl", f"{each}.jsonl.alignments")
    )
    alone = (folder / "alone" / "a.jsonl.alignments").read_bytes()
    assert (folder / "out" / "a.jsonl.alignments").read_bytes() == alone


def test_an_interrupted_folder_resumes_with_the_parts_that_are_missing(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _translate(folder, "whole")
    original = part_worker.PartWorker.__call__
    for stop_after in range(5):
        done: list[str] = []

        def interrupted(self: Any, part: Any, done: list[str] = done, stop_after: int = stop_after) -> Any:
            if len(done) == stop_after:
                raise KeyboardInterrupt
            done.append(part.name)
            return original(self, part)

        with monkeypatch.context() as patch:
            patch.setattr(part_worker.PartWorker, "__call__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                _translate(folder, f"out-{stop_after}")
        assert _contents(folder / f"out-{stop_after}") == {}, "no file of results before all parts are done"
        report = _translate(folder, f"out-{stop_after}")
        assert _contents(folder / f"out-{stop_after}") == _contents(folder / "whole")
        assert report["score_nats"] == whole["score_nats"]
        computed = round(report["lines_per_s"] * report["elapsed_s"])
        assert computed == 8 - sum({"file-00000-part-000002": 1, "file-00002-part-000001": 1}.get(n, 2) for n in done)


def test_a_call_that_died_among_its_files_finishes_them(folder: pathlib.Path) -> None:
    _translate(folder)
    before = _contents(folder / "out")
    (folder / "out" / "_MANIFEST.json").unlink()
    (folder / "out" / "c.jsonl").unlink()
    assert _translate(folder)["lines_per_s"] == 0
    assert _contents(folder / "out") == before
    assert (folder / "out" / "_MANIFEST.json").exists()


def test_a_finished_folder_is_not_computed_again(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _translate(folder)
    before = (folder / "out" / "a.jsonl").stat().st_mtime_ns
    (folder / "out" / "c.jsonl").unlink()
    monkeypatch.setattr(part_worker.TranslateWorker, "__init__", lambda *_: pytest.fail("a worker was created"))
    # Named in another way and order: the same plan.
    again = _translate(folder, "out/", ["in/c.txt.gz", "in/b.txt", "in/a*"])
    assert again["already_done"]
    assert again["files"] == first["files"]
    assert (folder / "out" / "a.jsonl").stat().st_mtime_ns == before
    assert (folder / "out" / "c.jsonl").exists(), "a deleted file is merged again"
    (folder / "out" / "a.jsonl").write_text("changed\n")
    with pytest.raises(errors.LockedError, match=r"out/a\.jsonl: exists and was not written by this run"):
        _translate(folder)


def test_other_files_settings_or_formats_are_refused_until_overwrite_replaces_all(folder: pathlib.Path) -> None:
    _translate(folder)
    with pytest.raises(errors.LockedError, match=r'format: was "jsonl", now "txt"'):
        _translate(folder, format="txt")
    (folder / "in" / "b.txt").unlink()
    _write(folder / "in" / "a.txt", ["other"])
    with pytest.raises(errors.LockedError, match=r"files\.a\.input\.lines: was 5, now 1"):
        _translate(folder)
    with pytest.raises(errors.LockedError, match=r"files\.b\.input: was .*, now null|files\.b: was .*, now null"):
        _translate(folder)
    report = _translate(folder, overwrite=True, format="txt")
    assert sorted(_contents(folder / "out")) == ["a.txt", "c.txt"], "nothing of before is left"
    assert report["lines"] == 4


def test_a_replacement_that_died_leaves_no_file_that_nobody_knows(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has to do is written down before the first file is removed."""
    _translate(folder)
    removed: list[str] = []
    original = location.Location.remove

    def dying(self: location.Location) -> None:
        if len(removed) == stop_after:
            raise KeyboardInterrupt
        removed.append(self.name)
        original(self)

    monkeypatch.setattr(location.Location, "remove", dying)
    (folder / "in" / "b.txt").unlink()
    for stop_after in (2, 5):  # noqa: B007 (read by `dying`)
        removed.clear()
        with pytest.raises(KeyboardInterrupt):
            _translate(folder, overwrite=True, format="txt")
        described = inspect.run(location.Location.parse(str(folder / "out")), reporters.SilentReporter())
        assert described["manifest"]["summary"]["lines"] == 8, "the new output is complete"
    monkeypatch.undo()
    _translate(folder, overwrite=True, format="txt")
    assert sorted(_contents(folder / "out")) == ["a.txt", "c.txt"]


def test_a_foreign_file_in_the_folder_is_not_overwritten(folder: pathlib.Path) -> None:
    _write(folder / "out" / "c.jsonl", ["precious"])
    _write(folder / "out" / "notes.md", ["mine"])
    with pytest.raises(errors.LockedError, match=r"out/c\.jsonl: exists and was not written by this run"):
        _translate(folder)
    _translate(folder, overwrite=True)
    assert sorted(_contents(folder / "out")) == ["a.jsonl", "b.jsonl", "c.jsonl", "notes.md"]


def test_two_drivers_do_not_share_a_folder(folder: pathlib.Path) -> None:
    out = location.Location.parse(str(folder / "out"))
    with run_lock.RunLock(out, "translate"), pytest.raises(errors.LockedError, match="in use"):
        _translate(folder)


def test_an_input_in_the_output_folder_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="is also an input; write to another path"):
        _translate(folder, "in")


def test_column_is_that_of_the_tables_among_the_inputs(folder: pathlib.Path) -> None:
    rows = [{"said": line} for line in FILES["a"]]
    (folder / "in" / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "in" / "e.parquet")
    with pytest.raises(errors.UsageError, match=r"d\.jsonl is read as jsonl; name its text column with --column"):
        _translate(folder)
    _translate(folder, column="said")
    made = _contents(folder / "out")
    assert made["a.jsonl"] == made["d.jsonl"] == made["e.jsonl"]
    with pytest.raises(errors.UsageError, match=r"plain text, which has no columns; leave out --column"):
        _translate(folder, "other", ["in/a.txt", "in/b.txt"], column="said")


def test_prefixes_pair_by_name(folder: pathlib.Path) -> None:
    for name, lines in FILES.items():
        _write(folder / "begin" / f"{name}.txt", ["tac" for _ in lines])
    _translate(folder, prefixes=f"{folder}/begin")
    alone = _translate(folder, "alone.jsonl", "in/a.txt", prefixes=f"{folder}/begin/a.txt")
    assert (folder / "out" / "a.jsonl").read_bytes() == (folder / "alone.jsonl").read_bytes()
    assert alone["lines"] == 5
    _write(folder / "begin" / "c.txt", ["tac"])
    with pytest.raises(errors.DataError, match=r"begin/c\.txt: has 1 lines, but .* has 3; align the files"):
        _translate(folder, "other", prefixes=f"{folder}/begin")


def test_too_many_bad_lines_of_one_input_end_the_job_and_name_it(folder: pathlib.Path) -> None:
    decoding = DECODING.model_copy(update={"part_lines": 100})
    (folder / "in" / "c.txt.gz").write_bytes(gzip.compress(b"the cat\n" * 300 + b"a \x00 b\n" * 11))
    (folder / "in" / "a.txt").write_bytes(b"the cat\n" * 300 + b"a \x00 b\n" * 10)
    with pytest.raises(
        errors.DataError, match=r"11 lines of the input of c\.jsonl failed, at most 10 may; .* line 301"
    ):
        _translate(folder, decoding=decoding)
    (folder / "in" / "c.txt.gz").write_bytes(gzip.compress(b"the cat\n" * 300 + b"a \x00 b\n" * 10))
    report = _translate(folder, "other", decoding=decoding)
    assert report["errors"] == 20, "as many as calls with one each would allow"
    assert report["first_errors"][0] == {
        "file": "a.jsonl", "line": 300, "error": f"control_char: {folder}/in/a.txt:301:3"
    }  # fmt: skip
    assert [entry["errors"] for entry in report["files"]] == [10, 0, 10]


def test_a_damaged_input_ends_the_job_before_a_part_is_done(folder: pathlib.Path) -> None:
    (folder / "in" / "c.txt.gz").write_bytes(gzip.compress(b"the cat\n" * 99)[:-9])
    with pytest.raises(errors.DataError, match=r"c\.txt\.gz: truncated gz"):
        _translate(folder)
    assert not (folder / "out" / "_PLAN.json").exists()


def test_inspect_verifies_the_files(folder: pathlib.Path) -> None:
    _write(folder / "in" / "with space.txt", ["a dog"])
    _translate(folder)
    out = location.Location.parse(str(folder / "out"))
    described = inspect.run(out, reporters.SilentReporter())
    assert [entry["name"] for entry in described["manifest"]["merged"]] == [
        "a.jsonl", "b.jsonl", "c.jsonl", "with space.jsonl"
    ]  # fmt: skip
    (folder / "out" / "with space.jsonl").write_text("changed\n")
    with pytest.raises(errors.IntegrityError, match=r"with space\.jsonl: is damaged"):
        inspect.run(out, reporters.SilentReporter())


def test_inspect_takes_any_name_of_a_single_file(folder: pathlib.Path) -> None:
    _translate(folder, "my out.jsonl", "in/a.txt")
    described = inspect.run(location.Location.parse(str(folder / "my out.jsonl")), reporters.SilentReporter())
    assert described["complete"]


@pytest.mark.parametrize(
    "scoring",
    [{}, {"unit": "stream"}, {"unit": "stream", "lanes": 2}, {"unit": "stream", "cache": {"size": 4}}],
    ids=["line", "stream", "lanes", "cache"],
)
def test_scores_of_a_folder_are_those_of_each_file_alone(folder: pathlib.Path, scoring: dict[str, Any]) -> None:
    trained.save(samples.language_model("word"), folder / "run", step=9)
    report = _score(folder, **scoring)
    alone = {}
    for name, entry in zip(FILES, report["files"], strict=True):
        source = "in/c.txt.gz" if name == "c" else f"in/{name}.txt"
        alone[name] = _score(folder, f"alone/{name}.jsonl", source, **scoring)
        assert (folder / "out" / f"{name}.jsonl").read_bytes() == (folder / "alone" / f"{name}.jsonl").read_bytes()
        figures = set(entry) - {"input", "output"}
        assert {"lines", "tokens", "unk", "nll_nats", "unit", "characters"} <= figures
        assert {key: entry[key] for key in figures} == {key: alone[name][key] for key in figures}
    assert report["nll_nats"] == pytest.approx(sum(float(each["nll_nats"]) for each in alone.values()))
    assert report["tokens"] == sum(each["tokens"] for each in alone.values())
    assert report.get("lanes") == alone["a"].get("lanes")
    manifest = json.loads((folder / "out" / "_MANIFEST.json").read_text())
    assert [entry["perplexity"] for entry in manifest["summary"]["files"] if entry["lines"]] == [
        alone[name]["perplexity"] for name in FILES if FILES[name]
    ]


def test_translations_of_a_folder_are_scored_as_a_folder(folder: pathlib.Path) -> None:
    """The output folder of `translate` is the argument of `--targets`."""
    translated = _translate(folder)
    request = score.Request(
        location.Location.parse(str(folder / "run")), f"{folder}/in", f"{folder}/scores",
        inference_settings.ScoringConfig(), samples.FP32, trained.NONE, targets=f"{folder}/out", column="text",
    )  # fmt: skip
    with trained.session() as session:
        scored = score.run(request, session, reporters.SilentReporter())
    for entry, expected in zip(scored["files"], translated["files"], strict=True):
        assert entry["targets"] == expected["output"]
        assert float(entry["nll_nats"]) == pytest.approx(-float(expected["score_nats"]), abs=1e-3)


def test_inputs_and_results_may_be_in_an_object_store(folder: pathlib.Path) -> None:
    store = f"memory://{folder.name}"
    for name, lines in FILES.items():
        data = "".join(f"{line}\n" for line in lines).encode()
        location.Location.parse(f"{store}/in/{name}.txt").put_if_absent(data)
    request = translate.Request(
        location.Location.parse(str(folder / "run")), f"{store}/in", f"{store}/out", DECODING, samples.FP32,
        trained.NONE,
    )  # fmt: skip
    with trained.session() as session:
        translate.run(request, session, reporters.SilentReporter())
    _translate(folder)
    for name in FILES:
        made = location.Location.parse(f"{store}/out/{name}.jsonl").read_bytes()
        assert made == (folder / "out" / f"{name}.jsonl").read_bytes()


class TwoWorkers:
    """Two workers that get their tasks as messages, and finish them from the last to the first."""

    num_workers = 2

    def run(self, stage: str, tasks: Any, factory: Any, on_done: Any, monitor: Any = None) -> None:
        workers = [factory(), factory()]
        for number, task in reversed(list(enumerate(tasks))):
            payload = pickle.loads(pickle.dumps(task.payload))
            on_done(task, workers[number % 2](payload))


@pytest.mark.parametrize("lanes", [1, 2])
def test_any_number_of_workers_and_order_of_completion_gives_the_same_files(folder: pathlib.Path, lanes: int) -> None:
    trained.save(samples.language_model("word"), folder / "run", step=9)
    scoring: dict[str, Any] = {"unit": "stream", "lanes": lanes}
    first = _score(folder, **scoring)
    request = score.Request(
        location.Location.parse(str(folder / "run")), f"{folder}/in", f"{folder}/pool",
        inference_settings.ScoringConfig(**{"part_lines": 2, **scoring}), samples.FP32, trained.NONE,
    )  # fmt: skip
    second = score.run(request, datasets.Session(TwoWorkers()), reporters.SilentReporter())
    assert _contents(folder / "pool") == _contents(folder / "out")
    assert datasets.read_files(folder / "pool" / "_parts") == datasets.read_files(folder / "out" / "_parts")
    assert [entry["nll_nats"] for entry in second["files"]] == [entry["nll_nats"] for entry in first["files"]]


@pytest.mark.ray
def test_a_pool_of_workers_writes_the_same_files(folder: pathlib.Path) -> None:
    _translate(folder)
    _translate(folder, "pool", cluster=schema.ClusterConfig(address="local", num_workers=2))
    assert _contents(folder / "pool") == _contents(folder / "out")
    shards = [sorted(datasets.read_files(folder / name / "_parts")) for name in ("out", "pool")]
    assert shards[0] == shards[1]
