"""Each kernel equals plain Python, for any split of the events into batches, and does not depend on their order."""

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import profilestream.derive.kernels
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profilestream.derive.kernels.arrays import HistogramKernel, MeanVectorKernel
from profilestream.derive.kernels.entries import Events, Groups, concat
from profilestream.derive.kernels.event_decay import decay_factors
from profilestream.derive.kernels.latest import ORDER, LatestByKeyKernel, LatestKernel
from profilestream.derive.kernels.maps import HeaviestKernel, QuantilesKernel
from profilestream.derive.kernels.scalars import CountKernel, ExtremeKernel, MomentsKernel, SumKernel
from profilestream.derive.kernels.theta import DistinctKernel, murmur3

from tests import naive
from tests.naive import MICROS_PER_DAY, WeightedEvent

GROUPS = 4
AT = 500 * MICROS_PER_DAY
Log = list[tuple[int, WeightedEvent]]
PRICES = st.one_of(st.none(), st.just(0.0), st.floats(-1000, 1000, allow_subnormal=False))
TEXTS = st.one_of(st.none(), st.sampled_from(["tea", "mugs", "Tee 茶", "lamps", "é", "bags"]))
MAPS = st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), TEXTS, max_size=3))
VECTORS = st.one_of(st.none(), st.tuples(*[st.floats(-10, 10, allow_subnormal=False)] * 2).map(list))
POSITIVE = st.sampled_from([1.0, 1.0, 2.0, 0.5])
SIGNED = st.sampled_from([1.0, 1.0, 2.0, -1.0])


@dataclass(frozen=True)
class Case:
    """A kernel, what it reads, and the same by plain Python from the counted events of a group."""

    kernel: Any
    value_type: pa.DataType
    values: st.SearchStrategy[Any]
    expected: Callable[[list[WeightedEvent]], Any]
    weights: st.SearchStrategy[float] = field(default_factory=lambda: SIGNED)


def latest(kind: str, k: int) -> Callable[[list[WeightedEvent]], Any]:
    def expected(events: list[WeightedEvent]) -> Any:
        values = naive.values_in_order(events)[:: 1 if kind == "first" else -1]
        return values[:k] if k > 1 else next(iter(values), None)

    return expected


def means(events: list[WeightedEvent]) -> Any:
    result = naive.mean_vector(events, [e.value for e in events], AT, 30)
    return None if result is None else [("x", result[0]), ("y", result[1])]


def moments(half_life: float | None) -> Callable[[list[WeightedEvent]], Any]:
    return lambda events: dict(zip(("mean", "variance"), naive.moments(events, AT, half_life), strict=True))


def weights(half_life: float | None) -> Callable[[list[WeightedEvent]], Any]:
    return lambda events: sorted(naive.weights(events, AT, half_life).items(), key=lambda e: e[0].encode())


CASES = {
    "count": Case(CountKernel(), pa.float64(), PRICES, lambda es: int(sum(e.weight for e in es))),
    "sum": Case(SumKernel(), pa.float64(), PRICES, lambda es: naive.total(es, AT, None)),
    "sum_30d": Case(SumKernel(30), pa.float64(), PRICES, lambda es: naive.total(es, AT, 30)),
    "min": Case(ExtremeKernel("min", pa.float64()), pa.float64(), PRICES,
                lambda es: min((e.value for e in es), default=None)),
    "max_text": Case(ExtremeKernel("max", pa.string()), pa.string(), TEXTS,
                     lambda es: max((e.value for e in es), default=None, key=str.encode)),
    "moments": Case(MomentsKernel(), pa.float64(), PRICES, moments(None), POSITIVE),
    "moments_7d": Case(MomentsKernel(7), pa.float64(), PRICES, moments(7), POSITIVE),
    "histogram_90d": Case(HistogramKernel(3, 90), pa.float64(), st.sampled_from([None, 0.0, 1.0, 2.0, 3.0, 0.5, -1.0]),
                          lambda es: naive.histogram(es, 3, AT, 90)),
    "mean_vector_30d": Case(MeanVectorKernel(("x", "y"), 30), pa.list_(pa.float64()), VECTORS, means, POSITIVE),
    "first": Case(LatestKernel("first", 1, pa.string()), pa.string(), TEXTS, latest("first", 1)),
    "last": Case(LatestKernel("last", 1, pa.float64()), pa.float64(), PRICES, latest("last", 1)),
    "last_3": Case(LatestKernel("last", 3, pa.string()), pa.string(), TEXTS, latest("last", 3)),
    "last_by_key": Case(LatestByKeyKernel(), pa.map_(pa.string(), pa.string()), MAPS,
                        lambda es: sorted(naive.latest_by_key(es).items())),
    "top_14d": Case(HeaviestKernel("top", 20, 14), pa.string(), TEXTS, weights(14)),
    "frequent": Case(HeaviestKernel("frequent", 20), pa.string(), TEXTS, weights(None), POSITIVE),
    "distinct": Case(DistinctKernel(), pa.string(), TEXTS, lambda es: len({e.value for e in es})),
}  # fmt: skip


