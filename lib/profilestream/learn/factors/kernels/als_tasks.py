"""The kernels of a `learn_factors` batch: users, then items. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profilestream.learn.factors.kernels import als, als_rows, item_index, user_events
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums, GroupedRows, Strings, Vectors
from profilestream.learn.factors.kernels.item_index import ItemIndex, UserItems
from profilestream.learn.factors.kernels.ranker_evaluation import evaluate_rankers
from profilestream.learn.factors.kernels.user_events import UserEvents, item_decay_factors
from profilestream.learn.kernels import evaluation_times
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.ranking_metrics import RankingSums, sum_by_ranker
from profilestream.learn.kernels.sums import decay_factors, total

# Share of the terms of a stored count (float32): a smaller rest after a subtraction is rounding.
_ROUNDING = 1e-5


def pack_items(
    stored: pa.Table, *, global_sums: GlobalSums, params: AlsParams, skip_damaged: bool = False
) -> dict[str, pa.Table]:
    """`items`: all items, decayed to `global_sums.as_of`, as rows of `ItemIndex`.

    Args:
        stored: rows with als_rows.SCORED_ITEM.
        skip_damaged: leave out items with a damaged vector, so that they are solved again like new items.

    Raises:
        ValueError: vectors are damaged, and `skip_damaged` is not set.
    """
    if skip_damaged:
        stored = stored.filter(pa.array(~als_rows.damaged_rows(stored, params)))
    als_rows.stored_vectors(stored, params)
    factors, popularity_factors = item_decay_factors(als_rows.as_of_micros(stored), global_sums.as_of, params)
    lengths = als_rows.list_lengths(stored, "item_ids")
    counts = als_rows.concat_binary(stored, "item_weights", np.float32) * np.repeat(factors, lengths)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    columns: dict[str, Any] = {
        "item_id": stored["key"],
        "vector": stored["vector"],
        "decayed_weight": als_rows.numbers(stored, "decayed_weight") * factors,
        "popularity": als_rows.numbers(stored, "popularity") * popularity_factors,
        "latest_event": als_rows.concat_binary(stored, "event_times", np.int64),
        "category": stored["category"],
        "neighbor_ids": stored["item_ids"],
        "neighbor_counts": pa.ListArray.from_arrays(offsets, pa.array(counts, pa.float32())),
    }
    return {"items": pa.table(columns, schema=item_index.SCHEMA)}


def update_users(
    events: pa.Table,
    stored: pa.Table,
    items: pa.Table,
    *,
    global_sums: GlobalSums,
    params: AlsParams,
    eval_share: float = 1.0,
) -> dict[str, Any]:
    """Evaluate and solve users.

    Returns:
        `users`: rows with als_rows.USER; `contributions`: to items, with als_rows.CONTRIBUTION; `change`: of the
        GlobalSums; `rankings`: RankingSums by ranker, and `times`: EvaluationTimes, of the evaluated users.

    Args:
        events: new ones of the users, with als_rows.EVENT.
        stored: the rows of these users, with als_rows.USER.
        items: all items, from `pack_items`.
        global_sums: as of the previous batch.
        eval_share: share of the users whose ranking is evaluated; 0: none.
    """
    user_ids = np.unique(np.concatenate([als_rows.strings(stored, "key"), als_rows.strings(events, "user_id")]))
    if not len(user_ids):
        return {}
    n, width = len(user_ids), params.width
    stored_users = np.searchsorted(user_ids, als_rows.strings(stored, "key"))
    old_vectors, old_tails = np.zeros((n, width), np.float32), np.zeros(n)
    old_times, is_stored = np.zeros(n, np.int64), np.zeros(n, bool)
    if len(stored_users):
        old_vectors[stored_users] = als_rows.stored_vectors(stored, params)
        old_tails[stored_users] = als_rows.numbers(stored, "tail_weight")
        old_times[stored_users], is_stored[stored_users] = als_rows.as_of_micros(stored), True
    history = UserEvents.read(stored, events, user_ids, stored_users, params)
    index = ItemIndex.from_rows(items, params, history.item_ids)
    evaluation: dict[str, Any] = {}
    if eval_share and global_sums.as_of:
        evaluation = _evaluate_users(user_ids, history, old_vectors, index, global_sums, params, eval_share)

    rows = history.least_squares_rows(n, _item_vectors(index, history.item_ids, params), global_sums, params)
    vectors = als.solve_users(rows, old_tails, old_vectors.astype(float), global_sums, params).astype(np.float32)
    bounds = np.searchsorted(history.user, np.arange(n + 1))
    age_rank = bounds[history.user + 1] - 1 - np.arange(len(history.user))  # 0 for a user's latest event
    is_retained = age_rank < params.max_events_per_user
    truncated = np.bincount(history.user[~is_retained], history.weight[~is_retained], n)
    tails = np.maximum(old_tails + truncated, 0.0)
    times = np.maximum(old_times, history.time[bounds[1:] - 1])

    zero, now = GlobalSums.zero(width), int(times.max())
    factors = decay_factors(times, now, params.half_life_days)
    changes = [
        replace(
            zero,
            user_gram=als.gram_matrix(vectors.astype(float), factors),
            user_count=float(factors.sum()),
            as_of=now,
            mean_rating=global_sums.mean_rating,
            event_count=float(events.num_rows),
        )
    ]
    if is_stored.any():
        factors = np.where(is_stored, decay_factors(old_times, global_sums.as_of, params.half_life_days), 0.0)
        removed = -als.gram_matrix(old_vectors.astype(float), factors)
        changes.append(replace(zero, user_gram=removed, user_count=-float(factors.sum()), as_of=global_sums.as_of))
    return {
        "users": _user_rows(user_ids, vectors, history.take(is_retained), tails, times, params),
        "contributions": _contributions(user_ids, history, vectors, old_vectors, params),
        "change": total(changes, params.half_life_days),
        **evaluation,
    }


def update_items(
    contributions: pa.Table,
    stored: pa.Table,
    *,
    global_sums: GlobalSums,
    params: AlsParams,
    is_removal: bool = False,
) -> dict[str, Any]:
    """Solve items from their decayed normal equations.

    Returns:
        `items`: rows with als_rows.ITEM; `change`: of the GlobalSums.

    Args:
        contributions: of users to these items, with als_rows.CONTRIBUTION.
        stored: the rows of these items, with als_rows.ITEM.
        global_sums: including the users of this batch, as of its latest event.
        is_removal: subtract the contributions. Normal equations stay positive semidefinite, also if some of their terms
            were added with another vector of the user.
    """
    sign = -1.0 if is_removal else 1.0
    # Floating-point sums depend on the order of the rows, and the order of a shuffle is not fixed.
    order = ("item_id", "time_micros", "user_id", "decayed_weight", "weight")
    new = contributions.sort_by([(name, "ascending") for name in order])
    new_ids, stored_ids = als_rows.strings(new, "item_id"), als_rows.strings(stored, "key")
    item_ids = np.unique(np.concatenate([stored_ids, new_ids]))
    if not len(item_ids):
        return {}
    n, width, now = len(item_ids), params.width, global_sums.as_of
    new_items, stored_items = np.searchsorted(item_ids, new_ids), np.searchsorted(item_ids, stored_ids)
    times = als_rows.numbers(new, "time_micros")
    factors, popularity_factors = (sign * one for one in item_decay_factors(times, now, params))
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
    if len(stored_items):
        factors, popularity_factors = item_decay_factors(als_rows.as_of_micros(stored), now, params)
        equations = als_rows.binary_matrix(stored, "normal_equations", np.float32)
        a[stored_items] += als.unpack_symmetric(equations[:, width:], width) * factors[:, None, None]
        b[stored_items] += equations[:, :width] * factors[:, None]
        old_weight[stored_items] = als_rows.numbers(stored, "decayed_weight") * factors
        popularity[stored_items] += als_rows.numbers(stored, "popularity") * popularity_factors
        old_vectors[stored_items], is_stored[stored_items] = als_rows.stored_vectors(stored, params), True
        old_factors[stored_items] = factors
        category[stored_items] = als_rows.strings(stored, "category")
        stored_times = als_rows.concat_binary(stored, "event_times", np.int64)
        latest_event[stored_items] = np.maximum(latest_event[stored_items], stored_times)
    has_category = new["category"].is_valid().to_numpy().astype(bool)
    category[new_items[has_category]] = als_rows.strings(new, "category")[has_category]
    weight = weight + old_weight
    if is_removal:
        a, popularity = als.nearest_semidefinite(a), np.maximum(popularity, 0.0)
    vectors = als.solve_items(a, b, weight, global_sums, params).astype(np.float32)

    equations = np.hstack([b.astype(np.float32), als.pack_symmetric(a)])
    neighbor_ids, counts = _merge_neighbors(
        stored, new, stored_items, new_items, n, old_factors[stored_items], sign, now, params
    )
    items = als_rows.table(
        als_rows.ITEM, n, key=item_ids, vector=als_rows.to_cells(vectors), decayed_weight=weight,
        popularity=popularity, category=category, item_ids=neighbor_ids, item_weights=counts,
        event_times=als_rows.to_cells(latest_event), as_of=als_rows.as_of(np.full(n, now)),
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
    return {"items": items, "change": added}


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
) -> pa.Table:
    """Contributions to items: new events with the new user vector, and a replacement of stored ones.

    For each user's most recent stored events, the term of the new vector is added and that of the old one subtracted.
    """
    parts, new = [als_rows.CONTRIBUTION.empty_table()], events.take(events.is_new)
    if len(new.user):
        parts.append(user_events.new_event_contributions(user_ids, events, new, vectors, params))
    stored = events.take(~events.is_new)
    end = np.searchsorted(stored.user, stored.user, side="right")
    recent = stored.take(end - 1 - np.arange(len(end)) < params.reweighted_events)
    for term_vectors, sign in ((vectors, 1.0), (old_vectors, -1.0)):
        if len(recent.user):
            zeros = np.zeros(len(recent.user))
            parts.append(als_rows.table(
                als_rows.CONTRIBUTION, len(zeros), item_id=recent.item_ids[recent.item], user_id=user_ids[recent.user],
                weight=sign * recent.weight, rating=recent.rating, decayed_weight=zeros, popularity=zeros,
                time_micros=recent.time, vector=als_rows.to_cells(term_vectors[recent.user]),
            ))  # fmt: skip
    return pa.concat_tables(parts)


def _merge_neighbors(
    state: pa.Table,
    new: pa.Table,
    state_items: Longs,
    new_items: Longs,
    n: int,
    state_factors: Floats,
    sign: float,
    now: int,
    params: AlsParams,
) -> tuple[Any, list[bytes]]:
    """Ids and decayed counts of each item's neighbors: stored and new ones merged, those with the highest counts.

    Args:
        sign: -1 subtracts the new counts; neighbors without a count are left out.
    """
    lists: list[Any] = [state["item_ids"].combine_chunks(), new["neighbor_ids"].combine_chunks()]
    lengths = [als_rows.list_lengths(state, "item_ids"), als_rows.list_lengths(new, "neighbor_ids")]
    encoded = pa.concat_arrays([part.flatten() for part in lists]).dictionary_encode()
    dictionary = encoded.dictionary.to_pylist()
    ids = np.array(sorted(dictionary), dtype=object)
    ranks = np.argsort(np.argsort(np.array(dictionary, dtype=object)))
    neighbor = ranks[encoded.indices.to_numpy()] if dictionary else np.zeros(0, int)
    item = np.concatenate([np.repeat(state_items, lengths[0]), np.repeat(new_items, lengths[1])]).astype(np.int64)
    stored = als_rows.concat_binary(state, "item_weights", np.float32) * np.repeat(state_factors, lengths[0])
    new_times = als_rows.concat_binary(new, "neighbor_times", np.int64)
    count = np.concatenate([stored, sign * decay_factors(new_times, now, params.half_life_days)])
    cells, cell = np.unique(item * max(len(ids), 1) + neighbor, return_inverse=True)
    terms, count = count, np.bincount(cell, count, len(cells))
    if sign < 0:
        is_left = count > _ROUNDING * np.bincount(cell, np.abs(terms), len(cells))
        cells, count = cells[is_left], count[is_left]
    item, neighbor = cells // max(len(ids), 1), cells % max(len(ids), 1)
    order = np.lexsort((neighbor, -count, item))
    order = order[np.arange(len(order)) - np.searchsorted(item, item[order]) < params.max_neighbors]
    item, neighbor, count = item[order], neighbor[order], count[order].astype(np.float32)
    bounds = np.searchsorted(item, np.arange(n + 1))
    neighbor_ids = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(ids[neighbor], pa.string()))
    return neighbor_ids, [count[a:b].tobytes() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _user_rows(
    user_ids: Strings, vectors: Vectors, events: UserEvents, tails: Floats, times: Longs, params: AlsParams
) -> pa.Table:
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
    return als_rows.table(
        als_rows.USER, len(user_ids), key=user_ids, as_of=als_rows.as_of(times), vector=als_rows.to_cells(vectors),
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
) -> dict[str, Any]:
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
    by_ranker = evaluate_rankers(
        index, old_vectors[users].astype(float), user_items, pairs[is_target & is_evaluated], params
    )
    if params.is_explicit and is_target.any():
        p, q = old_vectors[events.user[is_target]].astype(float), index.vectors[position[is_target]].astype(float)
        predicted = als.predictions(p, q, global_sums, params)
        squared_error = float(((events.rating[is_target] - predicted) ** 2).sum())
        errors = RankingSums(
            np.zeros(len(index.item_ids), bool), ratings=float(is_target.sum()), squared_error=squared_error
        )
        by_ranker = sum_by_ranker([*by_ranker.items(), ("factors", errors)])
    return {"rankings": by_ranker, "times": times}
