"""The factorization with its state in local memory, by the steps of the stage: for notebooks, benchmarks and tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.learn import als_rows, als_tasks
from profilestream.learn.als import AlsParams, Floats, GlobalSums
from profilestream.learn.item_index import ItemIndex
from profilestream.learn.ranking_metrics import RankingSums, sum_by_ranker
from profilestream.learn.sums import total


@dataclass(frozen=True)
class AlsModel:
    """The state of the factorization: the rows of the table `factors`.

    Args:
        users, items: rows with als_rows.SCHEMA, kind STATE.
    """

    params: AlsParams
    users: pa.Table
    items: pa.Table
    global_sums: GlobalSums

    @cached_property
    def packed_items(self) -> pa.Table:
        """All items, as the users' step reads them."""
        return _run_step(lambda rows: als_tasks.pack_items(rows, self.global_sums, self.params), self.items)

    @cached_property
    def item_index(self) -> ItemIndex:
        """All items, for scoring."""
        return als_tasks.unpack_items(self.packed_items["payload"].to_pylist(), self.params)


@dataclass(frozen=True)
class LocalAls:
    """A learner (learner.py).

    Rows are events, kind NEW of als_rows.SCHEMA. A delta is the output of the users' step.
    """

    params: AlsParams = field(default_factory=AlsParams)

    def empty(self, mean_rating: float | None = None) -> AlsModel:
        """A model without users and items.

        Args:
            mean_rating: explicit: the origin of all biases; null: `learn` takes the mean of the first batch.
        """
        rows = als_rows.SCHEMA.empty_table()
        global_sums = replace(GlobalSums.zero(self.params.width), mean_rating=mean_rating)
        return AlsModel(self.params, rows, rows, global_sums)

    def zero(self) -> pa.Table:
        """A delta without rows."""
        return als_rows.SCHEMA.empty_table()

    def score(self, state: AlsModel, rows: pa.Table) -> Floats:
        """Product of the vectors of each event's user and item; explicit: the predicted rating."""
        k, no_vector = self.params.k, np.zeros((1, self.params.width))  # the last row, at position -1
        user = pc.index_in(rows["key"], value_set=state.users["key"].combine_chunks()).fill_null(-1).to_numpy()
        item = state.item_index.positions(als_rows.strings(rows, "other_key"))
        p = np.vstack([als_rows.stored_vectors(state.users, self.params), no_vector])[user]
        q = np.vstack([state.item_index.vectors, no_vector])[item]
        biases = p[:, k:].sum(axis=1) + q[:, k:].sum(axis=1) + (state.global_sums.mean_rating or 0.0)
        scores: Floats = (p[:, :k] * q[:, :k]).sum(axis=1) + biases
        return scores

    def batch_delta(self, state: AlsModel, rows: pa.Table, users: int | None = None) -> pa.Table:
        """Metrics, updated users, and contributions to items and global sums.

        Args:
            users: number of users of the batch, if the rows are a part of it.
        """
        if not rows.num_rows:
            return self.zero()
        touched = state.users.filter(pc.is_in(state.users["key"], value_set=pc.unique(rows["key"])))
        share = self.params.eval_share(len(pc.unique(rows["key"])) if users is None else users)
        return _run_step(
            lambda part: als_tasks.update_users(part, state.global_sums, self.params, eval_share=share),
            state.packed_items, touched, rows,
        )  # fmt: skip

    def merge(self, one: pa.Table, other: pa.Table) -> pa.Table:
        """The rows of both deltas."""
        return pa.concat_tables([one, other])

    def apply(self, state: AlsModel, delta: pa.Table, now: int) -> AlsModel:
        """The model with updated users, and with updated items where the delta contains contributions."""
        if not delta.num_rows:
            return state
        changed = total([state.global_sums, *_changes(delta)], self.params.half_life_days)
        changed = changed.decayed_to(now, self.params.half_life_days)
        items, changed = self._update_items(state.items, delta, changed)
        users = als_rows.rows_of_kind(delta, als_rows.UPDATED)
        return AlsModel(self.params, _replace_rows(state.users, users), _replace_rows(state.items, items), changed)

    def learn(self, state: AlsModel, rows: pa.Table) -> tuple[AlsModel, dict[str, RankingSums]]:
        """The model after the events, and the ranking sums of each ranker before them."""
        state = self._with_mean_rating(state, rows)
        delta = self.batch_delta(state, rows)
        now = int(pc.max(rows["time_micros"]).as_py() or 0) if rows.num_rows else 0
        return self.apply(state, delta, now), ranking_sums(delta)

    def fit_full_passes(self, state: AlsModel, rows: pa.Table, passes: int) -> AlsModel:
        """The model after `passes` full passes over all events, as in factors.fit_full_passes.

        The result is discarded if the vectors shrink to less than half of their size.
        """
        no_rows = als_rows.SCHEMA.empty_table()
        model = self._with_mean_rating(state, rows)
        for remaining in reversed(range(passes)):
            # Vectors do not depend on neighbors, so only the last pass computes neighbors.
            neighbors = 0 if remaining else self.params.max_neighbors
            learner = LocalAls(replace(self.params, eval_users=0, max_neighbors=neighbors))
            before = model.global_sums
            delta = learner.batch_delta(replace(model, users=no_rows), rows)
            zero = replace(GlobalSums.zero(self.params.width), mean_rating=before.mean_rating)
            changed = total([zero, *_changes(delta)], self.params.half_life_days)
            # Items are solved with the item count of the previous pass, then counted again.
            items, changed = learner._update_items(no_rows, delta, replace(changed, item_count=before.item_count))
            changed = replace(
                changed, item_count=changed.item_count - before.item_count, full_pass_events=changed.event_count
            )
            users = als_rows.rows_of_kind(delta, als_rows.UPDATED)
            model = AlsModel(self.params, _replace_rows(no_rows, users), _replace_rows(no_rows, items), changed)
        if model.global_sums.has_shrunk_from(state.global_sums):
            events = state.global_sums.event_count
            return replace(state, global_sums=replace(state.global_sums, full_pass_events=events))
        return model

    def _with_mean_rating(self, state: AlsModel, rows: pa.Table) -> AlsModel:
        if not self.params.is_explicit or state.global_sums.mean_rating is not None or not rows.num_rows:
            return state
        mean = float(pc.mean(rows["rating"]).as_py() or 0.0)
        return replace(state, global_sums=replace(state.global_sums, mean_rating=mean))

    def _update_items(self, items: pa.Table, delta: pa.Table, global_sums: GlobalSums) -> tuple[pa.Table, GlobalSums]:
        """Updated rows of the items with contributions, and the global sums after them."""
        contributions = _with_kind(als_rows.rows_of_kind(delta, als_rows.CONTRIBUTION), als_rows.NEW)
        touched = items.filter(pc.is_in(items["key"], value_set=pc.unique(contributions["key"])))
        output = _run_step(lambda part: als_tasks.update_items(part, global_sums, self.params), touched, contributions)
        return als_rows.rows_of_kind(output, als_rows.UPDATED), sum(_changes(output), global_sums)


