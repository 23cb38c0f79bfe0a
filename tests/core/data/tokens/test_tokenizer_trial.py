"""Hostile tokenizer files of other programs: refused in a sentence, in bounded time and memory."""

import json
import time
from typing import Any

import pytest
from tokenizers import models

from core import errors
from core.data.tokens import tokenizer, tokenizer_file, tokenizer_trial


def file_with(**changes: Any) -> str:
    made = tokenizer_file.skeleton("word", models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made.add_special_tokens(["<unk>"])
    return json.dumps({**json.loads(made.to_str()), **changes})


def pattern(expression: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": split}


GROWTH = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
HOSTILE = {
    "a pattern that searches for ever": pattern("(a+)+$"),
    "a pattern that is none": pattern("(?P<"),
    "a letter that grows into a gigabyte": {"normalizer": {"type": "Sequence", "normalizers": [GROWTH] * 3}},
    "a map that the library panics on": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "an unknown token that is not there": {
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "nope"}
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence_and_in_bounded_time(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    started_s = time.monotonic()
    with pytest.raises(
        errors.IntegrityError, match=r"^t\.json: cannot be .* tokenizers library \(.*\); restore it"
    ) as no:
        tokenizer_file.read(file_with(**HOSTILE[name]), "t.json")
    assert "\n" not in str(no.value)
    assert time.monotonic() - started_s < tokenizer_trial.TIMEOUT_S
    assert "".join(capfd.readouterr()) == ""


def test_a_pattern_that_takes_long_without_failing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its searches stays below the limit of the library."""
    monkeypatch.setattr(tokenizer_trial, "CPU_S", 1)
    text = file_with(**pattern(r"(a|aa){0,16}\d"))
    assert tokenizer_trial.problem_of(text) == "takes more than 1 s or 2 GiB of memory for a few lines"


def test_a_trial_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_trial, "TIMEOUT_S", 0.01)
    text = file_with(normalizer={"type": "NFKC"})
    assert tokenizer_trial.problem_of(text) == "takes longer than 0.01 s for a few lines"


def test_an_ordinary_file_of_another_program_passes() -> None:
    text = file_with(normalizer={"type": "Lowercase"})
    assert tokenizer_trial.problem_of(text) is None
    assert tokenizer_file.read(text, "t.json").kind == "loaded"


def test_a_panic_on_other_text_is_an_error_of_integrity() -> None:
    # `z` is not in the vocabulary, of which the trial is made, and stands once in the rest.
    text = file_with(**pattern("(z+)+$"))
    content = tokenizer_file.Content("loaded", ["<unk>", "a"], ("<unk>",))
    with pytest.raises(errors.IntegrityError, match=r"cannot be used by the tokenizers library .*retry-limit"):
        tokenizer.Tokenizer(text, content).encode_lines(["z" * 40 + "!"])
