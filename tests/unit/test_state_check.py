"""Checks of the numbers of a state before it is served."""

import math

import numpy as np
import pyarrow as pa
import pytest
from profilestream.learn import state_check
from profilestream.learn.kernels.state_norms import largest_norms


def vector(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_the_largest_root_mean_square_of_a_cell_is_computed_for_each_type_of_a_column() -> None:
    cells = {
        "bytes": pa.array([vector(3, 4), None, vector(0, 0)]),
        "list": pa.array([[1.0, 7.0], None, []]),
        "map": pa.array([[("a", 3.0), ("b", 4.0)], None, [("a", 1.0)]], pa.map_(pa.string(), pa.float64())),
        "number": pa.array([1.0, None, -3.0]),
        "empty": pa.array([None] * 3, pa.list_(pa.float64())),
    }
    rows = pa.concat_tables([pa.table(cells).slice(1), pa.table(cells).slice(0, 1)])
    norms = {"bytes": 12.5**0.5, "list": 5.0, "map": 12.5**0.5, "number": 3.0, "empty": 0.0}
    assert largest_norms(rows)["norms"] == pytest.approx(norms)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_a_problem(value: float) -> None:
    rows = pa.table({"vector": pa.array([vector(1, value), vector(9, 9)]), "list": pa.array([[1.0], [value]])})
    norms = largest_norms(rows)["norms"]
    for name in rows.column_names:
        problem = state_check.find_problem({name: norms[name]}, {}, math.inf)
        assert problem == f"a value of {name} is NaN or infinite"


def test_a_norm_that_grew_more_than_allowed_is_a_problem() -> None:
    assert state_check.find_problem({"a": 10.0}, {"a": 1.0}, 10.0) == ""
    text = "the largest norm of a is 10.1, more than 10 times 1"
    assert state_check.find_problem({"b": 99.0, "a": 10.1}, {"a": 1.0}, 10.0) == text
    assert state_check.find_problem({"a": 10.1}, {"a": 0.0}, 10.0) == ""
    assert state_check.find_problem({"a": 10.1}, {"a": 1.0}, math.inf) == ""
