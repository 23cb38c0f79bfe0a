"""Presets: sizes of model, vocabulary and training by the size of a corpus.

The rows up to 60,000 and 300,000 pairs and up to 5 million words are the sizes of `multi30k.yaml`, `fra-eng.yaml` and
`wikitext-2.yaml` in jobs/configs; the others are scaled from them. A small corpus gets a small model, more dropout and
more epochs: it is seen often, and memorized soon.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class PairsPreset(NamedTuple):
    """Settings for pairs.

    Attributes:
        max_pairs: pairs of the training split up to which the row is meant.
        vocabulary_size: `tokenizer.max_size`, of both sides together.
        hidden_size: `model.hidden_size`, of the encoder in each direction, and `model.embedding_size`.
        dropout: of embeddings and output.
        epochs: `training.epochs`.
        batch_tokens: `training.batch_tokens`.
        learning_rate: `training.learning_rate`.
        warmup_steps: `training.schedule.warmup_steps`.
    """

    max_pairs: float
    vocabulary_size: int
    hidden_size: int
    dropout: float
    epochs: int
    batch_tokens: int
    learning_rate: float
    warmup_steps: int


class TextPreset(NamedTuple):
    """Settings for text.

    Attributes:
        max_words: words of the training split up to which the row is meant.
        tokenizer: `tokenizer.kind`.
        vocabulary_size: `tokenizer.max_size`; None for all units.
        num_layers: `model.num_layers`.
        hidden_size: `model.hidden_size`.
        embedding_size: `model.embedding_size`; equal to the hidden size the output layer is tied.
        dropout: of embeddings, layers and output.
        epochs: `training.epochs`.
        num_lanes: `training.num_lanes`.
        window: `training.window`.
        learning_rate: `training.learning_rate`.
    """

    max_words: float
    tokenizer: str
    vocabulary_size: int | None
    num_layers: int
    hidden_size: int
    embedding_size: int
    dropout: float
    epochs: int
    num_lanes: int
    window: int
    learning_rate: float


PAIRS = (
    PairsPreset(2_000, 1_000, 128, 0.4, 60, 600, 2e-3, 100),
    PairsPreset(6_000, 2_000, 192, 0.4, 40, 1_000, 2e-3, 200),
    PairsPreset(20_000, 4_000, 256, 0.4, 30, 1_600, 2e-3, 300),
    PairsPreset(60_000, 5_000, 256, 0.4, 20, 2_500, 2e-3, 400),
    PairsPreset(300_000, 8_000, 256, 0.2, 8, 4_000, 2e-3, 400),
    PairsPreset(2_000_000, 16_000, 512, 0.2, 5, 8_000, 1e-3, 1_000),
    PairsPreset(float("inf"), 32_000, 1_024, 0.1, 3, 16_000, 1e-3, 4_000),
)
TEXT = (
    TextPreset(50_000, "char", None, 1, 256, 64, 0.2, 30, 32, 64, 4e-3),
    TextPreset(400_000, "char", None, 1, 512, 64, 0.2, 15, 64, 100, 3e-3),
    TextPreset(1_000_000, "word", 20_000, 1, 256, 256, 0.4, 15, 32, 35, 2e-3),
    TextPreset(5_000_000, "word", 30_000, 2, 400, 400, 0.4, 12, 64, 50, 2e-3),
    TextPreset(float("inf"), "bpe", 16_000, 2, 1_024, 1_024, 0.2, 3, 128, 64, 1e-3),
)
SERIES_EPOCHS = ((2_000, 60), (20_000, 20), (float("inf"), 5))
"""Epochs by the rows of the training split up to which they are meant."""
# Texts without spaces have no words to count: their characters take the place, six for a word.
CHARACTERS_OF_A_WORD = 6


def for_pairs(num_pairs: int) -> int:
    """Returns the index of the row of `PAIRS` for a training split of this size."""
    return _row([preset.max_pairs for preset in PAIRS], num_pairs)


def for_text(num_words: int) -> int:
    """Returns the index of the row of `TEXT` for a training split of this size."""
    return _row([preset.max_words for preset in TEXT], num_words)


def _row(limits: Sequence[float], size: int) -> int:
    return next(row for row, limit in enumerate(limits) if size <= limit)


def pairs_sections(preset: PairsPreset, shared: bool, max_length: int) -> dict[str, Any]:
    """Returns the sections tokenizer, model, training and decoding of a configuration for pairs.

    Args:
        preset: the row of `PAIRS`.
        shared: whether both sides have one vocabulary, and all embeddings are tied.
        max_length: most tokens of a translation.
    """
    return {
        "tokenizer": {"kind": "bpe", "max_size": preset.vocabulary_size, "shared": shared},
        "model": {
            "kind": "seq2seq",
            "cell": "lstm",
            "hidden_size": preset.hidden_size,
            "embedding_size": preset.hidden_size,
            "bidirectional": True,
            "bridge": "mean",
            "attention": "dot",
            "context": "output",
            "tie_embeddings": "all" if shared else "target",
            **_dropout(preset.dropout, num_layers=1),
        },
        "training": {
            "epochs": preset.epochs,
            "batch_tokens": preset.batch_tokens,
            "optimizer": {"kind": "adam", "betas": [0.9, 0.98]},
            "learning_rate": preset.learning_rate,
            "schedule": {"kind": "cosine", "warmup_steps": preset.warmup_steps, "final_rate": 0.05},
            "label_smoothing": 0.1,
            "clip_norm": 1.0,
        },
        "decoding": {"beam_size": 5, "length_penalty": 1.0, "max_length": max_length},
    }


def text_sections(preset: TextPreset, tokenizer: str, num_lanes: int) -> dict[str, Any]:
    """Returns the sections tokenizer, model, training, scoring and generation of a configuration for text.

    Args:
        preset: the row of `TEXT`.
        tokenizer: its kind: that of the row, or `char` for text without spaces.
        num_lanes: lanes; those of the row, or fewer for a short text.
    """
    sizes = {
        "char": {},
        "word": {"max_size": preset.vocabulary_size, "min_freq": 2},
        "bpe": {"max_size": preset.vocabulary_size},
    }
    return {
        "tokenizer": {"kind": tokenizer} | sizes[tokenizer],
        "model": {
            "kind": "language_model",
            "cell": "lstm",
            "num_layers": preset.num_layers,
            "hidden_size": preset.hidden_size,
            "embedding_size": preset.embedding_size,
            "tie_embeddings": preset.embedding_size == preset.hidden_size and tokenizer != "char",
            "locked_dropout": True,
            **_dropout(preset.dropout, preset.num_layers),
        },
        "training": {
            "epochs": preset.epochs,
            "num_lanes": num_lanes,
            "window": preset.window,
            "learning_rate": preset.learning_rate,
            "schedule": {"kind": "cosine", "warmup_steps": 100, "final_rate": 0.02},
            "clip_norm": 1.0,
        },
        "scoring": {"unit": "stream"},
        "generation": {"method": "sample", "temperature": 0.8, "num_tokens": 400 if tokenizer == "char" else 100},
    }


def series_sections(num_rows: int, lags: int, horizons: Sequence[int]) -> dict[str, Any]:
    """Returns the sections model, training and forecasting of a configuration for a series.

    Args:
        num_rows: of the training split.
        lags: past values in the input.
        horizons: steps ahead to forecast.
    """
    return {
        "model": {"kind": "autoregressive", "network": "mlp", "lags": lags, "hidden_size": 32},
        "training": {
            "epochs": next(epochs for limit, epochs in SERIES_EPOCHS if num_rows <= limit),
            "batch_lines": 32,
            "learning_rate": 3e-3,
            "clip_norm": 1.0,
        },
        "forecasting": {"method": "recursive", "horizons": list(horizons)},
    }


def _dropout(rate: float, num_layers: int) -> dict[str, float]:
    # `model.dropout` is between layers: with one it has no effect, which is warned about.
    between_layers = ("dropout",) if num_layers > 1 else ()
    return dict.fromkeys((*between_layers, "embedding_dropout", "output_dropout"), rate)
