"""A noisy sine series for forecasting, written as CSV by `python -m core.data.builtin.sine data/sine.csv`."""

import sys
from pathlib import Path

import numpy as np


def write(path: Path, seed: int = 1, length: int = 1000, noise: float = 0.2) -> None:  # as in D2L
    """Writes x(t) = sin(0.01 t) + N(0, noise²) for t = 1 … length, one row each, after a header line.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
    """
    times = np.arange(1, length + 1)
    values = np.sin(0.01 * times) + np.random.default_rng(seed).normal(0.0, noise, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{time},{value:.9f}\n" for time, value in zip(times.tolist(), values.tolist(), strict=True)]
    path.write_text("".join(["t,x\n", *rows]), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
