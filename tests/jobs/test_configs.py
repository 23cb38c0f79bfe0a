"""The configurations that come along can be used, and are what they say, their comments too.

A line `#name: value` is a setting that is off; it is used in place of the line of its name above it. What a comment
behind a setting begins a part with, apart by `; `, says more: `or a, b` are other values, `with name: value` is what
these need beside them (with a dot in the name: of another section).
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from core.config import autoregressive_settings, loading, model_settings, old_names, yaml_reader
from core.models import autoregressive, factory, seq2seq
from tests.architecture import reference

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "jobs" / "configs"
PATHS = sorted(FOLDER.glob("*.yaml"))
SECTIONS = ("tokenizer", "model", "training", "decoding", "generation", "scoring", "forecasting", "compute")
SETTING = re.compile(r"(?P<indent> *)(?P<off>#?)(?P<name>[a-z_]+): (?P<value>.+?)(?: +# (?P<comment>.*))?")
COMMAND = re.compile(rf"\b((?:{'|'.join(SECTIONS)})\.[a-z_.]+)=('[^']*'|\[[^]]*\]|[^\s\"',]+)")


class Choice(NamedTuple):
    """An alternative given in a comment: its text, the whole file with it, and the other settings that it needs."""

    words: str
    text: str
    needs: list[str]


def choices(text: str) -> Iterator[Choice]:
    """Yields what the comments of a file offer, one at a time."""
    lines = text.splitlines()
    start, section = 0, ""
    for number, line in enumerate(lines):
        if line[:1].isalpha():
            start, section = number, line.partition(":")[0]
        if not (match := SETTING.fullmatch(line)):
            continue
        indent, off, name, value, comment = match.groups(default="")
        parts = comment.split("; ")
        others = [other for part in parts if part.startswith("or ") for other in part[3:].split(", ")]
        pairs = [part[5:].split(": ") for part in parts if part.startswith("with ")]
        needs = [f"{needed if '.' in needed else f'{section}.{needed}'}={wanted}" for needed, wanted in pairs]
        above = range(start if indent else 0, number + 1)
        same = [other for other in above if lines[other].startswith(f"{indent}{name}: ")]
        for choice in [value] * bool(off) + others:
            changed = ["" if other in same else old for other, old in enumerate(lines)]
            changed[number] = f"{indent}{name}: {choice}"
            yield Choice(f"{section}.{name}: {choice}", "\n".join(changed), needs)


def commands(text: str) -> list[tuple[str, str]]:
    """Names and values that the commands in a file's comments set."""
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return [(name, value.strip("'")) for line in comments for name, value in COMMAND.findall(line)]


def leaves(data: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields dotted names and values, sections opened."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{name}{key}.")
        else:
            short = ".kind" if f"{name}{key}" in old_names.GROUPS else ""  # `optimizer: adam` is {kind: adam}
            yield f"{name}{key}{short}", str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_configuration_can_be_read(path: pathlib.Path) -> None:
    assert loading.load(str(path)).root.startswith("runs/")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_comments_offer_can_be_used_there(path: pathlib.Path) -> None:
    as_it_is = loading.load(str(path))
    assert re.findall(r"^ +# .*", path.read_text(), re.MULTILINE) == []  # within a section: settings that are off
    for choice in choices(path.read_text()):
        assert loading.parse(choice.text, f"{path.name} with {choice.words}", choice.needs) != as_it_is, choice.words


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_commands_in_comments_set_what_can_be_set(path: pathlib.Path) -> None:
    config = loading.load(str(path))
    for name, value in commands(path.read_text()):
        section = name.partition(".")[0]
        loading.section_from(getattr(config, section), [f"{name}={value}"], section)


def test_every_setting_and_every_value_of_a_choice_stands_in_some_configuration() -> None:
    """Defaults need not: they are what happens without a word."""
    shown: set[tuple[str, str]] = set()
    for text in [path.read_text() for path in PATHS]:
        for version in [text, *(choice.text for choice in choices(text))]:
            shown |= set(leaves(yaml_reader.read(version, "").data))
        shown |= set(commands(text))
    missing = set()
    for _, prefix, kind, elsewhere in reference.sections():
        for name, values, default, *_ in reference.rows(kind, prefix, elsewhere):
            shown_values = {value for known, value in shown if known == name or known.startswith(f"{name}.")}
            wanted = set(values.removesuffix(" or null").split(" · ")) if " · " in values else set()
            if name.partition(".")[0] in SECTIONS:
                missing |= (
                    {f"{name}: {value}" for value in wanted - {default.strip("`")} - shown_values}
                    if shown_values
                    else {name}
                )
    assert missing == set()


def test_the_deep_one_is_eight_and_eight_residual_layers_with_attention() -> None:
    """Wu et al. 2016, figure 1: the lowest encoder layer reads both ways, the seven above it forward."""
    config = loading.load(str(FOLDER / "multi30k-deep.yaml"), ["model.hidden_size=4", "model.embedding_size=4"]).model
    assert isinstance(config, model_settings.Seq2SeqConfig)
    assert (config.connections, config.attention) == ("residual", "additive")
    model = factory.build(config, {"source": 9, "target": 9}, 1)
    assert isinstance(model, seq2seq.Seq2Seq)
    assert model.encoder.sizes == (8, *(4,) * 7)
    assert len(model.decoder.layers) == 8


def test_the_sine_is_learnt_by_the_network_of_d2l() -> None:
    """The network has 4 inputs, 10 hidden units and 1 output, and batches of 16.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.1.2 "Training".
    """
    config = loading.load(str(FOLDER / "sine.yaml"))
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    model = autoregressive.Autoregressive(
        config.model, len(config.corpora_by_name[""].inputs), len(config.corpora_by_name[""].targets)
    )
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(10, 4), (10,), (1, 10), (1,)]
    assert config.training.batch_lines == 16
