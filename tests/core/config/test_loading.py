"""Loading: a dumped configuration reads as equal, and every mistake is one line with the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from core import errors
from core.config import error_messages, inference_settings, loading, optimizer_settings, schema, section

BASE = "name: a\nroot: r\ncorpus: {kind: text, train: {text: [a]}}\nmodel: {kind: language_model}\n"
PAIRS = """\
name: b
root: s3://bucket/b
corpus: {kind: pairs, train: {tsv: [data/*.tsv]}, split: {valid: 0.1}, filters: {max_length: 50}}
model: {kind: seq2seq, attention: additive, bidirectional: true}
training: {batch_tokens: 4096, learning_rate: 1e-4, optimizer: {kind: adam, betas: [0.9, 0.98]}}
cluster: {num_workers: {min: 1, max: 3}}
"""


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(errors.UsageError) as caught:
        loading.parse(text, "run.yaml", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("text", [BASE, PAIRS, "\ufeff" + BASE])
def test_a_dumped_configuration_reads_as_equal(text: str) -> None:
    config = loading.parse(text, "run.yaml")
    again = loading.parse(loading.dump(config), "again.yaml")
    assert again == config
    assert loading.fingerprint(again) == loading.fingerprint(config)


def test_lists_become_tuples_and_exponents_become_numbers() -> None:
    training = loading.parse(PAIRS, "run.yaml").training
    assert training.optimizer == optimizer_settings.AdamConfig(betas=(0.9, 0.98))
    assert training.learning_rate == 0.0001


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("training: {lerning_rate: 1}", "run.yaml:5: training.lerning_rate: is not a setting; did you mean learning_"),
        ("trainning: {epochs: 1}", "run.yaml:5: trainning: is not a setting; did you mean training?"),
        ("epochs: 3", "run.yaml:5: epochs: is not a setting here; did you mean training.epochs?"),
        ("zzz: 3", "run.yaml:5: zzz: is not a setting; known here: name, root"),
        ("training:\n  epochs: 3\n  epochs: 4", "run.yaml:7: training.epochs: is given twice"),
        ("name: b", "run.yaml:5: name: is given twice"),
        ("x: &a [1]\ny: *a", "run.yaml:6: *a is an alias; write the value out"),
        ("x: &a [*a]", "run.yaml:5: *a is an alias"),
        ("x: !!python/object/apply:os.system [ls]", "run.yaml:5: the tag !!python/object/apply:os.system is not allow"),
        ("seed: !!int '3'", "the tag !!int is not allowed"),
        ("<<: {seed: 1}", "quote it"),
        ("seed: 012", "run.yaml:5: seed: 012 is not a plain, finite decimal number"),
        ("seed: 1_000", "seed: 1_000 is not a plain"),
        ("seed: 1:30", "seed: 1:30 is not a plain"),
        ("seed: " + "9" * 5000, "seed: 99999"),
        ("seed: 1e3", "seed: expected a whole number"),
        ("seed: true", "seed: expected a whole number, not true"),
        ("seed: '5'", 'seed: expected a whole number, not "5"'),
        ("seed: null", "seed: expected a whole number, not null"),
        ("seed: -1", "seed: must be at least 0; -1 is not"),
        ("training: {learning_rate: .nan}", "training.learning_rate: .nan is not a plain, finite"),
        ("training: {learning_rate: nan}", "training.learning_rate: expected a number"),
        ("training: {learning_rate: -.inf}", "training.learning_rate: -.inf is not a plain, finite"),
        ("training: {learning_rate: 1e400}", "training.learning_rate: must be a finite number"),
        ("training: {learning_rate: 1.0e+400}", "training.learning_rate: 1.0e+400 is not a plain, finite"),
        ("training: {learning_rate: true}", "training.learning_rate: expected a number, not true"),
        ("training: {epochs: 0}", "training.epochs: must be at least 1; 0 is not"),
        ("training: {optimizer: {betas: [0.9, x]}}", 'training.optimizer.betas[1]: expected a number, not "x"'),
        ("training: {optimizer: {betas: [0.9, 2]}}", "training.optimizer.betas[1]: must be less than 1"),
        ("training: {optimizer: {betas: [0.9]}}", "training.optimizer.betas"),
        (
            "training: {optimizer: adm}",
            "training.optimizer: 'adm' is not one of adam, adamw, sgd, asgd; did you mean adam?",
        ),
        ("training: {optimizer: 5}", "run.yaml:5: training.optimizer: expected a kind (adam, adamw, sgd, asgd), or na"),
        (
            "training: {schedule: {kind: null}}",
            "training.schedule: expected a kind (constant, cosine, plateau, step, inve",
        ),
        (
            "training: {optimizer: null}",
            "training.optimizer: expected a kind (adam, adamw, sgd, asgd), or names and va",
        ),
        (
            "training: {schedule: null, warmup_steps: 3}",
            "run.yaml:5: training.schedule: expected a kind (constant, cosine, plateau, step, inverse_sqrt), or names "
            "and values, not null; change it",
        ),
        (
            "training: {optimizer: {kind: sgd, momentm: 1}}",
            "training.optimizer.momentm: is not a setting; did you mean mom",
        ),
        ("training: null", "run.yaml:5: training: expected a section with names and values, not null"),
        ("training: {batch_tokens: 5}", "run.yaml:5: training: text is batched by num_lanes and window; remo"),
        ("no: 3", "run.yaml:5: the name no does not read as text; quote it: 'no'"),
        ("? [a]\n: 3", "run.yaml:5: a name cannot be a list"),
        ("cluster: {num_workers: two}", "cluster.num_workers: expected a whole number or a section"),
        ("cluster: {num_workers: {min: 3, max: 2}}", "cluster.num_workers.max: must not be smaller than min"),
        ("cluster: {num_workers: {min: 1, mx: 2}}", "cluster.num_workers.mx: is not a setting; did you mean max?"),
        ("\tx: 1", "run.yaml:5:1: is not valid YAML"),
        ("x: 'abc", "run.yaml:5:8: is not valid YAML"),
        ("x: a\x07", "run.yaml: is not valid YAML"),
        ("---\nname: b", "is not valid YAML"),
        ("x: " + "[" * 100_000, "is nested deeper than 20 levels"),
        ("x: " + "a" * (1 << 20), "is larger than"),
    ],
)
def test_a_mistake_is_one_line_with_its_position(addition: str, expected: str) -> None:
    assert expected in refused(BASE + addition)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: a", "name: no", "run.yaml:1: name: expected text, but no reads as false; quote it: 'no'"),
        ("name: a", "name: 12", "name: expected text, but 12 reads as 12; quote it: '12'"),
        ("name: a", "name: 2026-01-02", "name: 2026-01-02 reads as a date; quote it"),
        ("name: a", "name: a b", "name: "),
        ("root: r", "root: ${HOME}/r", "run.yaml:2: root: variables are not filled in"),
        ("root: r", "root: ''", "root: is empty"),
        ("root: r\n", "", "root: is missing; add it: folder or URL"),
        ("language_model", "lm", "run.yaml:4: model: 'lm' is not one of language_model, seq2seq"),
        ("kind: language_model", "cell: gru", "model: has no kind; add it"),
        ("language_model}", "language_model, cell: grru}", "gru_coupled, mgu, feedforward; did you mean gru?"),
        (
            "language_model}",
            "language_model, attention: dot}",
            "model.attention: is not a setting of kind language_model; remove it, or use kind seq2seq",
        ),
        ("text: [a]", "tsv: [a]", "run.yaml:3: corpus.train: a corpus of text takes text"),
        ("text: [a]", "text: a", 'corpus.train.text: expected a list, not "a"; write it in brackets'),
        (BASE, "", "run.yaml: is empty"),
        (BASE, "- a", "run.yaml:1: expected sections"),
    ],
)
def test_a_mistake_in_a_required_setting_is_one_line(old: str, new: str, expected: str) -> None:
    assert expected in refused(BASE.replace(old, new))


def test_mistakes_beyond_the_first_are_counted() -> None:
    assert refused(BASE + "training: {epochs: 0, window: 0, num_lanes: 0}").endswith("(and 2 more)")


def test_overrides_replace_values_of_every_shape() -> None:
    config = loading.parse(
        BASE,
        "run.yaml",
        [
            "training.epochs=3",
            "training.learning_rate=2e-3",
            "training.optimizer.betas=[0.8, 0.9]",
            "corpus.train.text=[b, c]",
            "cluster.num_workers={min: 1, max: 2}",
            "training.clip_norm=null",
            "root=s3://bucket/a=b",
            "training.epochs=4",
        ],
    )
    assert config.training.epochs == 4
    assert config.training.learning_rate == 0.002
    assert config.training.optimizer == optimizer_settings.AdamConfig(betas=(0.8, 0.9))
    assert config.training.clip_norm is None
    assert config.corpora_by_name[""].train.text == ("b", "c")
    assert config.cluster.workers == range(1, 3)
    assert config.root == "s3://bucket/a=b"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=x", '--set training.epochs=x: training.epochs: expected a whole number, not "x"'),
        ("trainning.epochs=1", "--set trainning.epochs=1: trainning: is not a setting; did you mean training?"),
        ("training.epoch=1", "training.epoch: is not a setting; did you mean epochs?"),
        ("training.epochs=", "has no value; write null for none"),
        ("training", "is not a setting with a value; write section.name=value"),
        ("=3", "is not a setting with a value"),
        ("name.x=1", "name is a single value, not a section"),
        ("name=no", "--set name=no: name: expected text, but no reads as false"),
        ("training.epochs=[1", "--set training.epochs=[1: is not valid YAML"),
        ("root=*a", "is an alias"),
        ("root=\udcff", "not valid UTF-8"),
    ],
)
def test_a_wrong_override_is_named(override: str, expected: str) -> None:
    assert expected in refused(BASE, override)


def test_a_section_takes_its_own_overrides() -> None:
    base = inference_settings.DecodingConfig(beam_size=4)
    changed = loading.section_from(base, ["decoding.max_length=7", "training.epochs=1"], "decoding")
    assert (changed.beam_size, changed.max_length) == (4, 7)
    for override, expected in [
        ("decodng.beam_size=2", "decodng is not a setting; did you mean decoding?"),
        ("decoding.beam=2", "--set decoding.beam=2: decoding.beam: is not a setting; did you mean decoding.beam_size?"),
        ("decoding.num_best=99", "decoding.num_best: 99 translations cannot come from a beam of 4"),
        ("decoding=2", "names a whole section"),
    ]:
        with pytest.raises(errors.UsageError, match=expected.replace("?", r"\?")):
            loading.section_from(base, [override], "decoding")


def test_changes_carry_the_role_of_the_setting() -> None:
    old = loading.parse(BASE, "old")
    new = loading.parse(
        BASE,
        "new",
        [
            "root=elsewhere",
            "seed=2",
            "model.hidden_size=8",
            "training.epochs=99",
            "corpus.valid={text: [v]}",
            "decoding.beam_size=9",
            "cluster.num_workers={min: 1, max: 2}",
        ],
    )
    changes = {change.name: (change.role, change.old, change.new) for change in loading.changed(old, new)}
    valid = changes.pop("corpus.valid")
    assert valid[0] == "identity"
    assert valid[2]["text"] == ["v"]
    assert changes == {
        "root": ("operational", "r", "elsewhere"),
        "seed": ("identity", 1, 2),
        "model.hidden_size": ("identity", 256, 8),
        "training.epochs": ("schedule", 10, 99),
        "decoding.beam_size": ("operational", 5, 9),
        "cluster.num_workers": ("operational", 2, {"min": 1, "max": 2}),
    }
    assert loading.changed(old, old) == []


def test_every_difference_of_two_kinds_of_model_is_listed() -> None:
    names = [change.name for change in loading.changed(loading.parse(BASE, "old"), loading.parse(PAIRS, "new"))]
    assert {"model.kind", "model.attention", "model.input"} <= set(names)


def test_every_setting_is_described_and_has_a_role() -> None:
    for name, role, description in section.roles(schema.RunConfig):
        assert role in ("identity", "schedule", "operational"), name
        assert description, name


def test_a_fingerprint_depends_on_values_not_on_order() -> None:
    assert loading.fingerprint({"a": 1, "b": [2]}) == loading.fingerprint({"b": [2], "a": 1})
    assert loading.fingerprint({"a": 1}) != loading.fingerprint({"a": 2})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(BASE.encode() + "# déjà".encode("latin-1"))
    with pytest.raises(errors.UsageError, match=r"latin.yaml:5: is not valid UTF-8"):
        loading.load(str(latin))
    with pytest.raises(errors.UsageError, match="is a folder"):
        loading.load(str(tmp_path))
    with pytest.raises(errors.UsageError, match="there is no such file"):
        loading.load(str(tmp_path / "missing.yaml"))
    with pytest.raises(errors.UsageError, match="cannot be read"):
        loading.load("a\0b")
    good = tmp_path / "good.yaml"
    good.write_text(BASE)
    assert loading.load(str(good), ["seed=7"]).seed == 7


def test_loading_imports_neither_torch_nor_ray() -> None:
    code = "import sys; from core.config import loading; print(sorted({'torch', 'ray', 'fsspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("lr: 1", "run.yaml:5: lr: is not a setting; did you mean training.learning_rate?"),
        ("training: {lr: 1}", "run.yaml:5: training.lr: is not a setting; did you mean training.learning_rate?"),
        ("training: {batch_size: 1}", "did you mean training.batch_tokens or training.batch_lines"),
        ("training: {betas_: 1}", "training.betas_: is not a setting; did you mean training.optimizer.betas?"),
        ("gpus: 2", "gpus: is not a setting; did you mean cluster.use_gpu with cluster.num_workers?"),
        ("decoding: {num_token: 1}", "decoding.num_token: is not a setting; did you mean generation.num_tokens?"),
        ("trainer: {epochs: 1}", "run.yaml:5: trainer: is not a setting; did you mean training?"),
        ("training: {optimiser_: adam}", "training.optimiser_: is not a setting; did you mean optimizer?"),
        ("optimiser: adam", "run.yaml:5: optimiser: is not a setting; did you mean training.optimizer?"),
        ("decoding: {beam: 1}", "decoding.beam: is not a setting; did you mean decoding.beam_size?"),
    ],
)
def test_a_hint_finds_the_right_name_in_any_section(addition: str, expected: str) -> None:
    assert expected in refused(BASE + addition)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer=adam", "optimizer: is not a setting here; did you mean training.optimizer?"),
        ("optimizer.lr=1", "optimizer: is not a setting here; did you mean training.optimizer?"),
        ("training.num_workers=2", "training.num_workers: is not a setting here; did you mean cluster.num_workers?"),
        ("temperature=0.5", "temperature: is not a setting here; did you mean generation.temperature?"),
    ],
)
def test_a_hint_names_groups_and_the_section_that_the_model_uses(override: str, expected: str) -> None:
    assert expected in refused(BASE, override)


def test_a_hint_for_translations_names_decoding() -> None:
    assert "did you mean decoding.temperature?" in refused(PAIRS, "temperature=0.5")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.num_beams=5", "decoding.beam_size"),
        ("num_beams=5", "decoding.beam_size"),
        ("training.gradient_clip_val=1", "training.clip_norm"),
        ("model.type=gru", "model.type: is not a setting; did you mean kind?"),
        ("training.optimizer.type=adam", "did you mean kind?"),
        ("model.rnn_size=100", "model.hidden_size"),
        ("training.max_update=100", "training.max_steps"),
        ("testing.beam_alpha=1", "decoding"),
        ("training.num_train_epochs=3", "training.epochs"),
        ("model.num_hiddens=32", "model.hidden_size"),
    ],
)
def test_names_of_other_toolkits_are_answered_with_ours(override: str, expected: str) -> None:
    assert expected in refused(BASE, override)


def test_every_synonym_stands_for_settings_and_is_none() -> None:
    known = {name for name, _, _ in section.roles(schema.RunConfig)}
    groups = {name.rpartition(".")[0] for name in known}
    words = {word for hint in error_messages.SYNONYMS.values() for word in hint.replace(":", "").split()}
    named = {word.strip(",()") for word in words if "." in word}
    assert named <= known | groups
    for name in error_messages.SYNONYMS:
        for parent in ("", "training", "model"):
            assert f"{parent}.{name}".lstrip(".") not in known
