"""What the environment of a worker does to its memory."""

import os
import subprocess
import sys

import pytest

from workers.fanout import process_environment

# Multiplies in bf16 with row counts that seldom come twice, and prints the growth of anonymous memory, MiB.
MULTIPLY = """
import random
import torch
def anonymous_mib():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
chance, weights = random.Random(0), torch.zeros(1024, 256, dtype=torch.bfloat16)
def multiply(times):
    for _ in range(times):
        torch.nn.functional.linear(torch.zeros(chance.randint(40, 1300), 256, dtype=torch.bfloat16), weights)
multiply(200)
before = anonymous_mib()
multiply(600)
print(anonymous_mib() - before)
"""
MOST_MIB = 40.0  # 150 to 200 where torch keeps what it prepared for its last 1,024 shapes


@pytest.mark.e2e
def test_a_worker_does_not_grow_with_the_shapes_of_its_batches() -> None:
    own = {**os.environ, **process_environment.of_process(1)}
    done = subprocess.run(
        [sys.executable, "-c", MULTIPLY], env=own, capture_output=True, text=True, check=True, timeout=120
    )
    assert float(done.stdout) < MOST_MIB
