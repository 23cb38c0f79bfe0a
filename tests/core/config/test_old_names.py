"""Laws of old names: release 0.1's settings resolve to the same numbers, in files, in overrides and in stored files."""

import json
import logging
from typing import Any

import pytest
import yaml

from core import errors
from core.config import loading, old_names, schema

TEXT = (
    "name: a\nroot: r\ncorpus: {kind: text, train: {text: [a]}, split: {valid: 0.1}}\nmodel: {kind: language_model}\n"
)
PAIRS = (
    "name: b\nroot: r\ncorpus: {kind: pairs, train: {tsv: [a]}, split: {valid: 0.1}}\nmodel: {kind: seq2seq}\n"
    "training: {batch_lines: 4}\n"
)
# Of each old name: the kind that heeds it, and a value that is not its default.
TRAINING: dict[str, tuple[str, Any]] = {
    "momentum": ("optimizer: sgd", 0.5),
    "betas": ("optimizer: adamw", [0.8, 0.98]),
    "epsilon": ("optimizer: adam", 1e-9),
    "weight_decay": ("optimizer: asgd", 0.125),
    "non_monotone_interval": ("optimizer: asgd", 7),
    "warmup_steps": ("schedule: inverse_sqrt", 40),
    "decay_factor": ("schedule: step", 0.25),
    "decay_every_epochs": ("schedule: step", 3),
    "decay_patience": ("schedule: plateau", 4),
    "reload_best": ("schedule: plateau", True),
    "final_rate": ("schedule: cosine", 0.5),
    "cut_every": ("truncation: random", 9),
    "cut_probability": ("truncation: random", 0.5),
}
# Both verbs heeded these; the value has to differ from both defaults.
DECODING: dict[str, Any] = {
    "num_tokens": 7,
    "steps_ahead": 3,
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.75,
    "seed": 9,
    "average_checkpoints": 2,
    "no_repeat_ngram": 3,
    "repetition_penalty": 1.5,
}
# What release 0.1 wrote into `config.yaml` for its defaults.
STORED: dict[str, Any] = {
    "training": {
        **{
            name.removeprefix("training."): moved.default
            for name, moved in old_names.MOVED.items()
            if "training" in name
        },
        **{"optimizer": "adam", "schedule": "constant", "truncation": "fixed", "epochs": 10},
    },
    "decoding": {
        **{"beam_size": 5, "num_tokens": 200, "steps_ahead": None, "method": "greedy", "temperature": 1.0},
        **{"top_k": None, "top_p": None, "seed": None, "average_checkpoints": 1, "no_repeat_ngram": None},
        **{"repetition_penalty": 1.0},
    },
}


def _stored(text: str, **sections: Any) -> schema.RunConfig:
    content = yaml.safe_load(text)
    for name, values in STORED.items():
        content[name] = {**values, **content.get(name, {}), **sections.get(name, {})}
    return loading.parse_stored(yaml.safe_dump(content).encode(), "config.yaml")


def _value(config: schema.RunConfig, name: str) -> Any:
    value: Any = config
    for step in name.split("."):
        value = getattr(value, step)
    return list(value) if isinstance(value, tuple) else value


def test_every_old_name_is_tested() -> None:
    tested = {f"training.{name}" for name in TRAINING} | {f"decoding.{name}" for name in DECODING}
    assert tested | {"decoding.method"} == {*old_names.MOVED, *(f"decoding.{name}" for name in old_names.SHARED)}


@pytest.mark.parametrize("name", TRAINING)
def test_an_old_name_of_training_resolves_to_the_new_one(name: str, caplog: pytest.LogCaptureFixture) -> None:
    kind, value = TRAINING[name]
    new, written = old_names.MOVED[f"training.{name}"].name, json.dumps(value)
    group, _, chosen = kind.partition(": ")
    by_new = loading.parse(TEXT, "run.yaml", [f"training.{group}={chosen}", f"{new}={written}"])
    assert _value(by_new, new) == value
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        by_file = loading.parse(f"{TEXT}training: {{{kind}, {name}: {written}}}", "run.yaml")
    assert [record.getMessage() for record in caplog.records] == [f"training.{name}: now {new}"]
    # An override by an old name may stand before that of the kind.
    by_override = loading.parse(TEXT, "run.yaml", [f"training.{name}={written}", f"training.{group}={chosen}"])
    by_section = loading.parse(TEXT, "run.yaml", [f"training={{{kind}, {name}: {written}}}"])
    caplog.clear()
    by_stored = _stored(TEXT, training={group: chosen, name: value})
    assert not caplog.records
    assert by_new == by_file == by_override == by_section
    assert by_stored.training == by_new.training


