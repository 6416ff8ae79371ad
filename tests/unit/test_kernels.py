"""The kernels of statistics equal plain loops over events, for any split into stored rows, blocks and batches."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.derive import statistic_columns
from profilestream.derive.kernels import theta_sketch
from profilestream.derive.kernels.group_fold import WINDOWS, GroupFold, StatisticFold
from profilestream.derive.kernels.half_life import decay_factors
from profilestream.derive.kernels.kernel import TIMESTAMP, Events, StoredStates, map_array
from profilestream.derive.kernels.map_kernels import QuantilesKernel
from profilestream.derive.statistics import (
    Count,
    Distinct,
    Extreme,
    Heaviest,
    Histogram,
    Latest,
    LatestByKey,
    MeanVector,
    Moments,
    Quantiles,
    StatisticBase,
    Sum,
)
from profilestream.derive.table_declaration import Statistic
from pydantic import TypeAdapter

ROOT = Path(__file__).parent.parent.parent
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
DIMENSIONS = {"a": "a", "b": "b"}
VALUES: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "text": pa.string(),
    "bin": pa.float64(),
    "time": TIMESTAMP,
    "flag": pa.bool_(),
    "long": pa.int64(),
    "vector": pa.list_(pa.float64()),
    "map": pa.map_(pa.string(), pa.string()),
}
HALF_LIFE = 30.0
# By name: the statistic, the column of its value and the column of its weight.
STATISTICS: dict[str, tuple[StatisticBase, str, str]] = {
    "count": (Count(kind="count"), "number", "signed"),
    "sum": (Sum(kind="sum"), "number", "signed"),
    "sum_decayed": (Sum(kind="sum", half_life_days=HALF_LIFE), "number", "signed"),
    "min": (Extreme(kind="min"), "number", "weight"),
    "max_text": (Extreme(kind="max", type="string"), "text", "weight"),
    "max_time": (Extreme(kind="max", type="timestamp"), "time", "weight"),
    "min_flag": (Extreme(kind="min", type="boolean"), "flag", "weight"),
    "max_long": (Extreme(kind="max", type="bigint"), "long", "weight"),
    "moments": (Moments(kind="moments"), "number", "weight"),
    "moments_decayed": (Moments(kind="moments", half_life_days=HALF_LIFE), "number", "weight"),
    "distinct": (Distinct(kind="distinct"), "text", "weight"),
    "first": (Latest(kind="first", type="string"), "text", "weight"),
    "last": (Latest(kind="last", type="bigint"), "long", "weight"),
    "last_flag": (Latest(kind="last", type="boolean"), "flag", "weight"),
    "last_three": (Latest(kind="last", type="timestamp", k=3), "time", "weight"),
    "by_key": (LatestByKey(kind="last_by_key"), "map", "weight"),
    "histogram": (Histogram(kind="histogram", bins=3, half_life_days=HALF_LIFE), "bin", "signed"),
    "mean_vector": (
        MeanVector(kind="mean_vector", dimensions=DIMENSIONS, half_life_days=HALF_LIFE),
        "vector",
        "weight",
    ),
    "top": (Heaviest(kind="top", n=9), "text", "signed"),
    "top_decayed": (Heaviest(kind="top", n=9, half_life_days=HALF_LIFE), "text", "signed"),
    "frequent": (Heaviest(kind="frequent", n=9, half_life_days=HALF_LIFE), "text", "weight"),
    "quantiles": (Quantiles(kind="quantiles", error=0.05), "number", "weight"),
}
# Means: they do not shrink with the weights.
NOT_SCALED_BY_DECAY = ("moments_decayed", "mean_vector")

Event = dict[str, Any]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events of four users over 400 days, many at equal times, in the order of (user, time, source, event_id)."""
    texts = st.sampled_from(["", "tea", "茶", "Ünï", "mugs with a name that is longer than two blocks", "x" * 16, "😀"])
    short = st.floats(-1000, 1000, allow_subnormal=False)
    fields = st.fixed_dictionaries(
        {
            "user": st.sampled_from("abcd"),
            "micros": st.one_of(st.integers(0, 3).map(lambda n: n * DAY), st.integers(0, 400 * DAY)),
            "source": st.sampled_from(["s", "é"]),
            "weight": st.sampled_from([1.0, 2.0, 0.5, None]),
            "signed": st.sampled_from([1.0, 2.0, -1.0, None]),
            "number": st.one_of(st.none(), short, st.just(0.0)),
            "text": st.one_of(st.none(), texts),
            "bin": st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, 0.5, None]),
            "time": st.one_of(st.none(), st.integers(0, 10).map(lambda n: START + timedelta(hours=n))),
            "flag": st.sampled_from([True, False, None]),
            "long": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
            "vector": st.one_of(st.none(), st.lists(short, min_size=2, max_size=2)),
            "map": st.one_of(
                st.none(), st.dictionaries(st.sampled_from(["k", "ключ"]), st.one_of(st.none(), st.sampled_from("xy")))
            ),
        }
    )
    events = draw(st.lists(fields, min_size=1, max_size=40))
    for n, event in enumerate(events):
        event["id"] = f"e{n:03}"
    return sorted(events, key=lambda e: (e["user"], e["micros"], e["source"], e["id"]))


