"""Laws of drawing tokens and of going on from a prefix."""

from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.decoding import sampling
from core.decoding.generation import generator
from core.models import language_model
from tests.core.decoding import samples

LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()


def _drawn(count: int = 4000, **settings: Any) -> torch.Tensor:
    decoding = inference_settings.DecodingConfig(method="sample", **settings)
    random = torch.Generator().manual_seed(3)
    tokens = sampling.choose(LOGITS.expand(count, -1), decoding, random)
    return torch.bincount(tokens, minlength=5) / count


def test_draws_follow_the_probabilities() -> None:
    assert _drawn().tolist() == pytest.approx([0.5, 0.2, 0.15, 0.1, 0.05], abs=0.03)


def test_temperature_sharpens_as_a_power_does() -> None:
    squares = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]) ** 2
    assert _drawn(temperature=0.5).tolist() == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    assert _drawn(top_k=2).tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0, 0], abs=0.03)
    assert _drawn(top_p=0.6).tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0, 0], abs=0.03)
    assert _drawn(top_p=0.1).tolist() == [1, 0, 0, 0, 0]
    assert _drawn(top_k=1).tolist() == [1, 0, 0, 0, 0]


def test_what_is_refused_does_not_depend_on_the_order_of_ids() -> None:
    shuffled = torch.tensor([[0.1, 0.5, 0.05, 0.2, 0.15]]).log()
    assert sampling.kept(shuffled, 3, 0.7).isfinite().tolist() == [[False, True, False, True, False]]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits_BV = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])
    assert sampling.choose(logits_BV, inference_settings.DecodingConfig(), torch.Generator()).tolist() == [1, 0]


def _generator(made: Any = None, seed: int = 1, **settings: Any) -> generator.Generator:
    decoding = inference_settings.DecodingConfig(**{"num_tokens": 12, **settings})
    return generator.Generator(made or samples.language_model(line_end="none"), decoding, samples.FP32, seed)


def test_greedy_continuation_is_the_likeliest_token_each_time() -> None:
    made = samples.language_model(line_end="none")
    tokenizer, model = made.codecs["text"].tokenizer, made.model
    assert isinstance(model, language_model.LanguageModel)
    stream = tokenizer.encode("the ")
    with torch.inference_mode():
        for _ in range(12):
            features_BTF, _ = model(torch.tensor([stream]), model.initial_state(1))
            stream.append(int(model.logits(features_BTF)[0, -1].argmax()))
    assert _generator(made).generate("the ") == tokenizer.decode(stream)


def test_a_seed_decides_what_is_drawn() -> None:
    first = _generator(method="sample").generate("the cat")
    assert first == _generator(method="sample").generate("the cat")
    assert first != _generator(method="sample", seed=2).generate("the cat")
    assert first.startswith("the cat")


def test_an_end_of_line_is_a_line_break() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        samples.output(made).bias[made.codecs["text"].tokenizer.eos_id] = 9.0
    assert _generator(made, num_tokens=3).generate("the cat") == "the cat\n\n\n"


def test_words_are_set_off_and_unknown_ones_counted() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        samples.output(made).bias[made.codecs["text"].tokenizer.encode("dog")[0]] = 9.0
    found = _generator(made, num_tokens=2).continuation("the zebra")
    assert found == generator.Generated("the zebra dog dog", 2, 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "the dog dog dog dog"),
        ({"repetition_penalty": 2.0}, "the dog cat dog dog"),
        ({"no_repeat_ngram": 2}, "the dog dog cat dog"),
    ],
)
def test_repetitions_cost_or_are_refused(settings: dict[str, Any], expected: str) -> None:
    """To begin with log p(dog) = -0.64 and log p(cat) = -0.74; doubled -1.29 and -1.49; all others are below -9."""
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        for word, bias in (("dog", 9.0), ("cat", 8.9)):
            samples.output(made).bias[made.codecs["text"].tokenizer.encode(word)[0]] = bias
    assert _generator(made, num_tokens=4, **settings).generate("the") == expected


def test_where_every_token_would_repeat_none_is_refused() -> None:
    made = samples.language_model("word", "eos")
    size = made.codecs["text"].tokenizer.vocabulary_size
    choices: list[dict[str, Any]] = [{}, {"method": "sample"}]
    for settings in choices:
        assert (
            _generator(made, num_tokens=size + 5, no_repeat_ngram=1, **settings).continuation("the").num_tokens
            == size + 5
        )


def test_nothing_to_start_from_is_refused_unless_there_is_an_end_of_line() -> None:
    with pytest.raises(errors.UsageError, match="--prefix"):
        _generator().generate("")
    assert _generator(samples.language_model(line_end="eos")).generate("")


def test_a_seq2seq_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="use translate"):
        _generator(samples.seq2seq())
