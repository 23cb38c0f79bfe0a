"""Shortlists of target tokens."""

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
    random = np.random.default_rng(3)
    candidates_SC = np.array([random.permutation(sizes[1])[:count] for _ in range(sizes[0])], np.int32)
    return translation_table.Table(candidates_SC, random.permutation(sizes[1]).astype(np.int32))


def _translate(
    made: Any,
    lines: Any = LINES,
    prefixes: Any = None,
    language_model: Any = None,
    precision: Any = "fp32",
    **settings: Any,
) -> list[results.Translation]:
    members = made if isinstance(made, list) else [made]
    decoding = inference_settings.DecodingConfig.model_validate({"max_length": 8, **settings})
    computing = schema.ComputeConfig(precision=precision, matmul="default")
    table = None if decoding.shortlist is None else _table(members[0])
    return translator.Translator(members, decoding, computing, language_model=language_model, table=table).translate(
        lines, prefixes
    )


def test_the_shortlist_of_a_line_by_hand() -> None:
    table = translation_table.Table(np.array([[5, 9], [7, -1], [9, 3]], np.int32), np.array([8, 2, 4], np.int32))
    settings = inference_settings.ShortlistConfig(candidates=2, always=2)
    shortlister = shortlist.Shortlister(table, settings, reserved=[0, 1])
    assert shortlister.shortlist([1, 0, 1]).tolist() == [0, 1, 2, 5, 7, 8, 9]
    assert shortlister.shortlist([2], prefix=[6]).tolist() == [0, 1, 2, 3, 6, 8, 9]
    smallest = shortlist.Shortlister(table, inference_settings.ShortlistConfig(candidates=1, always=1), [0])
    assert smallest.shortlist([0, 2]).tolist() == [0, 5, 8, 9]


SETTINGS: list[dict[str, Any]] = [
    {"beam_size": 4, "num_best": 3},
    {"beam_size": 1, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
    {"method": "sample", "num_best": 2, "top_k": 5, "seed": 4},
    {"replace_unknown": True, "coverage_penalty": 0.2},
    {"precision": "bf16"},
    {"precision": "int8"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_shortlist_of_the_whole_vocabulary_changes_no_bit(settings: dict[str, Any], count: int) -> None:
    if settings.get("precision") == "bf16" and not compute.this_cpu().has_bf16:
        pytest.skip("this CPU has no bf16")
    made = [samples.seq2seq(), samples.seq2seq(cell="lstm")][:count]
    prefixes = ["tac"] * 6 + [""] * 18
    assert _translate(made, LINES, prefixes, shortlist=WHOLE, **settings) == _translate(
        made, LINES, prefixes, **settings
    )


@pytest.mark.parametrize("when", ["search", "after"])
def test_fusion_works_over_a_shortlist(when: str) -> None:
    words = " ".join(word[::-1] for word in samples.WORDS)
    language_model = samples.language_model("word", text=words)
    fusion = {"run": "lm", "weight": 0.3, "when": when}
    settings: dict[str, Any] = {"language_model": language_model, "fusion": fusion, "beam_size": 3}
    made = samples.seq2seq()
    assert _translate(made, shortlist=WHOLE, **settings) == _translate(made, **settings)
    small = {"candidates": 2, "always": 3}
    together = _translate(made, shortlist=small, **settings)
    alone = [_translate(made, [line], shortlist=small, **settings)[0].text for line in LINES]
    assert [row.text for row in together] == alone


@pytest.mark.parametrize("settings", [{"beam_size": 4}, {"beam_size": 1}, {"method": "sample", "seed": 1}])
def test_a_line_does_not_depend_on_the_shortlists_of_its_batch(settings: dict[str, Any]) -> None:
    overrides = {"shortlist": {"candidates": 2, "always": 3}, "batch_rows": 60, **settings}
    together = _translate(samples.seq2seq(), **overrides)
    alone = [_translate(samples.seq2seq(), [line], **overrides)[0] for line in LINES]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.score_nats for row in together] == pytest.approx([row.score_nats for row in alone], abs=1e-4)
    assert together != _translate(samples.seq2seq(), **settings), "the shortlist excludes some tokens"


def test_scores_are_normalized_over_the_shortlist_and_only_its_tokens_occur() -> None:
    made = samples.seq2seq()
    model, source, target = made.model, made.codecs["source"], made.codecs["target"].tokenizer
    eos = target.eos_id
    assert isinstance(model, seq2seq.Seq2Seq)
    assert eos is not None
    settings = inference_settings.ShortlistConfig(candidates=2, always=3)
    shortlister = shortlist.Shortlister(_table(made), settings, range(4))
    for line, row in zip(LINES, _translate(made, beam_size=3, shortlist=settings.model_dump()), strict=True):
        known = source.encode_lines([line])[0]
        ids, tokens = [*known, eos], [*target.encode(row.text), eos]
        allowed = shortlister.shortlist(known)
        assert set(tokens) <= set(allowed.tolist())
        with torch.inference_mode():
            inputs_BT = torch.tensor([[target.bos_id, *tokens[:-1]]])
            (logits_TV,) = model.logits(model(torch.tensor([ids]), torch.tensor([len(ids)]), inputs_BT))
        log_probs_TU = logits_TV[:, allowed].double().log_softmax(1)
        positions = np.searchsorted(allowed, tokens)
        assert row.score_nats == pytest.approx(float(log_probs_TU[range(len(tokens)), positions].sum()), abs=1e-4)


def test_quantized_output_rows_are_not_reused_across_batches() -> None:
    """Each batch has output rows of its own: none may be computed with the quantized rows of another batch."""
    lines = samples.sentences(20, seed=4)
    overrides: dict[str, Any] = {"shortlist": {"candidates": 2, "always": 3}, "precision": "int8", "beam_size": 2}
    together = _translate(samples.seq2seq(), lines, batch_rows=6, **overrides)
    alone = [_translate(samples.seq2seq(), [line], **overrides)[0] for line in lines]
    assert [row.text for row in together] == [row.text for row in alone]


def test_a_table_is_estimated_once_and_verified(tmp_path: pathlib.Path) -> None:
    run = builders.location_of(tmp_path)
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path / "dataset", num_train=300))
    made = samples.build(builders.PAIRS, dict(dataset.codecs))
    file = shortlist.prepare(run, dataset, 2)
    written = file.path.stat().st_mtime_ns
    assert shortlist.prepare(run, dataset, 2) == file
    assert file.path.stat().st_mtime_ns == written
    assert shortlist.prepare(run, dataset, 3) != file
    table = shortlist.load(file, made)
    # In these pairs a word's translation is its neighbour in the vocabulary.
    words = range(4, 13)
    assert [table.candidates_SC[word, 0] for word in words] == [4 + (word - 3) % 9 for word in words]
    with pytest.raises(errors.IntegrityError, match="belongs to other vocabularies"):
        shortlist.load(file, samples.seq2seq())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.path.write_bytes(data)
    with pytest.raises(errors.IntegrityError, match="is damaged; remove it to have it made again"):
        shortlist.load(file, made)
    file.path.unlink()
    assert location.Location(shortlist.prepare(run, dataset, 2).url) == file
