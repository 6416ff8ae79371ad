"""Folds a sorted stream of rows to one row per key, in bounded memory; and reads rows.

A row is an event or a stored row. A group is folded in blocks of `block_rows` of its own rows, each together with the
states of the block before. So the result depends on the order of a group's rows, and not on the borders of batches or
partitions. Memory: about `block_rows` rows, one batch, and the states of one group that are not cut yet.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilestream.derive.kernels.half_life import decay_factors
from profilestream.derive.kernels.kernel import (
    NO_TIME,
    ORDER,
    TIMESTAMP,
    Array,
    Events,
    Ints,
    Kernel,
    StoredStates,
    concatenated,
    group_numbers,
    micros,
    offsets_of,
    positions,
    struct_array,
)

BLOCK_ROWS = 100_000
# The windows that a row belongs to, as bits of a number.
WINDOWS = "_windows"


@dataclass(frozen=True)
class StatisticFold:
    """One statistic of a table.

    Args:
        state: column of the state, in rows that are stored and in the result.
        value, weight: columns of the events.
        half_life_days: null without decay.
        result: column of the value in the result of `GroupFold.fold`; empty: no such column.
        stored: column of the state in rows that are stored; empty: `state`.
        window: only rows with this bit in the column WINDOWS count; null: all rows count.
    """

    kernel: Kernel
    state: str
    value: str
    weight: str
    half_life_days: float | None
    result: str = ""
    stored: str = ""
    window: int | None = None


@dataclass(frozen=True)
class GroupFold:
    """Rows, sorted by keys and time -> keys, `as_of`, the states, and values as of `as_of`.

    A row has the keys, never null, and `event_time`, which is null only in stored rows of null states. Events have
    `source`, `event_id`, values and weights. Stored rows have states, `event_time` is their `as_of`, and `is_stored` is
    true. The columns of a kind of rows may be missing when there are none; without the column `is_stored`, all rows are
    events if there is the column `event_id`. If a statistic has a window, rows have the column WINDOWS.

    Args:
        keys: names of the key columns.
    """

    keys: tuple[str, ...]
    statistics: tuple[StatisticFold, ...]
    block_rows: int = BLOCK_ROWS

    def fold(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One row per key, in the order of the rows.

        Args:
            batches: all rows of a key are adjacent; within a key, sorted by (event_time, source, event_id).
        """
        waiting: list[pa.RecordBatch] = []
        carry: pa.RecordBatch | None = None  # the states of full blocks of the first waiting group
        for batch in batches:
            waiting.append(batch)
            if sum(len(b) for b in waiting) < self.block_rows:
                continue
            rows = concatenated(waiting)
            groups = group_numbers(rows, self.keys)
            start = int(np.searchsorted(groups, groups[-1]))  # the last group may continue in the next batch
            if start > 0:
                yield self._finished(self._fold_blocks(rows.slice(0, start), carry))
                carry = None
            last = rows.slice(start)
            full = (len(last) - 1) // self.block_rows * self.block_rows  # at least one row waits, and shows the keys
            if full:
                carry = self._fold_blocks(last.slice(0, full), carry)
            waiting = [last.slice(full)]
        if waiting and sum(map(len, waiting)):
            yield self._finished(self._fold_blocks(concatenated(waiting), carry))

    def read(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows with keys, `as_of`, `at` and states -> the values of the states, in the same columns, at `at`.

        Without `at` or `as_of`, a value is as of `as_of`.
        """
        for batch in batches:
            start, end = micros(batch["as_of"]), micros(batch["at"])
            end = np.where((start == NO_TIME) | (end == NO_TIME), start, end)
            columns = {name: batch[name] for name in (*self.keys, "as_of", "at")}
            with np.errstate(invalid="ignore", over="ignore"):
                factors = {
                    days: decay_factors(start, end, days) for days in {s.half_life_days for s in self.statistics}
                }
                for one in self.statistics:
                    columns[one.state] = one.kernel.read(batch[one.state], factors[one.half_life_days])
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _finished(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of complete groups: their states cut to size, and their values."""
        columns = {name: rows[name] for name in (*self.keys, "as_of")}
        columns |= {one.state: one.kernel.trim(rows[one.state]) for one in self.statistics}
        no_decay = np.ones(len(rows))
        columns |= {one.result: one.kernel.read(columns[one.state], no_decay) for one in self.statistics if one.result}
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _fold_blocks(self, rows: pa.RecordBatch, carry: pa.RecordBatch | None) -> pa.RecordBatch:
        """One row per group; the carry has the states of earlier blocks of the first group."""
        groups = group_numbers(rows, self.keys)
        blocks = positions(groups) // self.block_rows
        order: list[Ints] = []
        finished: list[pa.RecordBatch] = []
        for block in range(int(blocks.max()) + 1):
            in_block = blocks == block
            present, numbers = np.unique(groups[in_block], return_inverse=True)
            result = self._fold_block(rows.filter(pa.array(in_block)), numbers, carry)
            continues = np.isin(present, groups[blocks == block + 1])
            order.append(present[~continues])
            finished.append(result.filter(pa.array(~continues)))
            carry = result.filter(pa.array(continues))
        by_group = np.argsort(np.concatenate(order), kind="stable")
        return concatenated(finished).take(pa.array(by_group, pa.int64()))

    def _fold_block(self, rows: pa.RecordBatch, groups: Ints, carry: pa.RecordBatch | None) -> pa.RecordBatch:
        """One row per group; the carry has the states of the first groups."""
        count = int(groups[-1]) + 1
        names = set(rows.schema.names)
        is_stored = _flags(rows, "is_stored") if "is_stored" in names else np.full(len(rows), "event_id" not in names)
        times, newest = micros(rows["event_time"]), np.full(count, NO_TIME)
        np.maximum.at(newest, groups, times)
        carried: list[_StoredRows] = []
        if carry is not None and len(carry):
            newest[: len(carry)] = np.maximum(newest[: len(carry)], micros(carry["as_of"]))
            carried = [_StoredRows(carry, np.arange(len(carry)), micros(carry["as_of"]))]
        has_stored, has_events = bool(is_stored.any()), not is_stored.all()

        def rows_of(window: int | None) -> tuple[_StoredRows, _BlockEvents]:
            counts = np.ones(len(rows), bool) if window is None else _has_bit(rows, window)
            stored, events = is_stored & counts, ~is_stored & counts
            return (
                _StoredRows(rows.filter(pa.array(stored)), groups[stored], times[stored]),
                _BlockEvents.of(rows.filter(pa.array(events)), groups[events], times[events], newest),
            )

        by_window = {window: rows_of(window) for window in {one.window for one in self.statistics}}

        def state(statistic: StatisticFold) -> Array:
            stored, events = by_window[statistic.window]
            parts = [one.entries(statistic, statistic.state, newest) for one in carried]
            if has_stored:
                parts.append(stored.entries(statistic, statistic.stored or statistic.state, newest))
            if has_events:
                parts.append(statistic.kernel.lift(events.select(statistic)))
            return statistic.kernel.fold(pa.concat_tables(parts), count)

        keys = rows.select(list(self.keys)).take(offsets_of(groups, count)[:-1])
        with np.errstate(invalid="ignore", over="ignore"):  # infinite and NaN values are legal
            states = {statistic.state: state(statistic) for statistic in self.statistics}
        as_of = pa.array(newest, mask=newest == NO_TIME).cast(TIMESTAMP)
        columns = {name: keys[name] for name in self.keys} | {"as_of": as_of} | states
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


@dataclass(frozen=True)
class _StoredRows:
    """Stored rows of a block, with the number of the group and the time of each."""

    rows: pa.RecordBatch
    groups: Ints
    times: Ints

    def entries(self, statistic: StatisticFold, column: str, newest: Ints) -> pa.Table:
        """The entries of the states in a column."""
        factors = decay_factors(self.times, newest[self.groups], statistic.half_life_days)
        return statistic.kernel.unpack(StoredStates(self.rows[column], factors, self.groups))


@dataclass(frozen=True)
class _BlockEvents:
    """The events of a block, with the weights of each half-life computed once."""

    rows: pa.RecordBatch
    groups: Ints
    times: Ints
    newest: Ints
    order: Array
    weights: dict[tuple[str, float | None], Array]

    @classmethod
    def of(cls, rows: pa.RecordBatch, groups: Ints, times: Ints, newest: Ints) -> "_BlockEvents":
        parts = [rows["event_time"].cast(TIMESTAMP), rows["source"], rows["event_id"]] if len(rows) else []
        order = struct_array(ORDER, *parts) if parts else pa.array([], ORDER)
        return cls(rows, groups, times, newest, order, {})

    def select(self, statistic: StatisticFold) -> Events:
        """The events of a statistic."""
        key = (statistic.weight, statistic.half_life_days)
        if key not in self.weights:
            weights = self.rows[statistic.weight]
            if statistic.half_life_days is not None:
                factors = decay_factors(self.times, self.newest[self.groups], statistic.half_life_days)
                weights = pc.multiply(weights, pa.array(factors))
            self.weights[key] = weights
        return Events(self.rows[statistic.value], self.weights[key], self.order, self.groups)


def _has_bit(rows: pa.RecordBatch, window: int) -> Any:
    return rows[WINDOWS].to_numpy(zero_copy_only=False) & (1 << window) != 0


def _flags(rows: pa.RecordBatch, name: str) -> Any:
    return rows[name].fill_null(False).to_numpy(zero_copy_only=False)
