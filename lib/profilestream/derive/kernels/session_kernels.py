"""Kernels of sessions: the spans that a batch touches, and the sessions in them (derive/session_spans.py).

All rows of a user and session id are in one call. Sessions with an id of the source are not split.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels import session_paths
from profilestream.derive.kernels.kernel import (
    TIMESTAMP,
    Array,
    Ints,
    complete_groups,
    floats,
    group_numbers,
    map_array,
    micros,
    offsets_of,
    ranks,
    sum_by_group,
)

USER_KEY = ("user_id", "session_id")
DELETE_FLAG = "_is_deleted"
SPAN, SESSION, EVENT = 0, 1, 2  # values of the column `kind`
_BLOCK_ROWS = 100_000


@dataclass(frozen=True)
class SessionKernel:
    """The rule of sessions.

    Args:
        gap: a longer pause between two events of a user ends a session; microseconds.
        max_length: an event at or after this limit starts the next session; microseconds.
        max_categories: number of categories per session that are separate states.
    """

    gap: int
    max_length: int
    max_categories: int

    def touched_spans(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The spans that contain new events, after these created, extended and joined spans.

        Args:
            batches: `user_id`, `session_id`, `span_start`, `span_end`, and `is_new`: the row is an event of the batch
                and not a stored span. Sorted by user, session id and start.
        """
        for rows in complete_groups(batches, USER_KEY, _BLOCK_ROWS):
            keys, starts, ends = group_numbers(rows, USER_KEY), micros(rows["span_start"]), micros(rows["span_end"])
            is_first = np.diff(keys, prepend=-1) != 0
            pauses = starts[1:] - _running_maximum(keys, ends)[:-1]
            is_first[1:] |= (pauses > self.gap) & _is_split(rows)[1:]
            first, number = np.flatnonzero(is_first), np.cumsum(is_first) - 1
            last_ends = np.maximum.reduceat(ends, first)
            is_touched = np.bincount(number, _flags(rows["is_new"])) > 0
            first = first[is_touched]
            spans = rows.select([*USER_KEY, "span_start"]).take(_rows(first))
            yield pa.RecordBatch.from_arrays(
                [*spans.columns, _times(last_ends[is_touched])], names=[*spans.schema.names, "span_end"]
            )

    def sessions(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """All columns of `sessions` except those of the batch, and DELETE_FLAG.

        One row per session of the spans; and the keys of stored sessions in the spans that do not exist anymore.

        Args:
            batches: `user_id`, `session_id`, `event_time`, and `kind`: SPAN with its start and `span_end`, SESSION with
                the start of a stored session, or EVENT with the columns of `session_spans.event_columns`. Sorted by
                user, session id, time, source and event id. Sessions and events outside of the spans are ignored.
        """
        for rows in complete_groups(batches, USER_KEY, _BLOCK_ROWS):
            yield self._sessions_of(rows)

    def _sessions_of(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        keys, times, kinds = group_numbers(rows, USER_KEY), micros(rows["event_time"]), rows["kind"].to_numpy()
        is_span = kinds == SPAN
        spans = _Spans(keys[is_span], times[is_span], micros(rows["span_end"].filter(pa.array(is_span))))
        span_of = spans.containing(keys, times, kinds)
        is_event, is_old = (kinds == EVENT) & (span_of >= 0), (kinds == SESSION) & (span_of >= 0)
        events, span_of_event = rows.filter(pa.array(is_event)), span_of[is_event]
        starts = self._session_starts(spans, span_of_event, times[is_event], _is_split(rows)[is_span])
        is_first = (np.diff(span_of_event, prepend=-1) != 0) | (np.diff(starts, prepend=starts[:1]) != 0)
        first = np.flatnonzero(is_first)
        summary = self._summary(events, np.cumsum(is_first) - 1, first)
        columns = {name: events[name].take(_rows(first)) for name in USER_KEY} | {
            "session_start": _times(starts[first]),
            **summary,
            "span_start": _times(spans.starts[span_of_event[first]]),
            "span_end": _times(spans.ends[span_of_event[first]]),
            DELETE_FLAG: pa.repeat(False, len(first)),
        }
        sessions = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        is_deleted = ~_is_in((keys[is_old], times[is_old]), (keys[is_event][first], starts[first]))
        deleted = rows.filter(pa.array(is_old)).filter(pa.array(is_deleted))
        stored = {name: deleted[name] for name in USER_KEY} | {
            "session_start": deleted["event_time"].cast(TIMESTAMP),
            DELETE_FLAG: pa.repeat(True, len(deleted)),
        }
        nulls = {one.name: pa.nulls(len(deleted), one.type) for one in sessions.schema}
        arrays = list((nulls | stored).values())
        removed = pa.RecordBatch.from_arrays(arrays, names=sessions.schema.names)
        return pa.Table.from_batches([sessions, removed]).combine_chunks().to_batches()[0] if len(removed) else sessions

    def _session_starts(self, spans: "_Spans", span_of: Ints, times: Ints, is_split: Any) -> Ints:
        """The start of the session of each event.

        The start of the second session of a long span depends on the first one, so its sessions are found in order.
        """
        starts = spans.starts[span_of]
        for number in np.flatnonzero(is_split & (spans.ends - spans.starts >= self.max_length)):
            position, end = (int(np.searchsorted(span_of, number, side)) for side in ("left", "right"))
            start = spans.starts[number]
            while (position := position + int(np.searchsorted(times[position:end], start + self.max_length))) < end:
                start = times[position]
                starts[position:end] = start
        return starts

    def _summary(self, events: pa.RecordBatch, sessions: Ints, first: Ints) -> dict[str, Array]:
        """The columns of `sessions` that the events of a session determine.

        Args:
            events: sorted by session and time.
            sessions: number of the session of each event.
            first: the first event of each session.
        """
        count = len(first)
        counts = np.diff(first, append=len(events))
        is_purchase = pc.equal(events["event_type"], pa.scalar("purchase")).to_numpy(zero_copy_only=False)
        values = floats(events["value"])
        is_paid = is_purchase & _flags(events["value"].is_valid())
        categories = np.flatnonzero(_flags(events["category"].is_valid()))
        devices = np.flatnonzero(_flags(events["device"].is_valid()))
        return {
            "session_end": events["event_time"].take(_rows(first + counts - 1)).cast(TIMESTAMP),
            "events": pa.array(counts),
            "types": _counts_by_value(events["event_type"], sessions, count),
            "value": pa.array(sum_by_group(sessions[is_paid], values[is_paid], count)),
            "items": pa.array(_distinct_counts(events["item_id"], sessions, count)),
            "entry_category": _values_at(events["category"], sessions, categories[::-1], count),
            "exit_category": _values_at(events["category"], sessions, categories, count),
            "device": _values_at(events["device"], sessions, devices[::-1], count),
            "is_bounce": pa.array(counts == 1),
            "is_converted": pa.array(np.bincount(sessions[is_purchase], minlength=count) > 0),
            "transitions": session_paths.transitions(
                sessions, events["event_type"], events["category_state"], count, self.max_categories
            ),
        }


@dataclass(frozen=True)
class _Spans:
    """Spans, sorted by key and start; those of a key do not overlap.

    Args:
        keys: number of user and session id.
        starts, ends: microseconds, both inclusive.
    """

    keys: Ints
    starts: Ints
    ends: Ints

    def containing(self, keys: Ints, times: Ints, kinds: Ints) -> Ints:
        """The number of the span that contains each row, or -1; the rows include those of the spans."""
        order = np.lexsort((kinds, times, keys))
        last = np.empty(len(keys), np.int64)
        last[order] = np.cumsum(kinds[order] == SPAN) - 1  # the last span that starts at the row or before it
        if not len(self.keys):
            return last
        is_inside = (last >= 0) & (self.keys[last] == keys) & (times <= self.ends[last])
        return np.where(is_inside, last, -1)


def _is_split(rows: pa.RecordBatch) -> Any:
    """Whether the gap separates the sessions of each row's key."""
    return pc.equal(rows["session_id"], pa.scalar("")).to_numpy(zero_copy_only=False)


def _running_maximum(groups: Ints, values: Ints) -> Ints:
    """The largest value of the group up to each row."""
    distinct, rank = np.unique(values, return_inverse=True)
    offsets = groups * len(distinct)
    return distinct[np.maximum.accumulate(offsets + rank) - offsets]


def _is_in(pairs: tuple[Ints, Ints], others: tuple[Ints, Ints]) -> Any:
    """Whether each pair is among the others."""
    distinct = set(zip(*(column.tolist() for column in others), strict=True))
    return np.array([pair in distinct for pair in zip(*(column.tolist() for column in pairs), strict=True)], bool)


def _counts_by_value(values: Array, groups: Ints, count: int) -> Array:
    """A map from value to number of rows for each group, in ascending order of the values."""
    codes, distinct = ranks(values)
    pairs, counts = np.unique(np.stack([groups, codes]), axis=1, return_counts=True)
    return map_array(offsets_of(pairs[0], count), distinct.take(pa.array(pairs[1])), pa.array(counts))


def _distinct_counts(values: Array, groups: Ints, count: int) -> Ints:
    """The number of distinct values of each group; nulls do not count."""
    codes, _ = ranks(values)
    pairs = np.unique(np.stack([groups, codes])[:, codes >= 0], axis=1)
    return np.bincount(pairs[0], minlength=count)


def _values_at(values: Array, groups: Ints, rows: Ints, count: int) -> Array:
    """The value of each group at the last one of its rows; null without a row."""
    row = np.full(count, -1)
    row[groups[rows]] = rows
    return values.take(_rows(row, row < 0))


def _flags(column: Array) -> Any:
    return column.to_numpy(zero_copy_only=False)


def _rows(positions: Ints, mask: Any = None) -> Array:
    return pa.array(positions, mask=mask)


def _times(values: Ints) -> Array:
    return pa.array(values).cast(TIMESTAMP)
