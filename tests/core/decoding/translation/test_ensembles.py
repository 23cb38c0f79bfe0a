"""Laws of several models together: ensembles, averaged checkpoints, a language model beside."""

import dataclasses
import pathlib
from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.decoding.lines import results
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import bundle, checkpoint_averaging
from core.storage import location
from tests.core.decoding import samples

LINES = samples.sentences(12)
SCORING = inference_settings.ScoringConfig()


def _second(**settings: Any) -> bundle.Bundle:
    """A model of another shape over the same vocabularies."""
    return samples.seq2seq(**{"hidden_size": 10, "attention": "dot", "cell": "lstm", **settings})


def _translated(
    members: Any, lines: list[str] = LINES, beside: bundle.Bundle | None = None, **settings: Any
) -> list[results.Translation]:
    decoding = inference_settings.DecodingConfig.model_validate({"max_length": 8, "beam_size": 4, **settings})
    return translator.Translator(members, decoding, samples.FP32, beside=beside).translate(lines)


def _forced(made: bundle.Bundle, found: list[results.Translation]) -> list[float]:
    scores = scorer.Scorer(made, SCORING, samples.FP32).score_pairs(LINES, [row.text for row in found])
    return [-(score.nll_nats or 0.0) for score in scores]


@pytest.mark.parametrize("covers", [False, True])
def test_the_score_of_an_ensemble_is_the_mean_of_its_members_scores(covers: bool) -> None:
    members = [samples.seq2seq(coverage_attention=covers), _second()]
    found = _translated(members)
    means = [sum(pair) / 2 for pair in zip(*(_forced(member, found) for member in members), strict=True)]
    assert [row.score_nats for row in found] == pytest.approx(means, abs=1e-4)
    assert [row.text for row in found] != [row.text for row in _translated(members[0])]


def test_a_model_twice_is_the_model_and_the_order_does_not_matter() -> None:
    alone, twice = _translated(samples.seq2seq()), _translated([samples.seq2seq(), samples.seq2seq()])
    assert [row.text for row in twice] == [row.text for row in alone]
    assert [row.score_nats for row in twice] == pytest.approx([row.score_nats for row in alone], abs=1e-5)
    members = [samples.seq2seq(), _second()]
    assert [row.text for row in _translated(members)] == [row.text for row in _translated(members[::-1])]


def test_an_ensemble_gives_each_line_what_it_gives_alone() -> None:
    members = [samples.seq2seq(), _second(attention="none"), _second()]
    together = _translated(members, num_best=3)
    alone = [_translated(members, [line], num_best=3)[0] for line in LINES]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.alignment for row in together] == [row.alignment for row in alone]
    assert [row.text for row in _translated(members)] == [row.text for row in together]


def test_members_of_other_vocabularies_are_refused() -> None:
    other = samples.seq2seq()
    codecs = {**other.codecs, "target": other.codecs["source"]}
    with pytest.raises(errors.UsageError, match="one vocabulary"):
        _translated([samples.seq2seq(), bundle.Bundle(other.model, other.config, codecs, "eos", "fp32")])


def _saved(made: bundle.Bundle, folder: pathlib.Path) -> location.Location:
    folder.mkdir()
    for name, data in bundle.to_files(made).items():
        (folder / name).write_bytes(data)
    return location.Location.parse(str(folder))


def test_averaged_weights_are_the_mean_by_hand(tmp_path: pathlib.Path) -> None:
    places = []
    for number, factor in enumerate((1.0, 4.0, -2.0)):
        made = samples.seq2seq()
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter.mul_(factor)
        places.append(_saved(made, tmp_path / str(number)))
    mean, first = checkpoint_averaging.load(places), checkpoint_averaging.load(places[:1])
    for name, weight in bundle.unique_parameters(first.model).items():
        assert torch.equal(bundle.unique_parameters(mean.model)[name], weight), name  # (1 + 4 - 2) / 3
    assert first.fingerprint == bundle.load(places[0]).fingerprint
    assert mean.fingerprint not in {first.fingerprint, checkpoint_averaging.load(places[:2]).fingerprint}
    of_two = checkpoint_averaging.load(places[:2])
    expected = [(weight.double() * 2.5).float() for weight in bundle.unique_parameters(first.model).values()]
    assert all(map(torch.equal, bundle.unique_parameters(of_two.model).values(), expected))


def test_checkpoints_of_another_model_are_not_averaged(tmp_path: pathlib.Path) -> None:
    places = [_saved(samples.seq2seq(), tmp_path / "a"), _saved(_second(), tmp_path / "b")]
    with pytest.raises(errors.UsageError, match="another model"):
        checkpoint_averaging.load(places)


def _language_model(text: str | None = None) -> bundle.Bundle:
    return samples.language_model("word", text=text or " ".join(word[::-1] for word in samples.WORDS))


@pytest.mark.parametrize("when", ["search", "after"])
def test_fusion_scores_stay_those_of_the_translation_model(when: str) -> None:
    made = samples.seq2seq()
    fusion = {"run": "lm", "weight": 0.8, "when": when}
    found = _translated(made, beside=_language_model(), fusion=fusion)
    assert [row.score_nats for row in found] == pytest.approx(_forced(made, found), abs=1e-4)
    assert [row.text for row in found] != [row.text for row in _translated(made)]
    alone = [_translated(made, [line], _language_model(), fusion=fusion)[0] for line in LINES]
    assert [row.text for row in alone] == [row.text for row in found]
    best = _translated(made, beside=_language_model(), fusion=fusion, num_best=3)
    assert [row.text for row in best] == [row.text for row in found]


def test_ranking_anew_orders_by_both_models() -> None:
    made, beside = samples.seq2seq(), _language_model()
    fusion = {"run": "lm", "weight": 0.5, "when": "after"}
    judge = scorer.Scorer(beside, SCORING, samples.FP32)
    for row in _translated(made, beside=beside, fusion=fusion, num_best=4, length_penalty=0.0):
        texts = [row.text, *(other.text for other in row.alternatives)]
        scores = [row.score_nats or 0.0, *(other.score_nats for other in row.alternatives)]
        said = [-(score.nll_nats or 0.0) for score in judge.score_lines(texts)]
        values = [score + 0.5 * nats for score, nats in zip(scores, said, strict=True)]
        assert values == sorted(values, reverse=True)


def test_a_language_model_that_says_nothing_changes_nothing() -> None:
    made = samples.seq2seq()
    silent = samples.silence(_language_model())
    found = _translated(made, beside=silent, fusion={"run": "lm", "weight": 0.01}, length_penalty=1.0)
    plain = _translated(made)
    assert sum(row.text == other.text for row, other in zip(found, plain, strict=True)) >= 11


def test_a_language_model_of_other_words_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="other tokens"):
        _translated(samples.seq2seq(), beside=_language_model("some other words"), fusion={"run": "lm"})
    beside = _language_model()
    backward = dataclasses.replace(beside, config=beside.config.model_copy(update={"direction": "backward"}))
    with pytest.raises(errors.UsageError, match="reads backward"):
        _translated(samples.seq2seq(), beside=backward, fusion={"run": "lm"})
    with pytest.raises(errors.UsageError, match="needs a language_model"):
        _translated(samples.seq2seq(), beside=samples.seq2seq(), fusion={"run": "lm"})
