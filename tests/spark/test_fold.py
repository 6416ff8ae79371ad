"""The fold and every kind of statistic equal the plain Python of tests/naive.py for any batches and order of events."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profilestream.base.errors import BadSettings
from profilestream.base.runner import rows_of
from profilestream.base.settings import validated
from profilestream.derive.fold import Fold
from profilestream.derive.statistics import MeanVector, Quantiles
from profilestream.derive.table_declaration import DerivedTable, Statistic
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from tests import naive
from tests.naive import WeightedEvent

START = datetime(2026, 1, 1, tzinfo=UTC)
AT = START + timedelta(days=500)
EVENTS = (
    "event_id string, source string, user_id string, event_time timestamp, price double, quantity double, "
    "category string, hour int, batch int"
)
CATEGORY_BY_HOUR = "map(string(hour), category)"
DIMENSIONS = {"price": "price", "hour": "hour"}
ALL_KINDS = {
    "name": "all_kinds",
    "write": "merge",
    "keys": {"user_id": {"of": "user_id"}},
    "statistics": {
        "events": {"kind": "count"},
        "net": {"kind": "count", "weight": "quantity"},
        "expensive": {"kind": "count", "where": "price > 100"},
        "value": {"kind": "sum", "of": "price * quantity"},
        "value_30d": {"kind": "sum", "of": "price", "weight": "quantity", "half_life_days": 30},
        "lowest": {"kind": "min", "of": "price"},
        "highest": {"kind": "max", "of": "price"},
        "newest": {"kind": "max", "of": "event_time", "type": "timestamp"},
        "first_category": {"kind": "first", "of": "category", "type": "string"},
        "last_category": {"kind": "last", "of": "category", "type": "string"},
        "last_three": {"kind": "last", "of": "category", "type": "string", "k": 3},
        "newest_by_key": {"kind": "last_by_key", "of": CATEGORY_BY_HOUR},
        "mean_30d": {"kind": "mean_vector", "dimensions": DIMENSIONS, "half_life_days": 30},
        "prices": {"kind": "moments", "of": "price"},
        "prices_7d": {"kind": "moments", "of": "price", "half_life_days": 7},
        "hours": {"kind": "histogram", "of": "hour", "bins": 4},
        "hours_90d": {"kind": "histogram", "of": "hour", "bins": 4, "weight": "quantity", "half_life_days": 90},
        "categories": {"kind": "distinct", "of": "category"},
        "top": {"kind": "top", "of": "category", "n": 20},
        "top_14d": {"kind": "top", "of": "category", "weight": "quantity", "n": 20, "half_life_days": 14},
        "frequent_9d": {"kind": "frequent", "of": "category", "n": 20, "half_life_days": 9},
        "price_quantiles": {"kind": "quantiles", "of": "price", "error": 0.01},
        "price_quantiles_coarse": {"kind": "quantiles", "of": "price", "error": 0.1},
    },
}

Log = list[tuple[Any, ...]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Events of eight users over 400 days, many at equal times, in four batches in any order."""
    day = naive.MICROS_PER_DAY
    times = st.one_of(st.integers(0, 5).map(lambda n: n * day), st.integers(0, 400 * day))
    fields = st.tuples(
        st.sampled_from("abcdefgh"),
        times,
        st.one_of(st.none(), st.floats(-1000, 1000, allow_subnormal=False), st.just(0.0)),
        st.sampled_from([1.0, 1.0, 2.0, -1.0]),
        st.one_of(st.none(), st.sampled_from(["tea", "mugs", "cards", "lamps", "bags"])),
        st.integers(0, 3),
        st.integers(0, 3),
    )
    events = draw(st.lists(fields, min_size=40, max_size=120))
    return [
        (f"e{n:03}", "shop", user, START + timedelta(microseconds=at), price, quantity, category, hour, batch)
        for n, (user, at, price, quantity, category, hour, batch) in enumerate(events)
    ]


def declare(**changes: Any) -> DerivedTable:
    return validated(DerivedTable, {**ALL_KINDS, **changes}, "all_kinds.toml")


def values_by_user(rows: DataFrame, derived: DerivedTable) -> dict[str, dict[str, Any]]:
    """The values of all statistics as of AT."""
    values: list[Row] = Fold(derived).read(rows, F.lit(AT)).collect()
    return {row["user_id"]: row.asDict(recursive=True) for row in values}


def update_in_turn(batches: list[DataFrame], derived: DerivedTable) -> DataFrame:
    """The rows of the table after the batches of events, one after another."""
    fold = Fold(derived)

    def update(table: DataFrame, events: DataFrame) -> DataFrame:
        untouched = table.join(events, "user_id", "left_anti")
        new = fold.selection.rows(events)
        return untouched.unionByName(fold.update(rows_of(new, table, ["user_id"]), new)).localCheckpoint()

    return reduce(update, batches[1:], fold.partials(batches[0]))


