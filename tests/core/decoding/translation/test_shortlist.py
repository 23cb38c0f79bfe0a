"""Laws of shortlists of target tokens."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import inference_settings, schema
from core.data import translation_table
from core.data.dataset import shards
from core.decoding.lines import results
from core.decoding.translation import shortlist, translator
from core.models import bundle as bundles
from core.models import compute, seq2seq
from core.storage import location
from tests.core.decoding import samples
from tests.core.training import builders

LINES = samples.sentences(24)
WHOLE = {"candidates": 1, "always": 1000}


def _table(made: bundles.Bundle, count: int = 3) -> translation_table.Table:
    sizes = [made.codecs[side].tokenizer.vocabulary_size for side in ("source", "target")]
    chance = np.random.default_rng(3)
    candidates_SC = np.array([chance.permutation(sizes[1])[:count] for _ in range(sizes[0])], np.int32)
    return translation_table.Table(candidates_SC, chance.permutation(sizes[1]).astype(np.int32))


def _translate(
    made: Any, lines: Any = LINES, prefixes: Any = None, beside: Any = None, precision: Any = "fp32", **settings: Any
) -> list[results.Translation]:
    every = made if isinstance(made, list) else [made]
    decoding = inference_settings.DecodingConfig.model_validate({"max_length": 8, **settings})
    computing = schema.ComputeConfig(precision=precision, matmul="default")
    table = None if decoding.shortlist is None else _table(every[0])
    return translator.Translator(every, decoding, computing, beside=beside, table=table).translate(lines, prefixes)


def test_the_list_of_a_line_by_hand() -> None:
    table = translation_table.Table(np.array([[5, 9], [7, -1], [9, 3]], np.int32), np.array([8, 2, 4], np.int32))
    settings = inference_settings.ShortlistConfig(candidates=2, always=2)
    made = shortlist.Shortlist(table, settings, reserved=[0, 1])
    assert made.of_line([1, 0, 1]).tolist() == [0, 1, 2, 5, 7, 8, 9]
    assert made.of_line([2], begun=[6]).tolist() == [0, 1, 2, 3, 6, 8, 9]
    one = shortlist.Shortlist(table, inference_settings.ShortlistConfig(candidates=1, always=1), [0])
    assert one.of_line([0, 2]).tolist() == [0, 5, 8, 9]


WAYS: list[dict[str, Any]] = [
    {"beam_size": 4, "num_best": 3},
    {"beam_size": 1, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
    {"method": "sample", "num_best": 2, "top_k": 5, "seed": 4},
    {"replace_unknown": True, "coverage_penalty": 0.2},
    {"precision": "bf16"},
    {"precision": "int8"},
]


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_list_of_the_whole_vocabulary_changes_no_bit(settings: dict[str, Any], count: int) -> None:
    if settings.get("precision") == "bf16" and not compute.this_cpu().has_bf16:
        pytest.skip("this CPU has no bf16")
    made = [samples.seq2seq(), samples.seq2seq(cell="lstm")][:count]
    prefixes = ["tac"] * 6 + [""] * 18
    assert _translate(made, LINES, prefixes, shortlist=WHOLE, **settings) == _translate(
        made, LINES, prefixes, **settings
    )


@pytest.mark.parametrize("when", ["search", "after"])
def test_a_language_model_beside_knows_the_words_of_the_list(when: str) -> None:
    words = " ".join(word[::-1] for word in samples.WORDS)
    beside = samples.language_model("word", text=words)
    asked: dict[str, Any] = {"beside": beside, "fusion": {"run": "lm", "weight": 0.3, "when": when}, "beam_size": 3}
    made = samples.seq2seq()
    assert _translate(made, shortlist=WHOLE, **asked) == _translate(made, **asked)
    narrow = {"candidates": 2, "always": 3}
    together = _translate(made, shortlist=narrow, **asked)
    alone = [_translate(made, [line], shortlist=narrow, **asked)[0].text for line in LINES]
    assert [row.text for row in together] == alone


@pytest.mark.parametrize("settings", [{"beam_size": 4}, {"beam_size": 1}, {"method": "sample", "seed": 1}])
def test_a_line_does_not_depend_on_the_lists_beside_it(settings: dict[str, Any]) -> None:
    asked = {"shortlist": {"candidates": 2, "always": 3}, "batch_rows": 60, **settings}
    together = _translate(samples.seq2seq(), **asked)
    alone = [_translate(samples.seq2seq(), [line], **asked)[0] for line in LINES]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.score_nats for row in together] == pytest.approx([row.score_nats for row in alone], abs=1e-4)
    assert together != _translate(samples.seq2seq(), **settings), "the list leaves something out"


def test_scores_are_normalised_over_the_list_and_nothing_else_comes_out() -> None:
    made = samples.seq2seq()
    model, source, target = made.model, made.codecs["source"], made.codecs["target"].tokenizer
    end = target.eos_id
    assert isinstance(model, seq2seq.Seq2Seq)
    assert end is not None
    settings = inference_settings.ShortlistConfig(candidates=2, always=3)
    lists = shortlist.Shortlist(_table(made), settings, range(4))
    for line, row in zip(LINES, _translate(made, beam_size=3, shortlist=settings.model_dump()), strict=True):
        known = source.encode_lines([line])[0]
        ids, tokens = [*known, end], [*target.encode(row.text), end]
        allowed = lists.of_line(known)
        assert set(tokens) <= set(allowed.tolist())
        with torch.inference_mode():
            inputs_BT = torch.tensor([[target.bos_id, *tokens[:-1]]])
            (logits_TV,) = model.logits(model(torch.tensor([ids]), torch.tensor([len(ids)]), inputs_BT))
        log_probs_TU = logits_TV[:, allowed].double().log_softmax(1)
        places = np.searchsorted(allowed, tokens)
        assert row.score_nats == pytest.approx(float(log_probs_TU[range(len(tokens)), places].sum()), abs=1e-4)


def test_rounded_copies_go_with_the_rows_that_they_are_of() -> None:
    """Batch after batch has rows of its own: none may be computed with the copy of another's."""
    lines = samples.sentences(20, seed=4)
    asked: dict[str, Any] = {"shortlist": {"candidates": 2, "always": 3}, "precision": "int8", "beam_size": 2}
    together = _translate(samples.seq2seq(), lines, batch_rows=6, **asked)
    alone = [_translate(samples.seq2seq(), [line], **asked)[0] for line in lines]
    assert [row.text for row in together] == [row.text for row in alone]


def test_a_table_is_learnt_once_and_checked(tmp_path: pathlib.Path) -> None:
    run = builders.place(tmp_path)
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path / "dataset", num_train=300))
    made = samples.build(builders.PAIRS, dict(dataset.codecs))
    place = shortlist.prepare(run, dataset, 2)
    written = place.path.stat().st_mtime_ns
    assert shortlist.prepare(run, dataset, 2) == place
    assert place.path.stat().st_mtime_ns == written
    assert shortlist.prepare(run, dataset, 3) != place
    table = shortlist.load(place, made)
    # In these pairs a word's translation is its neighbour in the vocabulary.
    words = range(4, 13)
    assert [table.candidates_SC[word, 0] for word in words] == [4 + (word - 3) % 9 for word in words]
    with pytest.raises(errors.IntegrityError, match="of other vocabularies"):
        shortlist.load(place, samples.seq2seq())
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.path.write_bytes(data)
    with pytest.raises(errors.IntegrityError, match=r"is damaged.*remove it, it is made anew"):
        shortlist.load(place, made)
    place.path.unlink()
    assert location.Location(shortlist.prepare(run, dataset, 2).url) == place
