"""The two steps of a `learn_factors` batch in one partition: first users, then items. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profilestream.learn import als, als_rows, evaluation_times, item_index, ranking_metrics, sums, user_events
from profilestream.learn.als import AlsParams, Floats, GlobalSums, GroupedRows, Longs, Strings, Vectors
from profilestream.learn.evaluation_times import EvaluationTimes
from profilestream.learn.item_index import ItemIndex, UserItems
from profilestream.learn.ranking_metrics import RankingSums
from profilestream.learn.sums import decay_factors
from profilestream.learn.user_events import UserEvents, item_decay_factors


def pack_items(
    batches: Iterator[pa.RecordBatch], global_sums: GlobalSums, params: AlsParams, *, skip_damaged: bool = False
) -> Iterator[pa.RecordBatch]:
    """One row with all item rows of a partition, decayed to `global_sums.as_of`; the input of `unpack_items`.

    Args:
        skip_damaged: leave out items with a damaged vector, so that they are solved again like new items.

    Raises:
        ValueError: vectors are damaged, and `skip_damaged` is not set.
    """
    table = als_rows.read_table(batches)
    if table is not None and skip_damaged:
        table = table.filter(pa.array(~als_rows.damaged_rows(table, params)))
    if table is not None and table.num_rows:
        als_rows.stored_vectors(table, params)
        factors, popularity_factors = item_decay_factors(als_rows.micros(table), global_sums.as_of, params)
        lengths = als_rows.list_lengths(table, "item_ids")
        counts = als_rows.concat_binary(table, "item_weights", np.float32) * np.repeat(factors, lengths)
        offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
        columns: dict[str, Any] = {
            "item_id": table["key"],
            "vector": table["vector"],
            "decayed_weight": als_rows.numbers(table, "decayed_weight") * factors,
            "popularity": als_rows.numbers(table, "popularity") * popularity_factors,
            "latest_event": als_rows.concat_binary(table, "event_times", np.int64),
            "category": table["category"],
            "neighbor_ids": table["item_ids"],
            "neighbor_counts": pa.ListArray.from_arrays(offsets, pa.array(counts, pa.float32())),
        }
        packed = sums.write_cell(pa.table(columns, schema=item_index.SCHEMA))
        yield als_rows.make_batch(als_rows.PACKED_ITEMS, 1, payload=[packed])


def unpack_items(payloads: list[Any], params: AlsParams) -> ItemIndex:
    """The index of the items in payloads of `pack_items`."""
    parts = map(sums.read_cell, payloads)
    return ItemIndex.from_rows(pa.concat_tables([item_index.SCHEMA.empty_table(), *parts]), params)


def update_users(
    batches: Iterator[pa.RecordBatch], global_sums: GlobalSums, params: AlsParams, *, eval_share: float = 1.0
) -> Iterator[pa.RecordBatch]:
    """Evaluate and solve the users of a partition.

    Yields metrics, updated user rows, contributions to items, and changes of the global sums.

    Args:
        batches: rows of kind PACKED_ITEMS, STATE (users) and NEW (events).
        global_sums: as of the previous batch.
        eval_share: share of the users whose ranking is evaluated; 0: none.
    """
    table = als_rows.read_table(batches)
    if table is None:
        return
    state, new = als_rows.rows_of_kind(table, als_rows.STATE), als_rows.rows_of_kind(table, als_rows.NEW)
    user_ids = np.unique(np.concatenate([als_rows.strings(state, "key"), als_rows.strings(new, "key")]).astype(object))
    if not len(user_ids):
        return
    n, width = len(user_ids), params.width
    state_users = np.searchsorted(user_ids, als_rows.strings(state, "key"))
    old_vectors, old_tails = np.zeros((n, width), np.float32), np.zeros(n)
    old_times, is_stored = np.zeros(n, np.int64), np.zeros(n, bool)
    if len(state_users):
        old_vectors[state_users] = als_rows.stored_vectors(state, params)
        old_tails[state_users] = als_rows.numbers(state, "tail_weight")
        old_times[state_users], is_stored[state_users] = als_rows.micros(state), True
    events = UserEvents.read(state, new, user_ids, state_users, params)
    payloads = als_rows.rows_of_kind(table, als_rows.PACKED_ITEMS)["payload"].to_pylist()
    index = unpack_items(payloads, params)
    if eval_share and global_sums.as_of:
        yield from _evaluate_users(user_ids, events, old_vectors, index, global_sums, params, eval_share)

    rows = events.least_squares_rows(n, _item_vectors(index, events.item_ids, params), global_sums, params)
    vectors = als.solve_users(rows, old_tails, old_vectors.astype(float), global_sums, params).astype(np.float32)
    bounds = np.searchsorted(events.user, np.arange(n + 1))
    age_rank = bounds[events.user + 1] - 1 - np.arange(len(events.user))  # 0 for a user's latest event
    is_retained = age_rank < params.max_events_per_user
    truncated = np.bincount(events.user[~is_retained], events.weight[~is_retained], n)
    tails = np.maximum(old_tails + truncated, 0.0)
    times = np.maximum(old_times, events.time[bounds[1:] - 1])

    yield _user_rows(user_ids, vectors, events.take(is_retained), tails, times, params)
    yield from _contributions(user_ids, events, vectors, old_vectors, params)
    zero = GlobalSums.zero(width)
    if is_stored.any():
        factors = np.where(is_stored, decay_factors(old_times, global_sums.as_of, params.half_life_days), 0.0)
        removed = replace(
            zero,
            user_gram=-als.gram_matrix(old_vectors.astype(float), factors),
            user_count=-float(factors.sum()),
            as_of=global_sums.as_of,
        )
        yield als_rows.sums_batch(als_rows.CHANGE, removed)
    now = int(times.max())
    factors = decay_factors(times, now, params.half_life_days)
    added = replace(
        zero,
        user_gram=als.gram_matrix(vectors.astype(float), factors),
        user_count=float(factors.sum()),
        as_of=now,
        mean_rating=global_sums.mean_rating,
        event_count=float(new.num_rows),
    )
    yield als_rows.sums_batch(als_rows.CHANGE, added)


def update_items(
    batches: Iterator[pa.RecordBatch], global_sums: GlobalSums, params: AlsParams
) -> Iterator[pa.RecordBatch]:
    """Solve the items of a partition from their decayed normal equations.

    Yields updated item rows and the change of the global sums.

    Args:
        batches: rows of kind STATE (items) and NEW (contributions).
        global_sums: including the users of this batch, as of its latest event.
    """
    table = als_rows.read_table(batches)
    if table is None:
        return
    state, new = als_rows.rows_of_kind(table, als_rows.STATE), als_rows.rows_of_kind(table, als_rows.NEW)
    # Floating-point sums depend on the order of the rows, and the order of a shuffle is not fixed.
    order = ("key", "time_micros", "other_key", "decayed_weight", "weight")
    new = new.sort_by([(name, "ascending") for name in order])
    new_ids = als_rows.strings(new, "key")
    item_ids = np.unique(np.concatenate([als_rows.strings(state, "key"), new_ids]).astype(object))
    if not len(item_ids):
        return
    n, width, now = len(item_ids), params.width, global_sums.as_of
    new_items, state_items = (np.searchsorted(item_ids, ids) for ids in (new_ids, als_rows.strings(state, "key")))
    times = als_rows.micros(new)
    factors, popularity_factors = item_decay_factors(times, now, params)
    a, b = _contributed_equations(new, new_items, factors, n, global_sums, params)
    decayed_weights = als_rows.numbers(new, "decayed_weight")
    weight: Floats = np.bincount(new_items, decayed_weights * factors, n).astype(float)
    new_popularity = als_rows.numbers(new, "popularity") * popularity_factors
    popularity: Floats = np.bincount(new_items, new_popularity, n).astype(float)
    latest_event, is_event = np.zeros(n, np.int64), decayed_weights != 0
    np.maximum.at(latest_event, new_items[is_event], times[is_event])
    category = np.full(n, None, object)

    old_vectors, is_stored = np.zeros((n, width)), np.zeros(n, bool)
    old_weight, old_factors = np.zeros(n), np.ones(n)
    if len(state_items):
        factors, popularity_factors = item_decay_factors(als_rows.micros(state), now, params)
        equations = als_rows.binary_matrix(state, "normal_equations", np.float32)
        a[state_items] += als.unpack_symmetric(equations[:, width:], width) * factors[:, None, None]
        b[state_items] += equations[:, :width] * factors[:, None]
        old_weight[state_items] = als_rows.numbers(state, "decayed_weight") * factors
        popularity[state_items] += als_rows.numbers(state, "popularity") * popularity_factors
        old_vectors[state_items], is_stored[state_items] = als_rows.stored_vectors(state, params), True
        old_factors[state_items] = factors
        category[state_items] = als_rows.strings(state, "category")
        stored_times = als_rows.concat_binary(state, "event_times", np.int64)
        latest_event[state_items] = np.maximum(latest_event[state_items], stored_times)
    has_category = new["category"].is_valid().to_numpy().astype(bool)
    category[new_items[has_category]] = als_rows.strings(new, "category")[has_category]
    weight = weight + old_weight
    vectors = als.solve_items(a, b, weight, global_sums, params).astype(np.float32)

    equations = np.hstack([b.astype(np.float32), als.pack_symmetric(a)])
    neighbor_ids, counts = _merge_neighbors(
        state, new, state_items, new_items, n, old_factors[state_items], now, params
    )
    yield als_rows.make_batch(
        als_rows.UPDATED, n, key=item_ids, vector=als_rows.to_cells(vectors), decayed_weight=weight,
        popularity=popularity, category=category, item_ids=neighbor_ids, item_weights=counts,
        event_times=als_rows.to_cells(latest_event), time_micros=np.full(n, now),
        normal_equations=als_rows.to_cells(equations),
    )  # fmt: skip
    new_vectors = vectors.astype(float)
    design, old_design = als.design_vectors(new_vectors, params), als.design_vectors(old_vectors, params)
    weight, old_weight = np.maximum(weight, 0), np.maximum(old_weight, 0)
    added = GlobalSums(
        item_gram=als.gram_matrix(new_vectors, np.ones(n)) - als.gram_matrix(old_vectors, is_stored.astype(float)),
        user_gram=np.zeros((width, width)),
        weighted_item_gram=als.gram_matrix(design, weight) - als.gram_matrix(old_design, old_weight),
        item_weight=float((weight - old_weight).sum()),
        item_count=float(n - is_stored.sum()),
        as_of=now,
    )
    yield als_rows.sums_batch(als_rows.CHANGE, added)


def _contributed_equations(
    new: pa.Table, new_items: Longs, factors: Floats, n: int, global_sums: GlobalSums, params: AlsParams
) -> tuple[Floats, Floats]:
    """Normal equations of the contributions, decayed by these factors, per item."""
    vectors = als_rows.stored_vectors(new, params).astype(float)
    targets = als.target_values(als_rows.numbers(new, "rating"), vectors, global_sums, params)
    starts = np.searchsorted(new_items, np.arange(n))
    weights = als_rows.numbers(new, "weight") * factors
    a, b, _ = als.normal_equations(GroupedRows(starts, als.design_vectors(vectors, params), weights, targets))
    return a, b


def _contributions(
    user_ids: Strings, events: UserEvents, vectors: Vectors, old_vectors: Vectors, params: AlsParams
) -> Iterator[pa.RecordBatch]:
    """Contributions to items: new events with the new user vector, and a replacement of stored ones.

    For each user's most recent stored events, the term of the new vector is added and that of the old one subtracted.
    """
    new = events.take(events.is_new)
    if len(new.user):
        yield user_events.new_event_contributions(user_ids, events, new, vectors, params)
    stored = events.take(~events.is_new)
    end = np.searchsorted(stored.user, stored.user, side="right")
    recent = stored.take(end - 1 - np.arange(len(end)) < params.reweighted_events)
    for term_vectors, sign in ((vectors, 1.0), (old_vectors, -1.0)):
        if len(recent.user):
            zeros = np.zeros(len(recent.user))
            yield als_rows.make_batch(
                als_rows.CONTRIBUTION, len(zeros), key=recent.item_ids[recent.item], other_key=user_ids[recent.user],
                weight=sign * recent.weight, rating=recent.rating, decayed_weight=zeros, popularity=zeros,
                time_micros=recent.time, vector=als_rows.to_cells(term_vectors[recent.user]),
            )  # fmt: skip


def _merge_neighbors(
    state: pa.Table,
    new: pa.Table,
    state_items: Longs,
    new_items: Longs,
    n: int,
    state_factors: Floats,
    now: int,
    params: AlsParams,
) -> tuple[Any, list[bytes]]:
    """Ids and decayed counts of each item's neighbors: stored and new ones merged, those with the highest counts."""
    lengths = [als_rows.list_lengths(table, "item_ids") for table in (state, new)]
    lists: list[Any] = [table["item_ids"].combine_chunks() for table in (state, new)]
    encoded = pa.concat_arrays([part.flatten() for part in lists]).dictionary_encode()
    dictionary = encoded.dictionary.to_pylist()
    ids = np.array(sorted(dictionary), dtype=object)
    ranks = np.argsort(np.argsort(np.array(dictionary, dtype=object)))
    neighbor = ranks[encoded.indices.to_numpy()] if dictionary else np.zeros(0, int)
    item = np.concatenate([np.repeat(state_items, lengths[0]), np.repeat(new_items, lengths[1])]).astype(np.int64)
    stored = als_rows.concat_binary(state, "item_weights", np.float32) * np.repeat(state_factors, lengths[0])
    new_times = als_rows.concat_binary(new, "event_times", np.int64)
    count = np.concatenate([stored, decay_factors(new_times, now, params.half_life_days)])
    cells, cell = np.unique(item * max(len(ids), 1) + neighbor, return_inverse=True)
    count = np.bincount(cell, count, len(cells))
    item, neighbor = cells // max(len(ids), 1), cells % max(len(ids), 1)
    order = np.lexsort((neighbor, -count, item))
    order = order[np.arange(len(order)) - np.searchsorted(item, item[order]) < params.max_neighbors]
    item, neighbor, count = item[order], neighbor[order], count[order].astype(np.float32)
    bounds = np.searchsorted(item, np.arange(n + 1))
    neighbor_ids = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(ids[neighbor], pa.string()))
    return neighbor_ids, [count[a:b].tobytes() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _user_rows(
    user_ids: Strings, vectors: Vectors, events: UserEvents, tails: Floats, times: Longs, params: AlsParams
) -> pa.RecordBatch:
    """Updated rows of the users with these events to store."""
    bounds = np.searchsorted(events.user, np.arange(len(user_ids) + 1))
    item_ids = pa.ListArray.from_arrays(
        pa.array(bounds, pa.int32()), pa.array(events.item_ids[events.item], pa.string())
    )
    columns: dict[str, NDArray[Any]] = {
        "item_weights": events.weight.astype(np.float32),
        "event_times": events.time,
    }
    if params.is_explicit:
        columns["event_ratings"] = events.rating.astype(np.float32)
    slices = list(zip(bounds[:-1], bounds[1:], strict=True))
    cells = {name: [values[a:b].tobytes() for a, b in slices] for name, values in columns.items()}
    return als_rows.make_batch(
        als_rows.UPDATED, len(user_ids), key=user_ids, time_micros=times, vector=als_rows.to_cells(vectors),
        item_ids=item_ids, tail_weight=tails, **cells,
    )  # fmt: skip


def _item_vectors(index: ItemIndex, item_ids: Strings, params: AlsParams) -> Vectors:
    """Vectors of these items; new items have their initial vector."""
    position = index.positions(item_ids)
    vectors = np.zeros((len(item_ids), params.width), np.float32)
    vectors[position >= 0] = index.vectors[position[position >= 0]]
    for n in np.flatnonzero(position < 0):
        vectors[n] = als.initial_vector(item_ids[n], params)
    return vectors


def _evaluate_users(
    user_ids: Strings,
    events: UserEvents,
    old_vectors: Vectors,
    index: ItemIndex,
    global_sums: GlobalSums,
    params: AlsParams,
    eval_share: float,
) -> Iterator[pa.RecordBatch]:
    """Ranking sums of users by the state before the batch, by ranker, and the times of the evaluated events.

    A hash of the id selects the evaluated users, so the selection does not depend on the partitions. Explicit: the
    errors of all ratings are summed, also those of other users.
    """
    is_late = events.is_new & evaluation_times.is_late(events.time, global_sums.as_of)
    late_rows = int(is_late.sum())
    position = index.positions(events.item_ids)[events.item]
    is_target = events.is_new & ~is_late & (events.weight > 0) & (position >= 0)
    users = np.unique(events.user[is_target])
    is_selected = [zlib.crc32(user_ids[user].encode()) < eval_share * 2**32 for user in users]
    users = users[np.array(is_selected, bool)]
    number = np.full(len(user_ids), -1)
    number[users] = np.arange(len(users))
    pairs = np.column_stack([number[events.user], position])
    is_evaluated = (pairs >= 0).all(axis=1)
    is_owned = is_evaluated & ~events.is_new & (events.weight > 0)
    user_items = UserItems(pairs[is_owned, 0], pairs[is_owned, 1], events.weight[is_owned])
    # Rows that count in a metric: items that the user already has are not ranked.
    is_scored = is_target
    if not params.is_explicit:
        codes = pairs[:, 0] * len(index.item_ids) + pairs[:, 1]
        is_scored = is_target & is_evaluated & ~np.isin(codes, codes[is_owned])
    times = EvaluationTimes.of(events.time[is_scored], late_rows)
    yield als_rows.sums_batch(als_rows.EVALUATION_TIMES, times)
    by_ranker = ranking_metrics.evaluate_rankers(
        index, old_vectors[users].astype(float), user_items, pairs[is_target & is_evaluated], params
    )
    if params.is_explicit and is_target.any():
        p, q = old_vectors[events.user[is_target]].astype(float), index.vectors[position[is_target]].astype(float)
        predicted = (global_sums.mean_rating or 0.0) + p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
        squared_error = float(((events.rating[is_target] - predicted) ** 2).sum())
        errors = RankingSums(
            np.zeros(len(index.item_ids), bool), ratings=float(is_target.sum()), squared_error=squared_error
        )
        by_ranker = ranking_metrics.sum_by_ranker([*by_ranker.items(), ("factors", errors)])
    for ranker, ranking_sums in by_ranker.items():
        yield als_rows.sums_batch(als_rows.EVALUATION, ranking_sums, ranker)
