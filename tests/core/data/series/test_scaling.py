"""Laws of scaling."""

import numpy as np
import pytest

from core.data.series import scaling


def test_scaled_values_have_mean_0_and_deviation_1_and_are_undone() -> None:
    values_TC = np.random.default_rng(1).normal([500.0, -3.0], [20.0, 0.01], size=(100, 2))
    fitted = scaling.Scaling.fit(values_TC, ["a", "b"])
    scaled_TC = fitted.apply(values_TC, ["a", "b"])
    np.testing.assert_allclose(scaled_TC.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scaled_TC.std(axis=0), 1)
    np.testing.assert_allclose(fitted.undo(scaled_TC[:, [1]], ["b"]), values_TC[:, [1]])
    assert scaling.Scaling.from_json(fitted.to_json()) == fitted


@pytest.mark.parametrize("level", [0.0, 0.1, -1e9])
def test_a_constant_column_is_scaled_to_0(level: float) -> None:
    values_TC = np.full((7, 1), level)
    scaled_TC = scaling.Scaling.fit(values_TC, ["x"]).apply(values_TC, ["x"])
    np.testing.assert_allclose(scaled_TC, 0, atol=1e-6)


def test_no_scaling_returns_the_same_values() -> None:
    values_TC = np.array([[500.0]])
    assert scaling.NONE.apply(values_TC, ["x"]) is values_TC
    assert scaling.NONE.undo(values_TC, ["x"]) is values_TC
    assert scaling.NONE.deviations_of(["x"]).tolist() == [1.0]


@pytest.mark.parametrize("row", [{"mean": 0.0, "deviation": 0.0}, {"mean": float("nan"), "deviation": 1.0}])
def test_a_stored_scaling_that_is_not_valid_is_refused(row: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scaling"):
        scaling.Scaling.from_json({"x": row})
