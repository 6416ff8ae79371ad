"""When the batches of a query may run beside those of the other queries of a continuous run."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Turns:
    """The batches of one query: they wait for a slot, and run at most a share of the time.

    Args:
        slots: shared with other queries; as many batches run at the same time. Null: no batch waits for a slot.
        max_busy_share: share of the time, above 0 and at most 1. After a batch of `s` seconds, the next one waits until
            `s / max_busy_share` seconds have passed since that batch started.
    """

    def __init__(self, slots: AbstractContextManager[object] | None = None, max_busy_share: float = 1.0) -> None:
        self._slots, self._share = slots or nullcontext(), max_busy_share
        self._next_start = 0.0

    @contextmanager
    def turn(self, stop_requested: threading.Event) -> Iterator[float]:
        """The block runs when it is its turn, without a pause if a stop is requested; yields the seconds it waited."""
        arrived = time.monotonic()
        stop_requested.wait(max(self._next_start - arrived, 0.0))
        with self._slots:
            started = time.monotonic()
            try:
                yield started - arrived
            finally:
                self._next_start = started + (time.monotonic() - started) / self._share
