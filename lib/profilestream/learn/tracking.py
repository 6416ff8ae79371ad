"""MLflow tracking: one run per learner and epoch, whose metrics are the rows of `model_metrics`.

In this package only this module, model_registry and the models that MLflow loads import mlflow. The import takes 0.6 s,
so it is delayed until MLflow is used.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, tables
from profilestream.base.errors import BadSettings, ProfilestreamError
from profilestream.base.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_EPOCH_TAG, _LEARNER_TAG = "profilestream.epoch", "profilestream.learner"
_LAST_BATCH_TAG = "profilestream.last_batch"
_METRICS_PER_CALL = 900  # MLflow accepts at most 1,000
_SQLITE = "sqlite:///"


class _BatchMetrics(NamedTuple):
    epoch: str
    batch_id: int
    metrics: "list[Metric]"


@dataclass(frozen=True)
class MlflowStore:
    """The MLflow tracking server or database of the settings; it is the model registry too."""

    settings: Settings

    @property
    def uri(self) -> str:
        """The tracking URI; by default a SQLite file in the parent folder of the warehouse."""
        if self.settings.learn.tracking.uri:
            return self.settings.learn.tracking.uri
        # The reserved characters of a URI only: MLflow creates an empty folder with the encoded name.
        folder = _parent_of_warehouse(self.settings).replace("%", "%25").replace("?", "%3F")
        return f"{_SQLITE}{folder}/mlflow.db"

    def exists(self) -> bool:
        """False when opening the store would create a SQLite file. Does not connect to a server."""
        if not self.settings.learn.tracking.uri and files.local_path(self.settings.paths.warehouse) is None:
            return False
        return not self.uri.startswith(_SQLITE) or os.path.exists(self._sqlite_file)

    @property
    def _sqlite_file(self) -> str:
        """The file of a SQLite URI; MLflow decodes %XX in the URI."""
        return unquote(self.uri.removeprefix(_SQLITE))

    @cached_property
    def client(self) -> "MlflowClient":
        """The MLflow client of this store."""
        _configure_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    @cached_property
    def _experiment_id(self) -> str:
        config = self.settings.learn.tracking
        experiment = self.client.get_experiment_by_name(config.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        folder = os.path.dirname(self._sqlite_file) if self.uri.startswith(_SQLITE) else ""
        artifacts = config.artifact_location or (folder and f"{folder}/mlflow_artifacts")
        location = files.metadata_path(artifacts) if artifacts else None
        return str(self.client.create_experiment(config.experiment, artifact_location=location))

    def runs_by_epoch(self, learner: str) -> dict[str, "Run"]:
        """The runs of a learner by epoch; the oldest one where two processes created a run at the same time."""
        runs: dict[str, Run] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id],
                f"tags.`{_LEARNER_TAG}` = '{learner}'",
                order_by=["start_time ASC"],
                page_token=token,
            )
            for run in page:
                runs.setdefault(run.data.tags.get(_EPOCH_TAG, ""), run)
            token = page.token
            if not token:
                return runs

    def get_or_create_run(self, learner: str, epoch: str, params: Mapping[str, Any]) -> "Run":
        """The run of an epoch; a new run gets the parameters."""
        return self.runs_by_epoch(learner).get(epoch) or self._create_run(learner, epoch, params)

    def _create_run(self, learner: str, epoch: str, params: Mapping[str, Any]) -> "Run":
        from mlflow.entities import Param

        run = self.client.create_run(
            self._experiment_id, tags={_LEARNER_TAG: learner, _EPOCH_TAG: epoch}, run_name=f"{learner} {epoch[:8]}"
        )
        self.client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in params.items()])
        return run

    def log_missing_metrics(self, spark: SparkSession, learner: str, epoch: str, params: Mapping[str, Any]) -> int:
        """Send to MLflow the rows of `model_metrics` that it lacks, as metrics `<model>/<metric>`.

        The step is the batch id, the time is `state_as_of`. The tag with a run's last batch is written after the
        metrics of the batch. After a crash between the two, the metrics are sent again; MLflow drops a metric with the
        same step, time and value.

        Args:
            epoch: the current one.
            params: of the current epoch; runs of older epochs are created without parameters.

        Returns:
            The number of batches sent.
        """
        runs = self.runs_by_epoch(learner)
        rows = tables.MODEL_METRICS.read(spark, self.settings.paths).where(F.col("learner") == learner)
        for run_epoch, run in runs.items():
            last_batch = int(run.data.tags.get(_LAST_BATCH_TAG, -1))
            rows = rows.where(~((F.col("epoch") == run_epoch) & (F.col("batch_id") <= last_batch)))
        count = 0
        for run_epoch, batches in itertools.groupby(_metrics_by_batch(rows), lambda batch: batch.epoch):
            run = runs.get(run_epoch) or self._create_run(learner, run_epoch, params if run_epoch == epoch else {})
            for group in _groups_per_call(batches):
                self._log(run, group)
                count += len(group)
        return count

    def _log(self, run: "Run", batches: list[_BatchMetrics]) -> None:
        from mlflow.entities import RunTag

        metrics = [metric for batch in batches for metric in batch.metrics]
        last_batch = RunTag(_LAST_BATCH_TAG, str(batches[-1].batch_id))
        *calls, last_call = [metrics[n : n + _METRICS_PER_CALL] for n in range(0, len(metrics), _METRICS_PER_CALL)]
        for call in calls:
            self.client.log_batch(run.info.run_id, metrics=call)
        self.client.log_batch(run.info.run_id, metrics=last_call, tags=[last_batch])


def _metrics_by_batch(rows: DataFrame) -> Iterator[_BatchMetrics]:
    """Batches in order of epoch and id, streamed to the driver from one sorted partition."""
    from mlflow.entities import Metric

    timed = rows.withColumn("time", F.coalesce("state_as_of", "rows_to"))
    ordered = timed.coalesce(1).sortWithinPartitions("epoch", "batch_id", "model", "metric").toLocalIterator()
    for (epoch, batch_id), group in itertools.groupby(ordered, lambda row: (row["epoch"], row["batch_id"])):
        metrics = [
            Metric(f"{row['model']}/{row['metric']}", row["value"], int(row["time"].timestamp() * 1000), batch_id)
            for row in group
        ]
        yield _BatchMetrics(epoch, batch_id, metrics)


def _groups_per_call(batches: Iterator[_BatchMetrics]) -> Iterator[list[_BatchMetrics]]:
    """Complete batches, as many as fit into one call; a larger batch is alone."""
    group: list[_BatchMetrics] = []
    for batch in batches:
        if group and sum(len(each.metrics) for each in [*group, batch]) > _METRICS_PER_CALL:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


@contextmanager
def open_store(settings: Settings) -> Iterator[MlflowStore]:
    """The store, for a job that cannot continue without MLflow.

    Raises:
        ProfilestreamError: a request to MLflow failed inside the block.
    """
    store = MlflowStore(settings)
    where = f"learn.tracking.uri = {store.uri}"
    _configure_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield store
    except (MlflowException, SQLAlchemyError, OSError) as error:
        message = f"a request to MLflow failed: {first_line(error)}"
        raise ProfilestreamError(message, where=where, do="check that MLflow runs, then repeat the command") from error


def _configure_mlflow() -> None:
    """Environment for the first import of mlflow.

    Without it, mlflow looks up a host for its telemetry, tries a server that does not answer eight times with a timeout
    of 120 s, and logs each attempt.
    """
    for name, value in (
        ("DISABLE_TELEMETRY", "true"),
        ("HTTP_REQUEST_MAX_RETRIES", "1"),
        ("HTTP_REQUEST_TIMEOUT", "10"),
        ("LOGGING_LEVEL", "ERROR"),
    ):
        os.environ.setdefault(f"MLFLOW_{name}", value)


def first_line(error: BaseException) -> str:
    """The first line of the error's message, at most 300 characters."""
    return (str(error).splitlines() or [""])[0][:300]


def _parent_of_warehouse(settings: Settings) -> str:
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
