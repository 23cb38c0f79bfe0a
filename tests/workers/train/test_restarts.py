"""The line at a restart of the worker group, on a simulated clock."""

import dataclasses

import pytest

from core.training import progress
from workers.train import messages, restarts

NODES = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}


def status(step: int, fencing_number: int, first_step: int, nodes: str, num_ranks: int) -> messages.GroupStatus:
    now = progress.Progress(
        step=step, epoch=0, fraction=0.0, tokens_per_s=1.0, loss_nats=None, validation=None,
        fencing_number=fencing_number, first_step=first_step,
    )  # fmt: skip
    return messages.GroupStatus(now, True, frozenset(nodes.split()), None, num_ranks)


@pytest.mark.parametrize(
    ("alive", "after", "line"),
    [
        (
            "n1 n3",
            status(41, 2, 40, "n1 n3", 2),
            "lost node 10.0.0.2; training resumes from step 40 with 2 workers: 12 steps repeated",
        ),
        (
            "n3",
            status(51, 2, 51, "n3", 1),
            "lost nodes 10.0.0.1, 10.0.0.2; training resumes from step 51 with 1 worker: 1 step repeated",
        ),
        (
            "n1 n2 n3",
            status(41, 2, 40, "n1 n2 n3", 3),
            "a worker died, its node is up; training resumes from step 40 with 3 workers: 12 steps repeated",
        ),
        (
            "n1 n2 n3",
            status(53, 2, 52, "n1 n2 n3", 4),
            "the worker group has grown; training resumes from step 52 with 4 workers: 0 steps repeated",
        ),
    ],
)
def test_a_restart_says_what_was_lost_and_how_long_it_took(alive: str, after: messages.GroupStatus, line: str) -> None:
    present = set(NODES)
    now_s = 100.0
    monitor = restarts.RestartMonitor(lambda: {node: NODES[node] for node in present}, lambda: now_s)
    assert monitor.describe(status(50, 1, 0, "n1 n2 n3", 3)) is None
    assert monitor.describe(status(52, 1, 0, "n1 n2 n3", 3)) is None
    # While no rank trains there is no progress; the board may already know the new ranks.
    now_s, present = 110.0, set(alive.split())
    assert monitor.describe(dataclasses.replace(after, progress=None)) is None
    now_s = 123.0
    assert monitor.describe(after) == f"train: {line}, 23 s without a step"
    assert monitor.describe(after) is None
