"""The kernels of sessions equal plain Python, for any batches and any blocks of rows."""

import random
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from profilestream.base.settings import Sessions
from profilestream.derive import session_spans
from profilestream.derive.kernels import session_kernels
from profilestream.derive.kernels.session_kernels import DELETE_FLAG, USER_KEY

from tests import naive
from tests.naive import Click

MINUTE = 60_000_000
NOON = 1_767_312_000_000_000
SETTINGS = Sessions(max_hours=1.0, max_categories=2)
TIMESTAMP: Any = pa.timestamp("us", "UTC")
TEXT: Any = pa.string()
SPANS = pa.schema([
    ("user_id", TEXT), ("session_id", TEXT), ("span_start", TIMESTAMP), ("span_end", TIMESTAMP),
])  # fmt: skip
OLD = SPANS.append(pa.field("session_start", TIMESTAMP))
EVENTS = pa.schema([
    *((name, TEXT) for name in (*USER_KEY, "source", "event_id", "event_type", "item_id", "category", "device")),
    ("event_time", TIMESTAMP), ("value", pa.float64()), ("category_state", TEXT),
])  # fmt: skip


def _log(dice: random.Random) -> list[Click]:
    return [
        Click(
            user=dice.choice("abc"),
            at=NOON + dice.randint(-30, 30) * 10 * MINUTE,
            source=dice.choice(["shop", "app"]),
            event_id=f"e{n}",
            event_type=dice.choice(["view", "view", "cart", "purchase"]),
            session_id=dice.choice(["", "", "s1", "s2"]),
            category=dice.choice([None, "tea", "tea.green", "cups", "lamps.floor", "(start)"]),
            item=dice.choice([None, "i1", "i2", "i3"]),
            value=dice.choice([None, 0.5, 2.0]),
            device=dice.choice([None, "phone", "desk"]),
        )
        for n in range(dice.randint(0, 60))
    ]


def _events(log: list[Click]) -> pa.Table:
    rows = [
        {
            "user_id": e.user, "session_id": e.session_id, "event_time": e.at, "source": e.source, "item_id": e.item,
            "event_id": e.event_id, "event_type": e.event_type, "category": e.category, "device": e.device,
            "value": e.value, "category_state": None if e.category is None else e.category.split(".")[0],
        }
        for e in log
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, EVENTS)


def _spans(log: list[Click]) -> pa.Table:
    rows = [{"user_id": e.user, "session_id": e.session_id, "span_start": e.at, "span_end": e.at} for e in log]
    return pa.Table.from_pylist(rows, SPANS)


class MemorySessions:
    """Stored sessions by key, updated batch by batch."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, str], dict[str, Any]] = {}

    def update(self, batch: list[Click], events: list[Click]) -> None:
        """Write the changes that a batch makes; `events` are all stored events."""
        old = pa.Table.from_pylist([{name: row[name] for name in OLD.names} for row in self.rows.values()], OLD)
        spans = session_spans.touched_spans(_spans(batch), old, SETTINGS)
        changes = session_spans.session_changes(spans, old, _events(events), SETTINGS)
        times = [name for name in changes.column_names if pa.types.is_timestamp(changes[name].type)]
        for name in times:
            position = changes.column_names.index(name)
            changes = changes.set_column(position, name, changes[name].cast(pa.int64()))
        for row in changes.to_pylist():
            key = row["user_id"], row["session_start"], row["session_id"]
            if row[DELETE_FLAG]:
                del self.rows[key]
            else:
                self.rows[key] = row

    def content(self) -> dict[tuple[str, int, str], Any]:
        """In the form of tests/naive.py."""
        return {
            key: {
                "end": row["session_end"], "events": row["events"], "types": dict(row["types"]), "value": row["value"],
                "items": row["items"], "entry": row["entry_category"], "exit": row["exit_category"],
                "device": row["device"], "is_bounce": row["is_bounce"], "is_converted": row["is_converted"],
                "span": (row["span_start"], row["span_end"]),
                "path": {tuple(one.values())[:3]: one["count"] for one in row["transitions"]},
            }
            for key, row in self.rows.items()
        }  # fmt: skip


@pytest.mark.parametrize("block_rows", [1, 7, 100_000])
def test_sessions_of_any_batches_equal_plain_python(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(session_kernels, "_BLOCK_ROWS", block_rows)
    for seed in range(40):
        dice = random.Random(seed)
        stored, log, processed = MemorySessions(), _log(dice), 0
        while processed < len(log):
            count = dice.randint(1, 20)
            batch, processed = log[processed : processed + count], processed + count
            stored.update(batch, log[:processed])
            expected = naive.sessions(log[:processed], 30 * MINUTE, 60 * MINUTE, True, 2)
            assert stored.content() == expected, seed


def test_a_newer_event_counts_only_inside_of_a_span_of_earlier_ones() -> None:
    first, inside, after = (Click("a", NOON + n * MINUTE, "shop", f"e{n}", session_id="") for n in (0, 5, 20))
    last = replace(first, at=NOON + 10 * MINUTE, event_id="e10")
    stored = MemorySessions()
    stored.update([first, last], [first, inside, last, after])
    assert [(row["events"], row["end"] - NOON) for row in stored.content().values()] == [(3, 10 * MINUTE)]


def test_joined_sessions_are_deleted() -> None:
    first, between, last = (Click("a", NOON + n * MINUTE, "shop", f"e{n}", session_id="") for n in (0, 20, 35))
    stored = MemorySessions()
    stored.update([first, last], [first, last])
    assert [row["events"] for row in stored.rows.values()] == [1, 1]
    stored.update([between], [first, between, last])
    assert [row["events"] for row in stored.rows.values()] == [3]
