"""Sizes of a model: its parameters by part."""

import torch

from core.models import weights

# Modules by the part of a model that they belong to, where it has another name.
_PARTS = {
    "source_embedding": "embedding",
    "target_embedding": "embedding",
    "stack": "recurrent layers",
    "stack.hidden": "feed-forward layer",
    "readout": "output",
    "adaptive": "output",
}


_PARTS_IN_ORDER = (
    *("embedding", "encoder", "bridge", "attention", "decoder", "recurrent layers", "feed-forward layer", "output"),
)


def parameters_by_part(model: torch.nn.Module) -> dict[str, int]:
    """Returns the number of parameters of each part of a model; tied weights count once, where they come first."""
    counts = dict.fromkeys(_PARTS_IN_ORDER, 0)
    for name, parameter in weights.unique_parameters(model).items():
        module = name.partition(".")[0]
        # By the longest prefix: a language model's stack is recurrent, or a feed-forward layer.
        part = _PARTS.get(name.rpartition(".")[0]) or _PARTS.get(module, module)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {part: count for part, count in counts.items() if count}
