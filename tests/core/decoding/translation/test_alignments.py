"""Attention maps, alignments and unknown-word replacement, with a trained copy model."""

import json
from typing import Any, Literal

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.data.tokens import tokenizer, vocabulary
from core.decoding.translation import alignments, translator
from core.models import bundle
from tests.core.decoding import samples

LINES = ["the cat sees a dog", "a big old house", "not the small dog or cat", "dog"]


def _translator(made: bundle.Bundle, **settings: Any) -> translator.Translator:
    decoding = inference_settings.DecodingConfig(**{"max_length": 12, "beam_size": 3, **settings})
    return translator.Translator(made, decoding, samples.FP32)


def test_attention_of_a_copy_model_is_diagonal(copier: bundle.Bundle) -> None:
    for line, map_ in zip(LINES, _translator(copier).attention_maps(LINES), strict=True):
        words = line.split()
        assert map_ is not None
        assert map_.source == (*words, "<eos>")
        assert map_.target == (*(word[::-1] for word in words), "<eos>")
        weights_TS = torch.tensor(map_.weights)
        assert weights_TS.argmax(1).tolist() == list(range(len(words) + 1))
        assert weights_TS.sum(1).tolist() == pytest.approx([1.0] * (len(words) + 1), abs=1e-5)


def test_alignment_of_a_copy_model_is_diagonal(copier: bundle.Bundle) -> None:
    for line, row in zip(LINES, _translator(copier).translate(LINES), strict=True):
        count = len(line.split())
        assert row.alignment == tuple(range(count + 1))
        assert alignments.to_pharaoh(row.alignment, count) == " ".join(f"{n}-{n}" for n in range(count))


def test_unknown_words_are_replaced_by_source_words(copier: bundle.Bundle) -> None:
    lines = ["the Zebra sees a dog", "a cat sees Quux"]
    kept = _translator(copier).translate(lines)
    assert [row.text for row in kept] == ["eht <unk> sees a god", "a tac sees <unk>"]
    replaced = _translator(copier, replace_unknown=True, num_best=3).translate(lines)
    assert [row.text for row in replaced] == ["eht zebra sees a god", "a tac sees quux"]  # as cleaning left it
    assert [row.score_nats for row in replaced] == [row.score_nats for row in kept]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_unknown_words_are_replaced_by_subwords(kind: Literal["bpe", "unigram", "wordpiece"]) -> None:
    made = tokenizer.train_subwords(kind, iter(["the cat sees the dog"] * 20), 300, vocabulary.RESERVED)
    source, target = tokenizer.Codec((), made), samples.codec("word", "a b", vocabulary.RESERVED)
    ids = made.encode("the cat")
    text = alignments.replace_unknown([4, target.tokenizer.unk_id], [0, len(ids) - 1], "the cat", ids, source, target)
    assert text == f"a {made.token(ids[-1])}"


def test_a_user_defined_symbol_counts_as_one_word() -> None:
    counts = vocabulary.Counts()
    counts.add(["x", "y"])
    symbols = tokenizer.from_counts("char", counts, 1, None, vocabulary.RESERVED, ("<num>",))
    source, target = tokenizer.Codec((), symbols), samples.codec("char", "ab", vocabulary.RESERVED)
    ids = symbols.encode("x<num>y")
    assert alignments.replace_unknown([5, 0], [0, 1], "x<num>y", ids, source, target) == "b<num>"


def test_pharaoh_format_leaves_out_eos() -> None:
    assert alignments.to_pharaoh((0, 2, 1, 3), 3) == "0-0 2-1 1-2"
    assert alignments.to_pharaoh((1, 2, 2), 2) == "1-0"  # position 2 is the <eos> of the source
    assert alignments.to_pharaoh(None, 4) == ""


def test_attention_maps_are_written_with_their_line_number() -> None:
    map_ = alignments.AttentionMap(("a", "<eos>"), ("b", "<eos>"), [[0.123456, 0.876544], [0.0, 1.0]])
    content = json.loads(alignments.to_json({0: None, 7: map_}))
    assert content == [
        {"line": 7, "source": ["a", "<eos>"], "target": ["b", "<eos>"], "weights": [[0.1235, 0.8765], [0, 1]]}
    ]


@pytest.mark.parametrize("setting", ["alignments", "attention_maps", "replace_unknown", "coverage_penalty"])
def test_settings_that_need_attention_are_refused_without_it(setting: str) -> None:
    value = {"attention_maps": 3, "coverage_penalty": 0.2}.get(setting, True)
    with pytest.raises(errors.UsageError, match=rf"decoding\.{setting}.*no attention"):
        _translator(samples.seq2seq(attention="none"), **{setting: value})
