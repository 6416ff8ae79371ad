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

from profilestream.learn import als, item_index, ranking_metrics
from profilestream.learn.als import Floats, Globals, Longs, Params, Rows, Vectors
from profilestream.learn.item_index import ItemIndex, Liked, Strings
from profilestream.learn.ranking_metrics import Sums

# What goes into a step: rows of the state, what is new, and (users) all items in a few rows.
CATALOGUE, STATE, NEW = 0, 1, 2
# What comes out: new rows of the state, contributions to items, and this partition's share of the globals: what goes
# out of them, as of the batch before, and what comes in, as of this batch; and how well its users were ranked before.
ROW, CONTRIBUTION, GONE, CAME, JUDGED = 3, 4, 5, 6, 7
# The columns of what goes in and of what comes out, for Spark and for Arrow; a kind fills those that it needs.
COLUMNS = (
    "kind int, key string, other string, weight double, rating double, counted double, popular double, at bigint, "
    "category string, vector binary, others array<string>, weights binary, times binary, ratings binary, tail double, "
    "equations binary"
)
_ARROW: dict[str, pa.DataType] = {
    "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(), "string": pa.string(), "binary": pa.binary(),
    "array<string>": pa.list_(pa.string()),
}  # fmt: skip
SCHEMA = pa.schema([pa.field(name, _ARROW[kind]) for name, kind in (column.split() for column in COLUMNS.split(", "))])


@dataclass(frozen=True)
class Kept:
    """Events of users, flat: whose, of which item, how much, rated how, when."""

    user: Longs
    item: Longs
    weight: Floats
    rating: Floats
    at: Longs
    category: Strings
    is_new: NDArray[np.bool_]

    def chosen(self, index: NDArray[Any]) -> "Kept":
        """The rows at an index."""
        return Kept(
            self.user[index], self.item[index], self.weight[index], self.rating[index], self.at[index],
            self.category[index], self.is_new[index],
        )  # fmt: skip


def pack_items(
    batches: Iterator[pa.RecordBatch], known: Globals, params: Params, *, mend: bool = False
) -> Iterator[pa.RecordBatch]:
    """Item rows -> one row that holds what a catalogue needs of all of them, as of now.

    Args:
        mend: pass over items whose vector is damaged, so that they are solved as new ones are.
    """
    table = _table(batches)
    if table is not None and mend:
        table = table.filter(pa.array(~damaged(table, params)))
    if table is not None and table.num_rows:
        vectors_of(table, params)
        remains, popular_remains = _remains(_numbers(table, "at").astype(np.int64), known.now, params)
        lengths = pc.fill_null(pc.list_value_length(table["others"]), 0).to_numpy()
        weights = _joined(table, "weights", np.float32) * np.repeat(remains, lengths)
        offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
        columns: dict[str, Any] = {
            "key": table["key"],
            "vector": table["vector"],
            "counted": _numbers(table, "counted") * remains,
            "popular": _numbers(table, "popular") * popular_remains,
            "newest": _joined(table, "times", np.int64),
            "category": table["category"],
            "others": table["others"],
            "weights": pa.ListArray.from_arrays(offsets, pa.array(weights, pa.float32())),
        }
        packed = pa.table(columns, schema=item_index.SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, packed.schema) as writer:
            writer.write_table(packed)
        yield _out(CATALOGUE, 1, equations=[sink.getvalue().to_pybytes()])


def unpacked_items(blobs: list[Any], params: Params) -> ItemIndex:
    """The catalogue of what `pack_items` made."""
    parts = [pa.ipc.open_stream(blob).read_all() for blob in blobs]
    return ItemIndex.of(pa.concat_tables([item_index.SCHEMA.empty_table(), *parts]), params)


