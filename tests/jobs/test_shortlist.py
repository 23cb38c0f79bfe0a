"""Tests of `translate` with a shortlist."""

import pathlib
import shutil
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.storage import location
from jobs import translate
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import trained


def _run(root: pathlib.Path, folder: pathlib.Path, output: str, **settings: Any) -> dict[str, Any]:
    decoding = inference_settings.DecodingConfig.model_validate(
        {"beam_size": 2, "max_length": 12, "part_lines": 4, **settings}
    )
    with trained.session() as session:
        return translate.run(
            translate.Request(
                location.Location.parse(str(root)),
                str(folder / "in.txt"),
                str(folder / output),
                decoding,
                samples.FP32,
                trained.NONE,
            ),
            session,
            reporters.SilentReporter(),
        )


def test_the_translation_table_is_estimated_once_and_used_by_all_parts(
    runs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "run"
    for name in ("checkpoints", "dataset"):
        shutil.copytree(runs / "translation" / name, root / name)
    lines = (runs / "pairs.tsv").read_text().splitlines()[:10]
    (tmp_path / "in.txt").write_text("".join(line.split("\t")[0] + "\n" for line in lines))
    plain = _run(root, tmp_path, "plain.jsonl")
    whole = {"candidates": 2, "always": 100_000}
    assert _run(root, tmp_path, "whole.jsonl", shortlist=whole)["score_nats"] == plain["score_nats"]
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
    assert len(list((root / "shortlists").iterdir())) == 1
    narrow = _run(root, tmp_path, "narrow.jsonl", shortlist={"candidates": 2, "always": 2})
    assert narrow["score_nats"] != plain["score_nats"]
    with pytest.raises(errors.LockedError):
        _run(root, tmp_path, "narrow.jsonl", shortlist={"candidates": 2, "always": 3})
    with pytest.raises(errors.UsageError, match=r"decoding\.shortlist: is made from the training data.*has no dataset"):
        _run(pathlib.Path(plain["checkpoint"]), tmp_path, "other.jsonl", shortlist=whole)
