"""A user view as text: how numbers are formatted, and which values are left out."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from profilestream.serve.users import profile_renderer, user_explanations
from profilestream.serve.users.user_view import Approximate, UserView


def test_numbers_are_short_and_empty_values_are_left_out() -> None:
    behavior = {
        "value": 1234.56,
        "share": 0.123456,
        "hours": [0, 2, 4],
        "vector": {"hour_sin": 1.2e-16, "weekend": -0.5},
        "refunds": None,
        "brands": {},
    }
    sections = {"behavior": behavior, "social": {"shares": None}, "vector": {"weekend": -2.0}}
    text = profile_renderer.as_text(UserView("shop:a", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), sections))
    assert text.splitlines() == [
        "shop:a, as of 2026-01-02 03:04 UTC",
        "  behavior",
        "    value   1,235",
        "    share   0.1235",
        "    hours   ▁▅█",
        "    vector  weekend -0.5, hour_sin 0",
        "  compared with all users",
        "    vector  weekend -2",
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_null_in_json_and_left_out_of_the_text(value: float) -> None:
    facets = {"spent": value, "hours": [1.0, value], "items": {"a": value, "b": 2.0}, "rows": [{"x": (value,)}]}
    view = UserView("shop:a", datetime(2026, 1, 2, tzinfo=UTC), {"behavior": facets, "vector": {"log_value": value}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(profile_renderer.as_json(view), parse_constant=refuse)
    nulls = {"spent": None, "hours": [1.0, None], "items": {"a": None, "b": 2.0}, "rows": [{"x": [None]}]}
    assert (document["behavior"], document["vector"]) == (nulls, {"log_value": None})
    lines = profile_renderer.as_text(view).splitlines()
    assert [line.split() for line in lines[1:4]] == [["behavior"], ["hours", "█▁"], ["items", "b", "2"]]


def test_deviations_that_are_not_finite_are_not_unusual() -> None:
    vector = {"a": math.inf, "b": math.nan, "c": 3.0}
    segment = {"typical_distance": 1.0, "distance_to_center": math.inf}
    texts = user_explanations.unusual({"vector": vector, "segment": segment})
    assert texts == {"unusual": {"c": "3.0 standard deviations above all users"}}


def test_numbers_that_a_sketch_estimates_are_marked_in_the_text_only() -> None:
    sections = {"behavior": {"items": Approximate(1436), "orders": 419}}
    view = UserView("shop:a", datetime(2026, 1, 2, tzinfo=UTC), sections)
    assert profile_renderer.as_text(view).splitlines()[2:] == ["    items   about 1,436", "    orders  419"]
    assert json.loads(profile_renderer.as_json(view))["behavior"] == {"items": 1436, "orders": 419}
