"""Unusual days of users: measures of days, robust z, scores and reasons, from Arrow tables."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from profilestream.serve.scores.kernels import unusual_days, user_days
from profilestream.serve.scores.kernels.unusual_days import BaselineRule, DayPopulation
from profilestream.serve.scores.kernels.user_days import DAY, EVENT, HABITS, MEASURES

from tests.naive_days import Event, NaiveDays, z_scores

RULE = BaselineRule(half_life_days=20.0)
SHARES: dict[str, dict[Any, float]] = {
    "hour": {10: 0.5, 11: 0.4, 3: 0.0001}, "category": {"a": 0.7, "b": 0.3}, "region": {"de": 0.9, "in": 0.1},
    "event_type": {"purchase": 0.6, "view": 0.4},
}  # fmt: skip


def event(user: str = "u", day: int = 0, **columns: Any) -> Event:
    hour = columns.get("hour", 10)
    default = {
        "user_id": user, "day": day, "hour": hour, "time_micros": (day * 24 + hour) * 3_600_000_000,
        "event_type": "purchase", "category": "a", "region": "de", "value": 10.0,
    }  # fmt: skip
    return default | columns


def random_events(seed: int, users: int = 8, count: int = 300) -> list[Event]:
    """One value in ten is null, and a few are infinite, negative or NaN; some days are a year later."""
    rng = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:
        return None if rng.random() < 0.1 else values[rng.integers(len(values))]

    return [
        event(
            f"u{rng.integers(users)}", int(rng.integers(20) + 365 * (rng.random() < 0.1)), hour=int(rng.integers(24)),
            event_type=str(rng.choice(["purchase", "view", "return"])), category=one_of("a", "b", "c"),
            region=one_of("de", "in"), value=one_of(1.5, 200.0, 3e307, -4.0, np.inf, np.nan),
        )
        for _ in range(count)
    ]  # fmt: skip


def days_of(events: list[Event], half_life_days: float = 20.0) -> pa.Table:
    rows = pa.Table.from_pylist(events, EVENT)
    return user_days.user_days(rows, half_life_days=half_life_days, habit_shares=SHARES)["days"]


def steady_events(users: int = 60, days: int = 10) -> list[Event]:
    """Users who buy about ten times a day between 9 and 17 o'clock, and return something on every third day."""
    rng = np.random.default_rng(0)
    return [
        event(
            f"u{user}", day, hour=int(rng.integers(9, 17)), value=float(rng.gamma(5, 10)),
            event_type="return" if n == 0 and day % 3 == 0 else "purchase", category=str(rng.choice(["a", "a", "b"])),
        )
        for user in range(users) for day in range(days) for n in range(rng.integers(7, 14))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def population() -> DayPopulation:
    return unusual_days.fit_population(days_of(steady_events()), RULE)


def unusual(population: DayPopulation, events: list[Event], since_day: int = 0) -> list[dict[str, Any]]:
    days = days_of(events)
    in_other_order = days.take(np.arange(len(days))[::-1])
    rows = unusual_days.unusual_days(
        in_other_order, rule=RULE, population=population, since_day=since_day, max_share=0.001
    )  # fmt: skip
    return list(rows["unusual"].to_pylist())


@pytest.mark.parametrize("seed", range(3))
def test_the_measures_of_a_day_equal_those_of_loops_over_all_events_in_any_order(seed: int) -> None:
    events = random_events(seed)
    rows = days_of(events)
    expected = []
    for user in sorted({event["user_id"] for event in events}):
        naive = NaiveDays([event for event in events if event["user_id"] == user], 20.0, SHARES)
        expected += [(user, day, naive.measures(day)) for day in naive.days()]
    actual = {(row["user_id"], row["day"]): row["measures"] for row in rows.to_pylist()}
    assert len(actual) == len(expected)
    for user, day, measures in expected:
        assert actual[user, day] == pytest.approx(measures, rel=1e-9, nan_ok=True)
    again = {(row["user_id"], row["day"]): row["measures"] for row in days_of(events[::-1]).to_pylist()}
    for key, measures in again.items():
        assert measures == pytest.approx(actual[key], rel=1e-12, nan_ok=True)


def test_z_equals_that_of_a_loop_over_the_earlier_days_of_the_user() -> None:
    days = days_of(random_events(4)).sort_by([("user_id", "ascending"), ("day", "ascending")])
    center, spread = np.linspace(0.5, 2, len(MEASURES)), np.linspace(0.1, 1, len(MEASURES))
    z, _ = unusual_days.z_scores(days, RULE, center, spread)
    rows: list[dict[str, Any]] = days.to_pylist()
    rows_of: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        rows_of.setdefault(row["user_id"], []).append(n)
    for number in range(len(MEASURES)):
        for own in rows_of.values():
            values = [(rows[n]["day"], rows[n]["measures"][number]) for n in own]
            naive = z_scores(values, 20.0, center[number], spread[number])
            assert z[own, number] == pytest.approx(naive, rel=1e-9, nan_ok=True)


def test_a_user_alone_has_the_rows_that_it_has_among_others(population: DayPopulation) -> None:
    events = random_events(5) + steady_events(users=5)
    together = unusual(population, events)
    assert len(together) > 10
    for user in sorted({event["user_id"] for event in events}):
        alone = unusual(population, [event for event in events if event["user_id"] == user])
        for one, other in zip(alone, [row for row in together if row["user_id"] == user], strict=True):
            assert (one["day"], one["score"]) == (other["day"], pytest.approx(other["score"]))
            assert [reason["text"] for reason in one["reasons"]] == [reason["text"] for reason in other["reasons"]]


def test_a_day_that_differs_from_the_earlier_ones_is_written_with_its_reasons(population: DayPopulation) -> None:
    events = steady_events(users=3)
    attack = [event("u1", 10, hour=3, value=2000.0, category="c", region="in") for _ in range(10)]
    (row,) = unusual(population, [*events, *attack], since_day=5)
    assert (row["user_id"], row["day"]) == ("u1", 10)
    assert 0 < row["share_of_days"] <= 0.001 and row["score"] > 3
    assert len(row["reasons"]) == 3
    by_measure = {reason["measure"]: reason for reason in row["reasons"]}
    value = by_measure["value"]
    assert value["observed"] == pytest.approx(2000) and 30 < value["expected"] < 70 and value["z"] > 10
    assert value["text"].startswith("mean value of a purchase: 2,000 instead of ")
    assert unusual(population, [*events, *attack], since_day=11) == []


def test_a_user_without_history_is_compared_with_the_population(population: DayPopulation) -> None:
    usual = [event("new", 0, hour=9 + n % 8, value=50.0) for n in range(10)]
    many = [event("new", 0, hour=9 + n % 8, value=50.0) for n in range(3000)]
    assert unusual(population, usual) == []
    (row,) = unusual(population, many)
    assert row["reasons"][0]["measure"] == "events"
    assert row["reasons"][0]["expected"] == pytest.approx(np.expm1(population.center[0]))


def test_a_low_mean_value_is_unusual_and_few_events_are_not(population: DayPopulation) -> None:
    events = steady_events(users=1)
    tiny = [event("u0", 10, hour=9 + n % 8, value=0.01) for n in range(10)]
    one = [event("u0", 10, value=50.0)]
    (row,) = unusual(population, [*events, *tiny], since_day=10)
    assert row["reasons"][0]["measure"] == "value" and row["reasons"][0]["z"] < -10
    assert unusual(population, [*events, *one], since_day=10) == []


def test_attacks_do_not_hide_the_next_one(population: DayPopulation) -> None:
    attacks = [event("u0", day, hour=9 + n % 8, value=50.0) for day in range(10, 14) for n in range(3000)]
    rows = unusual(population, [*steady_events(users=1), *attacks], since_day=10)
    assert [row["day"] for row in rows] == [10, 11, 12, 13]
    # Without a limit of the deviations that enter the baseline, the last z is 3.
    assert all(row["reasons"][0]["measure"] == "events" and row["reasons"][0]["z"] > 15 for row in rows)


def test_after_a_pause_of_a_year_a_user_is_compared_with_the_population() -> None:
    events = [event("u", day, value=1e6) for day in range(10)] + [event("u", 375, value=1e6)]
    center, spread = np.full(len(MEASURES), 1.0), np.ones(len(MEASURES))
    _, expected = unusual_days.z_scores(days_of(events), RULE, center, spread)
    assert expected[9, 2] > 5 and expected[10, 2] == pytest.approx(1.0, abs=1e-3)


def test_a_log_without_values_items_and_returns_has_scores_by_its_other_measures() -> None:
    missing: dict[str, Any] = {"value": None, "category": None, "region": None, "event_type": "view"}
    events = [one | missing for one in steady_events()]
    population = unusual_days.fit_population(days_of(events), RULE)
    attack = [event("u1", 10, **missing) for _ in range(3000)]
    (row,) = unusual(population, [*events, *attack], since_day=10)
    assert {reason["measure"] for reason in row["reasons"]} <= {"events", "hour"}
    measures = np.array(days_of(events)["measures"].to_pylist())
    assert np.isnan(measures[:, [MEASURES.index(name) for name in ("value", "returns", "category", "region")]]).all()


def test_a_population_of_equal_days_has_finite_scores() -> None:
    events = [event(f"u{user}", 0) for user in range(300)]
    population = unusual_days.fit_population(days_of(events), RULE)
    rows = unusual(population, [*events, event("u1", 1, value=11.0), event("u1", 2, hour=3)])
    assert {row["day"] for row in rows} == {1, 2}
    assert all(np.isfinite([row["score"], row["reasons"][0]["z"]]).all() for row in rows)


def test_no_events_have_no_days_and_no_days_are_unusual(population: DayPopulation) -> None:
    assert days_of([]).num_rows == 0 and days_of([]).schema == DAY
    assert unusual(population, []) == []


def test_every_measure_has_a_text_and_every_habit_is_a_column() -> None:
    assert set(unusual_days._TEXTS) == set(MEASURES) and set(HABITS) <= set(EVENT.names)
