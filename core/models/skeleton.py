"""Models built from their settings, vocabularies and columns, with memory for their weights or without."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn, overrides

from core.config import autoregressive_settings, model_settings
from core.data.tokens import tokenizer
from core.models import autoregressive, factory


def build(
    config: model_settings.NetworkConfig | autoregressive_settings.AutoregressiveConfig,
    codecs: Mapping[str, tokenizer.Codec],
    columns: Mapping[str, tuple[str, ...]],
) -> factory.Model | autoregressive.Autoregressive:
    """Returns a model with initial weights; their sizes are those of its vocabularies, or of its columns."""
    if config.kind == "autoregressive":
        return autoregressive.Autoregressive(config, len(columns["inputs"]), len(columns["targets"]))
    sizes = {role: codec.tokenizer.vocabulary_size for role, codec in codecs.items()}
    # The padding id is the same on both sides of pairs.
    return factory.build(config, sizes, next(iter(codecs.values())).tokenizer.pad_id)


def without_memory(
    config: model_settings.NetworkConfig | autoregressive_settings.AutoregressiveConfig,
    codecs: Mapping[str, tokenizer.Codec],
    columns: Mapping[str, tuple[str, ...]],
) -> factory.Model | autoregressive.Autoregressive:
    """Returns a model whose weights have shapes and no values."""
    with torch.device("meta"), _SkipNormalInit():
        return build(config, codecs, columns)


class _SkipNormalInit(overrides.TorchFunctionMode):
    """Skips normal initialization on the meta device, for which torch imports its compiler: 3 s of CPU time."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)