def batch_of(events: list[Event]) -> pa.RecordBatch:
    times = pa.array([e["micros"] for e in events], pa.int64()).cast(TIMESTAMP)
    columns: dict[str, Any] = {
        "user": pa.array([e["user"] for e in events], pa.string()),
        "event_time": times,
        "source": pa.array([e["source"] for e in events], pa.string()),
        "event_id": pa.array([e["id"] for e in events], pa.string()),
        **{name: pa.array([e[name] for e in events], pa.float64()) for name in ("weight", "signed")},
    }
    for name, kind in VALUES.items():
        cells = [e[name] for e in events]
        pairs = [None if c is None else list(c.items()) for c in cells] if name == "map" else cells
        columns[name] = pa.array(pairs, kind)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def fold_of(block_rows: int = 100_000) -> GroupFold:
    statistics = [StatisticFold(s.kernel, name, v, w, s.half_life) for name, (s, v, w) in STATISTICS.items()]
    return GroupFold(("user",), tuple(statistics), block_rows)


def fold(*batches: pa.RecordBatch, block_rows: int = 100_000) -> pa.Table:
    return pa.Table.from_batches(list(fold_of(block_rows).fold(batches)))


def read(rows: pa.Table, factor: float = 1.0) -> dict[str, dict[str, Any]]:
    """Values by statistic and user; decayed statistics at a time when their weights have shrunk by the factor."""
    users: list[Any] = rows["user"].to_pylist()
    values = {}
    for name, (statistic, _, _) in STATISTICS.items():
        factors = np.full(len(users), factor if statistic.half_life else 1.0)
        states = rows[name].combine_chunks()
        array = states.chunk(0) if isinstance(states, pa.ChunkedArray) else states
        values[name] = dict(
            zip(users, statistic.kernel.read(array, factors).to_pylist(maps_as_pydicts="strict"), strict=True)
        )
    return values


def as_stored(rows: pa.Table) -> list[dict[str, Any]]:
    """Result rows as stored rows."""
    return [{**row, "event_time": row["as_of"]} for row in rows.to_pylist()]


def merged(*parts: pa.Table) -> pa.Table:
    """The rows of several results, merged by key."""
    table = pa.concat_tables(parts).rename_columns(["user", "event_time", *STATISTICS])
    return fold(*table.sort_by([("user", "ascending"), ("event_time", "ascending")]).combine_chunks().to_batches())


def stored_with_events(stored: pa.Table, events: list[Event]) -> pa.Table:
    """Stored rows and events, folded in one pass; the stored row is the first of its user."""
    old = stored.rename_columns(["user", "event_time", *STATISTICS])
    old = old.append_column("is_stored", pa.array([True] * len(old)))
    new = pa.Table.from_batches([batch_of(events)])
    new = new.append_column("is_stored", pa.array([False] * len(new)))
    table = pa.concat_tables([old, new], promote_options="default")
    order: list[Any] = [
        ("user", "ascending"),
        ("is_stored", "descending"),
        *[(n, "ascending") for n in ("event_time", "source", "event_id")],
    ]
    return fold(*table.sort_by(order).combine_chunks().to_batches())


# Plain loops.