@st.composite
def logs(draw: st.DrawFn, case: Case) -> Log:
    """Events of a few groups, many at equal times, in any order."""
    times = st.one_of(st.integers(0, 5).map(lambda n: n * MICROS_PER_DAY), st.integers(0, 400 * MICROS_PER_DAY))
    fields = st.tuples(st.integers(0, GROUPS - 1), times, case.values, case.weights)
    events = draw(st.lists(fields, max_size=40))
    return [
        (group, WeightedEvent(at, f"e{n:02}", value, weight)) for n, (group, at, value, weight) in enumerate(events)
    ]


def fold(case: Case, batches: list[Log]) -> tuple[Any, np.ndarray]:
    """The states after all batches, and their `as_of`, which is 0 for a group without events."""
    kernel, numbers = case.kernel, np.arange(GROUPS)
    states, as_of = pa.nulls(GROUPS, kernel.type), np.zeros(GROUPS, np.int64)
    for batch in batches:
        rows = sorted(batch, key=lambda row: (row[0], row[1].at, row[1].event_id))
        groups = np.array([group for group, _ in rows], np.int64)
        times = np.array([event.at for _, event in rows], np.int64)
        newest = as_of.copy()
        np.maximum.at(newest, groups, times)
        order = [{"event_time": event.at, "source": "shop", "event_id": event.event_id} for _, event in rows]
        events = Events(
            Groups(groups, times, newest),
            pa.array([None if e.value is None else list(e.value.items()) if isinstance(e.value, dict) else e.value
                      for _, e in rows], case.value_type),
            pa.array([event.weight for _, event in rows], pa.float64()),
            pa.array(order, ORDER),
        )  # fmt: skip
        stored = kernel.unpack(states, Groups(numbers, as_of, newest))
        states, as_of = kernel.cut(kernel.fold(concat([stored, kernel.lift(events)]), GROUPS)), newest
    assert states.type == kernel.type
    return states, as_of


def values(case: Case, batches: list[Log]) -> list[Any]:
    """The value of each group at AT."""
    states, as_of = fold(case, batches)
    factors = decay_factors(AT - as_of, getattr(case.kernel, "half_life_days", None))
    read: list[Any] = case.kernel.read(states, factors).to_pylist()
    return read


def by_group(log: Log) -> list[list[WeightedEvent]]:
    return [[event for number, event in log if number == group and event.value is not None] for group in range(GROUPS)]


def assert_close(actual: Any, expected: Any, scale: float) -> None:
    """Floats are equal within 1e-9 of the sum of absolute inputs; all other values are equal."""
    if isinstance(expected, float):
        assert actual is not None and abs(actual - expected) <= 1e-9 * scale, (actual, expected)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), (actual, expected)
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, scale)
    elif isinstance(expected, dict):
        assert_close(list(actual.items()), list(expected.items()), scale)
    else:
        assert actual == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_states_of_any_batches_equal_plain_python(case: Case, data: st.DataObject) -> None:
    log = data.draw(logs(case))
    batches: list[Log] = [[], [], []]
    for row in log:
        batches[data.draw(st.integers(0, 2))].append(row)
    for split in ([log], batches):
        for actual, events in zip(values(case, split), by_group(log), strict=True):
            numbers = [e.value if isinstance(e.value, float) else 1.0 for e in events]
            if any(isinstance(e.value, list) for e in events):
                numbers = [20.0 for _ in events]
            # Squares for the variance.
            scale = 1 + sum(abs(n * e.weight) + n * n for n, e in zip(numbers, events, strict=True))
            assert_close(actual, case.expected(events), scale)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_order_of_rows_changes_no_bit(case: Case, data: st.DataObject) -> None:
    log = data.draw(logs(case))
    shuffled = data.draw(st.permutations(log))
    first, second = fold(case, [log])[0], fold(case, [list(shuffled)])[0]
    assert first.equals(second) and str(first.to_pylist()) == str(second.to_pylist())


