"""The sources, segments and periods that the filter of the report offers."""

from collections.abc import Sequence
from dataclasses import dataclass

# Lengths of the periods in complete weeks.
PERIOD_WEEKS = (4, 13, 52)
MAX_SOURCES, MAX_SEGMENTS = 5, 8


@dataclass(frozen=True)
class Offered:
    """The sources and the ids of the segments that the filter offers; none if there is at most one to choose from.

    Args:
        users: number of users with a segment.
    """

    sources: tuple[str, ...] = ()
    segments: tuple[int, ...] = ()
    users: int = 0


def offer(sources: Sequence[tuple[str, int]], segments: Sequence[tuple[int, int]]) -> Offered:
    """The largest sources and segments.

    Args:
        sources: with their number of rows.
        segments: ids with their number of users.
    """
    by_size = sorted(sources, key=lambda one: (-one[1], one[0]))[:MAX_SOURCES] if len(sources) > 1 else []
    largest = sorted(segments, key=lambda one: (-one[1], one[0]))[:MAX_SEGMENTS] if len(segments) > 1 else []
    users = sum(count for _, count in segments)
    return Offered(tuple(name for name, _ in by_size), tuple(segment for segment, _ in largest), users)
