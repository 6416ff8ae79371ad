"""The path of a session: how often each state follows another, by event type and by category.

A path starts in START and ends in END, so bounces and exits are transitions too. Every state between them is entered as
often as it is left.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.kernel import Array, Ints, list_array, offsets_of, ranks, struct_array

START, END, OTHER = "(start)", "(end)", "(other)"
TYPE, CATEGORY = "type", "category"
TRANSITION = ("level", "from_state", "to_state")
_TRANSITIONS = pa.struct([*((name, pa.string()) for name in TRANSITION), ("count", pa.int64())])


def transitions(sessions: Ints, types: Array, categories: Array, count: int, max_categories: int) -> Array:
    """The distinct transitions of each session with their counts: a list of structs, in ascending order.

    Args:
        sessions: number of the session of each event, ascending; the events of a session are in order.
        types, categories: the states of each event; events with a null category are not part of the category path.
        count: number of sessions.
        max_categories: the first categories of a session that are states of their own; later ones become OTHER.
    """
    has_category = categories.is_valid()
    of_category = sessions[has_category.to_numpy(zero_copy_only=False)]
    limited = _limited(of_category, categories.filter(has_category), max_categories)
    parts = [_counted(CATEGORY, of_category, limited), _counted(TYPE, sessions, types)]
    all_sessions = np.concatenate([numbers for numbers, _ in parts])
    by_session = np.argsort(all_sessions, kind="stable")
    structs = pa.concat_arrays([structs for _, structs in parts]).take(pa.array(by_session))
    return list_array(offsets_of(all_sessions[by_session], count), structs)


def _limited(sessions: Ints, states: Array, max_states: int) -> Array:
    """The states; after the first distinct ones of a session, each other one is OTHER."""
    codes = states.dictionary_encode().indices.to_numpy()
    order = np.lexsort((codes, sessions))  # stable, so the first event of each state is first
    is_first, numbers = _runs(sessions[order], codes[order])
    first = order[is_first]  # the first event of each session and state
    in_order = np.sort(first)
    place = np.empty(len(states), np.int64)
    place[in_order] = np.arange(len(in_order)) - np.searchsorted(sessions[in_order], sessions[in_order])
    places = np.empty(len(states), np.int64)
    places[order] = place[first][numbers]
    return pc.if_else(pa.array(places < max_states), states, OTHER)


def _counted(level: str, sessions: Ints, states: Array) -> tuple[Ints, Array]:
    """The distinct transitions of paths as structs, by session and in ascending order, with the number of the session.

    Args:
        sessions: ascending; those without a state have no path.
    """
    rank, distinct = ranks(pa.concat_arrays([pa.array([START, END], pa.string()), states.cast(pa.string())]))
    start, end, steps = rank[0], rank[1], rank[2:]
    ends = np.flatnonzero(np.diff(sessions, append=-1)) + 1  # after the last event of each session
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
    sources, targets = np.insert(steps, starts, start), np.insert(steps, ends, end)
    numbers = np.insert(sessions, ends, sessions[starts])
    order = np.lexsort((targets, sources, numbers))
    numbers, sources, targets = numbers[order], sources[order], targets[order]
    is_first, _ = _runs(numbers, sources, targets)
    counts = np.diff(np.flatnonzero(is_first), append=len(numbers))

    def text(codes: Any) -> Array:
        return distinct.take(pa.array(codes[is_first]))

    levels = pa.repeat(pa.scalar(level, pa.string()), len(counts))
    return numbers[is_first], struct_array(_TRANSITIONS, levels, text(sources), text(targets), pa.array(counts))


def _runs(*columns: Any) -> tuple[Any, Ints]:
    """Whether each row differs from the one before, and the number of its run of equal rows."""
    is_first = np.ones(len(columns[0]), bool)
    is_first[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return is_first, np.cumsum(is_first) - 1
