"""What MLflow is told: how good a learner is, a run a stage and epoch, and which versions of it were published.

The only importer of mlflow, beside model_code.py, which MLflow itself runs. It is imported when it is first needed, for
that takes 0.6 s.
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
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, tables
from profilestream.base.errors import BadSettings, ProfilestreamError
from profilestream.base.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.entities.model_registry import ModelVersion

_EPOCH, _LEARNER, _LAST = "profilestream.epoch", "profilestream.learner", "profilestream.last_batch"
METRICS = ("users", "recall_10", "recall_20", "ndcg_10", "mrr_20", "coverage", "novelty", "rmse")
_AT_ONCE = 900  # MLflow takes 1,000 metrics a call
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A registered version: its number, the aliases that name it, and what was noted of it."""

    number: int
    aliases: tuple[str, ...]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Store:
    """MLflow as the settings name it."""

    settings: Settings

    @property
    def uri(self) -> str:
        """Of the tracking server or database, which is the registry too."""
        return self.settings.learn.tracking.uri or f"sqlite:///{_folder(self.settings)}/mlflow.db"

    @cached_property
    def _client(self) -> "MlflowClient":
        _prepare()
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    @cached_property
    def _experiment(self) -> str:
        made = self.settings.learn.tracking
        found = self._client.get_experiment_by_name(made.experiment)
        if found is not None:
            return str(found.experiment_id)
        folder = os.path.dirname(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else ""
        artifacts = made.artifacts or (folder and f"{folder}/mlflow_artifacts")
        location = files.qualified(artifacts) if artifacts else None
        return str(self._client.create_experiment(made.experiment, artifact_location=location))

    def runs(self, learner: str) -> dict[str, "Run"]:
        """The run of every epoch of a learner; the first one, should two processes have made one at once."""
        found: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs(
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

        made = self._client.create_run(
            self._experiment, tags={_LEARNER: learner, _EPOCH: epoch}, run_name=f"{learner} {epoch[:8]}"
        )
        told = [Param(name, str(value)) for name, value in params.items()]
        self._client.log_batch(made.info.run_id, params=told)
        return made

    def catch_up(self, spark: SparkSession, learner: str, epoch: str, params: Mapping[str, Any]) -> int:
        """Tell MLflow the rows of `model_quality` that it does not have, as metrics `<candidate>/<column>`.

        Step is the batch id, time the event time. The tag that names a run's last batch is written after its metrics;
        the same metrics once more are dropped by MLflow, since step, time and value are the same.

        Args:
            epoch, params: of today; older epochs have a run too, without parameters.

        Returns:
            The number of batches told.
        """
        runs = self.runs(learner)
        rows = tables.MODEL_QUALITY.read(spark, self.settings.paths).where(F.col("learner") == learner)
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
        self._client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag(_LAST, str(batches[-1][1]))])

    def versions(self) -> list[Version]:
        """All registered versions, newest first."""
        name = self.settings.learn.publish.name
        models = self._client.search_registered_models(f"name = '{name}'")
        aliases = models[0].aliases if models else {}
        found: list[ModelVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{name}'", page_token=token)
            found += page
            token = page.token
            if not token:
                break
        numbers = {int(one.version): dict(one.tags) for one in found}
        return [
            Version(number, tuple(sorted(a for a, v in aliases.items() if int(v) == number)), notes)
            for number, notes in sorted(numbers.items(), reverse=True)
        ]

    def register(self, run: "Run", folder: str, notes: Mapping[str, str]) -> int:
        """A new version, with the number that MLflow gives it; its files are still to come (`put_files`)."""
        name = self.settings.learn.publish.name
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/{folder}"
        return int(self._client.create_model_version(name, source, run.info.run_id, tags=dict(notes)).version)

    def put_files(self, run: "Run", folder: str, config: Mapping[str, Any]) -> None:
        """The model that MLflow loads: model_code.py with its configuration, signature and an example."""
        import pandas as pd
        from mlflow import pyfunc

        needed = [f"{name}=={metadata.version(name)}" for name in ("profilestream", "numpy", "pyarrow", "deltalake")]
        with TemporaryDirectory() as aside:
            pyfunc.save_model(
                f"{aside}/model",
                python_model=os.path.join(os.path.dirname(__file__), "model_code.py"),
                model_config=dict(config),
                signature=_signature(int(config["most"])),
                input_example=pd.DataFrame({"user_id": ["shop:1"]}),
                pip_requirements=needed,
            )
            self._client.log_artifacts(run.info.run_id, f"{aside}/model", folder)

    def note(self, version: int, notes: Mapping[str, str]) -> None:
        """Note something more of a version."""
        for key, value in notes.items():
            self._client.set_model_version_tag(self.settings.learn.publish.name, str(version), key, value)

    def name(self, alias: str, version: int | None) -> None:
        """Let an alias name a version, or none."""
        name = self.settings.learn.publish.name
        if version is None:
            self._client.delete_registered_model_alias(name, alias)
        else:
            self._client.set_registered_model_alias(name, alias, str(version))


def _signature(most: int) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        Schema([ColSpec(DataType.string, "user_id")]),
        Schema([ColSpec(Array(DataType.string), "item_ids"), ColSpec(Array(DataType.double), "scores")]),
        ParamSchema([ParamSpec("most", DataType.long, most)]),
    )


# Epoch, batch id, metrics.
_Batch = tuple[str, int, "list[Metric]"]


def _by_batch(rows: DataFrame) -> Iterator[_Batch]:
    """Batches in order; one sorted partition, which comes to the driver bit by bit."""
    from mlflow.entities import Metric

    ordered = rows.coalesce(1).sortWithinPartitions("epoch", "batch_id", "candidate").toLocalIterator()
    for (epoch, batch_id), group in itertools.groupby(ordered, lambda row: (row["epoch"], row["batch_id"])):
        metrics = [
            Metric(f"{row['candidate']}/{name}", float(row[name]), int(row["as_of"].timestamp() * 1000), batch_id)
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
class Teller:
    """Tells MLflow of a stage on a thread of its own (stream.Query.told). A failure is one line; the stage goes on.

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
            self._work = threading.Thread(target=self._tell, args=(spark, epoch), daemon=True)
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
