"""The rows of the comparison: works, sizes, other programs and goals."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Row(NamedTuple):
    """A work that ours and another program do.

    Attributes:
        name: for the command line.
        title: for the table, with the unit of the work.
        against: name of the other program, for the table.
        ours: module of our side and the name of its work.
        peer: the same of the other side.
        settings: sizes and settings, the same for both sides.
        goals: least ratio, by precision.
        corpus: kind of text; None: that of the sides' own.
    """

    name: str
    title: str
    against: str
    ours: str
    peer: str
    settings: Mapping[str, Any]
    goals: Mapping[str, float]
    corpus: Literal["pairs", "text", "characters"] | None = "text"


_TRANSLATION = {"size": 256, "dropout": 0.3, "batch_lines": 64, "learning_rate": 1e-3, "clip_norm": 5.0, "steps": 10}
_SEARCH = {"context": "output", "training_steps": 150, "beam_size": 5, "max_length": 50, "num_lines": 200}
_WORD_DROPOUT = {"tie_embeddings": True, "embedding_dropout": 0.2, "dropout": 0.2, "output_dropout": 0.2}
_WORD_LANES = {"lanes": 20, "window": 35, "learning_rate": 1.0, "clip_norm": 0.25, "model": _WORD_DROPOUT}
_WORD_200 = {**_WORD_LANES, "sizes": [200, 200], "embedding_size": 200, "vocabulary_size": 17_800}
_WORD_650 = {**_WORD_LANES, "sizes": [650, 650], "embedding_size": 650, "vocabulary_size": 33_278}
_AWD = {
    **{"lanes": 80, "window": 70, "learning_rate": 30.0, "clip_norm": 0.25, "steps": 1},
    **{"sizes": [1150, 1150, 400], "embedding_size": 400, "vocabulary_size": 33_278},
    **{"activation_regularization": 2.0, "temporal_activation_regularization": 1.0},
    "model": {
        **{"tie_embeddings": True, "locked_dropout": True, "word_dropout": 0.1, "embedding_dropout": 0.65},
        **{"dropout": 0.2, "output_dropout": 0.4, "weight_dropout": 0.5},
    },
}
_CHARACTERS = {
    **{"lanes": 32, "window": 35, "learning_rate": 1.0, "clip_norm": 1.0, "steps": 8},
    **{"embedding_size": 28, "vocabulary_size": 28, "model": {"input": "one_hot"}},
}

ROWS = (
    Row(
        "training-output",
        "training, bi-LSTM 2×128, LSTM 256, general attention, `context: output`; target tokens",
        "OpenNMT-py",
        "ours:translation_training",
        "opennmt:translation_training",
        {**_TRANSLATION, "context": "output"},
        {"fp32": 1.6, "bf16": 2.8},
        "pairs",
    ),
    Row(
        "training-feed",
        "… `context: feed` (input feeding); target tokens",
        "OpenNMT-py",
        "ours:translation_training",
        "opennmt:translation_training",
        {**_TRANSLATION, "context": "feed"},
        {"fp32": 1.6, "bf16": 2.5},
        "pairs",
    ),
    Row(
        "beam",
        "translation, beam 5, by the weights of theirs after 150 steps; output tokens",
        "OpenNMT-py",
        "ours:translation",
        "opennmt:translation",
        {**_TRANSLATION, **_SEARCH, "their_batch_lines": 64},
        {"fp32": 2.5, "bf16": 4.0, "int8": 6.0},
        "pairs",
    ),
    Row(
        "words-200",
        "training, LSTM 2×200, tied, 17,800 words; tokens",
        "word_language_model",
        "ours:language_training",
        "word_language_model:language_training",
        {**_WORD_200, "steps": 4},
        {"fp32": 2.3, "bf16": 4.0},
    ),
    Row(
        "words-650",
        "training, LSTM 2×650, tied, 33,278 words; tokens",
        "word_language_model",
        "ours:language_training",
        "word_language_model:language_training",
        {**_WORD_650, "steps": 1},
        {"fp32": 1.7, "bf16": 4.0},
    ),
    Row(
        "awd",
        "training, AWD recipe, LSTM 2×1,150 and 400, 33,278 words; tokens",
        "awd-lstm-lm",
        "ours:language_training",
        "awd_lstm:language_training",
        _AWD,
        {"fp32": 1.5, "bf16": 4.0},
    ),
    *(
        Row(
            f"characters-{size}",
            f"training, character LSTM {size}, one-hot input; tokens",
            "plain torch",
            "ours:language_training",
            "one_hot_characters:language_training",
            {**_CHARACTERS, "sizes": [size]},
            {"fp32": 1.05, "bf16": 2.4},
            "characters",
        )
        for size in (256, 512)
    ),
    Row(
        "scoring-200",
        "scoring lines, LSTM 2×200, 17,800 words; tokens",
        "word_language_model, evaluation",
        "ours:scoring",
        "word_language_model:scoring",
        {**_WORD_200, "num_lines": 200},
        {"fp32": 1.5, "bf16": 4.0, "int8": 6.0},
    ),
    Row(
        "scoring-650",
        "scoring lines, LSTM 2×650, 33,278 words; tokens",
        "word_language_model, evaluation",
        "ours:scoring",
        "word_language_model:scoring",
        {**_WORD_650, "num_lines": 50},
        {"fp32": 1.5, "bf16": 4.0, "int8": 8.0},
    ),
    Row(
        "ngrams",
        "n-grams of order 5, from text to model, by our `prepare` and `train`; tokens",
        "KenLM, `lmplz -S 100M`",
        "programs:ngram_ours",
        "programs:ngram_kenlm",
        {},
        {"fp32": 0.67},
    ),
    *(
        Row(
            f"prepare-{tokenizer['kind']}",
            f"prepare, {tokenizer['kind']}; tokens",
            "tokenizers, `encode_batch` alone",
            "preparation:prepare_ours",
            "preparation:prepare_library",
            {"tokenizer": tokenizer},
            {"fp32": goal},
            None,
        )
        for tokenizer, goal in (({"kind": "word", "min_freq": 2}, 0.6), ({"kind": "bpe", "max_size": 2000}, 0.8))
    ),
)