def users(batches: Iterator[pa.RecordBatch], known: Globals, params: Params) -> Iterator[pa.RecordBatch]:
    """Solve the users of a partition; emit their rows, what they tell items, and their share of the globals."""
    table = _table(batches)
    if table is None:
        return
    state, new = of_kind(table, STATE), of_kind(table, NEW)
    keys = np.unique(np.concatenate([_strings(state, "key"), _strings(new, "key")]).astype(object))
    if not len(keys):
        return
    n, width = len(keys), params.width
    where = np.searchsorted(keys, _strings(state, "key"))
    old, old_tail, seen, had = np.zeros((n, width), np.float32), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
    if len(where):
        old[where], old_tail[where] = vectors_of(state, params), _numbers(state, "tail")
        seen[where], had[where] = _numbers(state, "at").astype(np.int64), True
    names, kept = _kept(state, new, keys, where, params)
    all_items = unpacked_items(of_kind(table, CATALOGUE)["equations"].to_pylist(), params)
    item_vectors = _item_vectors(all_items, names, params)
    yield from _judged(keys, names, kept, old, all_items, known, params)

    rows = _rated(kept, n, item_vectors, known, params) if params.is_explicit else _net(kept, n, item_vectors)
    vectors = als.solve_users(rows, old_tail, old.astype(float), known, params)
    p = vectors.astype(np.float32)
    cut = np.searchsorted(kept.user, np.arange(n + 1))
    newest_first = cut[kept.user + 1] - 1 - np.arange(len(kept.user))
    stays = newest_first < params.max_events_per_user
    tail = np.maximum(old_tail + np.bincount(kept.user[~stays], kept.weight[~stays], n), 0.0)
    newest = np.maximum(seen, kept.at[cut[1:] - 1])

    yield _user_rows(keys, p, kept.chosen(stays), names, tail, newest, params)
    yield from _contributions(keys, names, kept, p, old, params)
    remains = np.where(had, als.decayed(seen, known.now, params.half_life_days), 0.0)
    zero = Globals.zero(width)
    gone = replace(zero, gram_users=-als.outer_sum(old.astype(float), remains), users=-float(remains.sum()))
    now = int(newest.max())
    remains = als.decayed(newest, now, params.half_life_days)
    came = replace(
        zero,
        gram_users=als.outer_sum(p.astype(float), remains),
        users=float(remains.sum()),
        now=now,
        mean=known.mean,
        events=float(new.num_rows),
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
    state, new = of_kind(table, STATE), of_kind(table, NEW)
    new = new.sort_by([(name, "ascending") for name in ("key", "at", "other", "counted", "weight")])
    new_keys = _strings(new, "key")
    keys = np.unique(np.concatenate([_strings(state, "key"), new_keys]).astype(object))
    if not len(keys):
        return
    n, width, now = len(keys), params.width, known.now
    at = _numbers(new, "at").astype(np.int64)
    remains, popular_remains = _remains(at, now, params)
    owner = np.searchsorted(keys, new_keys)
    vectors = vectors_of(new, params).astype(float)
    targets = als.targets(_numbers(new, "rating"), vectors, known, params)
    a, b, _ = als.normal_equations(
        Rows(
            np.searchsorted(owner, np.arange(n)),
            als.designs(vectors, params),
            _numbers(new, "weight") * remains,
            targets,
        )
    )
    weight: Floats = np.bincount(owner, _numbers(new, "counted") * remains, n).astype(float)
    popular: Floats = np.bincount(owner, _numbers(new, "popular") * popular_remains, n).astype(float)
    newest, is_event = np.zeros(n, np.int64), _numbers(new, "counted") != 0
    np.maximum.at(newest, owner[is_event], at[is_event])
    category = np.full(n, None, object)
    named = new["category"].is_valid().to_numpy().astype(bool)

    where = np.searchsorted(keys, _strings(state, "key"))
    old, was, old_weight, old_remains = np.zeros((n, width)), np.zeros(n, bool), np.zeros(n), np.ones(n)
    if len(where):
        seen = _numbers(state, "at").astype(np.int64)
        remains, popular_remains = _remains(seen, now, params)
        sums = _matrix(state, "equations", np.float32)
        a[where] += als.unpacked(sums[:, width:], width) * remains[:, None, None]
        b[where] += sums[:, :width] * remains[:, None]
        old_weight[where] = _numbers(state, "counted") * remains
        popular[where] += _numbers(state, "popular") * popular_remains
        old[where], was[where], old_remains[where] = vectors_of(state, params), True, remains
        category[where] = _strings(state, "category")
        newest[where] = np.maximum(newest[where], _joined(state, "times", np.int64))
    category[owner[named]] = _strings(new, "category")[named]
    weight = weight + old_weight
    q = als.solve_items(a, b, weight, known, params).astype(np.float32)

    sums = np.hstack([b.astype(np.float32), als.packed(a)])
    others, weights = _neighbors(state, new, where, owner, n, old_remains[where], now, params)
    yield _out(
        ROW, n, key=keys, vector=_bytes(q), counted=weight, popular=popular, category=category, others=others,
        weights=weights, times=_bytes(newest), at=np.full(n, now), equations=_bytes(sums),
    )  # fmt: skip
    x, before = als.designs(q.astype(float), params), als.designs(old, params)
    yield _share(
        CAME,
        Globals(
            gram_items=als.outer_sum(q.astype(float), np.ones(n)) - als.outer_sum(old, was.astype(float)),
            gram_users=np.zeros((width, width)),
            tail=als.outer_sum(x, np.maximum(weight, 0)) - als.outer_sum(before, np.maximum(old_weight, 0)),
            tail_weight=float((np.maximum(weight, 0) - np.maximum(old_weight, 0)).sum()),
            items=float(n - was.sum()),
            now=now,
        ),
    )


def globals_as_bytes(state: Globals) -> bytes:
    """All of it as float64, matrices first; microseconds are exact in a float64 until the year 2255."""
    matrices = [m.ravel() for m in (state.gram_items, state.gram_users, state.tail)]
    mean = np.nan if state.mean is None else state.mean
    numbers = [state.tail_weight, state.items, state.users, state.now, mean, state.events, state.swept]
    return np.concatenate([*matrices, numbers]).tobytes()


def globals_of(data: Any, width: int) -> Globals:
    """The reverse of `globals_as_bytes`."""
    numbers = np.frombuffer(data)
    size = width * width
    matrices = numbers[: 3 * size].reshape(3, width, width)
    tail_weight, items, users, now, mean, events, swept = (float(x) for x in numbers[3 * size :])
    known = None if np.isnan(mean) else mean
    return Globals(matrices[0], matrices[1], matrices[2], tail_weight, items, users, int(now), known, events, swept)


def moved(known: Globals, gone: list[Globals], came: list[Globals], params: Params) -> Globals:
    """The globals after the users of a batch: as they were, less what went, as of the newest event, and what came."""
    now = max([known.now, *[share.now for share in came]])
    after = sum(gone, known).aged(now, params.half_life_days)
    return sum([share.aged(now, params.half_life_days) for share in came], after)


def _kept(state: pa.Table, new: pa.Table, keys: Strings, where: Longs, params: Params) -> tuple[Strings, Kept]:
    """Kept and new events of the users, by user, time and item; and the names that `item` counts by."""
    lists: list[Any] = state["others"].to_pylist()
    kept_items = np.array([name for names in lists for name in names], dtype=object)
    names, item = np.unique(np.concatenate([kept_items, _strings(new, "other")]).astype(object), return_inverse=True)
    lengths = np.array([len(names) for names in lists], np.int64)
    old_rows, new_rows = len(kept_items), new.num_rows
    ratings = np.concatenate([_joined(state, "ratings", np.float32), _numbers(new, "rating")])
    rows = Kept(
        user=np.concatenate([np.repeat(where, lengths), np.searchsorted(keys, _strings(new, "key"))]).astype(np.int64),
        item=item,
        weight=np.concatenate([_joined(state, "weights", np.float32), _numbers(new, "weight")]),
        rating=ratings if params.is_explicit else np.zeros(old_rows + new_rows),
        at=np.concatenate([_joined(state, "times", np.int64), _numbers(new, "at").astype(np.int64)]),
        category=np.concatenate([np.full(old_rows, None, object), _strings(new, "category")]),
        is_new=np.repeat([False, True], [old_rows, new_rows]),
    )
    rows = replace(rows, weight=_counted(rows, len(names)))
    return names, rows.chosen(np.lexsort((rows.rating, rows.weight, rows.item, rows.at, rows.user)))


def _counted(rows: Kept, names: int) -> Floats:
    """What each event counts: a return takes back what the user is known to have of the item, and nothing beyond that.

    Sums of an item from which more is taken than was given could not be solved: they are no longer positive definite.
    """
    pairs, pair = np.unique(rows.user * names + rows.item, return_inverse=True)
    had = np.bincount(pair, np.where(rows.is_new, 0.0, rows.weight), len(pairs))
    came = np.bincount(pair, np.where(rows.is_new, rows.weight, 0.0), len(pairs))
    size = np.bincount(pair, np.where(rows.is_new, np.abs(rows.weight), 0.0), len(pairs))
    counts = (np.maximum(had + came, 0) - np.maximum(had, 0)) / np.maximum(size, 1e-300)
    return np.where(rows.is_new, counts[pair] * np.abs(rows.weight), rows.weight)


def _net(kept: Kept, n: int, item_vectors: Vectors) -> Rows:
    """Implicit: one row a user and item, what was given less what was taken back."""
    pair = kept.user * len(item_vectors) + kept.item
    pairs, index = np.unique(pair, return_inverse=True)
    net = np.maximum(np.bincount(index, kept.weight, len(pairs)), 0.0)
    starts = np.searchsorted(pairs, np.arange(n) * len(item_vectors))
    return Rows(starts, item_vectors[pairs % len(item_vectors)].astype(float), net, np.ones(len(pairs)))


def _rated(kept: Kept, n: int, item_vectors: Vectors, known: Globals, params: Params) -> Rows:
    """Explicit: one row a rating."""
    vectors = item_vectors[kept.item].astype(float)
    targets = als.targets(kept.rating, vectors, known, params)
    return Rows(np.searchsorted(kept.user, np.arange(n)), als.designs(vectors, params), kept.weight, targets)


def _contributions(
    keys: Strings, names: Strings, kept: Kept, p: Vectors, old: Vectors, params: Params
) -> Iterator[pa.RecordBatch]:
    """What items are told: new events with the new vector; and of the newest kept ones the old vector's share back."""
    new = kept.chosen(kept.is_new)
    if len(new.user):
        yield _told(keys, names, kept, new, p, params)
    before = kept.chosen(~kept.is_new)
    end = np.searchsorted(before.user, before.user, side="right")
    again = before.chosen(end - 1 - np.arange(len(end)) < params.reweighted_events)
    for vectors, sign in ((p, 1.0), (old, -1.0)):
        if len(again.user):
            none = np.zeros(len(again.user))
            yield _out(
                CONTRIBUTION, len(none), key=names[again.item], other=keys[again.user], weight=sign * again.weight,
                rating=again.rating, counted=none, popular=none, at=again.at, vector=_bytes(vectors[again.user]),
            )  # fmt: skip


def _told(keys: Strings, names: Strings, kept: Kept, new: Kept, p: Vectors, params: Params) -> pa.RecordBatch:
    """One row a user and item, as of the newest of its new events; with the user's items before it as neighbors.

    A rating is a row of its own, so that different ones of an item by a user are kept apart.
    """
    pair = new.user * len(names) + new.item
    group = pair if not params.is_explicit else np.arange(len(pair))
    groups, first, index = np.unique(group, return_index=True, return_inverse=True)
    latest = np.full(len(groups), np.iinfo(np.int64).min)
    np.maximum.at(latest, index, new.at)
    told, popular = (np.bincount(index, new.weight * r, len(groups)) for r in _remains(new.at, latest[index], params))
    last = np.zeros(len(groups), np.int64)
    np.maximum.at(last, index, np.where(new.category != None, np.arange(len(index)), 0))  # noqa: E711
    others, times = _before(names, kept, pair[first], params)
    return _out(
        CONTRIBUTION, len(groups), key=names[new.item[first]], other=keys[new.user[first]], weight=told,
        rating=new.rating[first], counted=told, popular=popular, at=latest, category=new.category[last],
        vector=_bytes(p[new.user[first]]), others=others, times=times,
    )  # fmt: skip


def _before(names: Strings, kept: Kept, wanted: Longs, params: Params) -> tuple[Any, list[bytes]]:
    """For each (user, item) pair that is new and liked: the user's items before it, and the later time of the two.

    An item that was kept already has no neighbors told again, so a pair of items counts once for a user: when the
    second one comes. Items that were kept come before those of the batch, these by their time.
    """
    liked = kept.chosen(kept.weight > 0)
    if not len(liked.user) or not params.neighbors:
        return pa.array([[]] * len(wanted), pa.list_(pa.string())), [b""] * len(wanted)
    pairs, index = np.unique(liked.user * len(names) + liked.item, return_inverse=True)
    latest = np.full(len(pairs), np.iinfo(np.int64).min)
    np.maximum.at(latest, index, liked.at)
    is_new = np.bincount(index, ~liked.is_new, len(pairs)) == 0
    order = np.lexsort((pairs, latest, is_new, pairs // len(names)))
    place = np.argsort(order)
    latest = latest[order]
    user = pairs[order] // len(names)
    rank = np.arange(len(pairs)) - np.searchsorted(user, user)

    found = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    is_asked = (pairs[found] == wanted) & is_new[found]
    # Of several ratings of an item by a user only the first one tells the neighbors.
    again = np.ones(len(wanted), bool)
    again[np.unique(wanted, return_index=True)[1]] = False
    at = place[found]
    sizes = np.where(is_asked & ~again, np.minimum(rank[at], params.neighbor_history), 0)
    flat = item_index.spread(at - sizes, sizes)
    times = np.maximum(np.repeat(latest[at], sizes), latest[flat])
    ends = np.cumsum(sizes)
    others = pa.ListArray.from_arrays(
        pa.array(np.append(0, ends), pa.int32()), pa.array(names[pairs[order][flat] % len(names)], pa.string())
    )
    return others, [times[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]


def _neighbors(
    state: pa.Table, new: pa.Table, where: Longs, owner: Longs, n: int, remains: Floats, now: int, params: Params
) -> tuple[Any, list[bytes]]:
    """Of each item the neighbors with the highest decayed counts: those it had, and those it is told."""
    had, came = (pc.fill_null(pc.list_value_length(part["others"]), 0).to_numpy() for part in (state, new))
    flat: list[Any] = [part["others"].combine_chunks() for part in (state, new)]
    others = pa.concat_arrays([lists.flatten() for lists in flat]).dictionary_encode()
    told = others.dictionary.to_pylist()
    names = np.array(sorted(told), dtype=object)
    code = np.argsort(np.argsort(np.array(told, dtype=object)))[others.indices.to_numpy()] if told else np.zeros(0, int)
    item = np.concatenate([np.repeat(where, had), np.repeat(owner, came)]).astype(np.int64)
    kept = _joined(state, "weights", np.float32) * np.repeat(remains, had)
    count = np.concatenate([kept, als.decayed(_joined(new, "times", np.int64), now, params.half_life_days)])
    cells, index = np.unique(item * max(len(names), 1) + code, return_inverse=True)
    count = np.bincount(index, count, len(cells))
    item, code = cells // max(len(names), 1), cells % max(len(names), 1)
    order = np.lexsort((code, -count, item))
    order = order[np.arange(len(order)) - np.searchsorted(item, item[order]) < params.neighbors]
    item, code, count = item[order], code[order], count[order].astype(np.float32)
    cut = np.searchsorted(item, np.arange(n + 1))
    lists = pa.ListArray.from_arrays(pa.array(cut, pa.int32()), pa.array(names[code], pa.string()))
    return lists, [count[a:b].tobytes() for a, b in zip(cut[:-1], cut[1:], strict=True)]


def _remains(then: Longs, now: int | Longs, params: Params) -> tuple[Floats, Floats]:
    """What is left at a later time of what an item was told, and of its count."""
    return (
        als.decayed(then, now, params.half_life_days),
        als.decayed(then, now, params.popularity_half_life_days),
    )


def _user_rows(
    keys: Strings, p: Vectors, kept: Kept, names: Strings, tail: Floats, newest: Longs, params: Params
) -> pa.RecordBatch:
    cut = np.searchsorted(kept.user, np.arange(len(keys) + 1))
    others = pa.ListArray.from_arrays(pa.array(cut, pa.int32()), pa.array(names[kept.item], pa.string()))
    parts = list(zip(cut[:-1], cut[1:], strict=True))
    columns: dict[str, NDArray[Any]] = {"weights": kept.weight.astype(np.float32), "times": kept.at}
    if params.is_explicit:
        columns["ratings"] = kept.rating.astype(np.float32)
    flat = {name: [rows[a:b].tobytes() for a, b in parts] for name, rows in columns.items()}
    return _out(ROW, len(keys), key=keys, at=newest, vector=_bytes(p), others=others, tail=tail, **flat)


def _item_vectors(all_items: ItemIndex, names: Strings, params: Params) -> Vectors:
    """Vectors of the named items; of a new one its start vector."""
    at = all_items.places(names)
    found = np.zeros((len(names), params.width), np.float32)
    found[at >= 0] = all_items.vectors[at[at >= 0]]
    for n in np.flatnonzero(at < 0):
        found[n] = als.start_vector(names[n], params)
    return found


def _judged(
    keys: Strings, names: Strings, kept: Kept, old: Vectors, all_items: ItemIndex, known: Globals, params: Params
) -> Iterator[pa.RecordBatch]:
    """How well users would have been ranked, by the state before the batch; of many users some, chosen by their ids."""
    place = all_items.places(names)[kept.item]
    is_target = kept.is_new & (kept.weight > 0) & (place >= 0)
    asked = np.unique(kept.user[is_target])
    asked = asked[np.argsort([zlib.crc32(keys[user].encode()) for user in asked], kind="stable")][: params.eval_users]
    if not len(asked):
        return
    number = np.full(len(keys), -1)
    number[asked] = np.arange(len(asked))
    pairs = np.column_stack([number[kept.user], place])
    mine = (pairs >= 0).all(axis=1)
    before = mine & ~kept.is_new & (kept.weight > 0)
    liked = Liked(pairs[before, 0], pairs[before, 1], kept.weight[before])
    found = ranking_metrics.judge_all(all_items, old[asked].astype(float), liked, pairs[is_target & mine], params)
    if params.is_explicit:
        p, q = old[kept.user[is_target]].astype(float), all_items.vectors[place[is_target]].astype(float)
        foretold = (known.mean or 0.0) + p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
        error = ((kept.rating[is_target] - foretold) ** 2).sum()
        none = Sums.zero(len(all_items.names))
        found["factors"] = found["factors"] + replace(none, ratings=float(is_target.sum()), squared_error=float(error))
    for name, sums in found.items():
        numbers, flags = sums.as_bytes()
        yield _out(JUDGED, 1, key=[name], weights=[numbers], times=[flags])


def _table(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    parts = list(batches)
    return pa.Table.from_batches(parts) if parts else None


def of_kind(table: pa.Table, kind: int) -> pa.Table:
    """The rows of a kind."""
    return table.filter(pc.equal(table["kind"], pa.scalar(kind, pa.int32())))


def _strings(table: pa.Table, name: str) -> Strings:
    return np.asarray(table[name].to_pylist(), dtype=object)


def _numbers(table: pa.Table, name: str) -> Any:
    """Nulls are NaN."""
    return table[name].to_numpy()


def _joined(table: pa.Table, name: str, kind: type) -> NDArray[Any]:
    parts: list[Any] = table[name].drop_null().to_pylist()
    return np.frombuffer(b"".join(parts), kind)


def _matrix(table: pa.Table, name: str, kind: type) -> NDArray[Any]:
    return _joined(table, name, kind).reshape(table.num_rows, -1)


def vectors_of(table: pa.Table, params: Params) -> Vectors:
    """The stored vectors, (rows, width).

    Raises:
        ValueError: one is damaged; names its key.
    """
    flat = _joined(table, "vector", np.float32) if _are_whole(table, params) else np.full(1, np.nan, np.float32)
    if not np.isfinite(flat).all():
        names = [str(key)[:200] for key in table.filter(pa.array(damaged(table, params)))["key"].to_pylist()]
        raise ValueError(f"damaged vectors in factors: {names[:5]}; mend them: jobs/learn_factors.py --full-pass")
    return flat.reshape(-1, params.width)


def kept_by(users: pa.Table) -> tuple[Longs, Strings, Floats]:
    """Kept events of user rows, flat: the number of the row, the item, the weight."""
    lists: list[Any] = users["others"].to_pylist()
    names = np.array([name for names in lists for name in names], dtype=object)
    user = np.repeat(np.arange(len(lists)), [len(names) for names in lists]).astype(np.int64)
    return user, names, _joined(users, "weights", np.float32).astype(float)


def damaged(table: pa.Table, params: Params) -> NDArray[np.bool_]:
    """Whether a stored vector is missing, of another length, or not finite, (rows,)."""
    stored: list[Any] = table["vector"].to_pylist()

    def is_good(data: bytes | None) -> bool:
        return (
            data is not None and len(data) == 4 * params.width and bool(np.isfinite(np.frombuffer(data, "<f4")).all())
        )

    return np.array([not is_good(data) for data in stored], bool)


def _are_whole(table: pa.Table, params: Params) -> bool:
    lengths: Any = pc.fill_null(pc.binary_length(table["vector"]), 0)
    return bool((lengths.to_numpy() == 4 * params.width).all())


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