@pytest.mark.parametrize("name", DECODING)
def test_an_old_name_of_decoding_sets_what_generate_uses(name: str, caplog: pytest.LogCaptureFixture) -> None:
    written = json.dumps(DECODING[name])
    expected = loading.parse(
        TEXT, "run.yaml", ["generation.method=sample", "generation.temperature=1", f"generation.{name}={written}"]
    )
    with caplog.at_level(logging.WARNING):
        by_file = loading.parse(f"{TEXT}decoding: {{method: sample, {name}: {written}}}", "run.yaml")
    assert f"decoding.{name}: now generation.{name}" in [record.getMessage() for record in caplog.records]
    by_override = loading.parse(TEXT, "run.yaml", [f"decoding.{name}={written}", "decoding.method=sample"])
    by_stored = _stored(TEXT, decoding={"method": "sample", name: DECODING[name]})
    assert expected.generation == by_file.generation == by_override.generation == by_stored.generation
    assert by_file.decoding == by_stored.decoding == schema.RunConfig.model_fields["decoding"].default


@pytest.mark.parametrize("name", [name for name in DECODING if name in old_names.SHARED])
def test_a_name_of_decoding_stays_with_translations(name: str, caplog: pytest.LogCaptureFixture) -> None:
    written = json.dumps(DECODING[name])
    by_file = loading.parse(f"{PAIRS}decoding: {{method: sample, {name}: {written}}}", "run.yaml")
    by_override = loading.parse(PAIRS, "run.yaml", [f"decoding.{name}={written}", "decoding.method=sample"])
    assert not caplog.records
    assert by_file == by_override
    assert _value(by_file, f"decoding.{name}") == DECODING[name]
    assert _stored(PAIRS, decoding={"method": "sample", name: DECODING[name]}).decoding == by_file.decoding


def test_greedy_was_beam_search_for_translations_and_is_itself_for_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pairs = loading.parse(f"{PAIRS}decoding: {{method: greedy}}", "run.yaml")
    assert [record.getMessage() for record in caplog.records] == ["decoding.method: greedy: now beam"]
    assert loading.parse(PAIRS, "run.yaml", ["decoding.method=greedy"]) == pairs
    assert pairs.decoding.method == "beam"
    text = loading.parse(f"{TEXT}decoding: {{method: greedy}}", "run.yaml")
    assert (text.decoding.method, text.generation.method) == ("beam", "greedy")


def test_old_names_bring_the_old_defaults_of_generation_and_new_files_have_the_new_ones() -> None:
    old = loading.parse(f"{TEXT}decoding: {{num_tokens: 5}}", "run.yaml").generation
    assert (old.method, old.temperature, old.num_tokens) == ("greedy", 1.0, 5)
    assert loading.parse(TEXT, "run.yaml", ["decoding.num_tokens=5"]).generation == old
    new = loading.parse(f"{TEXT}decoding: {{beam_size: 3}}", "run.yaml").generation
    assert (new.method, new.temperature) == ("sample", 0.8)
    mixed = loading.parse(f"{TEXT}generation: {{temperature: 0.5}}", "run.yaml", ["decoding.num_tokens=5"]).generation
    assert (mixed.method, mixed.temperature, mixed.num_tokens) == ("sample", 0.5, 5)
    assert _stored(TEXT).generation.method == "greedy"


def test_what_is_stored_today_is_read_as_it_is() -> None:
    for text in (TEXT, PAIRS):
        config = loading.parse(text, "run.yaml", ["generation.temperature=0.5", "training.schedule=cosine"])
        assert loading.parse_stored(loading.dump(config).encode(), "config.yaml") == config
        assert loading.parse(loading.dump(config), "run.yaml") == config


