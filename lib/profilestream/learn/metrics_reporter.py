"""MetricsReporter: sends the metrics of a running stage to MLflow without delaying it."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from profilestream.base.session import with_spark_session
from profilestream.base.settings import Settings
from profilestream.learn.tracking import MlflowStore, first_line

log = logging.getLogger(__name__)


@dataclass
class MetricsReporter:
    """Sends the metrics of a stage to MLflow in a background thread; the stage never fails because of it.

    It is the `on_progress` callback of queries.Query. A failure is logged once; metrics that were not sent are sent the
    next time, at the latest by the next run of the stage.
    """

    settings: Settings
    learner: str
    params: Mapping[str, Any]
    _last_start: float = field(default_factory=time.monotonic)
    _thread: threading.Thread | None = None
    _failure: str = ""
    _has_warned: bool = False

    def __call__(self, spark: SparkSession, epoch: str, is_over: bool) -> None:
        """Start to send when the interval has passed; at the end of the stage send and wait up to the timeout."""
        config = self.settings.learn.tracking
        if not config.enabled:
            return
        deadline = time.monotonic() + config.timeout_seconds
        if is_over:
            self._wait_until(deadline)
        if not self._is_busy() and (is_over or time.monotonic() - self._last_start > config.interval_seconds):
            self._last_start = time.monotonic()
            self._thread = threading.Thread(
                target=with_spark_session(spark, self._send), args=(spark, epoch), daemon=True
            )
            self._thread.start()
        if is_over:
            self._wait_until(deadline)
            if self._is_busy():
                self._failure = f"no answer within {config.timeout_seconds:g} s"
        self._warn()

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _wait_until(self, deadline: float) -> None:
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _send(self, spark: SparkSession, epoch: str) -> None:
        # Any error: the learner's tables are complete, and the metrics are sent later.
        try:
            MlflowStore(self.settings).log_missing_metrics(spark, self.learner, epoch, self.params)
            self._failure, self._has_warned = "", False
        except Exception as error:
            self._failure = f"{type(error).__name__}: {first_line(error)}"

    def _warn(self) -> None:
        failure, self._failure = self._failure, ""
        if failure and not self._has_warned:
            self._has_warned = True
            log.warning("metrics of %s could not be sent to MLflow, and will be sent later: %s", self.learner, failure)
