"""Columns of outcome models from features."""

from typing import Any

import numpy as np
import pytest
from profilestream.learn.outcomes.kernels import model_inputs
from profilestream.learn.outcomes.kernels.model_inputs import InputFeature, ModelInputs
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows

from tests.outcome_rows import learn, learned, logistic_rows

NAN, INF = float("nan"), float("inf")


def test_values_are_clipped_and_scaled_and_values_that_are_not_finite_count_as_null() -> None:
    inputs = ModelInputs(
        (InputFeature("spend", is_log=True, upper=99.0), InputFeature("share"), InputFeature("net", is_log=True))
    )
    values = np.array([[1e6, 0.5, -np.e + 1], [NAN, NAN, NAN], [INF, -INF, INF], [0.0, 1e300, 0.0]])
    expected = [[1, np.log(100), 0.5, -1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1e12, 0]]
    np.testing.assert_allclose(inputs.matrix(values), expected)
    assert inputs.names == ("intercept", "log(spend)[-1e+12,99]", "share", "log(net)")
    assert inputs.sources.tolist() == [-1, 0, 1, 2]


def test_pieces_crosses_and_buckets_add_columns() -> None:
    inputs = ModelInputs(
        (InputFeature("a", knots=(1.0, 2.5)), InputFeature("city", buckets=3, min_rows=5), InputFeature("b")),
        crossed=("a", "b"),
    )
    buckets = ("city=0/3", "city=1/3", "city=2/3")
    assert inputs.names == ("intercept", "a", "b", "a>1", "a>2.5", *buckets, "a*a", "a*b", "b*b")
    assert inputs.sources.tolist() == [-1, 0, 2, 0, 0, 1, 1, 1, 0, 0, 2]
    assert inputs.min_rows == (0, 0, 0, 0, 0, 5, 5, 5, 0, 0, 0)
    x = inputs.matrix(np.array([[3.0, 2.0, -1.0], [NAN, NAN, 2.0]]))
    assert x.tolist() == [[1, 3, -1, 2, 0.5, 0, 0, 1, 9, -3, 1], [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4]]


def test_a_null_is_null_in_pieces_with_a_negative_knot() -> None:
    inputs = ModelInputs((InputFeature("a", knots=(-1.0,)),))
    assert inputs.matrix(np.array([[NAN], [0.0]])).tolist() == [[1, 0, 0], [1, 0, 1]]


def test_knots_divide_a_sample_into_equal_parts_and_ties_are_one_knot() -> None:
    assert model_inputs.quantile_knots(np.array([0.0, 1, 2, 3, 4, NAN]), 4) == (1, 2, 3)
    assert model_inputs.quantile_knots(np.array([0.0] * 9 + [5]), 4) == ()
    assert model_inputs.quantile_knots(np.array([NAN]), 4) == ()


def test_a_bucket_has_an_effect_after_enough_rows_and_loses_it_when_they_have_decayed() -> None:
    inputs = ModelInputs((InputFeature("city", buckets=2, min_rows=30),))
    rule = Newton(half_life_days=10, ridge=1, min_rows=inputs.min_rows)

    def rows(day: int, count: int) -> LabeledRows:
        buckets = np.arange(100) < count
        batch = logistic_rows(100, day)
        return batch._replace(x=inputs.matrix(np.where(buckets, 1.0, 0.0)[:, None]), labels=buckets.astype(float))

    state = learned(rule, rows(1, 20))
    assert state.coefficients[2] == 0
    state = learn(rule, state, rows(2, 20))
    assert state.coefficients[2] > 0.5
    state = learn(rule, state, rows(30, 0))
    assert state.coefficients[2] == 0


def test_buckets_of_categories_are_those_of_spark() -> None:
    """Spark's documentation of crc32 has the value of 'Spark'."""
    buckets = model_inputs.hashed(["Spark", None], 1000)
    assert buckets[0] == 1557323817 % 1000 and np.isnan(buckets[1])


def test_a_value_whose_square_is_lost_in_the_sums_is_0() -> None:
    inputs = ModelInputs((InputFeature("share"),))
    assert inputs.matrix(np.array([[1e-84], [-1e-10], [1e-8]]))[:, 1].tolist() == [0.0, 0.0, 1e-8]


@pytest.mark.parametrize("changed", [{"is_log": True}, {"upper": 9.0}, {"lower": 0.0}, {"buckets": 4}])
def test_a_changed_transformation_of_a_feature_is_a_new_column(changed: dict[str, Any]) -> None:
    before, after = (ModelInputs((InputFeature("visits", **one),)).names[1:] for one in ({"buckets": 0}, changed))
    assert not set(before) & set(after)
    if "buckets" in changed:
        more = ModelInputs((InputFeature("visits", buckets=8),)).names[1:]
        assert len(more) == 8 and not set(after) & set(more)