@pytest.mark.parametrize(
    ("settings", "new"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"optimizer": "sgd", "betas": [0.5, 0.5]}, {"optimizer": "sgd"}),
        ({"optimizer": "adam", "final_rate": 0.5, "reload_best": True}, {}),
    ],
)
def test_stored_settings_without_effect_are_dropped(settings: dict[str, Any], new: dict[str, Any]) -> None:
    expected = loading.parse(f"{TEXT}training: {json.dumps(new)}", "run.yaml")
    assert _stored(TEXT, training=settings).training == expected.training
    assert _stored(TEXT, decoding={"seed": 5}).generation.seed is None


def test_in_a_users_file_old_settings_without_effect_are_refused_unless_they_have_their_default() -> None:
    whole = {"training": STORED["training"], "decoding": STORED["decoding"]}
    text = TEXT + yaml.safe_dump(whole)
    assert loading.parse(text, "run.yaml").training == loading.parse(TEXT, "run.yaml").training
    with pytest.raises(
        errors.UsageError, match=r"run.yaml:\d+: training.optimizer.momentum: is not a setting of kind ad"
    ):
        loading.parse(text.replace("momentum: 0.0", "momentum: 0.5"), "run.yaml")
    with pytest.raises(
        errors.UsageError, match=r"generation.seed: has no effect with method: greedy; use method: samp"
    ):
        loading.parse(text.replace("seed: null", "seed: 5"), "run.yaml")


