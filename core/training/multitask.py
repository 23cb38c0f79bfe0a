"""Several tasks of one model: how far their gradients agree, and what is done where they do not.

All that is asked of gradients, and all that is done to them, follows from their inner products with each other: K tasks
need a table of K × K numbers, read from the device once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import errors
from core.config import training_settings
from core.data.batching import shuffling

Gradient = Sequence[Tensor]  # of one task, a tensor for each weight
Table = Sequence[Sequence[float]]  # the inner product of each gradient with each


class Surgery(NamedTuple):
    """What is done to the gradients of tasks before they are added up.

    Attributes:
        projects: whether conflicts are projected away.
        records: whether cosines are asked for.
        detached: by task, which weights it does not train, in the order of the model's parameters.
        seed: of the order in which a task's gradient meets the others.
    """

    projects: bool
    records: bool
    detached: tuple[frozenset[int], ...]
    seed: int


class Combined(NamedTuple):
    """The gradient of a step, and the cosines between those of its tasks, by pairs of numbers of tasks."""

    gradient: list[Tensor]
    cosines: dict[tuple[int, int], float]


def plan(
    model: nn.Module, training: training_settings.TrainingConfig, tasks: Sequence[str], seed: int
) -> Surgery | None:
    """What the settings ask for; None where gradients may be added up as they come.

    Raises:
        UsageError: a part is named that the model or the corpora do not have.
    """
    settings = training.multitask
    if len(tasks) == 1 or not settings.separates:
        return None
    if unknown := sorted(settings.detached.keys() - set(tasks)):
        raise errors.UsageError(
            f"training.multitask.detached: {unknown[0]} is no corpus of this dataset; it has {', '.join(tasks)}"
        )
    detached = tuple(_named(model, settings.detached.get(task, ()), task) for task in tasks)
    return Surgery(settings.projection == "pcgrad", settings.record_cosines, detached, seed)


def _named(model: nn.Module, beginnings: Sequence[str], task: str) -> frozenset[int]:
    """The places of the weights that one of whose names begins so, at a dot."""
    places = {id(parameter): place for place, parameter in enumerate(model.parameters())}
    found: set[int] = set()
    every = list(model.named_parameters(remove_duplicate=False))
    for beginning in beginnings:
        own = {places[id(one)] for name, one in every if f"{name}.".startswith(f"{beginning}.")}
        if not own:
            first = dict.fromkeys(name.partition(".")[0] for name, _ in every)
            raise errors.UsageError(
                f"training.multitask.detached.{task}: no weight's name begins with {beginning!r}; "
                f"they begin with {', '.join(first)}"
            )
        found |= own
    if len(found) == len(places):
        raise errors.UsageError(f"training.multitask.detached.{task}: nothing is left to train; detach fewer parts")
    return frozenset(found)


def take(model: nn.Module, detached: frozenset[int]) -> list[Tensor]:
    """Takes the gradient of a task out of the model, zero where the task is detached."""
    taken = []
    for place, parameter in enumerate(model.parameters()):
        if parameter.grad is None or place in detached:
            taken.append(torch.zeros_like(parameter))
        else:
            taken.append(parameter.grad.clone())  # where there are ranks, it lies in a buffer that they use again
        parameter.grad = None
    return taken


def combine(gradients: Sequence[Gradient], surgery: Surgery, step: int) -> Combined:
    """Adds up the gradients of all tasks, conflicts projected away if that is asked for."""
    table = inner_products(gradients)
    factors = [1.0] * len(gradients)
    if surgery.projects:
        factors = column_sums(projected(table, shuffling.key("order of tasks", surgery.seed, step)))
    return Combined(weighted_sum(gradients, factors), cosines(table) if surgery.records else {})


def inner_products(gradients: Sequence[Gradient]) -> list[list[float]]:
    """The inner product of each gradient with each, over all weights as one vector."""
    places = [(row, column) for row in range(len(gradients)) for column in range(row + 1)]
    products = []
    for row, column in places:
        parts = [torch.dot(a.flatten(), b.flatten()) for a, b in zip(gradients[row], gradients[column], strict=True)]
        products.append(torch.stack(parts).double().sum())
    table = [[0.0] * len(gradients) for _ in gradients]
    for (row, column), product in zip(places, torch.stack(products).tolist(), strict=True):
        table[row][column] = table[column][row] = product
    return table


def cosines(table: Table) -> dict[tuple[int, int], float]:
    """The cosine of the angle between each two gradients; of a zero one there is none."""
    found = {}
    for one in range(len(table)):
        for other in range(one + 1, len(table)):
            lengths = math.sqrt(table[one][one]) * math.sqrt(table[other][other])
            if 0.0 < lengths < math.inf:
                found[one, other] = max(-1.0, min(1.0, table[one][other] / lengths))
    return found


def projected(table: Table, order_key: int) -> list[list[float]]:
    """PCGrad: of each task's gradient, in a random order of the others, what runs against theirs is taken out.

    g_i ← g_i − (g_i · g_j / ‖g_j‖²) g_j wherever g_i · g_j < 0, with g_j as it was computed and g_i as the tasks before
    j have left it.

    Args:
        table: inner products of the gradients.
        order_key: decides the order; the same on all ranks.

    Returns:
        By task, what each task's gradient is multiplied by: the rows of what is left, with the gradients as basis.

    Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning, algorithm 1; document 004.
    """
    num_tasks = len(table)
    rows = [[float(one == other) for other in range(num_tasks)] for one in range(num_tasks)]
    for one, row in enumerate(rows):
        order = shuffling.permuted(num_tasks, shuffling.key(order_key, one)).tolist()
        for other in order:
            against = sum(factor * table[place][other] for place, factor in enumerate(row))
            if other != one and against < 0.0 < table[other][other]:
                row[other] -= against / table[other][other]
    return rows


def column_sums(rows: Table) -> list[float]:
    """What each gradient is multiplied by in the sum of all that is left of them."""
    return [sum(column) for column in zip(*rows, strict=True)]


def weighted_sum(gradients: Sequence[Gradient], factors: Sequence[float]) -> list[Tensor]:
    """The sum of gradients, each multiplied by its factor."""
    total = [part * factors[0] for part in gradients[0]]
    for gradient, factor in zip(gradients[1:], factors[1:], strict=True):
        for part, added in zip(total, gradient, strict=True):
            part.add_(added, alpha=factor)
    return total


def named(cosines_by_pair: Mapping[tuple[int, int], float], tasks: Sequence[str]) -> dict[str, float]:
    """Cosines as they stand in the run record, by the names of both tasks."""
    return {f"{tasks[one]}/{tasks[other]}": value for (one, other), value in cosines_by_pair.items()}
