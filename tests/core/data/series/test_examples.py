"""Tests of the examples of a regressor."""

import numpy as np
import pytest

from core.data.series import examples


def test_make_examples_by_hand() -> None:
    x, y = np.array([[1.0], [2], [3], [4], [5]]), np.array([[10.0], [20], [30], [40], [50]])
    made = examples.make_examples(x, y, lags=2, horizon=2, padding="drop")
    assert made.features_NLI[:, :, 0].tolist() == [[1, 2], [2, 3]]
    assert made.labels_NKO[:, :, 0].tolist() == [[30, 40], [40, 50]]
    made = examples.make_examples(x, y, lags=2, horizon=1, padding="zeros")
    assert made.features_NLI[:, :, 0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert made.labels_NKO[:, 0, 0].tolist() == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("padding", ["drop", "zeros"])
def test_a_series_that_is_too_short_gives_no_example(padding: str) -> None:
    made = examples.make_examples(np.ones((3, 2)), np.ones((3, 1)), 4, 5, padding)  # type: ignore[arg-type]
    assert made.features_NLI.shape == (0, 4, 2)
    assert made.labels_NKO.shape == (0, 5, 1)
