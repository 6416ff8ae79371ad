"""Cases of every learner for the laws (tests/laws.py). A new learner needs an entry in CASES, else a test fails."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from profilestream.learn.demand.demand_spec import DemandSpec
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels import als_rows
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.sums import decay_factors
from profilestream.learn.learner_spec import LearnerSpec
from profilestream.learn.memory_tables import MemoryTables
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.rankers.kernels import basket_rows
from profilestream.learn.rankers.kernels.basket_index import BasketIndex
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.learn.segments.kernels import kmeans_tasks
from profilestream.learn.segments.kernels.profile_scaling import PROFILE
from profilestream.learn.segments.segments_spec import SegmentsSpec

from tests import laws, naive_kmeans, outcomes_case
from tests.builders import USER_PROFILES, Shop
from tests.demand_case import demand_case
from tests.laws import LearnerCase, Numbers
from tests.memory_rankers import NaiveRankers
from tests.naive_als import DAY, Event, NaiveAls

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Makes a case; the folder is for the files of its settings.
MakeCase = Callable[[Path], LearnerCase]

FACTORS = """
[learn.factors]
enabled = true
k = 4
max_events_per_user = 5
reweighted_events = 2
unobserved_weight = 6
max_neighbors = 3
neighbor_history = 2
first_full_passes = 0
full_passes = 0
"""
SEGMENTS = """
[learn.segments]
enabled = true
k = 3
half_life_days = 20
passes = 2
"""
# A vector with the dimensions x and y.
POINTS = f"""{USER_PROFILES}
[statistics.behavior.vector]
kind = "mean_vector"
dimensions = {{ x = "price", y = "quantity" }}
[population]
name = "population_stats"
of = "behavior.vector"
"""
# User, point, time in microseconds.
Profile = tuple[str, tuple[float, float], int]


def factors_state(spec: FactorsSpec, tables: MemoryTables) -> FactorsState[pa.Table]:
    """All rows of the factors."""
    users = tables.rows(spec.table, als_rows.USER.names, side="user")
    items = tables.rows(spec.table, als_rows.ITEM.names, side="item")
    return FactorsState(users, items, spec.global_sums(tables))


def factors_case(home: Path, settings: str, weights: list[float]) -> LearnerCase:
    spec = factors_spec(home, settings)
    return LearnerCase(
        spec=spec,
        logs=event_logs(weights),
        to_rows=lambda tables, batch: event_rows(batch),
        score=lambda tables, rows: factors_batch.predictions(factors_state(spec, tables), rows, spec.params),
        user_of=lambda event: event.user,
        unseen=lambda event: replace(event, user=f"new {event.user}", item=f"new {event.item}"),
        later=lambda event: replace(event, time=event.time + 60 * DAY),
        decayed_weights=lambda tables: item_weights(spec, tables),
        evaluate=lambda tables, rows: _evaluated_factors(spec, tables, rows.to_pylist()),
        compare_with_reference=lambda batches, states: _compare_with_naive_als(spec, batches, states),
        logs_without_returns=event_logs([weight for weight in weights if weight > 0]),
        binary_types={"event_times": np.int64, "global_sums": np.float64},
    )


def factors_spec(home: Path, settings: str = FACTORS) -> FactorsSpec:
    return FactorsSpec(Shop(home, extra_settings=settings).settings())


def event_logs(weights: list[float]) -> SearchStrategy[list[Event]]:
    """Events of 60 days in any order, so that many are late; few users and items, so that they occur often."""
    events = st.builds(
        Event,
        user=st.sampled_from([f"u{n}" for n in range(8)]),
        item=st.sampled_from([f"i{n}" for n in range(6)]),
        weight=st.sampled_from(weights),
        time=st.integers(1, 60 * DAY),
        rating=st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0]),
        category=st.sampled_from(["a", "b", None]),
    )
    return st.lists(events, min_size=3, max_size=25)


def event_rows(batch: Sequence[Event]) -> pa.Table:
    rows = [
        {
            "user_id": event.user, "item_id": event.item, "weight": event.weight,
            "rating": event.rating, "time_micros": event.time, "category": event.category,
        }
        for event in batch
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, als_rows.EVENT)


def item_weights(spec: FactorsSpec, tables: MemoryTables) -> Numbers:
    """Decayed weight and popularity of all items, and counts, at the time of the state."""
    state = factors_state(spec, tables)
    index, sums = factors_batch.index_of(state, spec.params), state.global_sums
    counts = np.array([sums.item_count, sums.user_count, sums.event_count, sums.item_weight])
    return {"decayed weights": index.decayed_weights, "popularity": index.popularity, "counts": counts}


def _evaluated_factors(
    spec: FactorsSpec, tables: MemoryTables, rows: list[dict[str, Any]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Implicit: `mrr_20`. Explicit: `rmse`. Of rows that are newer than the state, with an item of the state."""
    state = factors_state(spec, tables)
    vectors = {
        row["key"]: np.frombuffer(row["vector"], np.float32).astype(float)
        for table in (state.users, state.items)
        for row in table.to_pylist()
    }
    items = [str(key) for key in state.items["key"].to_pylist()]
    owned: dict[str, set[str]] = {row["key"]: _owned_items(row) for row in state.users.to_pylist()}
    targets: dict[str, set[str]] = defaultdict(set)
    errors = []
    for row in rows:
        user, item = row["user_id"], row["item_id"]
        if row["time_micros"] > state.global_sums.as_of > 0 and item in items:
            p, q = vectors.get(user, np.zeros(spec.params.width)), vectors[item]
            if spec.params.is_explicit:
                mean = state.global_sums.mean_rating or 0.0
                errors.append(row["rating"] - mean - p[-1] - q[-1] - p[:-1] @ q[:-1])
            elif item not in owned.get(user, set()):
                targets[user].add(item)
    if spec.params.is_explicit:
        return {("factors", "rmse"): (float(np.sqrt(np.mean(np.square(errors)))), len(errors))} if errors else {}
    ranks = []
    for user, wanted in targets.items():
        p = vectors.get(user, np.zeros(spec.params.k))
        ranked = sorted(set(items) - owned.get(user, set()), key=lambda item: (-vectors[item] @ p, item))
        ranks.append(1 + min(ranked.index(item) for item in wanted))
    return {("factors", "mrr_20"): (float(np.mean([1 / rank for rank in ranks])), len(ranks))} if ranks else {}


