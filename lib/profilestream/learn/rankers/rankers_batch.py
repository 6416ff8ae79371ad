"""One batch of `learn_rankers`: users, then the items of their baskets. Rows are frames or Arrow tables."""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Generic

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Phase
from profilestream.learn.rankers.kernels.basket_evaluation import BasketSums
from profilestream.learn.rankers.kernels.basket_rows import DELETED, EVENT, ITEM, USER, RankerParams
from profilestream.learn.rankers.kernels.blend import BlendState
from profilestream.learn.rankers.kernels.count_rankers import (
    RESULTS,
    copy_items,
    remove_from_items,
    update_items,
    update_users,
)

COPY_ITEMS = Pass(copy_items, inputs={"stored": ITEM}, outputs={"items": ITEM}, packed=("items",))
UPDATE_USERS = Pass(
    update_users,
    inputs={"events": EVENT, "stored": USER, "items": ITEM},
    keys={"events": "user_id", "stored": "key"},
    outputs={"users": USER, "contributions": ITEM},
    results=RESULTS,
)
UPDATE_ITEMS = Pass(
    update_items,
    inputs={"contributions": ITEM, "stored": ITEM},
    keys={"contributions": "key", "stored": "key"},
    outputs={"items": ITEM},
)
REMOVE_FROM_ITEMS = Pass(
    remove_from_items,
    inputs={"contributions": ITEM, "stored": ITEM},
    keys={"contributions": "key", "stored": "key"},
    outputs={"items": ITEM.append(DELETED)},
)


@dataclass(frozen=True)
class LearnedRankers(Generic[Rows]):
    """The result of a batch.

    Args:
        users, items: rows that the events change, with USER and ITEM.
        blend: the state of the blend after the batch; the same object as before if no basket was evaluated.
        sums: the evaluation by the state before the batch; null without a state.
    """

    users: Rows
    items: Rows
    blend: BlendState
    sums: BasketSums | None


def learn(
    users: Rows, items: Rows, events: Rows, blend: BlendState, params: RankerParams, phase: Phase
) -> LearnedRankers[Rows]:
    """Score and learn a batch.

    Args:
        users, items: the stored rows of the users of the events, and all items.
        events: rows with EVENT.
        blend: the stored state.
    """
    copies, _ = run_pass(COPY_ITEMS, {"stored": items})
    with phase("users"):
        inputs = {"events": events, "stored": users, "items": copies["items"]}
        changed, results = run_pass(UPDATE_USERS, inputs, params=params, blend=blend)
    contributions = changed["contributions"]
    with phase("items"):
        stored, _ = runner.split_by_keys(items, "key", contributions, "key")
        changed_items, _ = run_pass(UPDATE_ITEMS, {"contributions": contributions, "stored": stored}, params=params)
    evaluation, *sums = (results[name] for name in RESULTS)
    evaluated = reduce(add, evaluation) if evaluation else None
    return LearnedRankers(changed["users"], changed_items["items"], blend.learn(*sums), evaluated)


def remove(users: Rows, items: Rows, events: Rows, params: RankerParams) -> tuple[Rows, Rows]:
    """Rows that change when users are removed, with USER and ITEM and a column IS_DELETED.

    Args:
        users, items: their stored rows, and all items.
        events: all events of the users, with EVENT.
    """
    known, _ = runner.split_by_keys(events, "user_id", users, "key")
    counted, _ = run_pass(UPDATE_USERS, {"events": known}, params=params, blend=BlendState.empty())
    contributions = counted["contributions"]
    stored, _ = runner.split_by_keys(items, "key", contributions, "key")
    remaining, _ = run_pass(REMOVE_FROM_ITEMS, {"contributions": contributions, "stored": stored}, params=params)
    return runner.with_constant(users, IS_DELETED, True), remaining["items"]
