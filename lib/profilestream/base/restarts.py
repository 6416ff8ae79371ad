"""Which failed queries of a continuous run are started again, and when."""

import logging
import time
from dataclasses import dataclass, field

from profilestream.base.errors import Conflict, ProfilestreamError, SourceUnavailable, first_sentence
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Stream

_MAX_SECONDS = 300.0
log = logging.getLogger(__name__)


def is_transient(failure: BaseException) -> bool:
    """Whether a failure is transient: of Spark, of the environment or a source, or a conflict with another writer.

    All other errors that are a ProfilestreamError need the action that they state.
    """
    return isinstance(failure, Conflict | SourceUnavailable) or (
        isinstance(failure, Exception) and not isinstance(failure, ProfilestreamError)
    )


@dataclass
class _Failures:
    """Failures of a query in a row.

    Args:
        batches: number of batches that the query had completed at the last one.
        retry_at: when it is started again, by time.monotonic(); null after it was started.
    """

    batches: int = -1
    count: int = 0
    retry_at: float | None = None


@dataclass
class Restarts:
    """Counts the failures of each query.

    Args:
        stream: settings; null: no query is started again.
    """

    stream: Stream | None
    _failures: dict[str, _Failures] = field(default_factory=dict)

    def delay(self, runner: QueryRunner, failure: BaseException) -> float | None:
        """Seconds until a failed query is to be started, at most 0 when it is due; null: it is not started again.

        When it is due, the next call counts another failure.
        """
        if self.stream is None or not is_transient(failure):
            return None
        failures = self._failures.setdefault(runner.query.name, _Failures())
        now = time.monotonic()
        if failures.retry_at is None:
            if runner.progress.batches > failures.batches:
                failures.batches, failures.count = runner.progress.batches, 0
            failures.count += 1
            if failures.count > self.stream.restarts:
                return None
            seconds = min(self.stream.restart_seconds * 2 ** (failures.count - 1), _MAX_SECONDS)
            failures.retry_at = now + seconds
            log.warning(
                "%s failed, and starts again in %.0f s (%s of %s): %s: %s",
                runner.query.name, seconds, failures.count, self.stream.restarts, type(failure).__name__,
                first_sentence(str(failure))[:300],
            )  # fmt: skip
        delay = failures.retry_at - now
        if delay <= 0:
            failures.retry_at = None
        return delay
