"""Seeded events of a shop as JSON lines of benchmarks/shop.toml, and the lines of a stored log, for one second each."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

PROBE_USER = "probe"
_TYPES = np.array(["view", "view", "view", "view", "click", "click", "cart", "purchase"])
# Mean of the events of a session, and seconds between two of them.
_SESSION_EVENTS, _SESSION_PAUSE = 5, 10
_ZIPF_EXPONENT = 1.05
_MAX_DELAY_SECONDS = 86_400
_BAD_LINES = (
    '{"event_id":"broken',
    '{"event_id":"no-time","event_type":"view"}',
    '{"event_id":"x","event_type":"wink"}',
)


class Lines(Protocol):
    """The lines that arrive, second by second."""

    def next_second(self, at: float, count: int) -> list[str]:
        """The next lines.

        Args:
            at: the time, in seconds since 1970.
            count: number of lines; the last ones of a log may be fewer.
        """


@dataclass(frozen=True)
class Shares:
    """Shares of lines.

    Args:
        late: events that are up to a day older than their arrival.
        duplicate: repetitions of a clean line of the same or the previous second.
        bad: lines that capture rejects.
    """

    late: float = 0.01
    duplicate: float = 0.01
    bad: float = 0.005


class ShopEvents:
    """Events of users in sessions, with Zipf-distributed items. The same seed, times and counts give the same lines.

    The first line of each second is the event of a new user, `probe<number of the second>`; it is clean and on time.

    Args:
        users, items: numbers of them; each session has a user drawn from all users.
    """

    def __init__(self, seed: int, *, users: int = 80_000, items: int = 20_000, shares: Shares = Shares()) -> None:
        self._random, self._users, self._shares = np.random.default_rng(seed), users, shares
        weights = np.arange(1, items + 1, dtype=float) ** -_ZIPF_EXPONENT
        self._items = np.cumsum(weights) / weights.sum()
        self._second = self._sessions = 0
        self._open = np.empty((0, 2), dtype=np.int64)  # session and user
        self._clean: list[str] = []

    def next_second(self, at: float, count: int) -> list[str]:
        second, draw = self._second, self._random
        self._second += 1
        open_sessions = self._sessions_of(count)
        types = _TYPES[draw.integers(len(_TYPES), size=count)]
        items = np.searchsorted(self._items, draw.random(count))
        times = np.full(count, _time_text(at), dtype=object)
        kinds = draw.random(count)
        kinds[:1] = 1.0
        bounds = np.cumsum([self._shares.bad, self._shares.duplicate, self._shares.late])
        for late in np.flatnonzero((kinds >= bounds[1]) & (kinds < bounds[2])):
            times[late] = _time_text(at - draw.random() * _MAX_DELAY_SECONDS)
        users = [f"u{user}" for user in open_sessions[:, 1]]
        users[:1] = [f"{PROBE_USER}{second}"][:count]
        columns = zip(types, times, users, items.tolist(), open_sessions[:, 0].tolist(), strict=True)
        lines = [
            f'{{"event_id":"{second}-{number}","event_type":"{kind}","event_time":"{time}","user_id":"{user}",'
            f'"item_id":"i{item}","category":"c{item % 300}","brand":"brand{item % 900}",'
            f'"price":{1 + item % 10_000 / 100},"quantity":1,"session_id":"s{session}","channel":"web"}}'
            for number, (kind, time, user, item, session) in enumerate(columns)
        ]
        clean = [line for line, kind in zip(lines, kinds, strict=True) if kind >= bounds[1]]
        earlier = self._clean or clean
        for number in np.flatnonzero(kinds < bounds[1]):
            is_bad = kinds[number] < bounds[0]
            choices = _BAD_LINES if is_bad else earlier
            lines[number] = choices[draw.integers(len(choices))]
        self._clean = clean
        return lines

    def _sessions_of(self, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """The session and the user of each event. A share of the sessions ends with their event."""
        size = max(count * _SESSION_PAUSE, 1)
        self._open = np.concatenate([self._open[:size], self._new_sessions(size - len(self._open))])
        chosen = self._random.integers(size, size=count)
        rows = self._open[chosen]
        ended = np.unique(chosen[self._random.random(count) < 1 / _SESSION_EVENTS])
        self._open[ended] = self._new_sessions(len(ended))
        return rows

    def _new_sessions(self, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        count = max(count, 0)
        first, self._sessions = self._sessions, self._sessions + count
        users = self._random.integers(self._users, size=count)
        return np.column_stack([np.arange(first, first + count), users])


def _time_text(seconds: float) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class LogLines:
    """The lines of a stored log, from its start, until it ends.

    Args:
        log: JSON lines, which are not changed; or Parquet or CSV, whose rows become JSON objects.
    """

    def __init__(self, log: Path) -> None:
        self._lines = _json_lines(log)

    def next_second(self, at: float, count: int) -> list[str]:
        return list(islice(self._lines, count))


def _json_lines(log: Path) -> Iterator[str]:
    if log.suffix == ".parquet":
        for rows in pq.ParquetFile(log).iter_batches(10_000):
            yield from (json.dumps(row, default=str) for row in rows.to_pylist())
    else:
        with log.open(encoding="utf-8", newline="") as file:
            if log.suffix == ".csv":
                yield from (json.dumps(row) for row in csv.DictReader(file))
            else:
                yield from (line for line in map(str.rstrip, file) if line)
