"""Translation with ensembles, averaged checkpoints, prefixes and fusion, and its sidecar files."""

import json
import pathlib
import shutil
from typing import Any
from unittest import mock

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.decoding.translation import translator
from core.models import bundle as bundles
from core.storage import location
from jobs import translate
from tests import reporters
from tests.core.decoding import samples
from tests.jobs import trained

LINES = ["the cat sees a dog", "", "a big zebra", "the old house"]


def _decoding(**settings: Any) -> inference_settings.DecodingConfig:
    return inference_settings.DecodingConfig.model_validate(
        {"beam_size": 3, "max_length": 7, "part_lines": 2, **settings}
    )


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
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


def _run(folder: pathlib.Path, output: str = "out.txt", runs: str = "a", **options: Any) -> dict[str, Any]:
    locations = [location.Location.parse(str(folder / name)) for name in runs]
    settings = {
        name: options.pop(name) for name in list(options) if name in inference_settings.DecodingConfig.model_fields
    }
    request = translate.Request(
        run=locations[0],
        input=str(folder / "in.txt"),
        output=f"{folder}/{output}",
        decoding=_decoding(**settings),
        compute=samples.FP32,
        cluster=trained.NONE,
        others=locations[1:],
        **options,
    )
    with trained.session() as session:
        return translate.run(request, session, reporters.SilentReporter())


def _expected(members: list[bundles.Bundle], **settings: Any) -> list[str]:
    ready = translator.Translator(members, _decoding(**settings), samples.FP32)
    return [row.text for row in ready.translate(LINES)]


def _lines(folder: pathlib.Path, name: str = "out.txt") -> list[str]:
    return (folder / name).read_text().split("\n")[:-1]


def test_the_plan_of_an_ensemble_names_all_members(folder: pathlib.Path) -> None:
    report = _run(folder, runs="ab")
    assert _lines(folder) == _expected([samples.seq2seq(), samples.seq2seq(hidden_size=10, attention="dot")])
    assert [member["run"].rsplit("/", 1)[1] for member in report["members"]] == ["a", "b"]
    with pytest.raises(errors.LockedError, match="bundle"):
        _run(folder, runs="a")
    assert _run(folder, runs="ab")["lines"] == 4


def test_checkpoints_are_averaged(folder: pathlib.Path) -> None:
    mean = samples.seq2seq()
    with torch.no_grad():
        for parameter in mean.model.parameters():
            parameter.mul_(0.75)
    report = _run(folder, average_checkpoints=2)
    assert _lines(folder) == _expected([mean])
    names = [checkpoint.rsplit("/", 1)[1] for checkpoint in report["members"][0]["checkpoints"]]
    assert names == ["step-00000005-e1", "step-00000004-e1"]
    _run(folder, "one.txt", average_checkpoints=1)
    assert _lines(folder, "one.txt") == _expected([samples.seq2seq()])
    with pytest.raises(errors.UsageError, match="has 2 intact checkpoints, 3 are needed"):
        _run(folder, "three.txt", average_checkpoints=3)


def test_prefixes_are_read_from_a_file(folder: pathlib.Path) -> None:
    (folder / "prefixes.txt").write_text("eht\n\nzebra\n\n")
    _run(folder, prefixes=str(folder / "prefixes.txt"))
    translations = _lines(folder)
    assert translations[0].startswith("eht")
    assert translations[2].startswith("<unk>")  # a word that is not in the vocabulary
    assert translations[3] == _expected([samples.seq2seq()])[3]
    (folder / "prefixes.txt").write_text("eht\n")
    with pytest.raises(errors.DataError, match=r"has 1 lines, but .* has 4;"):
        _run(folder, "other.txt", prefixes=str(folder / "prefixes.txt"))


def test_alignments_and_attention_maps_are_written_next_to_the_output(folder: pathlib.Path) -> None:
    _run(folder, alignments=True, attention_maps=3)
    pairs = _lines(folder, "out.txt.alignments")
    assert len(pairs) == 4
    assert pairs[1] == ""
    ready = translator.Translator(samples.seq2seq(), _decoding(), samples.FP32)
    for line, row, text in zip(LINES, ready.translate(LINES), pairs, strict=True):
        expected = [f"{source}-{target}" for target, source in enumerate((row.alignment or ())[:-1])]
        assert text.split() == [pair for pair in expected if int(pair.split("-")[0]) < len(line.split())]
    maps = json.loads((folder / "out.txt.attention.json").read_text())
    assert [attention["line"] for attention in maps] == [0, 2, 3]  # line 1 is empty
    assert maps[0]["source"] == ["the", "cat", "sees", "a", "dog", "<eos>"]
    assert len(maps[0]["weights"]) == len(maps[0]["target"])
    # Again: nothing is left to do, so no line is translated; equal files are accepted.
    with mock.patch.object(translator.Translator, "attention_maps", side_effect=AssertionError):
        _run(folder, alignments=True, attention_maps=3)
    (folder / "out.txt.alignments").write_text("precious\n")
    with pytest.raises(errors.LockedError, match="has other content"):
        _run(folder, alignments=True)
    (folder / "out.txt.html").write_text("a foreign file")
    _run(folder, alignments=True, overwrite=True)
    assert (folder / "out.txt.html").exists()
    assert _lines(folder, "out.txt.alignments") == pairs
    _run(folder, overwrite=True)
    assert not (folder / "out.txt.alignments").exists()  # of the output that was replaced
    with pytest.raises(errors.UsageError, match="was made without them"):
        _run(folder, alignments=True)


def test_attention_maps_are_of_lines_of_all_lengths(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a", "the", "dog", "big", "cat", "a dog", "the cat", "the big cat sees the old dog", "the dog sees a cat"]
    (folder / "in.txt").write_text("".join(f"{line}\n" for line in lines))
    _run(folder, attention_maps=3)
    numbers = [attention["line"] for attention in json.loads((folder / "out.txt.attention.json").read_text())]
    short, medium, long = sorted(len(lines[number]) for number in numbers)
    assert short <= 3 <= medium <= 5 < 7 <= long
    # Of a long file only the first lines are looked at.
    monkeypatch.setattr(translate, "_MAX_DRAWN_FROM", 2)
    _run(folder, "two.txt", attention_maps=3)
    assert [attention["line"] for attention in json.loads((folder / "two.txt.attention.json").read_text())] == [0, 1]


def test_sidecar_files_of_a_folder_output_are_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="name one with --output"):
        _run(folder, "out/", alignments=True)


def test_sampled_translations_depend_on_the_seed_and_not_on_the_parts(folder: pathlib.Path) -> None:
    _run(folder, "first.txt", method="sample", seed=3)
    _run(folder, "second.txt", method="sample", seed=3, part_lines=4)
    _run(folder, "third.txt", method="sample", seed=4)
    assert _lines(folder, "first.txt") == _lines(folder, "second.txt") != _lines(folder, "third.txt")


def test_the_plan_of_fusion_names_the_language_model_by_its_content(folder: pathlib.Path) -> None:
    fusion_model = samples.language_model("word", text=" ".join(word[::-1] for word in samples.WORDS))
    trained.save(fusion_model, folder / "lm")
    _run(folder, fusion={"run": str(folder / "lm"), "weight": 0.8})
    plan = json.loads((folder / "out.txt.manifest.json").read_text())["settings"]
    assert str(folder) not in json.dumps(plan)  # models are named by their fingerprints
    with pytest.raises(errors.UsageError, match="needs a language_model"):
        _run(folder, "other.txt", fusion={"run": str(folder / "b")})
