"""One batch of `learn_factors`, and full passes over all events: first users, then the items that these users touched.

Events and states are frames that Spark processes, or Arrow tables in memory, for notebooks, benchmarks and tests
(base/runner.py). Rows of frames stay on the executors; only the global sums (two Gram matrices and a few numbers) and
the metrics are collected.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol

import numpy as np
import pyarrow as pa

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.factors.kernels import als, als_rows, als_tasks, item_index, removal
from profilestream.learn.factors.kernels.als import AlsParams, GlobalSums
from profilestream.learn.factors.kernels.item_index import ItemIndex
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.ranking_metrics import RankingSums, sum_by_ranker
from profilestream.learn.kernels.sums import total
from profilestream.learn.learner_spec import Phase

log = logging.getLogger(__name__)
PACK_ITEMS = Pass(
    als_tasks.pack_items,
    inputs={"stored": als_rows.SCORED_ITEM},
    outputs={"items": item_index.SCHEMA},
    packed=("items",),
)
UPDATE_USERS = Pass(
    als_tasks.update_users,
    inputs={"events": als_rows.EVENT, "stored": als_rows.USER, "items": item_index.SCHEMA},
    keys={"events": "user_id", "stored": "key"},
    outputs={"users": als_rows.USER, "contributions": als_rows.CONTRIBUTION},
    results=("change", "rankings", "times"),
)
UPDATE_ITEMS = Pass(
    als_tasks.update_items,
    inputs={"contributions": als_rows.CONTRIBUTION, "stored": als_rows.ITEM},
    keys={"contributions": "item_id", "stored": "key"},
    outputs={"items": als_rows.ITEM},
    results=("change",),
)
REMOVE_USERS = Pass(
    removal.remove_users,
    inputs={"events": als_rows.EVENT, "stored": als_rows.USER},
    keys={"events": "user_id", "stored": "key"},
    outputs={"users": removal.REMOVED_USER, "contributions": als_rows.CONTRIBUTION},
    results=("change",),
)
REMOVE_FROM_ITEMS = Pass(
    removal.remove_from_items,
    inputs={"contributions": als_rows.CONTRIBUTION, "stored": als_rows.ITEM},
    keys={"contributions": "item_id", "stored": "key"},
    outputs={"items": removal.REMAINING_ITEM},
    results=("change",),
)


class StoredFactors(Protocol[Rows]):
    """What a batch reads of the state before it."""

    def users_of(self, events: Rows) -> Rows:
        """Rows with als_rows.USER of the users of events."""
        ...

    def items_of(self, contributions: Rows) -> Rows:
        """Rows with als_rows.ITEM of the items of contributions."""
        ...

    def scored_items(self) -> Rows:
        """All items, with als_rows.SCORED_ITEM."""
        ...


@dataclass(frozen=True)
class FactorsState(Generic[Rows]):
    """The complete state of the learner, or the changed part of it.

    Args:
        users, items: rows with als_rows.USER and als_rows.ITEM.
    """

    users: Rows
    items: Rows
    global_sums: GlobalSums

    def users_of(self, events: Rows) -> Rows:
        """As StoredFactors.users_of."""
        return runner.split_by_keys(self.users, "key", events, "user_id")[0]

    def items_of(self, contributions: Rows) -> Rows:
        """As StoredFactors.items_of."""
        return runner.split_by_keys(self.items, "key", contributions, "item_id")[0]

    def scored_items(self) -> Rows:
        """As StoredFactors.scored_items."""
        return self.items

    def updated(self, change: "FactorsState[Rows]") -> "FactorsState[Rows]":
        """The state with the rows and sums of a change."""
        users, items = (
            runner.with_updates(rows, changed, "key")
            for rows, changed in ((self.users, change.users), (self.items, change.items))
        )
        return replace(self, users=users, items=items, global_sums=change.global_sums)


@dataclass(frozen=True)
class RankerSums:
    """Ranking sums of each ranker by the state before a batch, and the times of the evaluated events; null: none."""

    by_ranker: dict[str, RankingSums] = field(default_factory=dict)
    times: EvaluationTimes | None = None


def empty_state(params: AlsParams) -> FactorsState[pa.Table]:
    """The state in memory before the first event."""
    return FactorsState(als_rows.USER.empty_table(), als_rows.ITEM.empty_table(), GlobalSums.zero(params.width))


def learn(
    stored: StoredFactors[Rows], global_sums: GlobalSums, events: Rows, params: AlsParams, count: int | None = None,
    phase: Phase = nullcontext,
) -> tuple[FactorsState[Rows], RankerSums]:  # fmt: skip
    """The changed part of the state, and the evaluation of the events with the state before them.

    Args:
        events: rows with als_rows.EVENT.
        count: their number, or more; null: it is computed.
        phase: called with the names of the passes, for a block.
    """
    before = _with_mean_rating(global_sums, events, params)
    share = _eval_share(events, count, params) if before.as_of else 0.0
    return _update(stored, before, events, params, eval_share=share, phase=phase)


def fit_full_passes(
    stored: StoredFactors[Rows], global_sums: GlobalSums, events: Rows, passes: int, params: AlsParams
) -> FactorsState[Rows] | None:
    """The complete state after `passes` full passes: each solves all users and then all items from all events.

    A full pass also uses events that were truncated from the users' history, and solves users again with the item
    vectors of later batches. The result is discarded with a warning, and null, if the vectors shrink to less than half
    of their size. That happens when the decayed sums become small in comparison with the regularization, which does not
    decay.

    Args:
        global_sums: before.
        events: all events, with als_rows.EVENT.
        passes: at least 1.
    """
    before, sums, model = stored, _with_mean_rating(global_sums, events, params), None
    for remaining in reversed(range(passes)):
        # Vectors do not depend on neighbors, so only the last pass computes neighbors.
        pass_params = replace(params, max_neighbors=0) if remaining else params
        model, _ = _update(before, sums, events, pass_params, is_full=True)
        before, sums = model, model.global_sums
    assert model is not None
    if sums.has_shrunk_from(global_sums):
        size, size_before = (float(np.trace(one.item_gram)) for one in (sums, global_sums))
        log.warning("full pass discarded: it shrank the item vectors from %.3g to %.3g", size_before, size)
        return None
    return model


def remove(state: FactorsState[Rows], events: Rows, params: AlsParams) -> FactorsState[Rows]:
    """The changed part of a state without its users; its rows have a column IS_DELETED.

    Weights, popularity, counts and the global sums of users are those of a state that never had the users. Vectors of
    other users are not changed, and terms of the users that were added with an older vector remain in part.

    Args:
        state: the rows of the users to remove, and all items.
        events: all events of the users, with als_rows.EVENT.
    """
    removed, results = run_pass(
        REMOVE_USERS, {"events": events, "stored": state.users}, global_sums=state.global_sums, params=params
    )
    without_users = sum(results["change"], state.global_sums)
    inputs: dict[str, Rows] = {"contributions": removed["contributions"], "stored": state.items}
    items, results = run_pass(
        REMOVE_FROM_ITEMS, inputs, before=state.global_sums, global_sums=without_users, params=params
    )
    return FactorsState(removed["users"], items["items"], sum(results["change"], without_users))


def packed_items(
    stored: StoredFactors[Rows], global_sums: GlobalSums, params: AlsParams, *, skip_damaged: bool = False
) -> Rows:
    """All items as an input of passes, decayed to the time of the state."""
    arguments = {"global_sums": global_sums, "params": params, "skip_damaged": skip_damaged}
    outputs, _ = run_pass(PACK_ITEMS, {"stored": stored.scored_items()}, **arguments)
    return outputs["items"]


def index_of(state: FactorsState[pa.Table], params: AlsParams) -> ItemIndex:
    """All items, for scores in memory."""
    return ItemIndex.from_rows(packed_items(state, state.global_sums, params), params)


def predictions(state: FactorsState[pa.Table], events: pa.Table, params: AlsParams) -> Floats:
    """The prediction for the user and item of each event (als.predictions), (events,); zero vectors if unknown."""
    p = als_rows.vectors_of(als_rows.strings(events, "user_id"), state.users, params)
    q = als_rows.vectors_of(als_rows.strings(events, "item_id"), state.items, params)
    return als.predictions(p, q, state.global_sums, params)


def _update(
    stored: StoredFactors[Rows],
    before: GlobalSums,
    events: Rows,
    params: AlsParams,
    *,
    is_full: bool = False,
    eval_share: float = 0.0,
    phase: Phase = nullcontext,
) -> tuple[FactorsState[Rows], RankerSums]:
    """The rows of the users of these events and of their items, the global sums, and the evaluation.

    Args:
        is_full: solve from these events only, as a full pass does: ignore stored users and damaged items.
        eval_share: share of the users whose ranking is evaluated.
    """
    inputs: dict[str, Rows] = {
        "events": events,
        "items": packed_items(stored, before, params, skip_damaged=is_full),
    }
    if not is_full:
        inputs["stored"] = stored.users_of(events)
    with phase("users"):
        users, results = run_pass(UPDATE_USERS, inputs, global_sums=before, params=params, eval_share=eval_share)
    by_ranker = sum_by_ranker(pair for part in results["rankings"] for pair in part.items())
    times = sum(results["times"], EvaluationTimes()) if results["times"] else None
    start = replace(GlobalSums.zero(params.width), mean_rating=before.mean_rating) if is_full else before
    after_users = total([start] + results["change"], params.half_life_days)
    if is_full:
        # Items are solved with the item count of the previous pass, then counted again.
        after_users = replace(after_users, item_count=before.item_count)
    inputs = {"contributions": users["contributions"]}
    if not is_full:
        inputs["stored"] = stored.items_of(users["contributions"])
    with phase("items"):
        items, results = run_pass(UPDATE_ITEMS, inputs, global_sums=after_users, params=params)
    after = sum(results["change"], after_users)
    if is_full:
        count = after.item_count - before.item_count
        after = replace(after, item_count=count, full_pass_events=after.event_count)
    return FactorsState(users["users"], items["items"], after), RankerSums(by_ranker, times)


def _with_mean_rating(global_sums: GlobalSums, events: Rows, params: AlsParams) -> GlobalSums:
    """Explicit: with the mean rating of the first batch."""
    if not params.is_explicit or global_sums.mean_rating is not None:
        return global_sums
    return replace(global_sums, mean_rating=runner.mean(events, "rating"))


def _eval_share(events: Rows, count: int | None, params: AlsParams) -> float:
    """Share of the users of a batch whose ranking is evaluated. The users of a batch with few rows are not counted."""
    if params.eval_users and (count is None or count > params.eval_users):
        count = runner.distinct_count(events, "user_id")
    return params.eval_share(count or 0)