def expected_values(log: Log, derived: DerivedTable) -> dict[str, dict[str, Any]]:
    """The value of every statistic of every user, by plain Python."""
    by_user: dict[str, Log] = defaultdict(list)
    for event in log:
        by_user[event[2]].append(event)
    return {
        user: {name: expected_value(s, events) for name, s in derived.statistics.items()}
        for user, events in by_user.items()
    }


def expected_value(statistic: Statistic, log: Log) -> Any:
    """The value of a statistic over the events of one user, by plain Python."""

    def field(sql: str, event: tuple[Any, ...]) -> Any:
        columns = dict(zip([c.split()[0] for c in EVENTS.split(", ")], event, strict=True))
        if sql == CATEGORY_BY_HOUR:
            return {str(columns["hour"]): columns["category"]}
        if sql == "price * quantity":
            return None if columns["price"] is None else columns["price"] * columns["quantity"]
        return 1.0 if sql == "1" else columns[sql]

    counted = log if statistic.where == "true" else [e for e in log if e[4] is not None and e[4] > 100]
    events = [
        WeightedEvent(micros(e[3]), e[0], field(statistic.of, e), field(statistic.weight, e))
        for e in counted
        if field(statistic.of, e) is not None
    ]
    at, half_life = micros(AT), statistic.half_life
    match statistic.kind:
        case "count":
            return int(sum(e.weight for e in events))
        case "sum":
            return naive.total(events, at, half_life)
        case "min" | "max":
            best = min if statistic.kind == "min" else max
            return best((e.value for e in events), default=None)
        case "first" | "last":
            values = naive.values_in_order(events) if statistic.kind == "first" else naive.values_in_order(events)[::-1]
            return values[: statistic.k] if statistic.k > 1 else next(iter(values), None)
        case "last_by_key":
            return naive.latest_by_key(events)
        case "mean_vector":
            assert isinstance(statistic, MeanVector)
            vectors = [[field(sql, e) or 0.0 for sql in statistic.dimensions.values()] for e in counted]
            means = naive.mean_vector(events, vectors, at, half_life)
            return dict(zip(statistic.dimensions, means, strict=True)) if means else None
        case "moments":
            mean, variance = naive.moments(events, at, half_life)
            return {"mean": mean, "variance": variance}
        case "histogram":
            return naive.histogram(events, statistic.bins, at, half_life)
        case "distinct":
            return len({e.value for e in events})
        case "top" | "frequent":
            return naive.weights(events, at, half_life)
        case "quantiles":
            return naive.quantile(events, 0.5)