def _owned_items(user: dict[str, Any]) -> set[str]:
    """The items of the stored events with a positive weight."""
    weights = np.frombuffer(user["item_weights"], np.float32)
    return {item for item, weight in zip(user["item_ids"], weights, strict=True) if weight > 0}


def _compare_with_naive_als(spec: FactorsSpec, batches: list[list[Event]], states: list[MemoryTables]) -> None:
    """Vectors within 1e-3, and decayed weights within 1e-6."""
    naive = NaiveAls(spec.params, float(np.mean([event.rating for event in batches[0]])))
    for batch, tables in zip(batches, states[1:], strict=True):
        naive.learn(batch)
        state = factors_state(spec, tables)
        for rows, expected, name in ((state.users, naive.users, "p"), (state.items, naive.items, "q")):
            vectors = als_rows.vectors_of(list(expected), rows, spec.params)
            assert set(rows["key"].to_pylist()) == expected.keys()
            laws.assert_close({name: vectors}, {name: np.array([row[name] for row in expected.values()])}, 1e-3)
        items = {row["key"]: row for row in state.items.to_pylist()}
        for column, name in (("decayed_weight", "n"), ("popularity", "c")):
            actual = np.array([items[key][column] for key in naive.items])
            laws.assert_close({name: actual}, {name: np.array([row[name] for row in naive.items.values()])}, 1e-6)


