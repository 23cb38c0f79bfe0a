"""Bundles: round trips, detection of damage, and the selection of a checkpoint of a run."""

import json
import math
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest
import torch

from core import errors
from core.config import model_settings
from core.data.tokens import tokenizer, vocabulary
from core.models import bundle, factory, language_model, seq2seq, weights
from core.storage import commit, location


def codec(*lines: str, reserved: tuple[str, ...]) -> tokenizer.Codec:
    counts = vocabulary.Counts()
    for line in lines:
        counts.add(vocabulary.split_units("word", line))
    return tokenizer.Codec(("lower",), tokenizer.from_counts("word", counts, 1, None, reserved))


def translation_bundle(shared: bool = False, seed: int = 1) -> bundle.Bundle:
    source = codec("go on .", reserved=vocabulary.RESERVED)
    target = source if shared else codec("va , continue donc .", reserved=vocabulary.RESERVED)
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq", hidden_size=4, embedding_size=3, attention="dot", tie_embeddings="all" if shared else "none"
    )
    torch.manual_seed(seed)
    sizes = {"source": source.tokenizer.vocabulary_size, "target": target.tokenizer.vocabulary_size}
    model = factory.build(config, sizes, pad_id=1)
    return bundle.Bundle(model, config, {"source": source, "target": target}, "eos", "bf16")


def text_bundle() -> bundle.Bundle:
    text = codec("a b c", reserved=("<unk>",))
    config = model_settings.LanguageModelConfig(kind="language_model", hidden_size=4, embedding_size=3)
    model = factory.build(config, {"text": text.tokenizer.vocabulary_size}, pad_id=None)
    return bundle.Bundle(model, config, {"text": text}, "space", "fp32")


def write(folder: pathlib.Path, files: dict[str, bytes]) -> location.Location:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return location.Location.parse(str(folder))


def changed(files: dict[str, bytes], **settings: Any) -> dict[str, bytes]:
    """The files with other settings, as a careful forger would write them."""
    content = json.loads(files["model.json"]) | settings
    content["files"] = {name: commit.sha256_hex(data) for name, data in files.items() if name != "model.json"}
    content["sha256"] = bundle._digest(content)
    return files | {"model.json": json.dumps(content).encode()}


@pytest.mark.parametrize("make", [translation_bundle, lambda: translation_bundle(shared=True), text_bundle])
def test_bundle_round_trip(make: Any, tmp_path: pathlib.Path) -> None:
    original = make()
    files = bundle.to_files(original)
    random_state = torch.random.get_rng_state()
    back = bundle.load(write(tmp_path, files))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not back.model.training
    assert (back.config, back.codecs, back.line_end, back.precision) == (
        original.config,
        original.codecs,
        original.line_end,
        original.precision,
    )
    for name, parameter in original.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], parameter)
    assert bundle.to_files(back) == files
    assert len(back.fingerprint) == 64


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: pathlib.Path) -> None:
    files = bundle.to_files(translation_bundle(shared=True))
    assert set(files) == {"model.safetensors", "model.json", "tokenizer.json"}
    stored = weights.from_bytes(files["model.safetensors"], "w")
    assert {name for name in stored if "embedding" in name or "output" in name} == {"output.bias", "output.weight"}
    model = bundle.load(write(tmp_path, files)).model
    assert isinstance(model, seq2seq.Seq2Seq)
    assert model.source_embedding.weight is model.target_embedding.weight is model.output_weight_VF


def test_other_weights_give_another_fingerprint(tmp_path: pathlib.Path) -> None:
    first, again, other = (
        bundle.load(write(tmp_path / str(index), bundle.to_files(translation_bundle(seed=seed)))).fingerprint
        for index, seed in enumerate((1, 1, 2))
    )
    assert first == again != other