@pytest.mark.parametrize(
    ("addition", "overrides", "expected"),
    [
        (
            "training:\n  betas: [0.9, 0.9]\n  optimizer: {betas: [0.9, 0.9]}",
            [],
            "run.yaml:6: training.betas: training.optimizer.betas is given, too; keep training.optimizer.betas",
        ),
        (
            "decoding: {num_tokens: 3}\ngeneration: {num_tokens: 3}",
            [],
            "run.yaml:5: decoding.num_tokens: generation.num_t",
        ),
        (
            "",
            ["decoding.seed=3", "generation.seed=3"],
            "--set decoding.seed=3: generation.seed is given, too; keep gen",
        ),
        (
            "",
            ["training.optimizer.epsilon=1e-3", "training.epsilon=1e-3"],
            "--set training.epsilon=1e-3: training.optimizer.epsilon is given, too; keep training.optimizer.epsilon",
        ),
        (
            "",
            ["training.momentum=0.9", "training.optimizer={kind: sgd, momentum: 0.5}"],
            "--set training.momentum=0.9: training.optimizer.momentum is given, too; keep training.optimizer.momentum",
        ),
        (
            "",
            ["training={optimizer: {kind: sgd, momentum: 0.5}, momentum: 0.9}"],
            "training.momentum: training.optimizer.momentum is given, too; keep training.optimizer.momentum",
        ),
        (
            "",
            ["decoding={num_tokens: 3}", "generation.num_tokens=4"],
            "--set decoding={num_tokens: 3}: decoding.num_tokens: generation.num_tokens is given, too; keep gener",
        ),
    ],
)
def test_the_old_and_the_new_name_together_are_refused(addition: str, overrides: list[str], expected: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        loading.parse(TEXT + addition, "run.yaml", overrides)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("addition", "overrides", "expected"),
    [
        (
            "decoding: {temperature: 0.5}\ngeneration: {num_tokens: 3}",
            [],
            "run.yaml:5: decoding.temperature: has no effect with model.kind: language_model; use generation.temperat",
        ),
        (
            "decoding: {method: sample, temperature: 0.5}\ngeneration: {num_tokens: 3}",
            [],
            "run.yaml:5: decoding.method: has no effect with model.kind: language_model; use generation.method",
        ),
        (
            "generation: {num_tokens: 3}",
            ["decoding={temperature: 0.7}"],
            "--set decoding={temperature: 0.7}: decoding.temperature: has no effect with model.kind: language_model; "
            "use generation.temperature",
        ),
    ],
)
def test_sampling_in_decoding_is_refused_where_a_language_model_has_a_section_generation(
    addition: str, overrides: list[str], expected: str
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        loading.parse(TEXT + addition, "run.yaml", overrides)
    assert expected in str(caught.value)


def test_sampling_in_decoding_of_a_stored_language_model_is_read() -> None:
    text = f"{TEXT}decoding: {{method: sample, temperature: 0.5}}\ngeneration: {{num_tokens: 3}}"
    assert loading.parse_stored(text.encode(), "config.yaml").generation.num_tokens == 3


def test_a_name_is_short_for_a_group_and_a_group_without_a_kind_has_the_default_one() -> None:
    short = loading.parse(f"{TEXT}training: {{optimizer: adamw, schedule: cosine, truncation: variable}}", "run.yaml")
    long = {"optimizer": {"kind": "adamw"}, "schedule": {"kind": "cosine"}, "truncation": {"kind": "variable"}}
    assert loading.parse(f"{TEXT}training: {json.dumps(long)}", "run.yaml") == short
    opened = loading.parse(f"{TEXT}training: {{optimizer: adamw}}", "run.yaml", ["training.optimizer.weight_decay=0.5"])
    assert opened.training.optimizer.model_dump() == {**short.training.optimizer.model_dump(), "weight_decay": 0.5}
    added = loading.parse(TEXT, "run.yaml", ["training.optimizer.weight_decay=0.5"]).training.optimizer
    assert (added.kind, added.weight_decay) == ("adam", 0.5)


def test_settings_lost_to_an_override_of_a_group_are_named(caplog: pytest.LogCaptureFixture) -> None:
    text = f"{TEXT}training: {{schedule: {{kind: cosine, warmup_steps: 9, final_rate: 0.1}}, num_lanes: 4}}\n"
    resolved = loading.parse(text, "run.yaml", ["training.schedule=inverse_sqrt"])
    assert resolved.training.schedule.warmup_steps == 0
    assert ["warmup_steps has its default again" in message for message in caplog.messages] == [True]
    caplog.clear()
    kept = loading.parse(text.replace(", final_rate: 0.1", ""), "run.yaml", ["training.schedule.kind=inverse_sqrt"])
    assert kept.training.schedule.warmup_steps == 9
    assert caplog.messages == []


def test_an_override_of_a_group_replaces_it() -> None:
    text = f"{TEXT}training: {{optimizer: {{kind: adam, weight_decay: 0.5}}}}"
    replaced = loading.parse(text, "run.yaml", ["training.optimizer=sgd"]).training.optimizer
    assert replaced.model_dump() == {"kind": "sgd", "momentum": 0.0, "weight_decay": 0.0}


def test_an_override_of_the_method_drops_what_the_file_says_of_sampling() -> None:
    text = f"{TEXT}generation: {{temperature: 0.5, seed: 3, num_tokens: 9}}"
    greedy = loading.parse(text, "run.yaml", ["generation.method=greedy"]).generation
    assert (greedy.method, greedy.seed, greedy.num_tokens) == ("greedy", None, 9)


def test_the_method_of_an_override_may_be_quoted() -> None:
    text = f"{TEXT}generation: {{temperature: 0.5, seed: 3}}"
    sampled = loading.parse(text, "run.yaml", ['generation.method="sample"']).generation
    assert (sampled.method, sampled.temperature, sampled.seed) == ("sample", 0.5, 3)
    pairs = loading.parse(PAIRS, "run.yaml", ['decoding.method="greedy"'])
    assert pairs == loading.parse(PAIRS, "run.yaml", ["decoding.method=greedy"])
    assert loading.parse(TEXT, "run.yaml", ["decoding.method='beam'"]) == loading.parse(TEXT, "run.yaml")


def test_names_of_changes_that_an_older_release_noted_are_todays() -> None:
    for old, new in (
        ("training.betas", "training.optimizer.betas"),
        ("training.schedule", "training.schedule.kind"),
        ("training.epochs", "training.epochs"),
    ):
        assert old_names.current(old) == new


def test_every_old_name_has_a_line_of_its_own_on_the_console(caplog: pytest.LogCaptureFixture) -> None:
    """The console shows messages of one template once a minute: each name must be a message of its own."""
    loading.parse(f"{TEXT}training: {{betas: [0.5, 0.9], epsilon: 1e-6}}", "run.yaml")
    assert len({record.msg for record in caplog.records}) == 2
