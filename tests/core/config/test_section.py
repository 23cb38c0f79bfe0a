"""Roles of settings: those that determine results, and their form in files of older releases."""

import pytest

from core.config import corpus_settings, section


def _corpus(**settings: object) -> corpus_settings.CorpusConfig:
    train = corpus_settings.SourceConfig(text=("book.txt",))
    return corpus_settings.CorpusConfig.model_validate({"kind": "text", "train": train, **settings})


def test_settings_of_this_release_are_compared_unchanged() -> None:
    corpus = _corpus(line_end="none")
    stored = section.result_settings(corpus)
    assert section.result_settings_as_stored(corpus, stored) == stored
    assert section.result_settings_as_stored(_corpus(), stored)["line_end"] == "eos"


@pytest.mark.parametrize("added", ["line_end", "filters", "split.by"])
def test_a_setting_that_was_added_later_had_its_default(added: str) -> None:
    stored = section.result_settings(_corpus())
    holder, _, inner = added.partition(".")
    del (stored[holder] if inner else stored)[inner or holder]
    assert section.result_settings_as_stored(_corpus(), stored) == stored
    now = section.result_settings_as_stored(
        _corpus(line_end="none", filters={"min_length": 0}, split={"by": "tail"}), stored
    )
    assert (inner or holder) in (now[holder] if inner else now), "another value than the default is a difference"


def test_a_removed_setting_is_a_difference() -> None:
    stored = {**section.result_settings(_corpus()), "gone": 3}
    assert section.result_settings_as_stored(_corpus(), stored) != stored