def test_every_flipped_bit_and_truncation_is_detected(tmp_path: pathlib.Path) -> None:
    files = bundle.to_files(translation_bundle())
    folder = write(tmp_path, files)
    choose = random.Random(7)
    for name, data in files.items():
        damages = [data[: len(data) // 2], b""]
        for _ in range(12):
            flipped = bytearray(data)
            flipped[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
            damages.append(bytes(flipped))
        for damaged in damages:
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(errors.IntegrityError):
                bundle.load(folder)
        (tmp_path / name).unlink()
        with pytest.raises(errors.IntegrityError, match="is missing"):
            bundle.load(folder)
        (tmp_path / name).write_bytes(data)
    bundle.load(folder)


def test_a_setting_that_was_changed_to_another_valid_value_is_detected(tmp_path: pathlib.Path) -> None:
    """As by one flipped bit: the weights have the shapes of both, and nothing but the hash says whose they are."""
    files = bundle.to_files(text_bundle())
    settings = json.loads(files["model.json"])
    assert settings["config"]["dropout"] != 0.25
    settings["config"]["dropout"] = 0.25
    files["model.json"] = json.dumps(settings).encode()
    with pytest.raises(errors.IntegrityError, match="does not match its own SHA-256"):
        bundle.load(write(tmp_path, files))


def test_newer_format_is_refused_with_its_version(tmp_path: pathlib.Path) -> None:
    files = changed(bundle.to_files(text_bundle()), version=3)
    with pytest.raises(errors.IntegrityError, match="has format version 3, this program reads up to 2"):
        bundle.load(write(tmp_path, files))


def test_weights_of_another_vocabulary_size_are_refused_with_both_sizes(tmp_path: pathlib.Path) -> None:
    files = bundle.to_files(text_bundle())
    other = codec("a b c d e", reserved=("<unk>",)).tokenizer
    record = json.loads(files["model.json"])["codecs"]["text"]
    record |= {"fingerprint": other.fingerprint, "vocabulary_size": other.vocabulary_size}
    files = changed(files | {"tokenizer.json": other.to_json().encode()}, codecs={"text": record})
    with pytest.raises(errors.IntegrityError, match=r"output\.bias is float32 \[4\] instead of float32 \[6\]"):
        bundle.load(write(tmp_path, files))


def test_settings_larger_than_the_weights_allocate_no_memory(tmp_path: pathlib.Path) -> None:
    files = bundle.to_files(text_bundle())
    config = json.loads(files["model.json"])["config"] | {"hidden_size": 65536, "num_layers": 8}
    with pytest.raises(errors.IntegrityError, match="does not match the model's settings"):
        bundle.load(write(tmp_path, changed(files, config=config)))


def test_weights_that_are_not_finite_are_refused(tmp_path: pathlib.Path) -> None:
    made = text_bundle()
    assert isinstance(made.model, language_model.LanguageModel)
    with torch.no_grad():
        made.model.output_bias_V[1] = math.nan
    with pytest.raises(errors.IntegrityError, match=r"output\.bias holds values that are not finite"):
        bundle.load(write(tmp_path, bundle.to_files(made)))


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "ngram"},
        {"kind": "seq2seq"},
        {"line_end": "tab"},
        {"precision": "fp8"},
        {"codecs": {}},
        {"codecs": {"text": {"tokenizer": "../tokenizer.json"}}},
        {"config": {"kind": "language_model", "unknown": 1}},
        {"config": []},
        {"format": "other"},
        {"version": "1"},
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], tmp_path: pathlib.Path) -> None:
    files = changed(bundle.to_files(text_bundle()), **settings)
    with pytest.raises(errors.IntegrityError, match=r"model\.json: "):
        bundle.load(write(tmp_path, files))


def checkpoint(root: pathlib.Path, step: int, epoch: int, loss: float | None) -> pathlib.Path:
    files = {f"bundle/{name}": data for name, data in bundle.to_files(text_bundle()).items()}
    records = [
        {"name": name, "sha256": commit.sha256_hex(data), "size_bytes": len(data)} for name, data in files.items()
    ]
    manifest = {
        "format": "raycurrent-checkpoint",
        "version": 1,
        "step": step,
        "epoch": epoch,
        "validation": None if loss is None else {"nll_nats": loss},
        "best": False,
        "files": records,
    }
    folder = root / "checkpoints" / f"step-{step:08}-e{epoch}"
    write(folder, files | {"MANIFEST.json": json.dumps(manifest).encode()})
    return folder


def test_the_best_checkpoint_by_validation_is_selected(tmp_path: pathlib.Path) -> None:
    checkpoint(tmp_path, 100, 1, 2.0)
    checkpoint(tmp_path, 200, 1, 1.5)
    checkpoint(tmp_path, 300, 2, 1.7)
    checkpoint(tmp_path, 400, 2, None)
    selected = bundle.select_checkpoint(location.Location.parse(str(tmp_path)))
    assert (selected.step, selected.damaged) == (200, ())
    assert bundle.find_folder(location.Location.parse(str(tmp_path))) == selected.checkpoint.join("bundle")
    assert bundle.load(selected.bundle).line_end == "space"


