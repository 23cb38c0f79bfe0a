"""Text generation: sampling of tokens, and continuations of a prefix."""

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


def _sampled_shares(count: int = 4000, **settings: Any) -> torch.Tensor:
    generation = inference_settings.GenerationConfig(**{"temperature": 1.0, **settings})
    random = torch.Generator().manual_seed(3)
    tokens = sampling.select_tokens(LOGITS.expand(count, -1), generation, random)
    return torch.bincount(tokens, minlength=5) / count


def test_samples_follow_the_probabilities() -> None:
    assert _sampled_shares().tolist() == pytest.approx([0.5, 0.2, 0.15, 0.1, 0.05], abs=0.03)


def test_temperature_is_a_power_of_the_probabilities() -> None:
    squares = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]) ** 2
    assert _sampled_shares(temperature=0.5).tolist() == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


def test_top_k_and_top_p_keep_the_most_likely_tokens() -> None:
    assert _sampled_shares(top_k=2).tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0, 0], abs=0.03)
    assert _sampled_shares(top_p=0.6).tolist() == pytest.approx([5 / 7, 2 / 7, 0, 0, 0], abs=0.03)
    assert _sampled_shares(top_p=0.1).tolist() == [1, 0, 0, 0, 0]
    assert _sampled_shares(top_k=1).tolist() == [1, 0, 0, 0, 0]


def test_filters_do_not_depend_on_the_order_of_ids() -> None:
    shuffled = torch.tensor([[0.1, 0.5, 0.05, 0.2, 0.15]]).log()
    assert sampling.filter_logits(shuffled, 3, 0.7).isfinite().tolist() == [[False, True, False, True, False]]


def test_greedy_breaks_ties_by_the_lowest_id() -> None:
    logits_BV = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])
    assert sampling.select_tokens(
        logits_BV, inference_settings.GenerationConfig(method="greedy"), torch.Generator()
    ).tolist() == [1, 0]


def _generator(made: Any = None, seed: int = 1, **settings: Any) -> generator.Generator:
    generation = inference_settings.GenerationConfig(
        **{"method": "greedy", "temperature": 1.0, "num_tokens": 12, **settings}
    )
    return generator.Generator(made or samples.language_model(line_end="none"), generation, samples.FP32, seed)


def test_greedy_generation_takes_the_argmax_of_each_step() -> None:
    made = samples.language_model(line_end="none")
    tokenizer, model = made.codecs["text"].tokenizer, made.model
    assert isinstance(model, language_model.LanguageModel)
    stream = tokenizer.encode("the ")
    with torch.inference_mode():
        for _ in range(12):
            features_BTF, _ = model(torch.tensor([stream]), model.initial_state(1))
            stream.append(int(model.logits(features_BTF)[0, -1].argmax()))
    assert _generator(made).generate("the ") == tokenizer.decode(stream)


def test_sampling_is_reproducible_by_seed() -> None:
    first = _generator(method="sample").generate("the cat")
    assert first == _generator(method="sample").generate("the cat")
    assert first != _generator(method="sample", seed=2).generate("the cat")
    assert first.startswith("the cat")


def test_eos_becomes_a_line_break() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        samples.output(made).bias[made.codecs["text"].tokenizer.eos_id] = 9.0
    assert _generator(made, num_tokens=3).generate("the cat") == "the cat\n\n\n"


def test_words_are_separated_and_unknown_ones_counted() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        samples.output(made).bias[made.codecs["text"].tokenizer.encode("dog")[0]] = 9.0
    continuation = _generator(made, num_tokens=2).continue_text("the zebra")
    assert continuation == generator.Continuation("the zebra dog dog", 2, 1, "num_tokens")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "the dog dog dog dog"),
        ({"repetition_penalty": 2.0}, "the dog cat dog dog"),
        ({"no_repeat_ngram": 2}, "the dog dog cat dog"),
    ],
)
def test_repetition_penalty_and_ngram_blocking_by_hand(settings: dict[str, Any], expected: str) -> None:
    """Log p(dog) = -0.64 and log p(cat) = -0.74, twice that is -1.29 and -1.49; all other tokens are below -9."""
    made = samples.silence(samples.language_model("word", "eos"))
    with torch.no_grad():
        for word, bias in (("dog", 9.0), ("cat", 8.9)):
            samples.output(made).bias[made.codecs["text"].tokenizer.encode(word)[0]] = bias
    assert _generator(made, num_tokens=4, **settings).generate("the") == expected


def test_generation_ends_where_every_token_would_repeat() -> None:
    """With n = 1 each token occurs once: all but the two of the context, `<eos>` and `the`, are generated."""
    made = samples.language_model("word", "eos")
    size = made.codecs["text"].tokenizer.vocabulary_size
    choices: list[dict[str, Any]] = [{}, {"method": "sample"}, {"repetition_penalty": 2.0}]
    for settings in choices:
        ready = _generator(made, num_tokens=size + 5, no_repeat_ngram=1, **settings).continue_text("the")
        assert (ready.num_tokens, ready.ended) == (size - 2, "no_repeat_ngram")
        words = ready.text.split()
        assert len(set(words)) == len(words)
    exact = _generator(made, num_tokens=size - 2, no_repeat_ngram=1).continue_text("the")
    assert (exact.num_tokens, exact.ended) == (size - 2, "num_tokens")


def test_a_prompt_that_holds_every_token_gets_nothing_added() -> None:
    made = samples.language_model("word", "eos", text="a b")
    prompt = "a b zebra"  # and <unk>, and the <eos> that the text starts from
    continuation = _generator(made, num_tokens=5, no_repeat_ngram=1).continue_text(prompt)
    assert continuation == generator.Continuation(prompt, 0, 1, "no_repeat_ngram")


def test_an_empty_prefix_is_refused_without_eos() -> None:
    with pytest.raises(errors.UsageError, match="--prefix"):
        _generator().generate("")
    assert _generator(samples.language_model(line_end="eos")).generate("")


def test_generation_with_a_seq2seq_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="use translate"):
        _generator(samples.seq2seq())
