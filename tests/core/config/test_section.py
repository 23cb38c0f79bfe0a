"""Roles of settings: those that determine results, and their form in files of older releases."""

import pytest

from core.config import corpus_settings, section


def _corpus(**settings: object) -> corpus_settings.CorpusConfig:
    train = corpus_settings.SourceConfig(text=("book.txt",))
    return corpus_settings.CorpusConfig.model_validate({"kind": "text", "train": train, **settings})


def test_settings_of_this_release_are_compared_unchanged() -> None:
    corpus = _corpus(line_end="none")
    stored = section.deciding(corpus)
    assert section.deciding_then(corpus, stored) == stored
    assert section.deciding_then(_corpus(), stored)["line_end"] == "eos"


@pytest.mark.parametrize("younger", ["line_end", "filters", "split.by"])
def test_a_setting_younger_than_the_stored_ones_had_its_default(younger: str) -> None:
    stored = section.deciding(_corpus())
    holder, _, inner = younger.partition(".")
    del (stored[holder] if inner else stored)[inner or holder]
    assert section.deciding_then(_corpus(), stored) == stored
    now = section.deciding_then(_corpus(line_end="none", filters={"min_length": 0}, split={"by": "tail"}), stored)
    assert (inner or holder) in (now[holder] if inner else now), "another value than the default is a difference"


def test_a_removed_setting_is_a_difference() -> None:
    stored = {**section.deciding(_corpus()), "gone": 3}
    assert section.deciding_then(_corpus(), stored) != stored
