"""The kernels that remove users from the state: users, then items. Arrow tables in and out.

The state has only the current vector of a user, so all terms of the user in normal equations are subtracted with it.
Runs on executors, so it imports numpy and pyarrow only, besides the ALS modules.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from profilestream.learn.factors.kernels import als, als_rows, als_tasks, user_events
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums, Strings, Vectors
from profilestream.learn.factors.kernels.user_events import UserEvents
from profilestream.learn.kernels.arrays import IS_DELETED, Bools, Floats
from profilestream.learn.kernels.sums import decay_factors

# Share of the subtracted weight: an item with a smaller rest has no events of other users.
_ROUNDING = 1e-9
_DELETED: "pa.Field[Any]" = pa.field(IS_DELETED, pa.bool_())
REMOVED_USER, REMAINING_ITEM = als_rows.USER.append(_DELETED), als_rows.ITEM.append(_DELETED)


def remove_users(
    events: pa.Table, stored: pa.Table, *, global_sums: GlobalSums, params: AlsParams
) -> dict[str, pa.Table | GlobalSums]:
    """Users to delete, and what they added to items.

    Returns:
        `users`: rows with REMOVED_USER; `contributions`: with als_rows.CONTRIBUTION and the weights that learning
        added; `change`: of the GlobalSums.

    Args:
        events: all events of the users, with als_rows.EVENT; those of users without a stored row are ignored.
        stored: the rows of the users, with als_rows.USER.
    """
    if not stored.num_rows:
        return {}
    stored = stored.sort_by("key")
    user_ids, users = als_rows.strings(stored, "key"), np.arange(stored.num_rows)
    events = events.filter(pa.array(np.isin(als_rows.strings(events, "user_id"), user_ids), pa.bool_()))
    latest = UserEvents.read(stored, events.slice(0, 0), user_ids, users, params)
    history = UserEvents.read(stored.slice(0, 0), events, user_ids, users[:0], params)
    vectors = als_rows.stored_vectors(stored, params)
    factors = decay_factors(als_rows.as_of_micros(stored), global_sums.as_of, params.half_life_days)
    removed = replace(
        GlobalSums.zero(params.width),
        user_gram=-als.gram_matrix(vectors.astype(float), factors),
        user_count=-float(factors.sum()),
        event_count=-float(events.num_rows),
        as_of=global_sums.as_of,
    )
    contributions = [
        _added_terms(user_ids, one, vectors) for one in (latest, history.take(_is_truncated(history, latest)))
    ]
    return {
        "users": stored.append_column(_DELETED, pa.repeat(True, stored.num_rows)),
        "contributions": pa.concat_tables([*contributions, _added_pairs(user_ids, history, vectors, params)]),
        "change": removed,
    }


def _is_truncated(history: UserEvents, stored: UserEvents) -> Bools:
    """Whether an event is not among the stored ones, which are the latest events of the user."""
    users = int(max(history.user.max(initial=-1), stored.user.max(initial=-1))) + 1
    sizes = np.bincount(stored.user, minlength=users)
    end = np.searchsorted(history.user, history.user, side="right")
    is_truncated: Bools = end - 1 - np.arange(len(end)) >= sizes[history.user]
    return is_truncated


def _added_terms(user_ids: Strings, events: UserEvents, vectors: Vectors) -> pa.Table:
    """One row per event, with its weight."""
    return als_rows.table(
        als_rows.CONTRIBUTION, len(events.user), item_id=events.item_ids[events.item], user_id=user_ids[events.user],
        weight=events.weight, rating=events.rating, decayed_weight=events.weight, popularity=events.weight,
        time_micros=events.time, vector=als_rows.to_cells(vectors[events.user]),
    )  # fmt: skip


def _added_pairs(user_ids: Strings, history: UserEvents, vectors: Vectors, params: AlsParams) -> pa.Table:
    """The user's earlier items of each item: rows without weights.

    Batches are not stored, so items are in order of their first event, as if each event were a batch of its own.
    """
    bought = history.take(history.weight > 0)
    first = bought.take(np.unique(bought.pairs(), return_index=True)[1])
    rows = user_events.new_event_contributions(user_ids, first, first, vectors, params)
    names = ["item_id", "user_id", "vector", "time_micros", "neighbor_ids", "neighbor_times"]
    zeros = dict.fromkeys(("weight", "rating", "decayed_weight", "popularity"), np.zeros(rows.num_rows))
    others = als_rows.table(als_rows.CONTRIBUTION, rows.num_rows, **zeros)
    columns = [(rows if name in names else others)[name] for name in others.column_names]
    return pa.Table.from_arrays(columns, schema=als_rows.CONTRIBUTION)


def remove_from_items(
    contributions: pa.Table, stored: pa.Table, *, before: GlobalSums, global_sums: GlobalSums, params: AlsParams
) -> dict[str, pa.Table | GlobalSums]:
    """Items without the contributions of removed users.

    The other items of the last batch are corrected, too: they were solved with the Gram matrix of all users. So a user
    who was in that batch only is removed completely.

    Returns:
        `items`: rows with REMAINING_ITEM; an item that only removed users had is deleted. `change`: of the GlobalSums.

    Args:
        contributions: from `remove_users`; those to items that are not stored are ignored.
        stored: all items, with als_rows.ITEM.
        before, global_sums: with the users, and without them.
    """
    is_touched = np.isin(als_rows.strings(stored, "key"), als_rows.strings(contributions, "item_id"))
    is_lost = _is_lost(contributions, stored, global_sums, params)
    is_last = (als_rows.as_of_micros(stored) == global_sums.as_of) & ~is_touched
    touched, lost, last = (
        stored.filter(pa.array(one, pa.bool_())) for one in (is_touched & ~is_lost, is_lost, is_last)
    )
    is_of_touched = np.isin(als_rows.strings(contributions, "item_id"), als_rows.strings(touched, "key"))
    subtracted = als_tasks.update_items(
        contributions.filter(pa.array(is_of_touched, pa.bool_())), touched, global_sums=global_sums, params=params,
        is_removal=True,
    )  # fmt: skip
    corrected = _with_user_gram(last, before, global_sums, params)
    change = _item_sums(lost, -1, global_sums, params)
    change += _item_sums(last, -1, global_sums, params) + _item_sums(corrected, 1, global_sums, params)
    tables = [corrected, *([subtracted["items"]] if subtracted else []), lost]
    rows = pa.concat_tables(tables)
    flags = pa.array(np.arange(rows.num_rows) >= rows.num_rows - lost.num_rows)
    return {
        "items": rows.append_column(_DELETED, flags),
        "change": change + subtracted["change"] if subtracted else change,
    }


def _is_lost(contributions: pa.Table, stored: pa.Table, global_sums: GlobalSums, params: AlsParams) -> Bools:
    """Whether no weight of other users remains, by stored item."""
    position = als_rows.positions(als_rows.strings(contributions, "item_id"), stored)
    times, weights = als_rows.numbers(contributions, "time_micros"), als_rows.numbers(contributions, "decayed_weight")
    weights = weights * decay_factors(times, global_sums.as_of, params.half_life_days)
    is_stored = position >= 0
    removed = np.bincount(position[is_stored], weights[is_stored], stored.num_rows)
    is_lost: Bools = _decayed_weights(stored, global_sums, params) - removed <= _ROUNDING * removed
    return is_lost & (removed > 0)


def _decayed_weights(stored: pa.Table, global_sums: GlobalSums, params: AlsParams) -> Floats:
    factors = decay_factors(als_rows.as_of_micros(stored), global_sums.as_of, params.half_life_days)
    weights: Floats = als_rows.numbers(stored, "decayed_weight") * factors
    return weights


def _with_user_gram(stored: pa.Table, before: GlobalSums, after: GlobalSums, params: AlsParams) -> pa.Table:
    """Items of the last batch, with the difference of their solutions for the two sums over all users."""
    if not stored.num_rows:
        return stored
    equations, width = als_rows.binary_matrix(stored, "normal_equations", np.float32), params.width
    a, b = als.unpack_symmetric(equations[:, width:], width), equations[:, :width].astype(float)
    weights = als_rows.numbers(stored, "decayed_weight")
    solved, solved_before = (als.solve_items(a, b, weights, sums, params) for sums in (after, before))
    vectors = (als_rows.stored_vectors(stored, params) + (solved - solved_before)).astype(np.float32)
    cells = pa.array(als_rows.to_cells(vectors), pa.binary())
    return stored.set_column(stored.schema.get_field_index("vector"), "vector", cells)


def _item_sums(items: pa.Table, sign: int, global_sums: GlobalSums, params: AlsParams) -> GlobalSums:
    """What these items add to the global sums, times the sign."""
    vectors = als_rows.stored_vectors(items, params).astype(float)
    weights = sign * np.maximum(_decayed_weights(items, global_sums, params), 0)
    return replace(
        GlobalSums.zero(params.width),
        item_gram=als.gram_matrix(vectors, np.full(items.num_rows, float(sign))),
        weighted_item_gram=als.gram_matrix(als.design_vectors(vectors, params), weights),
        item_weight=float(weights.sum()),
        item_count=float(sign * items.num_rows),
        as_of=global_sums.as_of,
    )
