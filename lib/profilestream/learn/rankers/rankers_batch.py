"""One batch of `learn_rankers`: users, then the items of their baskets. Rows are frames or Arrow tables."""

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.kernels.arrays import IS_DELETED
from profilestream.learn.learner_spec import Phase
from profilestream.learn.rankers.kernels.count_rankers import (
    DELETED,
    EVENT,
    ITEM,
    USER,
    BasketSums,
    RankerParams,
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
    results=("evaluation",),
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


def learn(
    users: Rows, items: Rows, events: Rows, params: RankerParams, phase: Phase
) -> tuple[Rows, Rows, list[BasketSums]]:
    """Rows that the events change, with USER and ITEM, and parts of the evaluation by the state before them.

    Args:
        users, items: the stored rows of the users of the events, and all items.
        events: rows with EVENT.
    """
    copies, _ = run_pass(COPY_ITEMS, {"stored": items})
    with phase("users"):
        inputs = {"events": events, "stored": users, "items": copies["items"]}
        changed, results = run_pass(UPDATE_USERS, inputs, params=params)
    contributions = changed["contributions"]
    with phase("items"):
        stored, _ = runner.split_by_keys(items, "key", contributions, "key")
        changed_items, _ = run_pass(UPDATE_ITEMS, {"contributions": contributions, "stored": stored}, params=params)
    return changed["users"], changed_items["items"], results["evaluation"]


def remove(users: Rows, items: Rows, events: Rows, params: RankerParams) -> tuple[Rows, Rows]:
    """Rows that change when users are removed, with USER and ITEM and a column IS_DELETED.

    Args:
        users, items: their stored rows, and all items.
        events: all events of the users, with EVENT.
    """
    known, _ = runner.split_by_keys(events, "user_id", users, "key")
    counted, _ = run_pass(UPDATE_USERS, {"events": known}, params=params)
    contributions = counted["contributions"]
    stored, _ = runner.split_by_keys(items, "key", contributions, "key")
    remaining, _ = run_pass(REMOVE_FROM_ITEMS, {"contributions": contributions, "stored": stored}, params=params)
    return runner.with_constant(users, IS_DELETED, True), remaining["items"]
