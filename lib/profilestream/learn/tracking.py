"""What MLflow is told of how good a learner is, a run a stage and epoch.

Of this package only this file, registry.py and the models that MLflow itself runs import mlflow; it is imported when it
is first needed, for that takes 0.6 s.
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, tables
from profilestream.base.errors import BadSettings, ProfilestreamError
from profilestream.base.session import carried
from profilestream.base.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_EPOCH, _LEARNER, _LAST = "profilestream.epoch", "profilestream.learner", "profilestream.last_batch"
METRICS = ("users", "recall_10", "recall_20", "ndcg_10", "mrr_20", "coverage", "novelty", "rmse", "cost")
_AT_ONCE = 900  # MLflow takes 1,000 metrics a call
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """MLflow as the settings name it."""

    settings: Settings

    @property
    def uri(self) -> str:
        """Of the tracking server or database, which is the registry too."""
        return self.settings.learn.tracking.uri or f"sqlite:///{_folder(self.settings)}/mlflow.db"

    def is_there(self) -> bool:
        """Whether there is anything to ask: a SQLite file that is not there would be made. Asks no server."""
        made = self.settings.learn.tracking
        if not made.uri and files.local_path(self.settings.paths.warehouse) is None:
            return False
        is_file = self.uri.startswith("sqlite:///")
        return os.path.exists(self.uri.removeprefix("sqlite:///")) if is_file else True

    @cached_property
    def client(self) -> "MlflowClient":
        """That of MLflow, which talks to it."""
        _prepare()
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    @cached_property
    def _experiment(self) -> str:
        made = self.settings.learn.tracking
        found = self.client.get_experiment_by_name(made.experiment)
        if found is not None:
            return str(found.experiment_id)
        folder = os.path.dirname(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else ""
        artifacts = made.artifacts or (folder and f"{folder}/mlflow_artifacts")
        location = files.qualified(artifacts) if artifacts else None
        return str(self.client.create_experiment(made.experiment, artifact_location=location))

    def runs(self, learner: str) -> dict[str, "Run"]:
        """The run of every epoch of a learner; the first one, should two processes have made one at once."""
        found: dict[str, Run] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment], f"tags.`{_LEARNER}` = '{learner}'", order_by=["start_time ASC"], page_token=token
            )
            for run in page:
                found.setdefault(run.data.tags.get(_EPOCH, ""), run)
            token = page.token
            if not token:
                return found

    def run(self, learner: str, epoch: str, params: Mapping[str, Any]) -> "Run":
        """The run of an epoch; made when there is none."""
        return self.runs(learner).get(epoch) or self._new_run(learner, epoch, params)

    def _new_run(self, learner: str, epoch: str, params: Mapping[str, Any]) -> "Run":
        from mlflow.entities import Param

        made = self.client.create_run(
            self._experiment, tags={_LEARNER: learner, _EPOCH: epoch}, run_name=f"{learner} {epoch[:8]}"
        )
        told = [Param(name, str(value)) for name, value in params.items()]
        self.client.log_batch(made.info.run_id, params=told)
        return made

    def catch_up(self, spark: SparkSession, learner: str, epoch: str, params: Mapping[str, Any]) -> int:
        """Tell MLflow the rows of `model_metrics` that it does not have, as metrics `<ranker>/<column>`.

        Step is the batch id, time the event time. The tag that names a run's last batch is written after its metrics;
        the same metrics once more are dropped by MLflow, since step, time and value are the same.

        Args:
            epoch, params: of today; older epochs have a run too, without parameters.

        Returns:
            The number of batches told.
        """
        runs = self.runs(learner)
        rows = tables.MODEL_METRICS.read(spark, self.settings.paths).where(F.col("learner") == learner)
        for known, run in runs.items():
            last = int(run.data.tags.get(_LAST, -1))
            rows = rows.where(~((F.col("epoch") == known) & (F.col("batch_id") <= last)))
        told = 0
        for found, batches in itertools.groupby(_by_batch(rows), lambda batch: batch[0]):
            run = runs.get(found) or self._new_run(learner, found, params if found == epoch else {})
            for part in _parts(batches):
                self._log(run, part)
                told += len(part)
        return told

    def _log(self, run: "Run", batches: "list[_Batch]") -> None:
        from mlflow.entities import RunTag

        metrics = [metric for _, _, metrics in batches for metric in metrics]
        self.client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag(_LAST, str(batches[-1][1]))])


# Epoch, batch id, metrics.
_Batch = tuple[str, int, "list[Metric]"]


def _by_batch(rows: DataFrame) -> Iterator[_Batch]:
    """Batches in order; one sorted partition, which comes to the driver bit by bit."""
    from mlflow.entities import Metric

    ordered = rows.coalesce(1).sortWithinPartitions("epoch", "batch_id", "ranker").toLocalIterator()
    for (epoch, batch_id), group in itertools.groupby(ordered, lambda row: (row["epoch"], row["batch_id"])):
        metrics = [
            Metric(f"{row['ranker']}/{name}", float(row[name]), int(row["as_of"].timestamp() * 1000), batch_id)
            for row in group
            for name in METRICS
            if row[name] is not None
        ]
        yield epoch, batch_id, metrics


def _parts(batches: Iterator[_Batch]) -> Iterator[list[_Batch]]:
    """Whole batches, as many as go into one call."""
    part: list[_Batch] = []
    for batch in batches:
        if sum(len(metrics) for _, _, metrics in [*part, batch]) > _AT_ONCE:
            yield part
            part = []
        part.append(batch)
    if part:
        yield part


@contextmanager
def store(settings: Settings) -> Iterator[Store]:
    """MLflow for a job that cannot do without.

    Raises:
        ProfilestreamError: it does not answer, or not as it should.
    """
    found = Store(settings)
    where = f"learn.tracking.uri = {found.uri}"
    _prepare()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield found
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = f"MLflow did not do what it was asked: {_first_line(error)}"
        raise ProfilestreamError(said, where=where, do="see that it runs and run this again") from error


@dataclass
class MetricsReporter:
    """Tells MLflow of a stage on a thread of its own (queries.Query.on_progress). A failure is one line; the stage goes on.

    What was not told is told the next time, by the next run if need be.
    """

    settings: Settings
    learner: str
    params: Mapping[str, Any]
    _began: float = field(default_factory=time.monotonic)
    _work: threading.Thread | None = None
    _failure: str = ""
    _is_warned: bool = False

    def __call__(self, spark: SparkSession, epoch: str, is_over: bool) -> None:
        """Begin to tell when it is time; at the end wait for it, so long and no longer."""
        made = self.settings.learn.tracking
        if not made.enabled:
            return
        deadline = time.monotonic() + made.timeout_seconds
        if is_over:
            self._wait_until(deadline)
        if not self._is_busy() and (is_over or time.monotonic() - self._began > made.every_seconds):
            self._began = time.monotonic()
            self._work = threading.Thread(target=carried(spark, self._tell), args=(spark, epoch), daemon=True)
            self._work.start()
        if is_over:
            self._wait_until(deadline)
            if self._is_busy():
                self._failure = f"no answer within {made.timeout_seconds:g} s"
        self._warn()

    def _is_busy(self) -> bool:
        return self._work is not None and self._work.is_alive()

    def _wait_until(self, deadline: float) -> None:
        if self._work is not None:
            self._work.join(max(0.0, deadline - time.monotonic()))

    def _tell(self, spark: SparkSession, epoch: str) -> None:
        # Whatever goes wrong here, the learner's tables are whole and MLflow is told later.
        try:
            Store(self.settings).catch_up(spark, self.learner, epoch, self.params)
            self._failure, self._is_warned = "", False
        except Exception as error:
            self._failure = f"{type(error).__name__}: {_first_line(error)}"

    def _warn(self) -> None:
        failure, self._failure = self._failure, ""
        if failure and not self._is_warned:
            self._is_warned = True
            log.warning("MLflow was not told of %s, and will be told later: %s", self.learner, failure)


def _prepare() -> None:
    """Before the first import of mlflow.

    It would look up a host for its telemetry; it would ask a server that does not answer eight times for 120 s; and it
    logs each try.
    """
    for name, value in (
        ("DISABLE_TELEMETRY", "true"),
        ("HTTP_REQUEST_MAX_RETRIES", "1"),
        ("HTTP_REQUEST_TIMEOUT", "10"),
    ):
        os.environ.setdefault(f"MLFLOW_{name}", value)
    for noisy in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _folder(settings: Settings) -> str:
    local = files.local_path(settings.paths.warehouse)
    if local is None:
        raise BadSettings(
            f"learn.tracking.uri is not set, and the warehouse is not on this machine: {settings.paths.warehouse}",
            where=settings.config_file,
            do="set learn.tracking.uri to a tracking server, or learn.tracking.enabled to false",
        )
    folder = os.path.dirname(os.path.abspath(local))
    os.makedirs(folder, exist_ok=True)
    return folder