def micros(time: datetime) -> int:
    return (time.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def assert_close(actual: Any, expected: Any, scale: float, where: str) -> None:
    """Floats are equal within 1e-9 of the sum of absolute inputs; all other values are equal."""
    match expected:
        case dict():
            assert actual.keys() == expected.keys(), where
            for key in expected:
                assert_close(actual[key], expected[key], scale, f"{where}.{key}")
        case list():
            assert len(actual) == len(expected), where
            for actual_item, expected_item in zip(actual, expected, strict=True):
                assert_close(actual_item, expected_item, scale, where)
        case float():
            assert actual is not None and abs(actual - expected) <= 1e-9 * scale, f"{where}: {actual} is not {expected}"
        case datetime():
            assert micros(actual) == micros(expected), where
        case _:
            assert actual == expected, f"{where}: {actual} is not {expected}"


@settings(max_examples=2, suppress_health_check=list(HealthCheck))
@given(log=logs())
def test_any_split_and_order_of_events_gives_the_values_of_plain_python(spark: SparkSession, log: Log) -> None:
    derived = declare()
    events = spark.createDataFrame(log, EVENTS).repartition(3).cache()
    batches = [events.where(F.col("batch") == n) for n in range(4)]
    partials = [Fold(derived).partials(batch).localCheckpoint() for batch in batches]
    results = {
        "one batch": Fold(derived).partials(events),
        "rows merged at once": Fold(derived).merge_rows(reduce(DataFrame.unionByName, partials)),
        "updated in turn": update_in_turn(batches, derived),
        "updated in turn, in reverse": update_in_turn(batches[::-1], derived),
    }
    expected = expected_values(log, derived)
    scale = sum((1 + abs(e[4] or 0)) ** 2 * abs(e[5]) for e in log)
    for method, rows in results.items():
        actual = values_by_user(rows, derived)
        assert actual.keys() == expected.keys(), method
        for user, statistics in expected.items():
            for name, value in statistics.items():
                where = f"{method}, {user}, {name}"
                if isinstance(derived.statistics[name], Quantiles):
                    assert_within_error(actual[user][name], value, derived.statistics[name], where)
                else:
                    assert_close(actual[user][name], value, scale, where)
    events.unpersist()


def assert_within_error(actual: float | None, expected: float | None, statistic: Statistic, where: str) -> None:
    """A quantile is within the relative error of its declaration."""
    assert isinstance(statistic, Quantiles)
    if expected is None:
        assert actual is None, where
    else:
        assert actual is not None and abs(actual - expected) <= statistic.error * abs(expected) * (1 + 1e-9), (
            f"{where}: {actual} is not {expected} within {statistic.error}"
        )


def test_a_null_state_is_read_as_zero_empty_or_null(spark: SparkSession) -> None:
    derived = declare(write="append")
    nulls = [F.lit(None).cast(s.ddl).alias(name) for name, s in derived.statistics.items()]
    row = spark.range(1).select(F.lit("u").alias("user_id"), F.lit(START).alias("as_of"), *nulls)
    actual = values_by_user(row, derived)["u"]
    expected = {
        "events": 0, "value": 0.0, "hours": [0.0] * 4, "categories": 0, "top": {}, "lowest": None,
        "last_category": None, "last_three": [], "price_quantiles": None,
    }  # fmt: skip
    assert {name: actual[name] for name in expected} == expected


def batches_of_counts(spark: SparkSession, *batches: dict[str, int]) -> list[DataFrame]:
    """Batches of events in which each category occurs this many times."""
    frames = []
    for batch, counts in enumerate(batches):
        categories = [category for category, count in counts.items() for _ in range(count)]
        log = [(f"e{batch}-{n}", "shop", "u", START, 1.0, 1.0, c, 0, batch) for n, c in enumerate(categories)]
        frames.append(spark.createDataFrame(log, EVENTS))
    return frames


def weights_and_rest(rows: DataFrame, name: str) -> tuple[dict[str, float], float]:
    """The weights of a list, heaviest first, and the weight that was cut."""
    row = rows.select(name, f"state.{name}").first()
    assert row is not None
    weights = {cell["key"]: cell["weight"] for cell in row[0]}
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    return weights, row[1]


def merge_at_once(batches: list[DataFrame], derived: DerivedTable) -> DataFrame:
    fold = Fold(derived)
    return fold.merge_rows(reduce(DataFrame.unionByName, map(fold.partials, batches)))


def test_the_weights_of_top_are_wrong_by_at_most_rest(spark: SparkSession) -> None:
    derived = declare(statistics={"top": {"kind": "top", "of": "category", "n": 3}})
    # The first batch cuts d with weight 1, and the second cuts c with weight 2. The true weight of d is 6.
    batches = batches_of_counts(spark, {"a": 4, "b": 3, "c": 2, "d": 1}, {"d": 5})
    for rows in (merge_at_once(batches, derived), update_in_turn(batches, derived)):
        assert weights_and_rest(rows, "top") == ({"d": 5.0, "a": 4.0, "b": 3.0}, 3.0)


def test_frequent_contains_every_key_above_its_share_with_a_weight_too_low_by_at_most_rest(
    spark: SparkSession,
) -> None:
    derived = declare(statistics={"frequent": {"kind": "frequent", "of": "category", "n": 3}})
    # Of 70 events, 30 have category a and 20 have category b; both are above the share of 70 / (3 + 1).
    batches = batches_of_counts(
        spark,
        {"a": 8, "b": 5, "rare0": 2, "rare1": 2, "rare2": 2},
        {"a": 8, "b": 5, "rare3": 2, "rare4": 2, "rare5": 2},
        {"a": 7, "b": 5, "rare6": 2, "rare7": 2, "rare8": 2},
        {"a": 7, "b": 5, "rare9": 2},
    )
    all_counts = {"a": 30, "b": 20, **{f"rare{n}": 2 for n in range(10)}}
    one_batch = Fold(derived).partials(batches_of_counts(spark, all_counts)[0])
    frames = (one_batch, merge_at_once(batches, derived), update_in_turn(batches, derived))
    merged = ({"a": 24.0, "b": 14.0, "rare9": 2.0}, 6.0)
    states = [weights_and_rest(rows, "frequent") for rows in frames]
    assert states == [({"a": 28.0, "b": 18.0}, 2.0), merged, merged]


def test_the_estimate_of_a_full_theta_sketch_does_not_depend_on_the_batches(spark: SparkSession) -> None:
    derived = declare(statistics={"items": {"kind": "distinct", "of": "category", "log_nominal_entries": 5}})
    log = [(f"e{n:03}", "shop", "u", START, 1.0, 1.0, f"i{n % 300}", 0, n % 4) for n in range(600)]
    events = spark.createDataFrame(log, EVENTS)
    batches = [events.where(F.col("batch") == n) for n in range(4)]
    results = (Fold(derived).partials(events), merge_at_once(batches, derived), update_in_turn(batches, derived))
    estimates = [values_by_user(rows, derived)["u"]["items"] for rows in results]
    # The true number is 300; 32 entries estimate it with a relative standard error of 1 / sqrt(30) = 18 %.
    assert estimates == [316, 316, 316]
    sketch = results[0].select(F.theta_sketch_estimate("state.items")).first()
    assert sketch is not None and sketch[0] == 316


def test_the_example_in_flow_md_gives_the_documented_rows_in_any_order(spark: SparkSession) -> None:
    derived = declare(
        statistics={
            "events": {"kind": "count"},
            "value_7d": {"kind": "sum", "of": "price", "half_life_days": 7},
            "last_item": {"kind": "last", "of": "category", "type": "string"},
            "items_7d": {"kind": "top", "of": "category", "n": 10, "half_life_days": 7},
        }
    )
    # Day, item, price and batch.
    purchases = [
        (0, "tea", 10.0, 0), (0, "cups", 6.0, 0), (7, "tea", 30.0, 0), (14, "lamp", 4.0, 1), (0, "tea", 20.0, 1),
    ]  # fmt: skip
    log = [
        (f"e{n}", "shop", "anna", START + timedelta(days=day), price, 1.0, item, 0, batch)
        for n, (day, item, price, batch) in enumerate(purchases)
    ]
    events = spark.createDataFrame(log, EVENTS)
    batches = [events.where(F.col("batch") == n) for n in range(2)]

    def row(batches: list[DataFrame]) -> tuple[Any, ...]:
        values = Fold(derived).read(update_in_turn(batches, derived)).first()
        assert values is not None
        days = (micros(values["as_of"]) - micros(START)) / naive.MICROS_PER_DAY
        return days, values["events"], values["value_7d"], values["last_item"], values["items_7d"]

    assert row(batches[:1]) == (7, 3, 38.0, "tea", {"tea": 1.5, "cups": 0.5})
    last = (14, 5, 28.0, "lamp", {"tea": 1.0, "lamp": 1.0, "cups": 0.25})
    assert row(batches) == row(batches[::-1]) == last
    one_event_each = [spark.createDataFrame([event], EVENTS) for event in log[::-1]]
    assert row(one_event_each) == last


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": {"as_of": {"kind": "count"}}}, "names that are already used: ['as_of']"),
        ({"statistics": {"x": {"kind": "median"}}}, "statistics.x"),
        ({"statistics": {"x": {"kind": "top", "of": "category"}}}, "statistics.x.top.n"),
        ({"partitioned_by": ["day"]}, "partitioned_by may contain key columns only: ['day']"),
        ({"name": "User Hours"}, "name"),
    ],
)
def test_the_error_for_an_invalid_declaration_names_file_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSettings) as raised:
        declare(**changes)
    assert "all_kinds.toml has 1 invalid setting(s)" in raised.value.what
    assert message in raised.value.what