def loop_values(name: str, events: list[Event], newest: int | None = None) -> Any:
    """The value of a statistic over the sorted events of one user, as of a time; null: that of the newest of them."""
    statistic, value_name, weight_name = STATISTICS[name]
    newest = max(e["micros"] for e in events) if newest is None else newest
    pairs = []
    for e in events:
        value, weight = e[value_name], e[weight_name]
        if value is not None:
            decay = 2 ** ((e["micros"] - newest) / (statistic.half_life * DAY)) if statistic.half_life else 1.0
            pairs.append((value, None if weight is None else weight * decay))
    weighted = [(v, w) for v, w in pairs if w is not None]
    values = [v for v, _ in pairs]
    match statistic:
        case Count():
            return sum(int(w) for _, w in weighted)
        case Sum():
            return sum(v * w for v, w in weighted)
        case Extreme():
            return (min if statistic.kind == "min" else max)(values, default=None)
        case Moments():
            total = sum(w for _, w in weighted)
            mean = sum(v * w for v, w in weighted) / total if total else None
            variance = sum(w * (v - mean) ** 2 for v, w in weighted) / total if mean is not None else None
            return {"mean": mean, "variance": variance}
        case Distinct():
            return len({v for v in values if v})
        case Latest():
            best = values[::-1] if statistic.kind == "last" else values
            return best[: statistic.k] if statistic.k > 1 else next(iter(best), None)
        case LatestByKey():
            result: dict[str, str] = {}
            for value in values:
                result |= {key: v for key, v in value.items() if v is not None}
            return result
        case Histogram():
            return [sum(w for v, w in weighted if v == n) for n in range(statistic.bins)]
        case MeanVector():
            total = sum(w for _, w in weighted)
            sums = [sum(v[n] * w for v, w in weighted) for n in range(2)]
            return dict(zip(DIMENSIONS, [x / total for x in sums], strict=True)) if total else None
        case Heaviest():
            weights: dict[str, float] = defaultdict(float)
            for v, w in weighted:
                weights[v] += w
            return dict(weights)
        case Quantiles():
            ordered = sorted(weighted)
            target, total = 0.5 * sum(w for _, w in weighted), 0.0
            for v, w in ordered:
                total += w
                if total >= target:
                    return v
            return None
    raise AssertionError(name)


