"""Checkpoint averaging: the mean of the weights of several checkpoints of one run."""

import dataclasses
import hashlib
from collections.abc import Sequence

import torch

from core import errors
from core.models import bundle as bundles
from core.models import weights
from core.storage import location, node_cache


def load(folders: Sequence[location.Location], cache: node_cache.NodeCache | None = None) -> bundles.Bundle:
    """Returns the first bundle with the mean of the weights of all; a single bundle is returned as it is.

    Sums are in fp64, in the order given, and rounded to fp32 once: the result does not depend on rounding in between.

    Raises:
        UsageError: they are not of one model with the same tokenizers, or have no weights to average.
        IntegrityError: a bundle is damaged.

    Source: Junczys-Dowmunt et al. 2016, Is neural machine translation ready for deployment?, section 5.
    """
    first = bundles.load(folders[0], cache)
    if len(folders) == 1:
        return first
    # A tied weight once: it must not be summed under each of its names.
    parameters = weights.unique_parameters(first.model)
    if not parameters:
        raise errors.UsageError(
            f"{folders[0]}: holds a {first.config.kind}, which has no weights to average; use average_checkpoints: 1"
        )
    sums = {name: parameter.detach().double() for name, parameter in parameters.items()}
    fingerprints = [first.fingerprint]
    for folder in folders[1:]:
        other = bundles.load(folder, cache)
        # Weights of models with other vocabularies or settings have no meaningful mean.
        if other.config != first.config or other.codecs != first.codecs:
            raise errors.UsageError(
                f"{folder}: holds another model than {folders[0]}; average the checkpoints of one run"
            )
        fingerprints.append(other.fingerprint)
        for name, parameter in weights.unique_parameters(other.model).items():
            sums[name] += parameter.detach().double()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sums[name] / len(folders))
    # Outputs are tied to the bundle that made them: an average has a fingerprint of its own.
    fingerprint = hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()
    return dataclasses.replace(first, fingerprint=fingerprint)