@pytest.mark.parametrize(
    "sql",
    [
        "behavior.spent / behavior.orders",
        "BEHAVIOR.Spent + 1",
        "`behavior`.`spent` + behavior . orders",
        "size(map_keys(behavior.top_categories))",
        "element_at(map_values(behavior.top_categories), 1) + prices.mean",
        "to_json(behavior) LIKE '%spent%'",
        "size(map_keys(from_json(to_json(struct(behavior.*)), 'map<string, string>')))",
        "behavior['spent'] + events",
        "unix_micros(at) + unix_micros(as_of) + length(user_id)",
        "1",
    ],
)
def test_a_reading_has_the_same_value_in_the_driver_and_in_spark(spark: SparkSession, sql: str) -> None:
    declared = {
        "events": {"kind": "count"},
        "prices": {"kind": "moments", "of": "price"},
        "behavior": {
            "orders": {"kind": "count", "where": "quantity > 0"},
            "spent": {"kind": "sum", "of": "price * quantity"},
            "top_categories": {"kind": "top", "of": "category", "n": 20},
        },
    }
    reading = {"sql": f"string({sql})", "type": "string", "meaning": "A test."}
    fold = Fold(declare(statistics=declared, readings={"behavior": {"reading": reading}}))
    log = [(f"e{n}", "shop", "ab"[n % 2], START, 5.0 + n, 1.0, "tea", n, 0) for n in range(6)]
    selected = fold.selection.rows(spark.createDataFrame(log, EVENTS))
    by_spark = fold.fold_events(selected).orderBy("user_id").toArrow()
    in_driver = fold.fold_events(selected.toArrow()).sort_by("user_id")
    assert in_driver.column_names == by_spark.column_names
    assert in_driver["behavior"].to_pylist() == by_spark["behavior"].to_pylist()
    assert pc.struct_field(by_spark["behavior"], "reading").null_count == 0
