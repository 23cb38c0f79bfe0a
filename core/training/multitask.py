"""Training one model on several corpora: cosines between their gradients, and PCGrad against conflicts.

Cosines and PCGrad need only the K × K inner products of the gradients of K corpora, which are read from the device at
once.

Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import errors
from core.config import training_settings
from core.data.batching import shuffling

Gradient = Sequence[Tensor]  # of one corpus, a tensor for each weight
Table = Sequence[Sequence[float]]  # the inner product of each gradient with each


class Surgery(NamedTuple):
    """Settings of how the gradients of the corpora are combined.

    Attributes:
        projects: whether conflicts are projected away.
        records: whether cosines are recorded.
        detached: by corpus, the weights that it does not train, as indices into the model's parameters.
        seed: of the order in which each gradient is projected against the others.
    """

    projects: bool
    records: bool
    detached: tuple[frozenset[int], ...]
    seed: int


class Combined(NamedTuple):
    """The gradient of a step, and the cosines between those of its corpora, by pairs of corpus numbers."""

    gradient: list[Tensor]
    cosines: dict[tuple[int, int], float]


def plan(
    model: nn.Module, training: training_settings.TrainingConfig, corpora: Sequence[str], seed: int
) -> Surgery | None:
    """Returns the surgery that the settings ask for; None where gradients may be added up as they come.

    Raises:
        UsageError: a setting names a corpus or a part of the model that does not exist.
    """
    settings = training.multitask
    if len(corpora) == 1 or not settings.separates:
        return None
    if unknown := sorted(settings.detached.keys() - set(corpora)):
        raise errors.UsageError(
            f"training.multitask.detached: {unknown[0]} is not a corpus of this dataset; it has {', '.join(corpora)}"
        )
    detached = tuple(_detached_indices(model, settings.detached.get(corpus, ()), corpus) for corpus in corpora)
    return Surgery(settings.projection == "pcgrad", settings.record_cosines, detached, seed)


def _detached_indices(model: nn.Module, prefixes: Sequence[str], corpus: str) -> frozenset[int]:
    """Returns the indices of the parameters with a name that begins with a prefix and a dot."""
    index_of = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    indices: set[int] = set()
    # A shared weight is named once for each module that uses it; any of its names may match.
    named_parameters = list(model.named_parameters(remove_duplicate=False))
    for prefix in prefixes:
        matching = {index_of[id(weight)] for name, weight in named_parameters if f"{name}.".startswith(f"{prefix}.")}
        if not matching:
            top_level = dict.fromkeys(name.partition(".")[0] for name, _ in named_parameters)
            raise errors.UsageError(
                f"training.multitask.detached.{corpus}: no weight's name begins with {prefix!r}; "
                f"they begin with {', '.join(top_level)}"
            )
        indices |= matching
    if len(indices) == len(index_of):
        raise errors.UsageError(f"training.multitask.detached.{corpus}: nothing is left to train; detach fewer parts")
    return frozenset(indices)


def pop_gradient(model: nn.Module, detached: frozenset[int]) -> list[Tensor]:
    """Moves the gradient of a corpus out of the model, zero for the weights that the corpus does not train."""
    gradient = []
    for index, parameter in enumerate(model.parameters()):
        if parameter.grad is None or index in detached:
            gradient.append(torch.zeros_like(parameter))
        else:
            gradient.append(parameter.grad.clone())  # DDP's gradients are views of buckets that it uses again
        parameter.grad = None
    return gradient


def combine(gradients: Sequence[Gradient], surgery: Surgery, step: int) -> Combined:
    """Adds up the gradients of all corpora, with conflicts projected away if that is asked for."""
    table = inner_products(gradients)
    factors = [1.0] * len(gradients)
    if surgery.projects:
        # "order of tasks" is part of the seed, so it keeps the former word for corpora.
        factors = column_sums(pcgrad_factors(table, shuffling.key("order of tasks", surgery.seed, step)))
    return Combined(weighted_sum(gradients, factors), cosines(table) if surgery.records else {})


def inner_products(gradients: Sequence[Gradient]) -> list[list[float]]:
    """Returns the inner product of each gradient with each, over all weights as one vector."""
    pairs = [(row, column) for row in range(len(gradients)) for column in range(row + 1)]
    products = []
    for row, column in pairs:
        parts = [torch.dot(a.flatten(), b.flatten()) for a, b in zip(gradients[row], gradients[column], strict=True)]
        products.append(torch.stack(parts).double().sum())  # weight by weight: no copy of the whole gradient
    table = [[0.0] * len(gradients) for _ in gradients]
    # One stack, one tolist: the device is waited for once.
    for (row, column), product in zip(pairs, torch.stack(products).tolist(), strict=True):
        table[row][column] = table[column][row] = product
    return table


def cosines(table: Table) -> dict[tuple[int, int], float]:
    """Returns the cosine of the angle between each two gradients; leaves out those of a zero gradient."""
    by_pair = {}
    for i in range(len(table)):
        for j in range(i + 1, len(table)):
            lengths = math.sqrt(table[i][i]) * math.sqrt(table[j][j])
            if 0.0 < lengths < math.inf:
                by_pair[i, j] = max(-1.0, min(1.0, table[i][j] / lengths))  # rounding may exceed 1
    return by_pair


def pcgrad_factors(table: Table, order_key: int) -> list[list[float]]:
    """Applies PCGrad: projects each corpus's gradient onto the normal plane of those that it conflicts with.

    g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j wherever g_i · g_j < 0, over j in a random order, with g_j as it was computed
    and g_i as the corpora before j have left it.

    Args:
        table: inner products of the gradients.
        order_key: decides the order; the same on all ranks.

    Returns:
        By corpus i, the factors of all gradients in what is left of g_i: projections are linear combinations, so that
        the table of inner products is enough to compute them.

    Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning, algorithm 1.
    """
    num_corpora = len(table)
    # Row i begins as g_i itself: factor 1 of g_i, 0 of the others.
    rows = [[float(i == j) for j in range(num_corpora)] for i in range(num_corpora)]
    for i, row in enumerate(rows):
        order = shuffling.permuted(num_corpora, shuffling.key(order_key, i)).tolist()
        for j in order:
            product = sum(factor * table[k][j] for k, factor in enumerate(row))  # g_i · g_j, g_i as it is by now
            if j != i and product < 0.0 < table[j][j]:
                row[j] -= product / table[j][j]
    return rows


def column_sums(rows: Table) -> list[float]:
    """Returns the factor of each gradient in the sum of all that is left of them."""
    return [sum(column) for column in zip(*rows, strict=True)]


def weighted_sum(gradients: Sequence[Gradient], factors: Sequence[float]) -> list[Tensor]:
    """Returns the sum of gradients, each multiplied by its factor."""
    total = [part * factors[0] for part in gradients[0]]
    for gradient, factor in zip(gradients[1:], factors[1:], strict=True):
        for part, added in zip(total, gradient, strict=True):
            part.add_(added, alpha=factor)
    return total


def name_cosines(by_pair: Mapping[tuple[int, int], float], corpora: Sequence[str]) -> dict[str, float]:
    """Returns cosines as in the run log, by the names of both corpora."""
    return {f"{corpora[i]}/{corpora[j]}": value for (i, j), value in by_pair.items()}
