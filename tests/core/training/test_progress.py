"""Progress: stored forms of the state, and which validation is the best."""

import json
from typing import Any

import pytest

from core import errors
from core.data import score_unit
from core.data.batching import buckets
from core.training import progress


def test_a_state_survives_json_to_the_bit() -> None:
    pool = buckets.PoolStart(3, 17, 900, (5, 2))
    corpora = [progress.CorpusState(1, 35, 0.1 + 0.2, 1 / 3, 7), progress.CorpusState(2, 5, 0.5, 1e-300, 3, pool)]
    validation = progress.Validation(2, 1 / 7, 0.1, 5)
    history = [validation, progress.Validation.combine({"a": validation, "b": validation})]
    state = progress.State(3, corpora, 999, 2, 1, 1e300, history)
    assert progress.State.from_json(json.loads(json.dumps(state.to_json())), "x") == state
    broken: dict[str, Any]
    no_pool = {**state.to_json(), "tasks": [{**corpora[0].to_json(), "pool": {"pool": "x"}}]}
    for broken in ({}, {**state.to_json(), "step": None}, {**state.to_json(), "history": [{}]}, no_pool):
        with pytest.raises(errors.IntegrityError, match="is not complete or not valid"):
            progress.State.from_json(broken, "progress.json")


def test_a_state_of_an_older_release_with_one_corpus_is_read() -> None:
    before = {
        **{"step": 3, "epoch": 1, "consumed": 35, "fraction": 0.25, "num_tokens": 999, "num_skipped": 2},
        **{"num_skipped_in_row": 1, "loss_sum": 2.5, "nll_sum": 2.0, "num_stale_targets": 7, "history": []},
    }
    corpora = [progress.CorpusState(1, 35, 0.25, 2.0, 7)]
    assert progress.State.from_json(before, "x") == progress.State(3, corpora, 999, 2, 1, 2.5, untimed_steps=3)


def test_a_state_is_stored_under_the_keys_of_older_releases() -> None:
    """Checkpoints of older releases are read, and reports of older ones read these."""
    state = progress.State(corpora=[progress.CorpusState(), progress.CorpusState()])
    names = {"history", "loss_sum", "num_skipped", "num_skipped_in_row", "num_tokens", "step", "tasks"}
    added = {"plateau_start", "early_stop_start", "is_validation_due", "is_save_due", "elapsed_s", "untimed_steps"}
    assert state.to_json().keys() == names | added
    corpus_names = ["consumed", "fraction", "nll_sum", "num_stale_targets", "passes"]
    assert [sorted(corpus) for corpus in state.to_json()["tasks"]] == [corpus_names] * 2


def test_the_steps_of_a_release_that_saved_no_seconds_are_counted_as_untimed() -> None:
    before = progress.State(step=7).to_json()
    del before["elapsed_s"], before["untimed_steps"]
    read = progress.State.from_json(before, "x")
    assert (read.elapsed_s, read.untimed_steps) == (0.0, 7)
    again = progress.State.from_json({**read.to_json(), "step": 9, "elapsed_s": 2.5}, "x")
    assert (again.elapsed_s, again.untimed_steps) == (2.5, 7)


def test_a_validation_is_stored_under_the_keys_of_older_releases() -> None:
    single = progress.Validation(4, 2.0, 0.5, 10)
    names = ["accuracy", "nll_nats", "num_tokens", "perplexity", "step"]
    assert sorted(single.to_json()) == names
    translated = progress.Validation(4, 2.0, 0.5, 10, 30.0, num_unk=0)
    several = progress.Validation.combine({"a": translated, "b": translated}).to_json()
    assert sorted(several) == sorted([*names, "bleu", "num_unk", "tasks"])
    assert several["tasks"] == {"a": translated.to_json(), "b": translated.to_json()}


def test_the_unit_of_a_validation_stands_beside_its_perplexity_and_is_read_again() -> None:
    unit = score_unit.ScoreUnit("stream", 20, eos_counted=True)
    single = progress.Validation(4, 2.0, 0.5, 10, unit=unit)
    several = progress.Validation.combine({"a": single, "b": single})
    keys = {"unit": "stream", "lanes": 20, "eos_counted": True, "unknown_words": "scored as <unk>"}
    for validation in (single, several):
        content = validation.to_json()
        assert {name: content[name] for name in keys} == keys
        assert progress.Validation.from_json(json.loads(json.dumps(content))).unit == unit


def _validations(*figures: tuple[float, float | None]) -> list[progress.Validation]:
    return [progress.Validation(step, nll, 0.5, 10, bleu) for step, (nll, bleu) in enumerate(figures)]


def test_validations_since_best_counts_from_the_first_best() -> None:
    assert progress.validations_since_best([], "perplexity") == 0
    assert progress.validations_since_best(_validations((2.0, None), (1.0, None)), "perplexity") == 0
    equal = _validations((2.0, None), (1.0, None), (1.0, None), (1.5, None))
    assert progress.validations_since_best(equal, "perplexity") == 2


def test_an_equal_bleu_with_a_lower_loss_is_better_for_the_best_checkpoint_and_for_early_stopping() -> None:
    validations = _validations((2.0, 30.0), (1.5, 30.0), (1.0, None))
    best_validation = progress.best_validation(validations, "bleu")
    assert best_validation is not None
    assert best_validation.step == 1
    assert progress.validations_since_best(validations, "bleu") == 1