def ranking_sums(delta: pa.Table) -> dict[str, RankingSums]:
    """The ranking sums of each ranker in a delta."""
    rows = als_rows.rows_of_kind(delta, als_rows.EVALUATION).to_pylist()
    return sum_by_ranker((row["key"], RankingSums.from_cell(row["payload"])) for row in rows)


def _run_step(step: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]], *inputs: pa.Table) -> pa.Table:
    rows = pa.concat_tables(inputs).combine_chunks()
    return pa.Table.from_batches(step(iter(rows.to_batches())), als_rows.SCHEMA)


def _with_kind(rows: pa.Table, kind: int) -> pa.Table:
    return rows.set_column(0, "kind", pa.array([kind] * rows.num_rows, pa.int32()))


def _changes(rows: pa.Table) -> list[GlobalSums]:
    return [GlobalSums.from_cell(cell) for cell in als_rows.rows_of_kind(rows, als_rows.CHANGE)["payload"].to_pylist()]


def _replace_rows(rows: pa.Table, updated: pa.Table) -> pa.Table:
    unchanged = rows.filter(pc.invert(pc.is_in(rows["key"], value_set=pc.unique(updated["key"]))))
    return pa.concat_tables([unchanged, _with_kind(updated, als_rows.STATE)]).combine_chunks()