def segments_case(home: Path) -> LearnerCase:
    spec = segments_spec(home)
    return LearnerCase(
        spec=spec,
        logs=profile_logs(),
        to_rows=lambda tables, batch: profile_rows(spec, tables, batch),
        score=lambda tables, rows: _squared_distances(spec, tables, rows),
        user_of=lambda row: row[0],
        unseen=lambda row: (f"new {row[0]}", *row[1:]),
        later=lambda row: (row[0], row[1], row[2] + 60 * DAY),
        decayed_weights=lambda tables: _total_weights(spec, tables),
        evaluate=lambda tables, rows: _evaluated_segments(spec, tables, rows),
        compare_with_reference=lambda batches, states: _compare_with_counted_sums(spec, states),
        batch_columns=("parent_id", "merged_ids"),
    )


def segments_spec(home: Path, settings: str = SEGMENTS) -> SegmentsSpec:
    home.mkdir(parents=True, exist_ok=True)
    (home / "points.toml").write_text(POINTS)
    return SegmentsSpec(
        Shop(home, extra_settings=f'[derive]\nprofiles = ["{home}/points.toml"]\n{settings}').settings()
    )


def profile_logs() -> SearchStrategy[list[Profile]]:
    """Profiles of 60 days in any order; many coordinates are integers, so that distances are equal."""
    coordinates = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))
    users = st.sampled_from([f"u{n}" for n in range(8)])
    rows = st.tuples(users, st.tuples(coordinates, coordinates), st.integers(1, 60 * DAY))
    return st.lists(rows, min_size=5, max_size=40)


def profile_rows(spec: SegmentsSpec, tables: MemoryTables, batch: Sequence[Profile]) -> pa.Table:
    """The newest row per user; rows older than the stored one are left out, since a profile only becomes newer."""
    stored = tables.all_rows(spec.users_table)
    times = dict(zip(stored["user_id"].to_pylist(), kmeans_tasks.micros(stored, "as_of").tolist(), strict=True))
    latest = {row[0]: row for row in sorted(batch, key=lambda row: row[2]) if row[2] >= times.get(row[0], 0)}
    rows = [
        {"user_id": user, "mean": list(point), "as_of": at, "sample_hash": zlib.crc32(user.encode())}
        for user, point, at in latest.values()
    ]
    return pa.Table.from_pylist(rows, PROFILE)


def _centers_and_points(spec: SegmentsSpec, tables: MemoryTables, rows: pa.Table) -> tuple[Floats, Floats]:
    """The centers, and the means in the scaling of the state; without segments, no centers."""
    segments = tables.last_batch(spec.table).to_pylist()
    means = np.array(rows["mean"].to_pylist(), float).reshape(-1, 2)
    if not segments:
        return np.zeros((0, 2)), means
    location, scale = (np.array([value for _, value in segments[0][name]]) for name in ("location", "scale"))
    centers = np.array([[value for _, value in segment["center"]] for segment in segments])
    return centers, (means - location) / scale


def _squared_distances(spec: SegmentsSpec, tables: MemoryTables, rows: pa.Table) -> Floats:
    """Squared distance of each point to the nearest center; 0 before the first batch."""
    centers, points = _centers_and_points(spec, tables, rows)
    return np.array([min((float(((point - one) ** 2).sum()) for one in centers), default=0.0) for point in points])


def _evaluated_segments(
    spec: SegmentsSpec, tables: MemoryTables, rows: pa.Table
) -> dict[tuple[str, str], tuple[float, float]]:
    segments = tables.last_batch(spec.table)
    if not len(segments):
        return {}
    is_newer = kmeans_tasks.micros(rows, "as_of") > kmeans_tasks.micros(segments, "as_of")[0]
    if not is_newer.any():
        return {}
    return {("kmeans", "cost"): (_squared_distances(spec, tables, rows)[is_newer].mean(), is_newer.sum())}


def segment_sums(spec: SegmentsSpec, tables: MemoryTables) -> Numbers:
    """Users, weight, sums and scatter by segment, in order of the id."""
    rows = tables.last_batch(spec.table).sort_by("segment_id")
    return {name: np.array(rows[name].to_pylist(), float) for name in ("users", "weight", "sums", "scatter")}


