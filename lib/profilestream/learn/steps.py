"""The two steps of a batch of `learn_factors` in one partition: users, then items. Arrow tables in and out.

Runs on executors, so it imports numpy and pyarrow only, beside the arithmetic.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.learn import als, quality
from profilestream.learn.als import Floats, Globals, Longs, Params, Rows, Vectors

Strings = NDArray[np.object_]

# What goes into a step: rows of the state, what is new, and (users) all items in a few rows.
CATALOGUE, STATE, NEW = 0, 1, 2
# What comes out: new rows of the state, contributions to items, and this partition's share of the globals: what goes
# out of them, as of the batch before, and what comes in, as of this batch; and how well its users were ranked before.
ROW, CONTRIBUTION, GONE, CAME, JUDGED = 3, 4, 5, 6, 7
# The columns of what goes in and of what comes out, for Spark and for Arrow; a kind fills those that it needs.
COLUMNS = (
    "kind int, key string, other string, weight double, counted double, popular double, at bigint, vector binary, "
    "others array<string>, weights binary, times binary, tail double, equations binary"
)
_ARROW: dict[str, pa.DataType] = {
    "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(), "string": pa.string(), "binary": pa.binary(),
    "array<string>": pa.list_(pa.string()),
}  # fmt: skip
SCHEMA = pa.schema([pa.field(name, _ARROW[kind]) for name, kind in (column.split() for column in COLUMNS.split(", "))])


@dataclass(frozen=True)
class Kept:
    """Events of users, flat: whose, of which item, how much, when."""

    user: Longs
    item: Longs
    weight: Floats
    at: Longs
    is_new: NDArray[np.bool_]

    def chosen(self, index: NDArray[Any]) -> "Kept":
        """The rows at an index."""
        return Kept(self.user[index], self.item[index], self.weight[index], self.at[index], self.is_new[index])


@dataclass(frozen=True)
class Catalogue:
    """All items as they were before the batch: ids in order, vectors (items, k), decayed counts."""

    names: Strings
    vectors: Vectors
    popular: Floats

    def places(self, names: Strings) -> Longs:
        """Where each name stands; -1 when it is not there."""
        if not len(self.names):
            return np.full(len(names), -1)
        at = np.searchsorted(self.names, names).clip(max=len(self.names) - 1)
        return np.where(self.names[at] == names, at, -1)


def pack_items(batches: Iterator[pa.RecordBatch], known: Globals, params: Params) -> Iterator[pa.RecordBatch]:
    """Item rows -> one row with the ids, vectors and decayed counts of all of them."""
    table = _table(batches)
    if table is not None and table.num_rows:
        remains = als.decayed(_numbers(table, "at").astype(np.int64), known.now, params.popularity_half_life_days)
        popular = _numbers(table, "popular") * remains
        yield _out(
            CATALOGUE, 1, others=[table["key"].to_pylist()], vector=[_joined(table, "vector", np.uint8).tobytes()],
            weights=[popular.tobytes()],
        )  # fmt: skip


def users(batches: Iterator[pa.RecordBatch], known: Globals, params: Params) -> Iterator[pa.RecordBatch]:
    """Solve the users of a partition; emit their rows, what they tell items, and their share of the globals."""
    table = _table(batches)
    if table is None:
        return
    state, new = _of_kind(table, STATE), _of_kind(table, NEW)
    keys = np.unique(np.concatenate([_strings(state, "key"), _strings(new, "key")]).astype(object))
    if not len(keys):
        return
    n, k = len(keys), params.k
    where = np.searchsorted(keys, _strings(state, "key"))
    old, old_tail, seen, had = np.zeros((n, k), np.float32), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
    if len(where):
        old[where], old_tail[where] = _vectors(state, k), _numbers(state, "tail")
        seen[where], had[where] = _numbers(state, "at").astype(np.int64), True
    names, kept = _kept(state, new, keys, where)
    catalogue = _catalogue(_of_kind(table, CATALOGUE), k)
    item_vectors = _item_vectors(catalogue, names, k)
    yield from _judged(keys, names, kept, old, catalogue, params)

    vectors = als.solve_users(_net(kept, n, item_vectors), old_tail, old.astype(float), known, params)
    p = vectors.astype(np.float32)
    cut = np.searchsorted(kept.user, np.arange(n + 1))
    newest_first = cut[kept.user + 1] - 1 - np.arange(len(kept.user))
    stays = newest_first < params.history
    tail = np.maximum(old_tail + np.bincount(kept.user[~stays], kept.weight[~stays], n), 0.0)

    yield _user_rows(keys, p, kept.chosen(stays), names, tail)
    yield from _contributions(keys, names, kept, p, old, params)
    remains = np.where(had, als.decayed(seen, known.now, params.half_life_days), 0.0)
    zero = Globals.zero(k)
    gone = replace(zero, gram_users=-als.outer_sum(old.astype(float), remains), users=-float(remains.sum()))
    came = replace(
        zero,
        gram_users=als.outer_sum(p.astype(float), np.ones(n)),
        users=float(n),
        now=int(kept.at[kept.is_new].max(initial=0)),
    )
    yield from (_share(GONE, gone), _share(CAME, came))


def items(batches: Iterator[pa.RecordBatch], known: Globals, params: Params) -> Iterator[pa.RecordBatch]:
    """Solve the items of a partition from their decayed sums; emit their rows and their share of the globals.

    Args:
        known: with the users of this batch in it, as of its newest event.
    """
    table = _table(batches)
    if table is None:
        return
    state, new = _of_kind(table, STATE), _of_kind(table, NEW)
    new = new.sort_by([(name, "ascending") for name in ("key", "at", "other", "counted", "weight")])
    new_keys = _strings(new, "key")
    keys = np.unique(np.concatenate([_strings(state, "key"), new_keys]).astype(object))
    if not len(keys):
        return
    n, k, now = len(keys), params.k, known.now
    at = _numbers(new, "at").astype(np.int64)
    remains, popular_remains = _remains(at, now, params)
    owner = np.searchsorted(keys, new_keys)
    rows = Rows(np.searchsorted(owner, np.arange(n)), _vectors(new, k).astype(float), _numbers(new, "weight") * remains)
    a, b, _ = als.normal_equations(rows)
    weight: Floats = np.bincount(owner, _numbers(new, "counted") * remains, n).astype(float)
    popular: Floats = np.bincount(owner, _numbers(new, "popular") * popular_remains, n).astype(float)

    where = np.searchsorted(keys, _strings(state, "key"))
    old, was, old_weight = np.zeros((n, k)), np.zeros(n, bool), np.zeros(n)
    if len(where):
        seen = _numbers(state, "at").astype(np.int64)
        remains, popular_remains = _remains(seen, now, params)
        sums = _matrix(state, "equations", np.float32)
        a[where] += als.unpacked(sums[:, k:], k) * remains[:, None, None]
        b[where] += sums[:, :k] * remains[:, None]
        old_weight[where] = _numbers(state, "counted") * remains
        popular[where] += _numbers(state, "popular") * popular_remains
        old[where], was[where] = _vectors(state, k), True
    weight = weight + old_weight
    q = als.solve_items(a, b, weight, known, params).astype(np.float32)

    sums = np.hstack([b.astype(np.float32), als.packed(a)])
    yield _out(ROW, n, key=keys, vector=_bytes(q), counted=weight, popular=popular, equations=_bytes(sums))
    q64 = q.astype(float)
    yield _share(
        CAME,
        Globals(
            gram_items=als.outer_sum(q64, np.ones(n)) - als.outer_sum(old, was.astype(float)),
            gram_users=np.zeros((k, k)),
            tail=als.outer_sum(q64, np.maximum(weight, 0)) - als.outer_sum(old, np.maximum(old_weight, 0)),
            tail_weight=float((np.maximum(weight, 0) - np.maximum(old_weight, 0)).sum()),
            items=float(n - was.sum()),
            now=now,
        ),
    )


def globals_as_bytes(state: Globals) -> bytes:
    """All of it as float64, matrices first; microseconds are exact in a float64 until the year 2255."""
    matrices = [m.ravel() for m in (state.gram_items, state.gram_users, state.tail)]
    return np.concatenate([*matrices, [state.tail_weight, state.items, state.users, state.now]]).tobytes()


def globals_of(data: bytes, k: int) -> Globals:
    """The reverse of `globals_as_bytes`."""
    numbers = np.frombuffer(data)
    matrices = numbers[: 3 * k * k].reshape(3, k, k)
    tail_weight, items, users, now = (float(x) for x in numbers[3 * k * k :])
    return Globals(matrices[0], matrices[1], matrices[2], tail_weight, items, users, int(now))


def _kept(state: pa.Table, new: pa.Table, keys: Strings, where: Longs) -> tuple[Strings, Kept]:
    """Kept and new events of the users, by user, time and item; and the names that `item` counts by."""
    lists: list[Any] = state["others"].to_pylist()
    kept_items = np.array([name for names in lists for name in names], dtype=object)
    names, item = np.unique(np.concatenate([kept_items, _strings(new, "other")]).astype(object), return_inverse=True)
    lengths = np.array([len(names) for names in lists], np.int64)
    old_rows, new_rows = len(kept_items), new.num_rows
    rows = Kept(
        user=np.concatenate([np.repeat(where, lengths), np.searchsorted(keys, _strings(new, "key"))]).astype(np.int64),
        item=item,
        weight=np.concatenate([_joined(state, "weights", np.float32), _numbers(new, "weight")]),
        at=np.concatenate([_joined(state, "times", np.int64), _numbers(new, "at").astype(np.int64)]),
        is_new=np.repeat([False, True], [old_rows, new_rows]),
    )
    return names, rows.chosen(np.lexsort((rows.weight, rows.item, rows.at, rows.user)))


def _net(kept: Kept, n: int, item_vectors: Vectors) -> Rows:
    """One row a user and item: what was given less what was taken back, never below zero."""
    pair = kept.user * len(item_vectors) + kept.item
    pairs, index = np.unique(pair, return_inverse=True)
    net = np.maximum(np.bincount(index, kept.weight, len(pairs)), 0.0)
    starts = np.searchsorted(pairs, np.arange(n) * len(item_vectors))
    return Rows(starts, item_vectors[pairs % len(item_vectors)].astype(float), net)


def _contributions(
    keys: Strings, names: Strings, kept: Kept, p: Vectors, old: Vectors, params: Params
) -> Iterator[pa.RecordBatch]:
    """What items are told: new events with the new vector; and of the newest kept ones the old vector's share back."""
    new = kept.chosen(kept.is_new)
    pair = new.user * len(names) + new.item
    pairs, first, index = np.unique(pair, return_index=True, return_inverse=True)
    latest = np.full(len(pairs), np.iinfo(np.int64).min)
    np.maximum.at(latest, index, new.at)
    # One row a user and item, at the newest of its times.
    told, popular = (np.bincount(index, new.weight * r, len(pairs)) for r in _remains(new.at, latest[index], params))
    if len(pairs):
        yield _out(
            CONTRIBUTION, len(pairs), key=names[new.item[first]], other=keys[new.user[first]], weight=told,
            counted=told, popular=popular, at=latest, vector=_bytes(p[new.user[first]]),
        )  # fmt: skip
    before = kept.chosen(~kept.is_new)
    end = np.searchsorted(before.user, before.user, side="right")
    again = before.chosen(end - 1 - np.arange(len(end)) < params.refresh)
    for vectors, sign in ((p, 1.0), (old, -1.0)):
        if len(again.user):
            none = np.zeros(len(again.user))
            yield _out(
                CONTRIBUTION, len(none), key=names[again.item], other=keys[again.user], weight=sign * again.weight,
                counted=none, popular=none, at=again.at, vector=_bytes(vectors[again.user]),
            )  # fmt: skip


