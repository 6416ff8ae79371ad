"""Alarms in plain Python: trends are mergeable statistics, and of an odd day its own measure is told, no other."""

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
RULES = Alarms()
VALUES = st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 200)), min_size=1, max_size=12)


def trend_of(values: list[tuple[float, int]]) -> Trend:
    return reduce(lambda a, b: a.merged(b, HALF_LIFE_DAYS), [Trend.of(value, day * DAY) for value, day in values])


def alike(a: Trend, b: Trend) -> bool:
    same = (a.batches, a.as_of) == (b.batches, b.as_of)
    names = ("weight", "squares", "mean", "spread")
    return same and all(abs(getattr(a, n) - getattr(b, n)) <= 1e-9 * 20**2 * a.batches for n in names)


@given(VALUES, st.data())
def test_trends_are_the_same_in_any_order_and_cut(values: list[tuple[float, int]], data: st.DataObject) -> None:
    whole = trend_of(values)
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(1, len(values)))
    parts = [trend_of(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert alike(reduce(lambda a, b: a.merged(b, HALF_LIFE_DAYS), parts), whole)


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


def test_a_single_value_deviates_by_nothing_and_old_weight_vanishes() -> None:
    assert Trend.of(3.0, 0).deviation == 0.0
    late = Trend.of(3.0, 0).merged(Trend.of(5.0, 10**6 * DAY), HALF_LIFE_DAYS)
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


def after(days: list[list[Measure]], rules: Alarms = RULES) -> tuple[list[list[Alarm]], dict[str, Trend]]:
    """The alarms of each day, and the trends after the last one."""
    trends: dict[str, Trend] = {}
    found = []
    for number, measures in enumerate(days):
        told, trends = alarms.judged(measures, trends, number * DAY, rules)
        found.append(told)
    return found, trends


CALM = st.lists(st.integers(200, 400).map(day_of), min_size=7, max_size=30)


@given(CALM)
def test_a_calm_log_raises_no_alarm(days: list[list[Measure]]) -> None:
    assert after(days)[0] == [[] for _ in days]


@pytest.mark.parametrize(
    ("odd", "measure"),
    [
        (day_of(3_000), "volume"), (day_of(30), "volume"), (day_of(300, nulls=0.3), "null_user_id"),
        (day_of(300, rejects=0.3), "reject_share"), (day_of(300, price=400.0), "price_level"),
        (day_of(300, hours=240), "lateness"),
    ],
)  # fmt: skip
@given(days=CALM)
def test_an_odd_day_raises_its_own_alarm_only(days: list[list[Measure]], odd: list[Measure], measure: str) -> None:
    assert [alarm.measure for alarm in after([*days, odd])[0][-1]] == [measure]


def test_fewer_rejects_and_less_lateness_are_no_alarms() -> None:
    days = [day_of(1_000, rejects=0.3, hours=240)] * 8
    assert after([*days, day_of(1_000, rejects=0.0, hours=1)])[0][-1] == []


def test_there_is_no_alarm_before_enough_batches() -> None:
    days = [*[day_of(300)] * 6, day_of(30_000)]
    assert after(days)[0][-1] == []
    assert [a.measure for a in after(days, Alarms(min_batches=6))[0][-1]] == ["volume"]


def test_few_rows_are_told_from_chance() -> None:
    """3 of 10 rows without a user are an alarm, 1 of 4 are not; 5 rows instead of 2 are not, 100 are."""
    days = [[alarms.null_share("user_id", 0, 1_000), alarms.volume(2, 1, "file")]] * 8
    few = [alarms.null_share("user_id", 1, 4), alarms.volume(5, 1, "file")]
    many = [alarms.null_share("user_id", 3, 10), alarms.volume(100, 1, "file")]
    assert after([*days, few])[0][-1] == []
    assert [alarm.measure for alarm in after([*days, many])[0][-1]] == ["null_user_id", "volume"]


def test_an_odd_day_is_learned_as_the_limit_so_that_the_next_one_is_told_too() -> None:
    days = [*[day_of(300)] * 20, *[day_of(3_000), day_of(300)] * 3]
    found, trends = after(days)
    assert [[alarm.measure for alarm in told] for told in found[20:]] == [["volume"], []] * 3
    assert trends["volume"].mean < math.log(350)


def test_a_lasting_change_is_told_for_a_while_and_then_is_how_it_is() -> None:
    found, _ = after([*[day_of(300)] * 30, *[day_of(300, price=400.0)] * 60])
    told = [bool(alarms) for alarms in found]
    assert told[30] and not any(told[-20:])
    assert [a for a, b in pairwise(told) if a and not b] == [True]  # it does not come back


def test_an_alarm_is_told_in_units_and_words() -> None:
    days = [*[day_of(300)] * 8, day_of(3_000, nulls=0.305, price=400.0)]
    volume, nulls, price = after(days)[0][-1]
    assert volume.message == "3,000 rows a file, expected 300 (135 to 668)"
    assert nulls.message == "30.5% of rows without user_id, expected 1.0% (0.0% to 9.0%)"
    assert price.message == "a geometric mean of 400, expected 4 (1.8 to 8.9)"
    assert (round(volume.value), round(volume.expected), round(volume.deviations, 1)) == (3_000, 300, 11.5)


def test_a_batch_without_a_good_row_is_judged_and_begins_no_trend() -> None:
    empty = [alarms.reject_share(300, 300)]
    assert alarms.judged(empty, {}, None, RULES) == ([], {})
    _, trends = after([day_of(300)] * 8)
    told, learned = alarms.judged(empty, trends, None, RULES)
    assert [alarm.measure for alarm in told] == ["reject_share"]
    was, now = trends["reject_share"], learned["reject_share"]
    assert (now.as_of, now.batches) == (was.as_of, was.batches + 1)
    assert learned["volume"] == trends["volume"]
