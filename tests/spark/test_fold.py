"""The engine and its statistics against plain Python: any split, order and lateness gives the same (laws 3, 4, 5)."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profilestream.base.errors import BadSettings
from profilestream.base.settings import validated
from profilestream.derive import decay
from profilestream.derive.array_statistics import MeanVector
from profilestream.derive.fold import Fold
from profilestream.derive.map_statistics import Quantiles
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
NEWEST_OF = "map(string(hour), category)"
DIMENSIONS = {"price": "price", "hour": "hour"}
ALL = {
    "name": "all_kinds",
    "write": "merge",
    "keys": {"user_id": {"of": "user_id"}},
    "statistics": {
        "events": {"kind": "count"},
        "net": {"kind": "count", "weight": "quantity"},
        "dear": {"kind": "count", "where": "price > 100"},
        "value": {"kind": "sum", "of": "price * quantity"},
        "value_30d": {"kind": "sum", "of": "price", "weight": "quantity", "half_life_days": 30},
        "lowest": {"kind": "min", "of": "price"},
        "highest": {"kind": "max", "of": "price"},
        "newest": {"kind": "max", "of": "event_time", "type": "timestamp"},
        "first_category": {"kind": "first", "of": "category", "type": "string"},
        "last_category": {"kind": "last", "of": "category", "type": "string"},
        "last_three": {"kind": "last", "of": "category", "type": "string", "k": 3},
        "newest_by_key": {"kind": "last_by_key", "of": NEWEST_OF},
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
    },
}

Log = list[tuple[Any, ...]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Events of eight users over 400 days, many at equal times, in four batches in any order."""
    moments = st.one_of(st.integers(0, 5).map(lambda n: n * 86_400_000_000), st.integers(0, 400 * 86_400_000_000))
    one = st.tuples(
        st.sampled_from("abcdefgh"),
        moments,
        st.one_of(st.none(), st.floats(-1000, 1000, allow_subnormal=False), st.just(0.0)),
        st.sampled_from([1.0, 1.0, 2.0, -1.0]),
        st.one_of(st.none(), st.sampled_from(["tea", "mugs", "cards", "lamps", "bags"])),
        st.integers(0, 3),
        st.integers(0, 3),
    )
    events = draw(st.lists(one, min_size=40, max_size=120))
    return [
        (f"e{n:03}", "shop", user, START + timedelta(microseconds=at), price, quantity, category, hour, batch)
        for n, (user, at, price, quantity, category, hour, batch) in enumerate(events)
    ]


def derived(**changes: Any) -> DerivedTable:
    return validated(DerivedTable, {**ALL, **changes}, "all_kinds.toml")


def said(rows: DataFrame, what: DerivedTable) -> dict[str, dict[str, Any]]:
    found: list[Row] = Fold.of(what).read(rows, F.lit(AT)).collect()
    return {row["user_id"]: row.asDict(recursive=True) for row in found}


def one_after_the_other(pieces: list[DataFrame], what: DerivedTable) -> DataFrame:
    """The pieces merged pair by pair, as MERGE does."""

    def merged(table: DataFrame, batch: DataFrame) -> DataFrame:
        untouched = table.join(batch, "user_id", "left_anti")
        return untouched.unionByName(Fold.of(what).merge_into(table, batch)).localCheckpoint()

    return reduce(merged, pieces)


def expected(log: Log, what: DerivedTable) -> dict[str, dict[str, Any]]:
    """Every statistic of every user, without Spark."""
    by_user: dict[str, Log] = defaultdict(list)
    for event in log:
        by_user[event[2]].append(event)
    return {user: {n: oracle(s, events) for n, s in what.statistics.items()} for user, events in by_user.items()}