def _remains(then: Longs, now: int | Longs, params: Params) -> tuple[Floats, Floats]:
    """What is left at a later time of what an item was told, and of its count."""
    return (
        als.decayed(then, now, params.half_life_days),
        als.decayed(then, now, params.popularity_half_life_days),
    )


def _user_rows(keys: Strings, p: Vectors, kept: Kept, names: Strings, tail: Floats) -> pa.RecordBatch:
    cut = np.searchsorted(kept.user, np.arange(len(keys) + 1))
    others = pa.ListArray.from_arrays(pa.array(cut, pa.int32()), pa.array(names[kept.item], pa.string()))
    weights, times = kept.weight.astype(np.float32), kept.at
    parts = list(zip(cut[:-1], cut[1:], strict=True))
    return _out(
        ROW, len(keys), key=keys, vector=_bytes(p), others=others, tail=tail,
        weights=[weights[a:b].tobytes() for a, b in parts], times=[times[a:b].tobytes() for a, b in parts],
    )  # fmt: skip


def _catalogue(packed: pa.Table, k: int) -> Catalogue:
    lists: list[Any] = packed["others"].to_pylist()
    names: Strings = np.array([name for row in lists for name in row], dtype=np.object_)
    order = np.argsort(names)
    return Catalogue(names[order], _vectors(packed, k)[order], _joined(packed, "weights", np.float64)[order])