def _total_weights(spec: SegmentsSpec, tables: MemoryTables) -> Numbers:
    """Number and total weight of all users."""
    sums = segment_sums(spec, tables)
    return {name: sums[name].sum(keepdims=True) for name in ("users", "weight")}


def _compare_with_counted_sums(spec: SegmentsSpec, states: list[MemoryTables]) -> None:
    """The sums equal those of loops over all users within 1e-9, and segments have ids of their own."""
    for tables in states[1:]:
        segments, users = tables.last_batch(spec.table).sort_by("segment_id"), tables.all_rows(spec.users_table)
        ids: list[int] = segments["segment_id"].to_numpy().tolist()
        assert len(ids) == len(set(ids)) <= spec.params.k and segments["next_id"].to_numpy()[0] > max(ids)
        points = map(np.array, users["point"].to_pylist())
        times, segment_ids = kmeans_tasks.micros(users, "as_of").tolist(), users["segment_id"].to_numpy().tolist()
        contributions = list(zip(points, times, segment_ids, strict=True))
        as_of = int(kmeans_tasks.micros(segments, "as_of")[0])
        sums = naive_kmeans.count_sums(contributions, ids, as_of, spec.params)
        expected = {
            "users": sums.users, "weight": sums.weight, "sums": sums.sums,
            "scatter": sums.scatter.reshape(len(ids), -1),
        }  # fmt: skip
        laws.assert_close(segment_sums(spec, tables), expected, 1e-9)


def rankers_case(home: Path) -> LearnerCase:
    settings = "[learn.rankers]\nenabled = true\nhalf_life_days = 20\npopularity_half_life_days = 10\n"
    spec = RankersSpec(Shop(home, extra_settings=settings).settings())

    def sides(tables: MemoryTables) -> tuple[pa.Table, pa.Table]:
        (table,) = spec.tables
        users = tables.rows(table, basket_rows.USER.names, side="user")
        return users, tables.rows(table, basket_rows.ITEM.names, side="item")

    def score(tables: MemoryTables, rows: pa.Table) -> Floats:
        """The score of the best item of the user by own counts; 0 without items."""
        users, items = sides(tables)
        row = pc.index_in(rows["user_id"], value_set=users["key"].combine_chunks())
        _, scores = BasketIndex(items, spec.params).rank(users.take(row), 1)["own_counts"]
        return scores[:, 0] if scores.size else np.zeros(len(rows))

    return LearnerCase(
        spec=spec,
        logs=event_logs([1.0]),
        to_rows=lambda tables, batch: _basket_events(batch),
        score=score,
        user_of=lambda event: event.user,
        unseen=lambda event: replace(event, user=f"new {event.user}", item=f"new {event.item}"),
        later=lambda event: replace(event, time=event.time + 60 * DAY),
        decayed_weights=lambda tables: _basket_weights(spec, *sides(tables)),
        evaluate=lambda tables, rows: _evaluated_own_counts(spec, *sides(tables), rows),
        compare_with_reference=lambda batches, states: _compare_with_naive_rankers(
            spec, batches, _basket_weights(spec, *sides(states[-1]))
        ),
    )


def _basket_events(batch: Sequence[Event]) -> pa.Table:
    rows = [{"user_id": one.user, "time_micros": one.time, "item_id": one.item} for one in batch]
    return pa.Table.from_pylist(rows, basket_rows.EVENT)


def _basket_weights(spec: RankersSpec, users: pa.Table, items: pa.Table) -> Numbers:
    """Own counts and popularity, decayed to the newest time of all items."""
    params = spec.params
    now = int(kmeans_tasks.micros(items, "as_of").max(initial=0))
    numbers: Numbers = {}
    for rows, half_life in ((users, params.half_life_days), (items, params.popularity_half_life_days)):
        factors = decay_factors(kmeans_tasks.micros(rows, "as_of"), now, half_life)
        for row, factor in zip(rows.to_pylist(), factors, strict=True):
            counts = {row["key"]: row["popularity"]} if "popularity" in row else _by_item(row)
            numbers |= {f"{row['key']} {item}": np.array(count * factor) for item, count in counts.items()}
    return numbers


