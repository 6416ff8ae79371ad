"""Alarms in plain Python: trends are mergeable statistics, and an unusual day raises an alarm for its measure only."""

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profilestream.base.settings import Alarms
from profilestream.capture import alarms
from profilestream.capture.alarms import Alarm, Measure, Trend

DAY = 86_400_000_000
HALF_LIFE_DAYS = 30.0
SETTINGS = Alarms()
VALUES = st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 200)), min_size=1, max_size=12)


def trend_of(values: list[tuple[float, int]]) -> Trend:
    return reduce(
        lambda a, b: a.merge(b, HALF_LIFE_DAYS), [Trend.from_value(value, day * DAY) for value, day in values]
    )


def are_close(a: Trend, b: Trend) -> bool:
    same = (a.batches, a.as_of) == (b.batches, b.as_of)
    names = ("weight", "weight_squares", "mean", "squared_deviations")
    return same and all(abs(getattr(a, n) - getattr(b, n)) <= 1e-9 * 20**2 * a.batches for n in names)


@given(VALUES, st.data())
def test_trends_do_not_depend_on_the_order_and_grouping_of_values(
    values: list[tuple[float, int]], data: st.DataObject
) -> None:
    complete = trend_of(values)
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(1, len(values)))
    parts = [trend_of(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert are_close(reduce(lambda a, b: a.merge(b, HALF_LIFE_DAYS), parts), complete)


@given(VALUES)
def test_a_trend_is_the_weighted_mean_and_variance(values: list[tuple[float, int]]) -> None:
    trend = trend_of(values)
    x, days = np.array(values, float).T
    w = 2.0 ** (-(days.max() - days) / HALF_LIFE_DAYS)
    mean = (w * x).sum() / w.sum()
    assert abs(trend.mean - mean) <= 1e-9 * 20
    freedom = w.sum() - (w**2).sum() / w.sum()
    if freedom > 1e-6:
        variance = (w * (x - mean) ** 2).sum() / freedom * (1 + (w**2).sum() / w.sum() ** 2)
        assert abs(trend.deviation - math.sqrt(variance)) <= 1e-5 * (1 + math.sqrt(variance))


def test_the_deviation_of_a_single_value_is_zero_and_old_weights_decay_to_zero() -> None:
    assert Trend.from_value(3.0, 0).deviation == 0.0
    late = Trend.from_value(3.0, 0).merge(Trend.from_value(5.0, 10**6 * DAY), HALF_LIFE_DAYS)
    assert (late.mean, late.weight, late.deviation, late.batches) == (5.0, 1.0, 0.0, 2)


def day_of(
    rows: int, *, nulls: float = 0.01, rejects: float = 0.02, price: float = 4.0, hours: float = 12
) -> list[Measure]:
    return [
        alarms.volume(rows, 1, "file"),
        alarms.reject_share(round(rejects * rows), rows),
        alarms.null_share("user_id", round(nulls * rows), rows),
        alarms.level("price", rows * math.log(price), rows),
        alarms.lateness(hours * 3600, rows),
    ]


def after(days: list[list[Measure]], settings: Alarms = SETTINGS) -> tuple[list[list[Alarm]], dict[str, Trend]]:
    """The alarms of each day, and the trends after the last one."""
    trends: dict[str, Trend] = {}
    alarms_by_day = []
    for number, measures in enumerate(days):
        raised, trends = alarms.evaluate(measures, trends, number * DAY, settings)
        alarms_by_day.append(raised)
    return alarms_by_day, trends


USUAL_DAYS = st.lists(st.integers(200, 400).map(day_of), min_size=7, max_size=30)


@given(USUAL_DAYS)
def test_a_log_without_unusual_days_raises_no_alarm(days: list[list[Measure]]) -> None:
    assert after(days)[0] == [[] for _ in days]


@pytest.mark.parametrize(
    ("unusual_day", "measure"),
    [
        (day_of(3_000), "volume"), (day_of(30), "volume"), (day_of(300, nulls=0.3), "null_user_id"),
        (day_of(300, rejects=0.3), "reject_share"), (day_of(300, price=400.0), "price_level"),
        (day_of(300, hours=240), "lateness"),
    ],
)  # fmt: skip
@given(days=USUAL_DAYS)
def test_an_unusual_day_raises_an_alarm_for_its_measure_only(
    days: list[list[Measure]], unusual_day: list[Measure], measure: str
) -> None:
    assert [alarm.measure for alarm in after([*days, unusual_day])[0][-1]] == [measure]


def test_fewer_rejects_and_less_lateness_raise_no_alarm() -> None:
    days = [day_of(1_000, rejects=0.3, hours=240)] * 8
    assert after([*days, day_of(1_000, rejects=0.0, hours=1)])[0][-1] == []


def test_no_alarm_is_raised_before_min_batches() -> None:
    days = [*[day_of(300)] * 6, day_of(30_000)]
    assert after(days)[0][-1] == []
    assert [a.measure for a in after(days, Alarms(min_batches=6))[0][-1]] == ["volume"]


def test_deviations_by_chance_in_few_rows_raise_no_alarm() -> None:
    """Null user ids: 3 of 10 rows raise an alarm, 1 of 4 do not. Rows instead of 2: 100 raise an alarm, 5 do not."""
    days = [[alarms.null_share("user_id", 0, 1_000), alarms.volume(2, 1, "file")]] * 8
    few = [alarms.null_share("user_id", 1, 4), alarms.volume(5, 1, "file")]
    many = [alarms.null_share("user_id", 3, 10), alarms.volume(100, 1, "file")]
    assert after([*days, few])[0][-1] == []
    assert [alarm.measure for alarm in after([*days, many])[0][-1]] == ["null_user_id", "volume"]


def test_an_unusual_day_updates_the_trend_by_its_limit_so_the_next_one_raises_an_alarm_too() -> None:
    days = [*[day_of(300)] * 20, *[day_of(3_000), day_of(300)] * 3]
    alarms_by_day, trends = after(days)
    assert [[alarm.measure for alarm in raised] for raised in alarms_by_day[20:]] == [["volume"], []] * 3
    assert trends["volume"].mean < math.log(350)


def test_a_lasting_change_raises_alarms_for_some_time_and_then_none() -> None:
    alarms_by_day, _ = after([*[day_of(300)] * 30, *[day_of(300, price=400.0)] * 60])
    has_alarm = [bool(raised) for raised in alarms_by_day]
    assert has_alarm[30] and not any(has_alarm[-20:])
    assert [a for a, b in pairwise(has_alarm) if a and not b] == [True]  # no further alarm after the first pause


def test_messages_contain_natural_units() -> None:
    days = [*[day_of(300)] * 8, day_of(3_000, nulls=0.305, price=400.0)]
    volume, nulls, price = after(days)[0][-1]
    assert volume.message == "3,000 rows per file, expected 300 (135 to 668)"
    assert nulls.message == "30.5% of rows without user_id, expected 1.0% (0.0% to 9.0%)"
    assert price.message == "a geometric mean of 400, expected 4 (1.8 to 8.9)"
    assert (round(volume.value), round(volume.expected), round(volume.deviations, 1)) == (3_000, 300, 11.5)


def test_a_batch_without_a_good_row_is_evaluated_and_creates_no_trend() -> None:
    empty = [alarms.reject_share(300, 300)]
    assert alarms.evaluate(empty, {}, None, SETTINGS) == ([], {})
    _, trends = after([day_of(300)] * 8)
    raised, updated = alarms.evaluate(empty, trends, None, SETTINGS)
    assert [alarm.measure for alarm in raised] == ["reject_share"]
    before, after_batch = trends["reject_share"], updated["reject_share"]
    assert (after_batch.as_of, after_batch.batches) == (before.as_of, before.batches + 1)
    assert updated["volume"] == trends["volume"]
