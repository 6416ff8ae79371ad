"""Which rows of a batch may be scored: those that are newer than the state, so that no score uses the future.

Runs on executors, so it imports numpy and sums.py only.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profilestream.learn.kernels.sums import EARLIEST, LATEST, Sums


def is_late(event_times: NDArray[np.int64], state_as_of: int) -> NDArray[np.bool_]:
    """True for rows whose event time is not after the newest event time of the state (both in microseconds).

    The state may have learned later events of the same user, so such a row is learned but not scored.
    """
    return event_times <= state_as_of


@dataclass(frozen=True)
class EvaluationTimes(Sums):
    """Event times of the scored rows of a batch (or of a partition), and how many rows were late.

    Args:
        rows_from, rows_to: oldest and newest event time of the scored rows, microseconds since 1970; null without any.
        late_rows: rows that were not scored because they are late.
    """

    rows_from: int | None = field(default=None, metadata=EARLIEST)
    rows_to: int | None = field(default=None, metadata=LATEST)
    late_rows: int = 0

    @classmethod
    def of(cls, scored: NDArray[np.int64], late_rows: int) -> "EvaluationTimes":
        """From the event times of the scored rows."""
        if not len(scored):
            return cls(late_rows=late_rows)
        return cls(int(scored.min()), int(scored.max()), late_rows)
