"""Translating with several runs or checkpoints, given beginnings, and what is written beside the translations."""

import json
import pathlib
import shutil
from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.decoding.translation import translator
from core.models import bundle as bundles
from core.storage import location
from jobs import console, translate
from tests.core.decoding import samples
from tests.jobs import trained

LINES = ["the cat sees a dog", "", "a big zebra", "the old house"]


def _decoding(**settings: Any) -> inference_settings.DecodingConfig:
    return inference_settings.DecodingConfig.model_validate(
        {"beam_size": 3, "max_length": 7, "part_lines": 2, **settings}
    )


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two runs over the same vocabularies; the first has a second checkpoint with half its weights."""
    trained.save(samples.seq2seq(), tmp_path / "a")
    trained.save(samples.seq2seq(hidden_size=10, attention="dot"), tmp_path / "b")
    halved = samples.seq2seq()
    with torch.no_grad():
        for parameter in halved.model.parameters():
            parameter.mul_(0.5)
    trained.save(halved, tmp_path / "half")
    shutil.move(
        tmp_path / "half/checkpoints/step-00000005-e1", tmp_path / "a/checkpoints/step-00000004-e1"
    )  # the older one
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path


def _run(place: pathlib.Path, output: str = "out.txt", runs: str = "a", **options: Any) -> dict[str, Any]:
    every = [location.Location.parse(str(place / name)) for name in runs]
    settings = {
        name: options.pop(name) for name in list(options) if name in inference_settings.DecodingConfig.model_fields
    }
    with trained.session() as session:
        return translate.run(
            run=every[0],
            input=str(place / "in.txt"),
            output=f"{place}/{output}",
            column=None,
            decoding=_decoding(**settings),
            compute=samples.FP32,
            cluster=trained.NONE,
            session=session,
            reporter=console.SilentReporter(),
            others=every[1:],
            **options,
        )


def _expected(members: list[bundles.Bundle], **settings: Any) -> list[str]:
    ready = translator.Translator(members, _decoding(**settings), samples.FP32)
    return [row.text for row in ready.translate(LINES)]


def _lines(place: pathlib.Path, name: str = "out.txt") -> list[str]:
    return (place / name).read_text().split("\n")[:-1]


def test_runs_translate_together_and_the_plan_knows_them_all(place: pathlib.Path) -> None:
    report = _run(place, runs="ab")
    assert _lines(place) == _expected([samples.seq2seq(), samples.seq2seq(hidden_size=10, attention="dot")])
    assert [member["run"].rsplit("/", 1)[1] for member in report["members"]] == ["a", "b"]
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(place, runs="a")
    assert _run(place, runs="ab")["lines"] == 4


def test_checkpoints_are_averaged(place: pathlib.Path) -> None:
    mean = samples.seq2seq()
    with torch.no_grad():
        for parameter in mean.model.parameters():
            parameter.mul_(0.75)
    report = _run(place, average_checkpoints=2)
    assert _lines(place) == _expected([mean])
    names = [checkpoint.rsplit("/", 1)[1] for checkpoint in report["members"][0]["checkpoints"]]
    assert names == ["step-00000005-e1", "step-00000004-e1"]
    _run(place, "one.txt", average_checkpoints=1)
    assert _lines(place, "one.txt") == _expected([samples.seq2seq()])
    with pytest.raises(errors.UsageError, match="has 2 checkpoints that verify, 3 are asked for"):
        _run(place, "three.txt", average_checkpoints=3)


def test_beginnings_are_read_from_a_file(place: pathlib.Path) -> None:
    (place / "begun.txt").write_text("eht\n\nzebra\n\n")
    _run(place, prefixes=str(place / "begun.txt"))
    found = _lines(place)
    assert found[0].startswith("eht")
    assert found[2].startswith("<unk>")  # a word that the model does not know
    assert found[3] == _expected([samples.seq2seq()])[3]
    (place / "begun.txt").write_text("eht\n")
    with pytest.raises(errors.DataError, match="1 lines for 4"):
        _run(place, "other.txt", prefixes=str(place / "begun.txt"))


def test_alignments_and_maps_lie_beside_the_output(place: pathlib.Path) -> None:
    _run(place, alignments=True, attention_maps=3)
    pairs = _lines(place, "out.txt.alignments")
    assert len(pairs) == 4
    assert pairs[1] == ""
    ready = translator.Translator(samples.seq2seq(), _decoding(), samples.FP32)
    for line, row, text in zip(LINES, ready.translate(LINES), pairs, strict=True):
        expected = [f"{source}-{target}" for target, source in enumerate((row.alignment or ())[:-1])]
        assert text.split() == [pair for pair in expected if int(pair.split("-")[0]) < len(line.split())]
    maps = json.loads((place / "out.txt.attention.json").read_text())
    assert [one["line"] for one in maps] == [0, 2]
    assert maps[0]["source"] == ["the", "cat", "sees", "a", "dog", "<eos>"]
    assert len(maps[0]["weights"]) == len(maps[0]["target"])
    _run(place, alignments=True, attention_maps=3)  # again: nothing to do, nothing to complain of
    (place / "out.txt.alignments").write_text("precious\n")
    with pytest.raises(errors.LockedError, match="has other content"):
        _run(place, alignments=True)
    (place / "out.txt.html").write_text("a page of somebody else")
    _run(place, alignments=True, overwrite=True)
    assert (place / "out.txt.html").exists()
    assert _lines(place, "out.txt.alignments") == pairs


def test_what_has_no_place_beside_it_is_refused(place: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="name one by --output"):
        _run(place, "out/", alignments=True)


def test_draws_take_the_seed_of_the_settings_and_not_the_parts(place: pathlib.Path) -> None:
    _run(place, "first.txt", method="sample", seed=3)
    _run(place, "second.txt", method="sample", seed=3, part_lines=4)
    _run(place, "third.txt", method="sample", seed=4)
    assert _lines(place, "first.txt") == _lines(place, "second.txt") != _lines(place, "third.txt")


def test_a_language_model_has_a_say(place: pathlib.Path) -> None:
    beside = samples.language_model("word", text=" ".join(word[::-1] for word in samples.WORDS))
    trained.save(beside, place / "lm")
    _run(place, fusion={"run": str(place / "lm"), "weight": 0.8})
    plan = json.loads((place / "out.txt.parts" / "_PLAN.json").read_text())
    assert str(place) not in json.dumps(plan)  # it names models by what they are
    with pytest.raises(errors.UsageError, match="needs a language_model"):
        _run(place, "other.txt", fusion={"run": str(place / "b")})
