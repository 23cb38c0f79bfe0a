"""Files that a pass writes for a later one, verified when they are read."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from core.storage import commit, concurrent, json_values
from workers.prepare import line_tasks


def read_contents(recipe: line_tasks.Recipe, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of files of an earlier pass, verified: a flipped bit would be another dataset.

    Of a local disk one at a time, since several would only take memory.
    """
    run = map if recipe.dataset.is_local else concurrent.map_in_order
    return zip(names, run(functools.partial(commit.read_content, recipe.dataset), names), strict=True)


def read_json(recipe: line_tasks.Recipe, names: Sequence[str]) -> Iterator[Any]:
    """Yields the JSON of files of an earlier pass; see `read_contents`."""
    for name, data in read_contents(recipe, names):
        yield json_values.parse(data, str(recipe.dataset.join(name)))