def _item_vectors(catalogue: Catalogue, names: Strings, k: int) -> Vectors:
    """Vectors of the named items; of a new one its start vector."""
    at = catalogue.places(names)
    found = np.zeros((len(names), k), np.float32)
    found[at >= 0] = catalogue.vectors[at[at >= 0]]
    for n in np.flatnonzero(at < 0):
        found[n] = als.start_vector(names[n], k)
    return found


def _judged(
    keys: Strings, names: Strings, kept: Kept, old: Vectors, catalogue: Catalogue, params: Params
) -> Iterator[pa.RecordBatch]:
    """How well users would have been ranked, by the state before the batch; of many users some, chosen by their ids."""
    place = catalogue.places(names)[kept.item]
    is_target = kept.is_new & (kept.weight > 0) & (place >= 0)
    asked = np.unique(kept.user[is_target])
    asked = asked[np.argsort([zlib.crc32(keys[user].encode()) for user in asked], kind="stable")][: params.judged]
    if not len(asked):
        return
    number = np.full(len(keys), -1)
    number[asked] = np.arange(len(asked))
    pairs = np.column_stack([number[kept.user], place])
    mine = (pairs >= 0).all(axis=1)
    found = quality.judge_all(
        old[asked].astype(float), catalogue.vectors.astype(float), catalogue.popular, params.popularity_share,
        target=pairs[is_target & mine], seen=pairs[~kept.is_new & mine],
    )  # fmt: skip
    for name, sums in found.items():
        numbers, flags = sums.as_bytes()
        yield _out(JUDGED, 1, key=[name], weights=[numbers], times=[flags])


