"""Recall of the next item of a session: `python -m benchmarks.next_items`.

Each event that continues a session of its user (a pause of at most 30 minutes, a later time than the event before) is a
target. The user's row contains all earlier events of the user, also those of the session. The rows of the items contain
all events before the minute of the target. All types of events count, and all items with a row are ranked, also those
that the user had before.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from profilestream.base import runner
from profilestream.learn.kernels.arrays import Longs
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.kernels.basket_index import RANKERS, BasketIndex
from profilestream.learn.rankers.kernels.basket_rows import EVENT, ITEM, USER, RankerParams
from profilestream.learn.rankers.kernels.blend import BlendState
from profilestream.learn.rankers.kernels.count_rankers import update_users

from benchmarks import real_datasets
from benchmarks.real_datasets import Log

TOP, MINUTE_MICROS = 10, 60_000_000
# Lists besides those of the rankers: the latest items of the user, and the lists of two rankers in turn.
MIXES = ("latest own items", "own_counts and sequence_rules in turn")


def hits_by_list(log: Log, params: RankerParams) -> tuple[dict[str, list[bool]], list[bool]]:
    """Whether each target is in the list of ten, by list, and whether the user had it before."""
    users, items = USER.empty_table(), ITEM.empty_table()
    hits, repeats, history = defaultdict[str, list[bool]](list), list[bool](), defaultdict[int, list[int]](list)
    minutes = log.time_micros // MINUTE_MICROS
    for begin in np.unique(minutes, return_index=True)[1]:
        batch = np.flatnonzero(minutes == minutes[begin])
        index = BasketIndex(items, params)
        # One event of each user per round, so that the round before is known.
        for one_each in _rounds(log, batch):
            targets = [
                event for event in one_each if begin and _continues(log, history[log.user[event]], event, params)
            ]
            before = [one for event in targets for one in history[log.user[event]] if one >= begin]
            rows = _user_rows(log, targets, before, users, items, params)
            own = [[log.items[log.item[one]] for one in reversed(history[log.user[event]])] for event in targets]
            for event, latest, lists in zip(targets, own, _lists(index, rows, own), strict=True):
                target = log.items[log.item[event]]
                repeats.append(target in latest)
                for name, ranked in lists.items():
                    hits[name].append(target in ranked[:TOP])
            for event in one_each:
                history[log.user[event]].append(event)
        events = _events(log, batch)
        stored = users.filter(pc.is_in(users["key"], value_set=events["user_id"].combine_chunks()))
        learned = rankers_batch.learn(stored, items, events, BlendState.empty(), params, nullcontext)
        users = runner.with_updates(users, learned.users, "key")
        items = runner.with_updates(items, learned.items, "key")
    return dict(hits), repeats


def _rounds(log: Log, batch: Longs) -> list[list[int]]:
    """The first event of each user in the batch, the second ones, and so on."""
    rounds, number = defaultdict[int, list[int]](list), defaultdict[int, int](int)
    for event in batch.tolist():
        rounds[number[log.user[event]]].append(event)
        number[log.user[event]] += 1
    return list(rounds.values())


def _continues(log: Log, earlier: list[int], event: int, params: RankerParams) -> bool:
    pause = log.time_micros[event] - log.time_micros[earlier[-1]] if earlier else 0
    return bool(0 < pause <= params.basket_gap_minutes * MINUTE_MICROS)


def _user_rows(
    log: Log, targets: list[int], before: list[int], users: pa.Table, items: pa.Table, params: RankerParams
) -> pa.Table:
    """The row of the user of each target, with the events of the same minute before it."""
    keys = pa.array(log.users[log.user[targets]], pa.string())
    rows = users.filter(pc.is_in(users["key"], value_set=keys))
    if before:
        events = _events(log, np.array(before))
        changed = rows.filter(pc.is_in(rows["key"], value_set=events["user_id"].combine_chunks()))
        rows = runner.with_updates(
            rows, update_users(events, changed, items, params=params, blend=BlendState.empty())["users"], "key"
        )
    return rows.take(pc.index_in(keys, value_set=rows["key"].combine_chunks()))


def _lists(index: BasketIndex, users: pa.Table, own: list[list[str]]) -> Iterator[dict[str, list[str]]]:
    """Items of each user, best first; `own`: those of the user's events, the latest first."""
    ranked = index.rank(users, TOP)
    for row, latest in enumerate(own):
        lists = {ranker: index.ids.take(best[row]).to_pylist() for ranker, (best, _) in ranked.items()}
        scored = (
            lists[ranker][: int((ranked[ranker][1][row] > 1).sum())] for ranker in ("own_counts", "sequence_rules")
        )
        in_turn = dict.fromkeys(item for pair in zip_longest(*scored) for item in pair if item)
        yield lists | dict(zip(MIXES, (list(dict.fromkeys(latest)), list(in_turn)), strict=True))


def _events(log: Log, events: Longs) -> pa.Table:
    columns = [log.users[log.user[events]], log.time_micros[events], log.items[log.item[events]]]
    return pa.table([pa.array(column, each.type) for column, each in zip(columns, EVENT, strict=True)], schema=EVENT)


def main() -> None:
    """Print the recalls: all targets, those that the user had before, and new ones."""
    for log in (real_datasets.otto(), real_datasets.rees46()):
        hits, repeats = hits_by_list(log, RankerParams())
        is_repeat = np.array(repeats)
        parts = {"all": is_repeat | True, "repeated": is_repeat, "new": ~is_repeat}
        print(log.name, ", ".join(f"{mask.sum():,} {name}" for name, mask in parts.items()))
        for name in (*RANKERS, *MIXES):
            print(f"  {name}:", *(f"{np.array(hits[name])[mask].mean():.4f}" for mask in parts.values()))


if __name__ == "__main__":
    main()
