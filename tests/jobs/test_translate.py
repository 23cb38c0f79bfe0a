"""Laws of `translate`: one output line for each input line, computed once, and no foreign file overwritten."""

import hashlib
import json
import pathlib
import sys
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.config import inference_settings, schema
from core.decoding.lines import results
from core.decoding.translation import translator
from core.storage import location, run_lock
from jobs import translate
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import trained
from workers.infer import part_worker

LINES = ["the cat", "", "a dog sees the house", "the zebra", "big cat"]
DECODING = inference_settings.DecodingConfig(beam_size=3, num_best=2, max_length=6, part_lines=2)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    trained.save(samples.seq2seq(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def _run(
    folder: pathlib.Path, output: str = "out.txt", source: str = "in.txt", decoding: Any = DECODING, **options: Any
) -> dict[str, Any]:
    request = translate.Request(
        location.Location.parse(str(folder / "run")),
        source if source == "-" else str(folder / source),
        output if output == "-" else f"{folder}/{output}",
        decoding,
        samples.FP32,
        trained.NONE,
        **options,
    )
    with trained.session() as session:
        return translate.run(request, session, reporters.SilentReporter())


def _expected() -> list[results.Translation]:
    return translator.Translator(samples.seq2seq(), DECODING, samples.FP32).translate(LINES)


def test_each_input_line_has_one_output_line(folder: pathlib.Path) -> None:
    report = _run(folder)
    assert (folder / "out.txt").read_text().split("\n") == [*(row.text for row in _expected()), ""]
    assert (report["lines"], report["errors"], report["step"]) == (5, 0, 5)
    assert report["tokens"] == sum(row.num_tokens for row in _expected())
    assert float(report["score_nats"]) == pytest.approx(sum(row.score_nats or 0 for row in _expected()), abs=1e-4)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow"])
def test_formats_with_columns_have_all_of_them(folder: pathlib.Path, ending: str) -> None:
    _run(folder, f"out.{ending}")
    path = folder / f"out.{ending}"
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        table = parquet.read_table(path) if ending == "parquet" else pa.ipc.open_file(path.read_bytes()).read_all()
        rows = table.to_pylist()
    assert [row["line"] for row in rows] == list(range(5))
    assert [row["text"] for row in rows] == [row.text for row in _expected()]
    assert [len(row["alternatives"]) for row in rows] == [1, 0, 1, 1, 1]


def test_a_folder_output_keeps_the_parts_and_their_manifest(folder: pathlib.Path) -> None:
    _run(folder, "out/")
    manifest = json.loads((folder / "out" / "_MANIFEST.json").read_text())
    assert len(manifest["shards"]) == 3
    assert manifest["summary"]["lines"] == 5
    assert not (folder / "out.parts").exists()


def test_a_finished_output_is_not_computed_again(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(folder)
    before = (folder / "out.txt").stat().st_mtime_ns
    monkeypatch.setattr(part_worker.TranslateWorker, "__init__", lambda *_: pytest.fail("a worker was created"))
    report = _run(folder)
    assert (report["lines"], report["lines_per_s"]) == (5, 0), "no line was computed in this call"
    assert (folder / "out.txt").stat().st_mtime_ns == before


def test_an_interrupted_translation_resumes_with_the_parts_that_are_missing(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(folder, "whole.txt")
    done: list[str] = []
    original = part_worker.PartWorker.__call__

    def interrupted(self: Any, part: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part.name)
        return original(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(part_worker.PartWorker, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(folder)
    assert not (folder / "out.txt").exists()
    done.clear()
    monkeypatch.setattr(part_worker.PartWorker, "__call__", interrupted)
    report = _run(folder)
    assert done == ["part-000002"]
    assert (folder / "out.txt").read_bytes() == (folder / "whole.txt").read_bytes()
    assert report["score_nats"] == whole["score_nats"]


def test_a_deleted_merged_file_is_merged_again(folder: pathlib.Path) -> None:
    _run(folder, keeps_parts=True)
    before = (folder / "out.txt").read_bytes()
    (folder / "out.txt").unlink()
    assert _run(folder, keeps_parts=True)["already_done"]
    assert (folder / "out.txt").read_bytes() == before


def test_a_deleted_file_whose_parts_were_not_kept_is_translated_again(folder: pathlib.Path) -> None:
    _run(folder)
    before = (folder / "out.txt").read_bytes()
    (folder / "out.txt").unlink()
    assert not _run(folder)["already_done"]
    assert (folder / "out.txt").read_bytes() == before


def test_a_finished_file_leaves_itself_and_its_manifest(folder: pathlib.Path) -> None:
    there = {path.name for path in folder.iterdir()}
    _run(folder)
    assert {path.name for path in folder.iterdir()} - there == {"out.txt", "out.txt.manifest.json"}
    manifest = json.loads((folder / "out.txt.manifest.json").read_text())
    assert manifest["merged"]["sha256"] == hashlib.sha256((folder / "out.txt").read_bytes()).hexdigest()
    assert manifest["summary"]["lines"] == 5
    assert _run(folder)["already_done"]
    _run(folder, decoding=inference_settings.DecodingConfig(beam_size=1, max_length=6, part_lines=2), overwrite=True)
    assert {path.name for path in folder.iterdir()} - there == {"out.txt", "out.txt.manifest.json"}


def test_a_file_that_is_named_like_the_manifest_is_not_overwritten(folder: pathlib.Path) -> None:
    (folder / "out.txt.manifest.json").write_text('{"mine": 1}')
    with pytest.raises(errors.LockedError, match="is not a manifest of Raycurrent"):
        _run(folder)
    assert not (folder / "out.txt").exists()


def test_a_foreign_file_is_not_overwritten_without_the_option(folder: pathlib.Path) -> None:
    (folder / "out.txt").write_text("precious\n")
    with pytest.raises(errors.LockedError, match="not written by this run"):
        _run(folder)
    assert (folder / "out.txt").read_text() == "precious\n"
    _run(folder, overwrite=True)
    assert (folder / "out.txt").read_text() != "precious\n"
    (folder / "out.txt").write_text("changed\n")
    with pytest.raises(errors.LockedError, match="not written by this run"):
        _run(folder)


def test_other_settings_or_input_are_refused_with_the_difference(folder: pathlib.Path) -> None:
    _run(folder)
    with pytest.raises(errors.LockedError, match="beam_size"):
        _run(folder, decoding=inference_settings.DecodingConfig(beam_size=1, max_length=6, part_lines=2))
    (folder / "in.txt").write_text("another\n")
    with pytest.raises(errors.LockedError, match="input"):
        _run(folder)
    assert _run(folder, overwrite=True)["lines"] == 1
    assert len((folder / "out.txt").read_text().splitlines()) == 1


def test_an_empty_input_gives_an_empty_committed_output(folder: pathlib.Path) -> None:
    (folder / "in.txt").write_bytes(b"")
    assert _run(folder)["lines"] == 0
    assert (folder / "out.txt").read_bytes() == b""
    assert (folder / "out.txt.manifest.json").exists()


def test_standard_input_goes_to_standard_output(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", (folder / "in.txt").open())
    with (folder / "stdout").open("wb") as real:
        report = _run(folder, "-", "-", stdout=real.fileno())
    assert (folder / "stdout").read_text().split("\n") == [*(row.text for row in _expected()), ""]
    assert report["lines"] == 5


def test_invalid_inputs_and_outputs_are_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="standard output"):
        _run(folder, "-")
    with pytest.raises(errors.UsageError, match="also an input"):
        _run(folder, "in.txt")
    with pytest.raises(errors.UsageError, match="does not exist"):
        _run(folder, source="missing.txt")
    with pytest.raises(errors.UsageError, match="has no known extension"):
        _run(folder, "out.csv")


def test_a_language_model_does_not_translate(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("x\n")
    with pytest.raises(errors.UsageError, match="this run is a language_model: use score or generate"):
        _run(tmp_path)


def test_a_damaged_part_is_an_error(folder: pathlib.Path) -> None:
    _run(folder, keeps_parts=True)
    (folder / "out.txt").unlink()
    shard = next((folder / "out.txt.parts").glob("part-000001-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.IntegrityError, match=r"part-000001.*damaged"):
        _run(folder, keeps_parts=True)
    assert _run(folder, keeps_parts=True, overwrite=True)["lines"] == 5
    assert (folder / "out.txt").exists()


def test_two_drivers_do_not_share_an_output(folder: pathlib.Path) -> None:
    parts = location.Location.parse(str(folder / "out.txt.parts"))
    with (
        run_lock.RunLock(parts, "translate"),
        pytest.raises(errors.LockedError, match="in use"),
    ):
        _run(folder)
    assert _run(folder)["lines"] == 5


@pytest.mark.ray
def test_a_pool_of_workers_writes_the_same_bytes(folder: pathlib.Path) -> None:
    """Compares a pool of two workers with this process; a stage of several parts uses the pool."""
    _run(folder, keeps_parts=True)
    pool = schema.ClusterConfig(address="local", num_workers=2)
    with trained.session(pool) as session:
        translate.run(
            translate.Request(
                location.Location.parse(str(folder / "run")),
                str(folder / "in.txt"),
                str(folder / "pool.txt"),
                DECODING,
                samples.FP32,
                pool,
                keeps_parts=True,
            ),
            session,
            reporters.SilentReporter(),
        )
        assert session.ray_started
    in_process, by_pool = (
        json.loads((folder / f"{name}.txt.parts/_MANIFEST.json").read_text()) for name in ("out", "pool")
    )
    assert by_pool["shards"] == in_process["shards"]
    assert (folder / "pool.txt").read_bytes() == (folder / "out.txt").read_bytes()