def oracle(statistic: Statistic, log: Log) -> Any:
    """What plain Python says."""

    def field(sql: str, event: tuple[Any, ...]) -> Any:
        names = dict(zip([c.split()[0] for c in EVENTS.split(", ")], event, strict=True))
        if sql == NEWEST_OF:
            return {str(names["hour"]): names["category"]}
        if sql == "price * quantity":
            return None if names["price"] is None else names["price"] * names["quantity"]
        return 1.0 if sql == "1" else names[sql]

    kept = log if statistic.where == "true" else [e for e in log if e[4] is not None and e[4] > 100]
    events = [
        WeightedEvent(micros(e[3]), e[0], field(statistic.of, e), field(statistic.weight, e))
        for e in kept
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
            values = naive.in_order(events) if statistic.kind == "first" else naive.in_order(events)[::-1]
            return values[: statistic.k] if statistic.k > 1 else next(iter(values), None)
        case "last_by_key":
            return naive.latest_by_key(events)
        case "mean_vector":
            assert isinstance(statistic, MeanVector)
            vectors = [[field(sql, e) or 0.0 for sql in statistic.dimensions.values()] for e in kept]
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


def assert_close(got: Any, want: Any, scale: float, where: str) -> None:
    """Equal within 1e-9 of the sum of absolute inputs; all but floats exactly."""
    match want:
        case dict():
            assert got.keys() == want.keys(), where
            for key in want:
                assert_close(got[key], want[key], scale, f"{where}.{key}")
        case list():
            assert len(got) == len(want), where
            for one, other in zip(got, want, strict=True):
                assert_close(one, other, scale, where)
        case float():
            assert got is not None and abs(got - want) <= 1e-9 * scale, f"{where}: {got} is not {want}"
        case datetime():
            assert micros(got) == micros(want), where
        case _:
            assert got == want, f"{where}: {got} is not {want}"


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(log=logs())
def test_any_split_and_order_of_events_gives_what_plain_python_says(spark: SparkSession, log: Log) -> None:
    what = derived()
    events = spark.createDataFrame(log, EVENTS).repartition(3).cache()
    pieces = [Fold.of(what).partials(events.where(F.col("batch") == n)).localCheckpoint() for n in range(4)]
    ways = {
        "at once": Fold.of(what).partials(events),
        "rows gathered": Fold.of(what).merge_rows(reduce(DataFrame.unionByName, pieces)),
        "merged in turn": one_after_the_other(pieces, what),
        "merged in turn, backwards": one_after_the_other(pieces[::-1], what),
    }
    want = expected(log, what)
    scale = sum((1 + abs(e[4] or 0)) ** 2 * abs(e[5]) for e in log)
    for way, rows in ways.items():
        got = said(rows, what)
        assert got.keys() == want.keys(), way
        for user, statistics in want.items():
            for name, value in statistics.items():
                where = f"{way}, {user}, {name}"
                if name == "price_quantiles":
                    assert_within(got[user][name], value, what.statistics[name], where)
                else:
                    assert_close(got[user][name], value, scale, where)
    events.unpersist()


def assert_within(got: float | None, want: float | None, statistic: Statistic, where: str) -> None:
    assert isinstance(statistic, Quantiles)
    if want is None:
        assert got is None, where
    else:
        assert got is not None and abs(got - want) <= statistic.error * abs(want) * (1 + 1e-9), (
            f"{where}: {got}, {want}"
        )


def test_merging_with_nothing_changes_nothing_and_decays_compose(spark: SparkSession) -> None:
    what = derived()
    days = [0, 3, 40]
    log = [
        (f"e{n}", "shop", "u", START + timedelta(days=d), 10.0 * n + 1, 1.0 + n, "tea", n, 0)
        for n, d in enumerate(days)
    ]
    row = Fold.of(what).partials(spark.createDataFrame(log, EVENTS))
    middle, end = F.lit(START + timedelta(days=77)), F.lit(AT)

    def both(name: str, s: Statistic) -> list[Any]:
        state, null = F.col(name), F.lit(None).cast(s.ddl)
        at_once = s.decay(state, decay.factor(F.col("as_of"), end, s.half_life))
        in_two = s.decay(state, decay.factor(F.col("as_of"), middle, s.half_life))
        in_two = s.decay(in_two, decay.factor(middle, end, s.half_life))
        states = [state, s.merge(state, s.zero()), s.merge(s.zero(), state), s.merge(state, null), s.merge(null, state)]
        return [*[s.read(one) for one in states], s.read(at_once), s.read(in_two)]

    for name, statistic in what.statistics.items():
        said_so = row.select(*[column.alias(str(n)) for n, column in enumerate(both(name, statistic))]).first()
        assert said_so is not None
        plain, *same, at_once, in_two = [v.asDict() if isinstance(v, Row) else v for v in said_so]
        for other in same:
            assert_close(other, plain, 1.0, name)
        assert_close(in_two, at_once, 1.0, name)


def test_reading_nothing_gives_zero_or_null_but_never_fails(spark: SparkSession) -> None:
    what = derived()
    nulls = [F.lit(None).cast(s.ddl).alias(name) for name, s in what.statistics.items()]
    row = spark.range(1).select(F.lit("u").alias("user_id"), F.lit(START).alias("as_of"), *nulls)
    got = said(row, what)["u"]
    assert (got["events"], got["value"], got["hours"], got["categories"], got["top"]) == (0, 0.0, [0.0] * 4, 0, {})
    assert (got["lowest"], got["last_category"], got["last_three"], got["price_quantiles"]) == (None, None, [], None)


def test_a_cut_map_is_wrong_by_no_more_than_its_rest(spark: SparkSession) -> None:
    what = derived(statistics={"top": {"kind": "top", "of": "category", "n": 3}})
    counts = {"a": 9, "b": 8, "c": 5, "d": 4, "e": 1}
    names = [name for name, times in counts.items() for _ in range(times)]
    log = [(f"e{n:02}", "shop", "u", START + timedelta(hours=n), 1.0, 1.0, c, 0, n % 4) for n, c in enumerate(names)]
    events = spark.createDataFrame(log, EVENTS)
    pieces = [Fold.of(what).partials(events.where(F.col("batch") == n)) for n in range(4)]
    for rows in (Fold.of(what).merge_rows(reduce(DataFrame.unionByName, pieces)), one_after_the_other(pieces, what)):
        state = rows.first()["top"]  # type: ignore[index]
        assert len(state["weights"]) == 3
        assert sum(state["weights"].values()) + state["rest"] == len(log)
        for name, weight in state["weights"].items():
            assert abs(weight - counts[name]) <= state["rest"]


def test_every_frequent_key_is_kept_and_no_weight_is_wrong_by_more_than_its_share(spark: SparkSession) -> None:
    what = derived(statistics={"frequent": {"kind": "frequent", "of": "category", "n": 3}})
    counts = {"a": 30, "b": 20, **{f"rare{n}": 2 for n in range(10)}}
    names = [name for name, times in counts.items() for _ in range(times)]
    log = [(f"e{n:02}", "shop", "u", START + timedelta(hours=n), 1.0, 1.0, c, 0, n % 4) for n, c in enumerate(names)]
    events = spark.createDataFrame(log, EVENTS)
    pieces = [Fold.of(what).partials(events.where(F.col("batch") == n)) for n in range(4)]
    ways = (Fold.of(what).partials(events), Fold.of(what).merge_rows(reduce(DataFrame.unionByName, pieces)))
    for rows in (*ways, one_after_the_other(pieces, what)):
        state = rows.first()["frequent"]  # type: ignore[index]
        assert {"a", "b"} <= state["weights"].keys() and len(state["weights"]) <= 3
        assert 0 < state["rest"] <= len(log) / 4
        for name, weight in state["weights"].items():
            assert counts[name] - state["rest"] <= weight <= counts[name]


def test_a_theta_sketch_beyond_its_size_does_not_depend_on_the_batches(spark: SparkSession) -> None:
    what = derived(statistics={"items": {"kind": "distinct", "of": "category", "log_nominal_entries": 5}})
    log = [(f"e{n:03}", "shop", "u", START, 1.0, 1.0, f"i{n % 300}", 0, n % 4) for n in range(600)]
    events = spark.createDataFrame(log, EVENTS)
    pieces = [Fold.of(what).partials(events.where(F.col("batch") == n)) for n in range(4)]
    ways = (Fold.of(what).partials(events), Fold.of(what).merge_rows(reduce(DataFrame.unionByName, pieces)))
    said_so = [said(rows, what)["u"]["items"] for rows in (*ways, one_after_the_other(pieces, what))]
    assert len(set(said_so)) == 1
    assert said_so[0] == pytest.approx(300, rel=0.5)


def test_the_worked_example_of_the_docs_gives_its_rows_in_any_order(spark: SparkSession) -> None:
    what = derived(
        statistics={
            "events": {"kind": "count"},
            "value_7d": {"kind": "sum", "of": "price", "half_life_days": 7},
            "last_item": {"kind": "last", "of": "category", "type": "string"},
            "items_7d": {"kind": "top", "of": "category", "n": 10, "half_life_days": 7},
        }
    )
    told = [(0, "tea", 10.0, 0), (0, "cups", 6.0, 0), (7, "tea", 30.0, 0), (14, "lamp", 4.0, 1), (0, "tea", 20.0, 1)]
    log = [
        (f"e{n}", "shop", "anna", START + timedelta(days=day), price, 1.0, item, 0, batch)
        for n, (day, item, price, batch) in enumerate(told)
    ]
    events = spark.createDataFrame(log, EVENTS)
    pieces = [Fold.of(what).partials(events.where(F.col("batch") == n)).localCheckpoint() for n in range(2)]

    def row(pieces: list[DataFrame]) -> tuple[Any, ...]:
        found = Fold.of(what).read(one_after_the_other(pieces, what)).first()
        assert found is not None
        days = (micros(found["as_of"]) - micros(START)) / naive.MICROS_PER_DAY
        return days, found["events"], found["value_7d"], found["last_item"], found["items_7d"]

    assert row(pieces[:1]) == (7, 3, 38.0, "tea", {"tea": 1.5, "cups": 0.5})
    last = (14, 5, 28.0, "lamp", {"tea": 1.0, "lamp": 1.0, "cups": 0.25})
    assert row(pieces) == row(pieces[::-1]) == last
    one_by_one = [Fold.of(what).partials(spark.createDataFrame([event], EVENTS)) for event in log[::-1]]
    assert row(one_by_one) == last


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"statistics": {"as_of": {"kind": "count"}}}, "names that are already taken: ['as_of']"),
        ({"statistics": {"x": {"kind": "median"}}}, "statistics.x"),
        ({"statistics": {"x": {"kind": "top", "of": "category"}}}, "statistics.x.top.n"),
        ({"partitioned_by": ["day"]}, "partitioned_by may name key columns only: ['day']"),
        ({"name": "User Hours"}, "name"),
    ],
)
def test_a_declaration_that_does_not_fit_is_told_with_file_and_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSettings) as raised:
        derived(**changes)
    assert "all_kinds.toml has 1 invalid setting(s)" in raised.value.what
    assert words in raised.value.what
