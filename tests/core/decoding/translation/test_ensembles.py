"""Several models together: ensembles, averaged checkpoints, fusion with a language model."""

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
from core.models import bundle, checkpoint_averaging, weights
from core.storage import location
from tests.core.decoding import samples

LINES = samples.sentences(12)
SCORING = inference_settings.ScoringConfig()


def _second(**settings: Any) -> bundle.Bundle:
    """Returns a model of another architecture over the same vocabularies."""
    return samples.seq2seq(**{"hidden_size": 10, "attention": "dot", "cell": "lstm", **settings})


def _translate(
    members: Any, lines: list[str] = LINES, language_model: bundle.Bundle | None = None, **settings: Any
) -> list[results.Translation]:
    decoding = inference_settings.DecodingConfig.model_validate({"max_length": 8, "beam_size": 4, **settings})
    return translator.Translator(members, decoding, samples.FP32, language_model=language_model).translate(lines)


def _forced_scores(made: bundle.Bundle, rows: list[results.Translation]) -> list[float]:
    scores = scorer.Scorer(made, SCORING, samples.FP32).score_pairs(LINES, [row.text for row in rows])
    return [-(score.nll_nats or 0.0) for score in scores]


@pytest.mark.parametrize("coverage", [False, True])
def test_the_score_of_an_ensemble_is_the_mean_of_its_members_scores(coverage: bool) -> None:
    members = [samples.seq2seq(coverage_attention=coverage), _second()]
    rows = _translate(members)
    means = [sum(pair) / 2 for pair in zip(*(_forced_scores(member, rows) for member in members), strict=True)]
    assert [row.score_nats for row in rows] == pytest.approx(means, abs=1e-4)
    assert [row.text for row in rows] != [row.text for row in _translate(members[0])]


def test_an_ensemble_of_copies_equals_the_model_and_order_does_not_matter() -> None:
    alone, twice = _translate(samples.seq2seq()), _translate([samples.seq2seq(), samples.seq2seq()])
    assert [row.text for row in twice] == [row.text for row in alone]
    assert [row.score_nats for row in twice] == pytest.approx([row.score_nats for row in alone], abs=1e-5)
    members = [samples.seq2seq(), _second()]
    assert [row.text for row in _translate(members)] == [row.text for row in _translate(members[::-1])]


def test_ensemble_translations_do_not_depend_on_the_batch() -> None:
    members = [samples.seq2seq(), _second(attention="none"), _second()]
    together = _translate(members, num_best=3)
    alone = [_translate(members, [line], num_best=3)[0] for line in LINES]
    assert [row.text for row in together] == [row.text for row in alone]
    assert [row.alignment for row in together] == [row.alignment for row in alone]
    assert [row.text for row in _translate(members)] == [row.text for row in together]


def test_members_with_different_vocabularies_are_refused() -> None:
    other = samples.seq2seq()
    codecs = {**other.codecs, "target": other.codecs["source"]}
    with pytest.raises(errors.UsageError, match="one vocabulary"):
        _translate([samples.seq2seq(), bundle.Bundle(other.model, other.config, codecs, "eos", "fp32")])


def _saved(made: bundle.Bundle, folder: pathlib.Path) -> location.Location:
    folder.mkdir()
    for name, data in bundle.to_files(made).items():
        (folder / name).write_bytes(data)
    return location.Location.parse(str(folder))


def test_averaged_weights_are_the_mean_of_the_checkpoints(tmp_path: pathlib.Path) -> None:
    folders = []
    for number, factor in enumerate((1.0, 4.0, -2.0)):
        made = samples.seq2seq()
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter.mul_(factor)
        folders.append(_saved(made, tmp_path / str(number)))
    mean, first = checkpoint_averaging.load(folders), checkpoint_averaging.load(folders[:1])
    for name, weight in weights.unique_parameters(first.model).items():
        assert torch.equal(weights.unique_parameters(mean.model)[name], weight), name  # (1 + 4 - 2) / 3
    assert first.fingerprint == bundle.load(folders[0]).fingerprint
    assert mean.fingerprint not in {first.fingerprint, checkpoint_averaging.load(folders[:2]).fingerprint}
    of_two = checkpoint_averaging.load(folders[:2])
    expected = [(weight.double() * 2.5).float() for weight in weights.unique_parameters(first.model).values()]
    assert all(map(torch.equal, weights.unique_parameters(of_two.model).values(), expected))


def test_checkpoints_of_different_models_are_not_averaged(tmp_path: pathlib.Path) -> None:
    folders = [_saved(samples.seq2seq(), tmp_path / "a"), _saved(_second(), tmp_path / "b")]
    with pytest.raises(errors.UsageError, match="another model"):
        checkpoint_averaging.load(folders)


def _language_model(text: str | None = None) -> bundle.Bundle:
    return samples.language_model("word", text=text or " ".join(word[::-1] for word in samples.WORDS))


@pytest.mark.parametrize("when", ["search", "after"])
def test_fusion_reports_scores_of_the_translation_model(when: str) -> None:
    made = samples.seq2seq()
    fusion = {"run": "lm", "weight": 0.8, "when": when}
    rows = _translate(made, language_model=_language_model(), fusion=fusion)
    assert [row.score_nats for row in rows] == pytest.approx(_forced_scores(made, rows), abs=1e-4)
    assert [row.text for row in rows] != [row.text for row in _translate(made)]
    alone = [_translate(made, [line], _language_model(), fusion=fusion)[0] for line in LINES]
    assert [row.text for row in alone] == [row.text for row in rows]
    best = _translate(made, language_model=_language_model(), fusion=fusion, num_best=3)
    assert [row.text for row in best] == [row.text for row in rows]


def test_reranking_orders_by_both_models() -> None:
    made, language_model = samples.seq2seq(), _language_model()
    fusion = {"run": "lm", "weight": 0.5, "when": "after"}
    model_scorer = scorer.Scorer(language_model, SCORING, samples.FP32)
    for row in _translate(made, language_model=language_model, fusion=fusion, num_best=4, length_penalty=0.0):
        texts = [row.text, *(other.text for other in row.alternatives)]
        scores = [row.score_nats or 0.0, *(other.score_nats for other in row.alternatives)]
        log_probs = [-(score.nll_nats or 0.0) for score in model_scorer.score_lines(texts)]
        values = [score + 0.5 * nats for score, nats in zip(scores, log_probs, strict=True)]
        assert values == sorted(values, reverse=True)
        ranking = [row.ranking_score, *(other.ranking_score for other in row.alternatives)]
        assert ranking == pytest.approx(values, abs=1e-4)


def test_a_uniform_language_model_changes_nothing() -> None:
    made = samples.seq2seq()
    uniform = samples.silence(_language_model())
    rows = _translate(made, language_model=uniform, fusion={"run": "lm", "weight": 0.01}, length_penalty=1.0)
    plain = _translate(made)
    assert sum(row.text == other.text for row, other in zip(rows, plain, strict=True)) >= 11


def test_a_language_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="its vocabulary differs from the target vocabulary"):
        _translate(samples.seq2seq(), language_model=_language_model("some other words"), fusion={"run": "lm"})
    language_model = _language_model()
    backward = dataclasses.replace(
        language_model, config=language_model.config.model_copy(update={"direction": "backward"})
    )
    with pytest.raises(errors.UsageError, match="reads backward"):
        _translate(samples.seq2seq(), language_model=backward, fusion={"run": "lm"})
    with pytest.raises(errors.UsageError, match="needs a language_model"):
        _translate(samples.seq2seq(), language_model=samples.seq2seq(), fusion={"run": "lm"})
