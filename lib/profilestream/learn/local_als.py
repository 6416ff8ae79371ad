"""The factorization with its state in memory, by the same steps as the stage: for notebooks, benchmarks and tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn import als_tasks
from profilestream.learn.als import Floats, Globals, Params
from profilestream.learn.item_index import ItemIndex
from profilestream.learn.ranking_metrics import Sums, together


@dataclass(frozen=True)
class Model:
    """All rows of `factors`.

    Args:
        users, items: rows of steps.SCHEMA, kind STATE.
    """

    params: Params
    users: pa.Table
    items: pa.Table
    known: Globals

    @cached_property
    def packed(self) -> pa.Table:
        """The items as a users' step wants them."""
        return _stepped(lambda part: als_tasks.pack_items(part, self.known, self.params), self.items)

    @cached_property
    def catalogue(self) -> ItemIndex:
        """All items."""
        return als_tasks.unpacked_items(self.packed["equations"].to_pylist(), self.params)


@dataclass(frozen=True)
class Factors:
    """A learner (learner.py). Rows are events, kind NEW of steps.SCHEMA; a delta is what a users' step gives."""

    params: Params = field(default_factory=Params)

    def empty(self, mean: float | None = None) -> Model:
        """No user, no item. Explicit: biases are counted from the mean, which `learn` takes from the first batch."""
        none = als_tasks.SCHEMA.empty_table()
        return Model(self.params, none, none, replace(Globals.zero(self.params.width), mean=mean))

    def zero(self) -> pa.Table:
        """No row."""
        return als_tasks.SCHEMA.empty_table()

    def score(self, state: Model, rows: pa.Table) -> Floats:
        """How much each event's user should want its item: the product of their vectors; explicit, the rating."""
        at = pc.index_in(rows["key"], value_set=state.users["key"].combine_chunks()).fill_null(-1).to_numpy()
        vectors = np.vstack([als_tasks.vectors_of(state.users, self.params), np.zeros((1, self.params.width))])[at]
        items = state.catalogue.places(np.asarray(rows["other"].to_pylist(), dtype=object))
        q = np.vstack([state.catalogue.vectors, np.zeros((1, self.params.width))])[items]
        k = self.params.k
        biases = vectors[:, k:].sum(axis=1) + q[:, k:].sum(axis=1) + (state.known.mean or 0.0)
        result: Floats = (vectors[:, :k] * q[:, :k]).sum(axis=1) + biases
        return result

    def batch_delta(self, state: Model, rows: pa.Table) -> pa.Table:
        """What the events' users have to say, after they were solved anew."""
        if not rows.num_rows:
            return self.zero()
        touched = state.users.filter(pc.is_in(state.users["key"], value_set=pc.unique(rows["key"])))
        return _stepped(lambda part: als_tasks.users(part, state.known, self.params), state.packed, touched, rows)

    def merge(self, one: pa.Table, other: pa.Table) -> pa.Table:
        """All rows of both."""
        return pa.concat_tables([one, other])

    def apply(self, state: Model, delta: pa.Table, now: int) -> Model:
        """Solve the items that were told something, and put the new rows in place of the old ones."""
        if not delta.num_rows:
            return state
        gone, came = (_shares(delta, kind, self.params) for kind in (als_tasks.GONE, als_tasks.CAME))
        after_users = als_tasks.moved(state.known, gone, came, self.params).aged(now, self.params.half_life_days)
        items, after = self._items(state.items, delta, after_users)
        users = als_tasks.of_kind(delta, als_tasks.ROW)
        return Model(self.params, _replaced(state.users, users), _replaced(state.items, items), after)

    def learn(self, state: Model, rows: pa.Table) -> tuple[Model, dict[str, Sums]]:
        """The state after the events, and how well it would have ranked them before, by ranker."""
        state = self._with_mean(state, rows)
        delta = self.batch_delta(state, rows)
        now = int(pc.max(rows["at"]).as_py() or 0) if rows.num_rows else 0
        return self.apply(state, delta, now), judged(delta)

    def swept(self, state: Model, rows: pa.Table, times: int) -> Model:
        """All users, then all items, solved anew from all events, so many times; as the stage does (factors.swept).

        A sweep that makes the vectors shrink to half is thrown away.
        """
        none = als_tasks.SCHEMA.empty_table()
        found = self._with_mean(state, rows)
        for left in reversed(range(times)):
            # No vector depends on neighbors, so they are looked for in the last sweep only.
            quiet = Factors(replace(self.params, eval_users=0, neighbors=0 if left else self.params.neighbors))
            before = found.known
            delta = quiet.batch_delta(replace(found, users=none), rows)
            fresh = replace(Globals.zero(self.params.width), mean=before.mean)
            after_users = als_tasks.moved(fresh, [], _shares(delta, als_tasks.CAME, self.params), self.params)
            items, after = quiet._items(none, delta, replace(after_users, items=before.items))
            after = replace(after, items=after.items - before.items, swept=after.events)
            users = als_tasks.of_kind(delta, als_tasks.ROW)
            found = Model(self.params, _replaced(none, users), _replaced(none, items), after)
        if found.known.has_shrunk_from(state.known):
            return replace(state, known=replace(state.known, swept=state.known.events))
        return found

    def _with_mean(self, state: Model, rows: pa.Table) -> Model:
        if not self.params.is_explicit or state.known.mean is not None or not rows.num_rows:
            return state
        return replace(state, known=replace(state.known, mean=float(pc.mean(rows["rating"]).as_py() or 0.0)))

    def _items(self, items: pa.Table, delta: pa.Table, after_users: Globals) -> tuple[pa.Table, Globals]:
        """New rows of the items that a delta told something, and the globals after them."""
        told = _as_kind(als_tasks.of_kind(delta, als_tasks.CONTRIBUTION), als_tasks.NEW)
        touched = items.filter(pc.is_in(items["key"], value_set=pc.unique(told["key"])))
        out = _stepped(lambda part: als_tasks.items(part, after_users, self.params), touched, told)
        return als_tasks.of_kind(out, als_tasks.ROW), sum(_shares(out, als_tasks.CAME, self.params), after_users)


def judged(delta: pa.Table) -> dict[str, Sums]:
    """The sums of each ranker in what the parts of a batch have to say."""
    rows = als_tasks.of_kind(delta, als_tasks.JUDGED).to_pylist()
    return together((row["key"], Sums.of_bytes(row["weights"], row["times"])) for row in rows)


def _stepped(step: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], *inputs: pa.Table) -> pa.Table:
    whole = pa.concat_tables(inputs).combine_chunks()
    return pa.Table.from_batches(step(iter(whole.to_batches())), als_tasks.SCHEMA)


def _as_kind(table: pa.Table, kind: int) -> pa.Table:
    return table.set_column(0, "kind", pa.array([kind] * table.num_rows, pa.int32()))


def _shares(table: pa.Table, kind: int, params: Params) -> list[Globals]:
    return [
        als_tasks.globals_of(data, params.width) for data in als_tasks.of_kind(table, kind)["equations"].to_pylist()
    ]


def _replaced(rows: pa.Table, new: pa.Table) -> pa.Table:
    stay = rows.filter(pc.invert(pc.is_in(rows["key"], value_set=pc.unique(new["key"]))))
    return pa.concat_tables([stay, _as_kind(new, als_tasks.STATE)]).combine_chunks()
