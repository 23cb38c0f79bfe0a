"""Small bundles with random weights for tests."""

from typing import Any, Literal

import torch

from core.config import model_settings, schema
from core.data.tokens import tokenizer, vocabulary
from core.models import bundle, factory
from core.models import language_model as lm
from core.models import seq2seq as s2s

WORDS = ["a", "cat", "dog", "sees", "the", "big", "small", "old", "house", "runs", "sleeps", "and", "or", "not"]
# Longer than some windows and lines of the tests, so that it reaches across them.
FEEDFORWARD: dict[str, Any] = {"cell": "feedforward", "context": 6, "num_layers": 1}
FP32 = schema.ComputeConfig(precision="fp32", matmul="default")


def codec(kind: Literal["char", "word"], text: str, reserved: tuple[str, ...], *cleaning: str) -> tokenizer.Codec:
    counts = vocabulary.Counts()
    counts.add(vocabulary.split_units(kind, text))
    return tokenizer.Codec(cleaning, tokenizer.from_counts(kind, counts, 1, None, reserved))


def build(
    config: model_settings.NetworkConfig, codecs: dict[str, tokenizer.Codec], line_end: Any = "eos", seed: int = 7
) -> bundle.Bundle:
    sizes = {role: side.tokenizer.vocabulary_size for role, side in codecs.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory.build(config, sizes, next(iter(codecs.values())).tokenizer.pad_id).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than initial weights: peaked distributions, so that hypotheses differ.
            parameter.mul_(6 if name.startswith("output") else 2)
            if name.endswith("coverage_Q"):  # initialized to zero
                parameter.copy_(torch.linspace(-3, 3, len(parameter)))
    return bundle.Bundle(model, config, codecs, line_end, "fp32")


def seq2seq(seed: int = 7, **settings: Any) -> bundle.Bundle:
    """Returns an untrained model whose target words are the source words spelt backwards."""
    source = codec("word", " ".join(WORDS), vocabulary.RESERVED, "lower")
    target = codec("word", " ".join(word[::-1] for word in WORDS), vocabulary.RESERVED)
    config = {"kind": "seq2seq", "cell": "gru", "hidden_size": 12, "embedding_size": 8, "attention": "additive"}
    codecs = {"source": source, "target": target}
    return build(model_settings.Seq2SeqConfig(**{**config, **settings}), codecs, seed=seed)


def language_model(
    kind: Literal["char", "word"] = "char", line_end: str = "eos", text: str = "the cat sees a dog", **settings: Any
) -> bundle.Bundle:
    config = {"kind": "language_model", "cell": "lstm", "hidden_size": 12, "embedding_size": 8, "num_layers": 2}
    reserved = vocabulary.reserved_for("text", line_end)
    return build(
        model_settings.LanguageModelConfig(**{**config, **settings}), {"text": codec(kind, text, reserved)}, line_end
    )


def silence(made: bundle.Bundle) -> bundle.Bundle:
    """Sets the output layer to zero, which makes every token equally likely."""
    with torch.no_grad():
        output(made).weight.zero_()
        output(made).bias.zero_()
    return made


def output(made: bundle.Bundle) -> torch.nn.Linear:
    """Returns the output layer of a network."""
    assert isinstance(made.model, lm.LanguageModel | s2s.Seq2Seq)
    return made.model.output


def sentences(count: int, longest: int = 9, seed: int = 0) -> list[str]:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=random).tolist()
    return [
        " ".join(WORDS[number] for number in torch.randint(0, len(WORDS), (length,), generator=random).tolist())
        for length in lengths
    ]
