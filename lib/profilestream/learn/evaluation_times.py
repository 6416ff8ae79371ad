"""Which rows of a batch may be scored: those that are newer than the state, so that no score uses the future.

Runs on executors, so it imports numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def is_late(event_times: NDArray[np.int64], state_as_of: int) -> NDArray[np.bool_]:
    """True for rows whose event time is not after the newest event time of the state (both in microseconds).

    The state may have learned later events of the same user, so such a row is learned but not scored.
    """
    return event_times <= state_as_of


@dataclass(frozen=True)
class EvaluationTimes:
    """Event times of the scored rows of a batch (or of a partition), and how many rows were late. Merged by `+`.

    Args:
        rows_from, rows_to: oldest and newest event time of the scored rows, microseconds since 1970; null without any.
        late_rows: rows that were not scored because they are late.
    """

    rows_from: int | None = None
    rows_to: int | None = None
    late_rows: int = 0

    @classmethod
    def of(cls, scored: NDArray[np.int64], late_rows: int) -> "EvaluationTimes":
        """From the event times of the scored rows."""
        if not len(scored):
            return cls(late_rows=late_rows)
        return cls(int(scored.min()), int(scored.max()), late_rows)

    def __add__(self, other: "EvaluationTimes") -> "EvaluationTimes":
        return EvaluationTimes(
            min((time for time in (self.rows_from, other.rows_from) if time is not None), default=None),
            max((time for time in (self.rows_to, other.rows_to) if time is not None), default=None),
            self.late_rows + other.late_rows,
        )

    def as_bytes(self) -> bytes:
        """The numbers as int64: `late_rows`, and `rows_from` and `rows_to` when rows were scored."""
        bounds = [time for time in (self.rows_from, self.rows_to) if time is not None]
        return np.array([self.late_rows, *bounds], np.int64).tobytes()

    @classmethod
    def of_bytes(cls, data: bytes) -> "EvaluationTimes":
        """The reverse of `as_bytes`."""
        late_rows, *bounds = np.frombuffer(data, np.int64).tolist()
        rows_from, rows_to = bounds or (None, None)
        return cls(rows_from, rows_to, late_rows)