def test_without_validation_the_checkpoint_of_the_latest_start_is_selected(tmp_path: pathlib.Path) -> None:
    checkpoint(tmp_path, 900, 1, None)
    checkpoint(tmp_path, 100, 3, None)
    checkpoint(tmp_path, 200, 3, None)
    (tmp_path / "checkpoints" / "step-00000999-e9").mkdir()
    assert bundle.select_checkpoint(location.Location.parse(str(tmp_path))).step == 200


def test_damaged_checkpoints_are_skipped_and_reported(tmp_path: pathlib.Path) -> None:
    checkpoint(tmp_path, 100, 1, 2.0)
    best = checkpoint(tmp_path, 200, 1, 1.5)
    weights_file = best / "bundle" / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"\x01")
    (checkpoint(tmp_path, 300, 1, 1.6) / "MANIFEST.json").write_text("{")
    run = location.Location.parse(str(tmp_path))
    selected = bundle.select_checkpoint(run)
    assert selected.step == 100
    assert ["step-00000300" in selected.damaged[0], "step-00000200" in selected.damaged[1]] == [True, True]
    with pytest.raises(errors.IntegrityError, match="damaged"):
        bundle.select_checkpoint(location.Location.parse(str(best)))
    (tmp_path / "checkpoints" / "step-00000100-e1" / "bundle" / "model.json").unlink()
    with pytest.raises(errors.IntegrityError, match="all checkpoints are damaged"):
        bundle.select_checkpoint(run)


@pytest.mark.e2e
def test_loading_a_bundle_does_not_import_torchs_compiler(tmp_path: pathlib.Path) -> None:
    """Three seconds of each command and of each worker that reads a model."""
    folder = write(tmp_path, bundle.to_files(translation_bundle(shared=True)))
    program = (
        "import sys\nfrom core.models import bundle\nfrom core.storage import location\n"
        f"bundle.load(location.Location.parse({str(folder)!r}))\nassert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_single_checkpoint_folder_is_selected(tmp_path: pathlib.Path) -> None:
    checkpoint(tmp_path, 200, 1, 1.0)
    folder = checkpoint(tmp_path, 100, 1, 2.0)
    assert bundle.select_checkpoint(location.Location.parse(str(folder))).step == 100


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "bundle/../../x"])
def test_manifest_with_a_path_outside_the_folder_is_refused(name: str, tmp_path: pathlib.Path) -> None:
    folder = checkpoint(tmp_path, 100, 1, 2.0)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"].append({"name": name, "sha256": "0" * 64, "size_bytes": 1})
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(errors.IntegrityError, match="not a valid file name"):
        bundle.select_checkpoint(location.Location.parse(str(folder)))


def test_run_without_checkpoints_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="train first"):
        bundle.find_folder(location.Location.parse(str(tmp_path)))


def test_several_checkpoints_are_the_best_ones_and_all_of_them_must_be_there(tmp_path: pathlib.Path) -> None:
    for step, nll in ((100, 2.0), (200, 1.5), (300, 1.7)):
        folder = checkpoint(tmp_path, step, 1, nll)
    run = location.Location.parse(str(tmp_path))
    assert [selected.step for selected in bundle.select_checkpoints(run, 2)] == [200, 300]
    with pytest.raises(errors.UsageError, match="has 3 intact checkpoints, 4 are needed; use fewer"):
        bundle.select_checkpoints(run, 4)
    with pytest.raises(errors.UsageError, match="is a single checkpoint, 2 are needed; name the root"):
        bundle.select_checkpoints(location.Location.parse(str(folder)), 2)


def test_a_tokenizer_is_read_from_one_of_two_names_alone(tmp_path: pathlib.Path) -> None:
    files = bundle.to_files(text_bundle())
    codecs = json.loads(files["model.json"])["codecs"]
    for name in ("../tokenizer.json", "tokenizer.source.json", "x.json"):
        forged = changed(files, codecs={"text": codecs["text"] | {"tokenizer": name}})
        with pytest.raises(errors.IntegrityError, match="has the invalid tokenizer file name"):
            bundle.load(write(tmp_path / "a", forged))
    forged = changed(files, codecs={"text": codecs["text"] | {"vocabulary_size": 99}})
    with pytest.raises(errors.IntegrityError, match=r"is not the tokenizer .* that model\.json was written for"):
        bundle.load(write(tmp_path / "b", forged))
