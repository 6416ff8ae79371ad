"""`learn_demand` forecasts series with a known answer, and few wrong times do not change the complete days."""

from pathlib import Path

import numpy as np
from profilestream.base.tables import DEMAND_FORECASTS, DEMAND_UNITS
from profilestream.learn.demand.kernels import demand_models
from profilestream.learn.demand.kernels.demand_models import DemandParams
from profilestream.learn.demand.kernels.demand_tasks import CATEGORY, ITEM, DayCounts, Span
from profilestream.learn.memory_tables import MemoryTables

from tests.demand_case import demand_case
from tests.learner_cases import event_logs
from tests.naive_als import DAY, Event


def test_a_category_that_repeats_its_week_is_forecast_exactly_if_its_level_does_not_decay() -> None:
    week = np.array([7.0, 1, 2, 3, 4, 5, 6])
    params = DemandParams(level_half_life_days=1e9)
    forecasts = demand_models.forecast_categories(np.tile(week, 3)[None], 0, params)
    np.testing.assert_allclose(forecasts[0, -7:], week, rtol=1e-6)


def test_a_single_event_with_a_future_time_completes_no_day_of_a_large_log_and_does_not_end_its_history() -> None:
    counts = DayCounts(np.array([10, 11, 10_000]), np.array([900, 600, 1]))
    assert counts.complete_until(history_days=28) == 11
    assert counts.span(CATEGORY, history_days=28) == Span(CATEGORY, 10, 11)


def test_days_before_the_history_have_no_part_in_the_days_that_are_complete() -> None:
    counts = DayCounts(np.array([10, 100, 101]), np.array([998, 1, 1]))
    assert [counts.complete_until(history_days) for history_days in (28, 365)] == [101, 100]
    assert counts.span(CATEGORY, history_days=28) == Span(CATEGORY, 73, 101)


def test_the_week_in_which_a_log_begins_is_complete_only_if_it_begins_on_a_monday() -> None:
    spans = {}
    for name, first in (("Monday", 4), ("Tuesday", 5), ("Saturday", 9), ("Sunday", 10)):
        spans[name] = DayCounts(np.array([first, 25]), np.array([1, 1])).span(ITEM, history_days=365)
    assert spans == {"Monday": Span(ITEM, 0, 3)} | {day: Span(ITEM, 1, 3) for day in ("Tuesday", "Saturday", "Sunday")}
    assert DayCounts(np.array([9, 25]), np.array([1, 1])).span(CATEGORY, history_days=365) == Span(CATEGORY, 9, 25)
    within_a_week = DayCounts(np.array([9, 10]), np.array([1, 1]))
    assert within_a_week.span(ITEM, history_days=365) == Span(ITEM, 0, 0)


def test_the_sales_of_a_week_in_which_the_log_begins_are_stored_and_forecast_nothing(tmp_path: Path) -> None:
    case = demand_case(tmp_path, event_logs([1.0]))
    saturday, monday = 9, 11
    log = [Event("u", "a", 5.0, saturday * DAY), Event("u", "b", 1.0, monday * DAY), Event("u", "b", 1.0, 18 * DAY)]
    tables = case.learn(MemoryTables(), log)
    sums = {row["key"]: row["units"] for row in tables.all_rows(DEMAND_UNITS).to_pylist() if row["level"] == "item"}
    assert sums == {"a": [5.0], "b": [1.0, 1.0]}
    forecasts = [row["key"] for row in tables.all_rows(DEMAND_FORECASTS).to_pylist() if row["level"] == "item"]
    assert forecasts == []
    tables = case.learn(tables, [Event("u", "b", 1.0, 25 * DAY)])
    forecasts = [row["key"] for row in tables.all_rows(DEMAND_FORECASTS).to_pylist() if row["level"] == "item"]
    assert forecasts == ["b"]


def test_an_item_is_no_longer_forecast_when_all_its_sales_are_before_the_history(tmp_path: Path) -> None:
    case = demand_case(tmp_path, event_logs([1.0]), "history_days = 28")
    tables = case.learn(MemoryTables(), [Event("u", item, 1.0, day * DAY) for item in "ab" for day in (4, 11, 18)])
    assert {row["key"] for row in tables.all_rows(DEMAND_FORECASTS).to_pylist()} == {"a", "b"}
    tables = case.learn(tables, [Event("u", "b", 1.0, 60 * DAY)])
    assert {row["key"] for row in tables.all_rows(DEMAND_FORECASTS).to_pylist()} == set()