def _table(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    parts = list(batches)
    return pa.Table.from_batches(parts) if parts else None


def _of_kind(table: pa.Table, kind: int) -> pa.Table:
    return table.filter(pc.equal(table["kind"], pa.scalar(kind, pa.int32())))


def _strings(table: pa.Table, name: str) -> Strings:
    return np.asarray(table[name].to_pylist(), dtype=object)


def _numbers(table: pa.Table, name: str) -> Any:
    return table[name].to_numpy()


def _joined(table: pa.Table, name: str, kind: type) -> NDArray[Any]:
    parts: list[Any] = table[name].to_pylist()
    return np.frombuffer(b"".join(parts), kind)


def _matrix(table: pa.Table, name: str, kind: type) -> NDArray[Any]:
    return _joined(table, name, kind).reshape(table.num_rows, -1)


def _vectors(table: pa.Table, k: int) -> Vectors:
    return _joined(table, "vector", np.float32).reshape(-1, k)


def _bytes(rows: NDArray[Any]) -> list[bytes]:
    return [row.tobytes() for row in rows]


def _share(kind: int, share: Globals) -> pa.RecordBatch:
    return _out(kind, 1, equations=[globals_as_bytes(share)])


def _out(kind: int, n: int, **columns: Any) -> pa.RecordBatch:
    """Rows of one kind; columns that are not named are null."""
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in SCHEMA
        if field.name != "kind"
    ]
    return pa.RecordBatch.from_arrays([pa.array([kind] * n, pa.int32()), *arrays], schema=SCHEMA)
