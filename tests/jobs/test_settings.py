"""Settings for the use of a run: its stored ones, overrides by new and old names, and defaults that have changed."""

import pathlib

import pytest

from core import errors
from core.config import loading
from core.storage import location
from jobs import paths, run_state, settings
from tests.core.decoding import samples
from tests.golden import make
from tests.jobs import conftest, trained


def _stored(folder: pathlib.Path, *overrides: str) -> location.Location:
    config = conftest.configured(conftest.LANGUAGE, folder, *overrides)
    run_state.check_settings(config)
    return location.Location.parse(config.root)


@pytest.mark.parametrize("name", ["num_tokens", "no_repeat_ngram", "average_checkpoints"])
def test_an_override_by_its_old_name_is_that_by_the_new_one(name: str, tmp_path: pathlib.Path) -> None:
    root = _stored(tmp_path)
    by_old = settings.load_run_settings(root, [f"decoding.{name}=3"])
    assert by_old == settings.load_run_settings(root, [f"generation.{name}=3"])
    assert getattr(by_old.generation, name) == 3


def test_a_run_of_release_0_1_generates_as_it_was_set_then(tmp_path: pathlib.Path) -> None:
    root = location.Location.parse(str(make.ROOTS / "language-model"))
    generation = settings.load_run_settings(root).generation
    assert (generation.method, generation.temperature, generation.top_k, generation.seed) == ("sample", 0.2, 3, 7)
    greedy = settings.load_run_settings(root, ["decoding.method=greedy"]).generation
    assert (greedy.method, greedy.seed, greedy.num_tokens) == ("greedy", None, 60)


def test_a_checkpoint_without_its_run_has_todays_defaults_unless_an_old_name_is_used(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(line_end="none"), tmp_path)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    checkpoint_folder = location.Location.parse(str(checkpoint))
    assert settings.load_run_settings(checkpoint_folder).generation.method == "sample"
    old = settings.load_run_settings(checkpoint_folder, ["decoding.num_tokens=4"]).generation
    assert (old.method, old.temperature, old.num_tokens) == ("greedy", 1.0, 4)


def test_a_seed_without_sampling_is_refused_with_the_remedy(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=r"generation.seed: has no effect with method: greedy; use method: sam"):
        settings.load_run_settings(_stored(tmp_path), ["decoding.seed=7"])


def test_a_new_default_is_for_new_runs_only(tmp_path: pathlib.Path) -> None:
    """The stored run was greedy by default; a configuration that does not name the method keeps that."""
    _stored(tmp_path, "generation.temperature=1")
    text = conftest.LANGUAGE.format(folder=tmp_path).replace("generation: {method: greedy, num_tokens: 5}", "")
    bare = paths.absolute(loading.parse(text, "run.yaml"))
    assert bare.generation.method == "sample"
    kept = run_state.with_stored_defaults(bare).generation
    assert (kept.method, kept.temperature) == ("greedy", 1.0)
    named = paths.absolute(loading.parse(text, "run.yaml", ["generation.method=sample", "generation.temperature=0.8"]))
    assert run_state.with_stored_defaults(named) == named


def test_the_old_default_greedy_is_not_restored_where_the_file_names_a_setting_of_sampling(
    tmp_path: pathlib.Path,
) -> None:
    _stored(tmp_path, "generation.temperature=1")
    text = conftest.LANGUAGE.format(folder=tmp_path).replace("method: greedy, num_tokens: 5", "temperature: 0.5")
    kept = run_state.with_stored_defaults(paths.absolute(loading.parse(text, "run.yaml"))).generation
    assert (kept.method, kept.temperature) == ("sample", 0.5)
    assert type(kept).model_validate(kept.model_dump()) == kept


def test_the_hint_for_a_setting_without_its_section_names_the_one_that_the_model_uses(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=r"temperature is not a setting here; did you mean generation.temper"):
        settings.load_run_settings(_stored(tmp_path), ["temperature=0.5"])


@pytest.mark.parametrize(
    ("verb", "override"),
    [
        ("generate", "decoding.beam_size=3"),
        ("score", "generation.num_tokens=5"),
        ("generate", "scoring.lanes=3"),
        ("forecast", "decoding.num_best=1"),
    ],
)
def test_an_override_of_a_section_that_the_verb_does_not_use_is_refused(
    verb: str, override: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(errors.UsageError, match=f"--set {override}: has no effect on {verb}, whose settings are in"):
        settings.load_run_settings(_stored(tmp_path), [override], verb)


def test_a_seed_of_generation_has_no_effect_on_a_translation(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    config = conftest.configured(conftest.TRANSLATION, tmp_path)
    run_state.check_settings(config)
    with pytest.raises(errors.UsageError, match=r"generation.seed=1: has no effect on translate, .* in decoding"):
        settings.load_run_settings(location.Location.parse(config.root), ["generation.seed=1"], "translate")