def _by_item(row: dict[str, Any]) -> dict[str, float]:
    return dict(zip(row["item_ids"], row["counts"], strict=True))


def _compare_with_naive_rankers(spec: RankersSpec, batches: list[list[Event]], actual: Numbers) -> None:
    naive = NaiveRankers(spec.params)
    for batch in batches:
        naive.learn([(one.user, one.item, one.time) for one in batch])
    now = max(time for _, _, time in naive.log)
    expected = {f"{item} {item}": np.array(count) for item, count in naive.popularity(now).items()}
    for user in {user for user, _, _ in naive.log}:
        newest = max(time for one, _, time in naive.log if one == user)
        factor = 0.5 ** ((now - newest) / DAY / spec.params.half_life_days)
        expected |= {f"{user} {item}": np.array(count * factor) for item, count in naive.counts(user).items()}
    laws.assert_close(actual, expected, 1e-9)


def _evaluated_own_counts(
    spec: RankersSpec, users: pa.Table, items: pa.Table, rows: pa.Table
) -> dict[tuple[str, str], tuple[float, float]]:
    """`basket_recall_10` of the own counts: of the first basket of each user that starts after the state."""
    as_of = {row["key"]: row["as_of"] for row in items.to_pylist()}
    last = {row["key"]: row["as_of"] for row in users.to_pylist()}
    own = {row["key"]: _by_item(row) for row in users.to_pylist()}
    now, gap = max(as_of.values()), timedelta(minutes=spec.params.basket_gap_minutes)
    half_life = timedelta(days=spec.params.popularity_half_life_days)
    popularity = {r["key"]: r["popularity"] * 0.5 ** ((now - r["as_of"]) / half_life) for r in items.to_pylist()}
    recalls = []
    for user in set(rows["user_id"].to_pylist()):
        events = sorted((row["time_micros"], row["item_id"]) for row in rows.to_pylist() if row["user_id"] == user)
        start, basket, end = None, set[str](), last.get(user)
        for micros, item in events:
            time = EPOCH + timedelta(microseconds=micros)
            if user in last and time < last[user]:
                continue
            if end is None or time - end > gap:
                if start is not None:
                    break
                start = time if time > now else None
            if start is not None:
                basket.add(item)
            end = time
        if start is not None:
            counts = own.get(user, {})
            ranked = sorted(popularity, key=lambda i: (-round(counts.get(i, 0.0), 6), -round(popularity[i], 6), i))
            recalls.append(len(basket & set(ranked[:10])) / len(basket))
    return {("own_counts", "basket_recall_10"): (float(np.mean(recalls)), len(recalls))} if recalls else {}


CASES: dict[type[LearnerSpec], dict[str, MakeCase]] = {
    FactorsSpec: {
        "implicit": lambda home: factors_case(home, f"{FACTORS}half_life_days = 20\n", [1.0, 3.0, 5.0, -1.0]),
        "explicit": lambda home: factors_case(home, f'{FACTORS}mode = "explicit"\n', [1.0]),
    },
    SegmentsSpec: {"": segments_case},
    RankersSpec: {"": rankers_case},
    DemandSpec: {"": lambda home: demand_case(home, event_logs([1.0, 3.0]))},
    OutcomesSpec: {"": outcomes_case.case_of},
}


def cases_of(learners: Sequence[type[LearnerSpec]]) -> dict[str, MakeCase]:
    """All cases of the learners, by name.

    Raises:
        KeyError: a learner has no case.
    """
    if missing := [learner.__name__ for learner in learners if learner not in CASES]:
        raise KeyError(
            f"{missing} in LEARNERS: add a LearnerCase to CASES in tests/learner_cases.py, with its settings, "
            "a hypothesis strategy for its rows, and a reference implementation"
        )
    return {f"{one.name} {name}".strip(): make for one in learners for name, make in CASES[one].items()}
