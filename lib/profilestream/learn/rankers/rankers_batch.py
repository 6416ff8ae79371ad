"""One batch of `learn_rankers`: users, then the items of their baskets. Rows are frames or Arrow tables."""

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.learn.learner_spec import Phase
from profilestream.learn.rankers.kernels.count_rankers import (
    EVENT,
    ITEM,
    USER,
    BasketSums,
    RankerParams,
    copy_items,
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


def learn(
    users: Rows, items: Rows, events: Rows, params: RankerParams, phase: Phase
) -> tuple[Rows, Rows, list[BasketSums]]:
    """Rows that the events change, with USER and ITEM, and parts of the evaluation by the state before them.

    Args:
        users, items: the state; users without events may be left out.
        events: rows with EVENT.
    """
    copies, _ = run_pass(COPY_ITEMS, {"stored": items})
    stored, _ = runner.split_by_keys(users, "key", events, "user_id")
    with phase("users"):
        inputs = {"events": events, "stored": stored, "items": copies["items"]}
        changed, results = run_pass(UPDATE_USERS, inputs, params=params)
    contributions = changed["contributions"]
    with phase("items"):
        stored, _ = runner.split_by_keys(items, "key", contributions, "key")
        changed_items, _ = run_pass(UPDATE_ITEMS, {"contributions": contributions, "stored": stored}, params=params)
    return changed["users"], changed_items["items"], results["evaluation"]
