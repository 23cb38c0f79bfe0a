"""Laws of `translate`: one line out for one line in, finished once, never over what is not ours."""

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
from jobs import console, translate
from tests.core.decoding import samples
from tests.jobs import trained
from workers.infer import part_worker

LINES = ["the cat", "", "a dog sees the house", "the zebra", "big cat"]
DECODING = inference_settings.DecodingConfig(beam_size=3, num_best=2, max_length=6, part_lines=2)


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    trained.save(samples.seq2seq(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def _run(
    place: pathlib.Path, output: str = "out.txt", source: str = "in.txt", decoding: Any = DECODING, **more: Any
) -> dict[str, Any]:
    with trained.session() as session:
        return translate.run(
            location.Location.parse(str(place / "run")),
            source if source == "-" else str(place / source),
            output if output == "-" else f"{place}/{output}",
            more.pop("column", None),
            decoding,
            samples.FP32,
            trained.NONE,
            session,
            console.SilentReporter(),
            **more,
        )


def _expected() -> list[results.Translation]:
    return translator.Translator(samples.seq2seq(), DECODING, samples.FP32).translate(LINES)


def test_every_line_has_its_line(place: pathlib.Path) -> None:
    report = _run(place)
    assert (place / "out.txt").read_text().split("\n") == [*(row.text for row in _expected()), ""]
    assert (report["lines"], report["errors"], report["step"]) == (5, 0, 5)
    assert report["tokens"] == sum(row.num_tokens for row in _expected())
    assert float(report["score_nats"]) == pytest.approx(sum(row.score_nats or 0 for row in _expected()), abs=1e-4)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow"])
def test_other_formats_have_all_columns(place: pathlib.Path, ending: str) -> None:
    _run(place, f"out.{ending}")
    path = place / f"out.{ending}"
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        table = parquet.read_table(path) if ending == "parquet" else pa.ipc.open_file(path.read_bytes()).read_all()
        rows = table.to_pylist()
    assert [row["line"] for row in rows] == list(range(5))
    assert [row["text"] for row in rows] == [row.text for row in _expected()]
    assert [len(row["alternatives"]) for row in rows] == [1, 0, 1, 1, 1]


def test_a_folder_keeps_the_parts_and_their_manifest(place: pathlib.Path) -> None:
    _run(place, "out/")
    manifest = json.loads((place / "out" / "_MANIFEST.json").read_text())
    assert len(manifest["shards"]) == 3
    assert manifest["summary"]["lines"] == 5
    assert not (place / "out.parts").exists()


def test_the_second_time_nothing_is_done(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(place)
    before = (place / "out.txt").stat().st_mtime_ns
    monkeypatch.setattr(part_worker.TranslateWorker, "__init__", lambda *_: pytest.fail("a worker was made"))
    report = _run(place)
    assert (report["lines"], report["lines_per_s"]) == (5, 0), "none of the five was done now"
    assert (place / "out.txt").stat().st_mtime_ns == before


def test_a_run_that_was_cut_short_goes_on(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(place, "whole.txt")
    done: list[str] = []
    original = part_worker.PartWorker.__call__

    def twice(self: Any, payload: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(payload.name)
        return original(self, payload)

    with monkeypatch.context() as patch:
        patch.setattr(part_worker.PartWorker, "__call__", twice)
        with pytest.raises(KeyboardInterrupt):
            _run(place)
    assert not (place / "out.txt").exists()
    done.clear()
    monkeypatch.setattr(part_worker.PartWorker, "__call__", twice)
    report = _run(place)
    assert done == ["part-000002"]
    assert (place / "out.txt").read_bytes() == (place / "whole.txt").read_bytes()
    assert report["score_nats"] == whole["score_nats"]


def test_a_lost_merged_file_is_merged_again(place: pathlib.Path) -> None:
    _run(place)
    before = (place / "out.txt").read_bytes()
    (place / "out.txt").unlink()
    _run(place)
    assert (place / "out.txt").read_bytes() == before


def test_somebody_elses_file_is_not_touched_without_being_told(place: pathlib.Path) -> None:
    (place / "out.txt").write_text("precious\n")
    with pytest.raises(errors.LockedError, match="not of this run"):
        _run(place)
    assert (place / "out.txt").read_text() == "precious\n"
    _run(place, overwrite=True)
    assert (place / "out.txt").read_text() != "precious\n"
    (place / "out.txt").write_text("changed\n")
    with pytest.raises(errors.LockedError, match="not of this run"):
        _run(place)


def test_other_settings_or_input_are_refused_with_what_differs(place: pathlib.Path) -> None:
    _run(place)
    with pytest.raises(errors.LockedError, match="beam_size"):
        _run(place, decoding=inference_settings.DecodingConfig(beam_size=1, max_length=6, part_lines=2))
    (place / "in.txt").write_text("another\n")
    with pytest.raises(errors.LockedError, match="input"):
        _run(place)
    assert _run(place, overwrite=True)["lines"] == 1
    assert len((place / "out.txt").read_text().splitlines()) == 1


def test_an_empty_input_gives_an_empty_committed_output(place: pathlib.Path) -> None:
    (place / "in.txt").write_bytes(b"")
    assert _run(place)["lines"] == 0
    assert (place / "out.txt").read_bytes() == b""
    assert (place / "out.txt.parts" / "_MANIFEST.json").exists()


def test_standard_input_goes_to_standard_output(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", (place / "in.txt").open())
    with (place / "stdout").open("wb") as real:
        report = _run(place, "-", "-", stdout=real.fileno())
    assert (place / "stdout").read_text().split("\n") == [*(row.text for row in _expected()), ""]
    assert report["lines"] == 5


def test_what_does_not_fit_is_refused(place: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="standard output"):
        _run(place, "-")
    with pytest.raises(errors.UsageError, match="also an input"):
        _run(place, "in.txt")
    with pytest.raises(errors.UsageError, match="nothing at"):
        _run(place, source="missing.txt")
    with pytest.raises(errors.UsageError, match="does not say its format"):
        _run(place, "out.csv")


def test_a_language_model_does_not_translate(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(), tmp_path / "run")
    (tmp_path / "in.txt").write_text("x\n")
    with pytest.raises(errors.UsageError, match="this run is a language_model: use score or generate"):
        _run(tmp_path)


def test_a_damaged_part_is_told(place: pathlib.Path) -> None:
    _run(place)
    (place / "out.txt").unlink()
    shard = next((place / "out.txt.parts").glob("part-000001-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.IntegrityError, match=r"part-000001.*damaged"):
        _run(place)


def test_two_drivers_do_not_share_an_output(place: pathlib.Path) -> None:
    folder = location.Location.parse(str(place / "out.txt.parts"))
    with (
        run_lock.RunLock(folder, "translate"),
        pytest.raises(errors.LockedError, match="in use"),
    ):
        _run(place)
    assert _run(place)["lines"] == 5


@pytest.mark.ray
def test_a_pool_of_workers_writes_the_same_bytes(place: pathlib.Path) -> None:
    """Translations of a pool of two, and of this process alone; a stage of several parts uses the pool."""
    _run(place)
    pool = schema.ClusterConfig(address="local", num_workers=2)
    with trained.session(pool) as session:
        translate.run(
            location.Location.parse(str(place / "run")),
            str(place / "in.txt"),
            str(place / "pool.txt"),
            None,
            DECODING,
            samples.FP32,
            pool,
            session,
            console.SilentReporter(),
        )
        assert session.ray_started
    alone, together = (json.loads((place / f"{name}.txt.parts/_MANIFEST.json").read_text()) for name in ("out", "pool"))
    assert together["shards"] == alone["shards"]
    assert (place / "pool.txt").read_bytes() == (place / "out.txt").read_bytes()