@pytest.mark.parametrize(("kind", "expected"), [
    # The weights a 5, b -4, c 3, d 3, e 1; ties are resolved by key.
    ("top", ([("a", 5.0), ("b", -4.0), ("c", 3.0)], 4.0)),
    ("frequent", ([("a", 2.0)], 3.0)),
])  # fmt: skip
def test_a_map_is_cut_to_its_heaviest_keys(kind: str, expected: Any) -> None:
    weights = {"d": 3.0, "a": 5.0, "c": 3.0, "b": -4.0, "e": 1.0}
    if kind == "frequent":
        weights = {**weights, "b": 3.0}
    log = [(1, WeightedEvent(n, f"e{n}", key, weight)) for n, (key, weight) in enumerate(weights.items())]
    states, _ = fold(replace(CASES["frequent"], kernel=HeaviestKernel(kind, 3)), [log])
    assert states.to_pylist()[1] == {"weights": expected[0], "rest": expected[1]}
    assert states.to_pylist()[0] == {"weights": [], "rest": 0.0}


def test_the_rest_of_a_cut_map_is_stored_and_decays() -> None:
    case = replace(CASES["top_14d"], kernel=HeaviestKernel("top", 1, 14))
    log = [(0, WeightedEvent(0, f"e{n}", key, weight)) for n, (key, weight) in enumerate({"a": 4.0, "b": 2.0}.items())]
    later = [(0, WeightedEvent(14 * MICROS_PER_DAY, "e9", "c", 3.0))]
    states, _ = fold(case, [log, later])
    assert states.to_pylist()[0] == {"weights": [("c", 3.0)], "rest": 2.0 / 2 + 4.0 / 2}


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_quantiles_are_within_the_relative_error(q: float) -> None:
    random = np.random.default_rng(5)
    prices = [*(random.normal(size=300) * 10.0 ** random.integers(-3, 6, 300)).tolist(), 0.0, 0.0, math.nan, math.inf]
    kernel = QuantilesKernel(0.01)
    case = Case(kernel, pa.float64(), PRICES, lambda events: None)
    log = [(2, WeightedEvent(n, f"e{n}", price)) for n, price in enumerate(prices)]
    finite = [event for _, event in log if math.isfinite(event.value)]
    expected = naive.quantile(finite, q)
    assert expected is not None
    once, _ = fold(case, [log])
    twice, _ = fold(case, [log[:100], log[100:]])
    assert once.equals(twice)
    value = kernel.read(once, np.ones(GROUPS), q).to_pylist()
    assert value[:2] == [None, None] and value[2] == pytest.approx(expected, rel=0.0101)
    assert kernel.round_to_bin(np.array([expected]))[0] == pytest.approx(value[2])


def test_a_large_sketch_estimates_and_does_not_depend_on_batches() -> None:
    kernel = DistinctKernel(9)
    case = replace(CASES["distinct"], kernel=kernel)
    log = [(0, WeightedEvent(n, f"e{n}", f"item {n % 5000}")) for n in range(6000)]
    once, _ = fold(case, [log])
    parts, _ = fold(case, [log[2500:], log[:700], log[700:2500]])
    assert once.equals(parts) and once.equals(fold(case, [log, [], log[:20]])[0])
    (estimate, *others) = kernel.read(once, np.ones(GROUPS)).to_pylist()
    assert estimate is not None and abs(estimate / 5000 - 1) < 3 / math.sqrt(512) and others == [0, 0, 0]
    assert len(once[0].as_py()) == 8 * (3 + 512)
    single, _ = fold(case, [log[:1]])
    assert len(single[0].as_py()) == 16 and single[1].as_py() is None


def test_hashes_are_those_of_murmur3() -> None:
    texts = {b"hello": 0xCBD8A7B341BD9B02, b"The quick brown fox jumps over the lazy dog": 0xE34BBC7BBC071B6C}
    for text, expected in texts.items():
        assert int(murmur3(np.frombuffer(text, np.uint8)[None, :], np.uint64(0))[0]) == expected


def test_a_sketch_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="serial version 4"):
        DistinctKernel().read(pa.array([bytes([2, 4, 3, 0, 0, 26, 0xCC, 0x93]) + bytes(8)], pa.binary()), np.ones(1))


def test_kernels_import_only_numpy_and_arrow() -> None:
    allowed = {"collections", "dataclasses", "math", "typing", "zlib", "numpy", "pyarrow", "profilestream"}
    for file in sorted(Path(profilestream.derive.kernels.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                is_kernel = name.startswith("profilestream.derive.kernels")
                assert name.split(".")[0] in allowed and (is_kernel or not name.startswith("profilestream")), name