def assert_close(actual: Any, expected: Any, relative: float = 1e-9, absolute: float = 1e-6) -> None:
    """Equal, or numbers that differ by at most 1e-9 of the sum of the absolute inputs, which is below 1e5."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_close(actual[key], expected[key], relative, absolute)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, relative, absolute)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=relative, abs=absolute)
    else:
        assert actual == expected


def by_user(events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    for user in sorted({e["user"] for e in events}):
        yield user, [e for e in events if e["user"] == user]


laws = settings(max_examples=50, derandomize=True)


@laws
@given(logs())
def test_every_kind_equals_a_plain_loop(events: list[Event]) -> None:
    rows = fold(batch_of(events))
    values = read(rows)
    for user, own in by_user(events):
        for name in STATISTICS:
            expected = loop_values(name, own)
            error = 0.05 if name == "quantiles" else 1e-9
            assert_close(values[name][user], expected, error)


@laws
@given(logs(), st.data())
def test_merged_parts_and_events_onto_stored_rows_equal_one_fold(events: list[Event], data: st.DataObject) -> None:
    expected = read(fold(batch_of(events)))
    is_early = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    early = [e for e, flag in zip(events, is_early, strict=True) if flag]
    late = [e for e, flag in zip(events, is_early, strict=True) if not flag]
    if early and late:
        assert_close(read(merged(fold(batch_of(early)), fold(batch_of(late)))), expected)
        assert_close(read(stored_with_events(fold(batch_of(early)), late)), expected)


@laws
@given(logs(), st.integers(1, 7), st.integers(1, 40))
def test_borders_of_batches_change_no_bit(events: list[Event], block_rows: int, rows: int) -> None:
    batch = batch_of(events)
    in_parts = [batch.slice(start, rows) for start in range(0, len(batch), rows)]
    expected = fold(batch, block_rows=block_rows)
    assert fold(*in_parts, block_rows=block_rows).equals(expected)
    one_user_each = [fold(batch_of(own), block_rows=block_rows) for _, own in by_user(events)]
    assert pa.concat_tables(one_user_each).combine_chunks().equals(expected.combine_chunks())
    assert_close(read(expected), read(fold(batch)))


@laws
@given(logs(), st.randoms())
def test_order_of_rows_before_the_sort_changes_no_bit(events: list[Event], random: Any) -> None:
    shuffled = random.sample(events, len(events))
    order: list[Any] = [(name, "ascending") for name in ("user", "event_time", "source", "event_id")]
    table = pa.Table.from_batches([batch_of(shuffled)]).sort_by(order).combine_chunks()
    assert fold(*table.to_batches()).equals(fold(batch_of(events)))


@settings(laws, max_examples=20)
@given(logs(), st.lists(st.integers(0, 3), min_size=40, max_size=40), st.integers(1, 7))
def test_a_window_contains_the_rows_with_its_bit(events: list[Event], windows: list[int], block_rows: int) -> None:
    """Events, and stored rows of one event each; also of a user without a row in the window."""
    bits = pa.array(windows[: len(events)], pa.int64())
    new = pa.Table.from_batches([batch_of(events)]).append_column(WINDOWS, bits)
    old = fold(batch_of([{**event, "user": event["id"]} for event in events])).sort_by("user")
    old = old.rename_columns(["user", "event_time", *(f"stored_{name}" for name in STATISTICS)])
    old = old.take(np.argsort([event["id"] for event in events]).argsort())
    old = old.set_column(0, "user", new["user"])
    for rows in (new, old.append_column(WINDOWS, bits)):
        for bit in (0, 1):
            statistics = tuple(replace(one, stored=f"stored_{one.state}", window=bit) for one in fold_of().statistics)
            in_blocks = GroupFold(("user",), statistics, block_rows).fold(rows.combine_chunks().to_batches())
            values = read(pa.Table.from_batches(list(in_blocks)))
            for user, own in by_user(events):
                newest = max(event["micros"] for event in own)
                counted = [
                    event for event, mask in zip(events, windows, strict=False) if event in own and mask & 1 << bit
                ]
                for name in STATISTICS:
                    error = 0.05 if name == "quantiles" else 1e-9
                    assert_close(values[name][user], loop_values(name, counted, newest), error)


def _kinds(text: str, pattern: str) -> set[str]:
    return {kind for line in re.findall(pattern, text, re.MULTILINE) for kind in re.findall(r"[a-z_]+", line)}


def test_every_kind_is_tested_and_described() -> None:
    declared = TypeAdapter(Statistic).json_schema()["discriminator"]["mapping"].keys()
    features, spark_tests = ((ROOT / path).read_text() for path in ("docs/features.md", "tests/spark/test_fold.py"))
    kinds_in_docs = features[features.index("| `count` |") :].partition("\n\n")[0]
    assert {statistic.kind for statistic, _, _ in STATISTICS.values()} == declared  # type: ignore[attr-defined]
    assert statistic_columns._VALUES.keys() == declared
    assert _kinds(kinds_in_docs, r"^\| (`[^|]*`) \|") == declared
    assert _kinds(spark_tests, r'"kind": ("[a-z_]+")') >= declared


@laws
@given(logs())
def test_values_decay_by_the_factor(events: list[Event]) -> None:
    rows = fold(batch_of(events))
    now, later = read(rows), read(rows, 0.25)
    for name, (statistic, _, _) in STATISTICS.items():
        scales = statistic.half_life is not None and name not in NOT_SCALED_BY_DECAY
        assert_close(later[name], _times(now[name], 0.25) if scales else now[name])


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {key: _times(v, factor) for key, v in value.items()}
    if isinstance(value, list):
        return [_times(v, factor) for v in value]
    return value * factor


def test_the_factor_halves_per_half_life() -> None:
    start, end = np.array([0, 0, 10 * DAY]), np.array([30 * DAY, 0, 0])
    assert decay_factors(start, end, 10.0).tolist() == [0.125, 1.0, 2.0]
    assert decay_factors(start, end, None).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", STATISTICS)
def test_a_group_without_events_and_a_null_state_have_the_value_of_no_events(name: str) -> None:
    statistic, value, _ = STATISTICS[name]
    kernel, empty = statistic.kernel, np.zeros(0, np.int64)
    order = batch_of([]).select(["event_time", "source", "event_id"]).to_struct_array()
    events = Events(pa.array([], VALUES[value]), pa.array([], pa.float64()), order, empty)
    nulls = pa.nulls(2, kernel.type)
    entries = pa.concat_tables([kernel.unpack(StoredStates(nulls, np.ones(2), np.arange(2))), kernel.lift(events)])
    states = kernel.fold(entries, 2)
    assert states.type == kernel.type

    for rows in (states, nulls):
        values = kernel.read(rows, np.ones(2)).to_pylist()
        assert values == [_value_of_no_events(statistic)] * 2
    assert len(kernel.fold(entries.slice(0, 0), 0)) == 0


def _value_of_no_events(statistic: StatisticBase) -> Any:
    match statistic:
        case Count() | Distinct():
            return 0
        case Sum():
            return 0.0
        case Moments():
            return {"mean": None, "variance": None}
        case Latest() if statistic.k > 1:
            return []
        case Histogram():
            return [0.0] * statistic.bins
        case LatestByKey() | Heaviest():
            return []
    return None


def test_states_have_the_types_of_the_declarations() -> None:
    names = {"double": "DOUBLE", "int64": "BIGINT", "string": "STRING", "bool": "BOOLEAN", "binary": "BINARY"}

    def ddl(kind: Any) -> str:
        if isinstance(kind, pa.StructType):
            return f"STRUCT<{', '.join(f'{field.name}: {ddl(field.type)}' for field in kind)}>"
        if isinstance(kind, pa.MapType):
            return f"MAP<{ddl(kind.key_type)}, {ddl(kind.item_type)}>"
        if isinstance(kind, pa.ListType):
            return f"ARRAY<{ddl(kind.value_type)}>"
        return "TIMESTAMP" if kind == TIMESTAMP else names[str(kind)]

    for statistic, _, _ in STATISTICS.values():
        assert ddl(statistic.kernel.type) == statistic.ddl


def _events(**columns: list[Any]) -> list[Event]:
    blank = {"user": "a", "source": "s", "weight": 1.0, "signed": 1.0, **dict.fromkeys(VALUES)}
    length = len(next(iter(columns.values())))
    return [
        {**blank, "micros": n, "id": f"e{n:05}", **{name: cells[n] for name, cells in columns.items()}}
        for n in range(length)
    ]


def heaviest(weights: dict[str, float], rest: float) -> dict[str, Any]:
    """A state of `top`: the weights in this order."""
    return {"weights": [{"key": key, "weight": weight} for key, weight in weights.items()], "rest": rest}


@pytest.mark.parametrize("block_rows", [10, 100])
def test_a_map_is_cut_after_the_last_block(block_rows: int) -> None:
    batch = batch_of(_events(text=[*(f"k{n:02}" for n in range(10)), "k09"]))
    top = fold(batch, block_rows=block_rows)["top"][0]
    assert top.as_py() == heaviest({"k09": 2.0} | {f"k{n:02}": 1.0 for n in range(8)}, rest=1.0)


def test_a_map_is_cut_to_the_heaviest_keys_once_and_ties_by_key() -> None:
    texts = [f"k{n:02}" for n in range(12)] + ["k11", "k10"]
    row = fold(batch_of(_events(text=texts[::-1]))).to_pylist()[0]
    assert row["top"] == heaviest({"k10": 2.0, "k11": 2.0} | {f"k{n:02}": 1.0 for n in range(7)}, rest=3.0)
    newest = (len(texts) - 1) / (HALF_LIFE * DAY)
    assert newest < 1e-9  # so the decayed weights are nearly 1
    frequent = {cell["key"]: cell["weight"] for cell in row["frequent"]["weights"]}
    assert frequent.keys() >= {"k10", "k11"} and frequent["k10"] == pytest.approx(1.0)
    assert row["frequent"]["rest"] == pytest.approx(1.0)


def test_negative_weights_count_by_size_in_top() -> None:
    events = _events(text=[f"k{n:02}" for n in range(10)], signed=[-5.0, *[1.0] * 9])
    row = fold(batch_of(events)).to_pylist()[0]
    assert row["top"] == heaviest({f"k{n:02}": 1.0 for n in range(1, 9)} | {"k00": -5.0}, rest=1.0)
    assert row["sum"] == 0.0 and row["top_decayed"]["weights"][-1]["weight"] < 0


def test_nan_and_infinite_values() -> None:
    events = _events(number=[math.nan, math.inf, -math.inf, 3.0, 3.0])
    row = fold(batch_of(events))
    assert read(row)["quantiles"]["a"] == pytest.approx(3.0, rel=0.05)
    assert row["quantiles"].to_pylist() == [[("+11", 2.0)]]
    assert math.isnan(read(row)["sum"]["a"]) and row["min"].to_pylist() == [-math.inf]


@pytest.mark.parametrize("q, expected", [(0.0, -100.0), (0.1, -100.0), (0.5, 0.0), (0.9, 100.0), (1.0, 100.0)])
def test_quantiles_of_both_signs(q: float, expected: float) -> None:
    kernel = QuantilesKernel(0.01, q)
    keys = kernel.bins(np.array([-100.0, 0.0, 100.0]))
    states = map_array(pa.array([0, 3], pa.int32()), keys, pa.array([1.0, 1.0, 1.0]))
    assert kernel.read(states, np.ones(1))[0].as_py() == pytest.approx(expected, rel=0.01)


# Hashes of datasketches 5.2.0 (PyPI): update_theta_sketch().update(text), then the entry of the compact sketch.
HASHES = {
    "a": 8863373810831573271,
    "tea": 7364601106082004430,
    "茶": 3429689444096815911,
    "x" * 15: 2608696559743389339,
    "x" * 16: 2404989087380663892,
    "x" * 17: 8864832186857419172,
    "mugs with a name that is longer than two blocks": 8406410344749330104,
}


def test_hashes_are_those_of_datasketches() -> None:
    texts = list(HASHES)
    assert theta_sketch.hash_strings(pa.array(texts)).tolist() == list(HASHES.values())
    assert theta_sketch.hash_strings(pa.array(["", *texts]).slice(1)).tolist() == list(HASHES.values())


@pytest.mark.parametrize("count", [1, 2, 512, 513, 5000])
def test_a_sketch_is_the_smallest_hashes_however_it_is_split(count: int) -> None:
    texts = [f"user {n}" for n in range(count)]
    whole = fold(batch_of(_events(text=texts)))
    parts = [fold(batch_of(_events(text=[*texts[n::3], *texts[:5]]))) for n in range(min(3, count))]
    sketch = whole["distinct"][0].as_py()
    assert merged(*parts)["distinct"][0].as_py() == sketch
    counts, (theta,), hashes = theta_sketch.deserialize(pa.array([b"", sketch])[1:])
    assert counts.tolist() == [min(count, 512)]
    ascending = sorted(theta_sketch.hash_strings(pa.array(texts)).tolist())
    assert hashes.tolist() == ascending[:512]
    assert theta == (ascending[512] if count > 512 else theta_sketch.NO_LIMIT)
    assert read(whole)["distinct"]["a"] == pytest.approx(count, rel=0 if count <= 512 else 0.1)


def test_a_sketch_of_another_version_is_refused() -> None:
    (one,) = theta_sketch.serialize(np.array([0, 0]), np.array([1, 2]), np.array([theta_sketch.NO_LIMIT]))
    sketch = bytearray(one.as_py())
    sketch[1] = 4
    with pytest.raises(ValueError, match="serial version 4 and family 3, expected 3 and 3; rebuild the table"):
        theta_sketch.deserialize(pa.array([one.as_py(), bytes(sketch)]))
    sketch[1], sketch[6] = 3, 0
    with pytest.raises(ValueError, match="seed hash"):
        theta_sketch.deserialize(pa.array([one.as_py(), bytes(sketch)]))


def test_weights_without_a_bigint_do_not_count() -> None:
    events = _events(number=[1.0] * 4, signed=[2.9, -7.9, math.nan, math.inf])
    assert fold(batch_of([*events, *_events(number=[1.0])]))["count"].to_pylist() == [-4]


def test_the_newest_value_of_a_key_survives_blocks_in_any_order() -> None:
    maps = [{"k": "x", "ключ": "x"}, {"k": "y"}, {"k": None}]
    for block_rows in (1, 2, 3):
        assert read(fold(batch_of(_events(map=maps)), block_rows=block_rows))["by_key"]["a"] == {"k": "y", "ключ": "x"}


def test_the_rest_of_top_is_a_sum_of_sizes() -> None:
    events = _events(text=[f"k{n:02}" for n in range(11)], signed=[5.0] * 9 + [-1.0, 2.0])
    assert fold(batch_of(events)).to_pylist(maps_as_pydicts="strict")[0]["top"]["rest"] == 3.0
