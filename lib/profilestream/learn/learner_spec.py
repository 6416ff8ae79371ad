"""LearnerSpec: what is particular to a learner. stage.py runs every spec, and learners.py lists them.

A learner has a state in one or more tables. It updates the state with the rows of each batch: the change feed of a
derived table, or events. Rows are frames that Spark processes, or Arrow tables in the process of the driver
(base/runner.py); a spec computes with the functions of runner.py and with passes, which accept both.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.queries import QueryInput
from profilestream.base.runner import Rows
from profilestream.base.settings import Effect, LearnerSettings, Settings, fingerprint
from profilestream.learn.metrics import Evaluation, Metric
from profilestream.learn.publication import Publication

Phase = Callable[[str], AbstractContextManager[Any]]


class StateTables(Protocol[Rows]):
    """The stored rows of a learner's tables before a batch."""

    def rows(
        self, table: Table, columns: Sequence[str], keys: Rows | None = None, **values: str | Sequence[int]
    ) -> Rows:
        """Rows of an updated table.

        Args:
            keys: only rows with these keys: the key columns of the table, except those in `values`; can repeat.
            values: by column: the value, or several values, of the rows that are returned.
        """
        ...

    def last_batch(self, table: Table) -> pa.Table:
        """The rows that the last batch appended to a table; no rows before the first batch."""
        ...


@dataclass(frozen=True)
class LearnerBatch(Generic[Rows]):
    """Rows to learn, and the state before them.

    Args:
        rows: from `LearnerSpec.select`.
        count: their number.
        stored: the state.
        history: returns all rows of the input before the batch; null if they are no complete version of its table.
        phase: measures a block under a name, for `stage_batches`.
    """

    rows: Rows
    count: int
    stored: StateTables[Rows]
    history: Callable[[], Rows] | None = None
    phase: Phase = nullcontext


@dataclass(frozen=True)
class Learned:
    """The result of a batch.

    Args:
        rows: by name of the table, a frame or an Arrow table with its columns except `epoch` and `batch_id`. Rows of an
            updated table replace those with the same key, or delete them: they can have a column arrays.IS_DELETED.
        evaluation: of the batch, with the state before it.
        is_rebuilt: whether the rows are the complete state, and not only rows that the batch changed.
    """

    rows: Mapping[str, Any]
    evaluation: Evaluation = field(default_factory=Evaluation)
    is_rebuilt: bool = False


class LearnerSpec(ABC):
    """A learner with its settings.

    Class attributes:
        name: in `model_metrics`, in `--learner`, in MLflow and in the settings (`learn.<name>`).
        metrics: of its evaluation.
        state_tables: in the order of their commits; the last one marks a batch as complete.
        history: the table with all rows of the input, if the learner has full passes.
        other_tables: that later steps compute from its state.
        limits: known limits of its models, one sentence each, for the model card.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    state_tables: ClassVar[tuple[Table, ...]]
    history: ClassVar[Table | None] = None
    other_tables: ClassVar[tuple[Table, ...]] = ()
    limits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def has_input(self) -> bool:
        """Whether the settings declare its input; without, its tables cannot exist."""
        return True

    @classmethod
    def stage_name(cls) -> str:
        """The name of its stage and of its job."""
        return f"learn_{cls.name}"

    @property
    def config(self) -> LearnerSettings:
        """Its section of the settings."""
        config: LearnerSettings = getattr(self.settings.learn, self.name)
        return config

    @property
    def other_inputs(self) -> dict[str, Any]:
        """Other settings that all rows of the state depend on, such as weights of event types."""
        return {}

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The state tables, with the fingerprint of the settings that all their rows must share."""
        declaration = fingerprint(self._text(self.config.with_effect(Effect.STATE)))
        return tuple(replace(table, declaration=declaration) for table in self.state_tables)

    @property
    def updated_tables(self) -> tuple[Table, ...]:
        """The state tables whose rows are updated by key."""
        return tuple(table for table in self.tables if table.is_updated)

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """State tables, tables that later steps compute, and published rows."""
        published = self.publication
        return (*self.tables, *self.other_tables, *([published.published_table] if published else []))

    @property
    def settings_text(self) -> str:
        """All settings that change what is learned, as JSON."""
        return self._text(self.config.parameters)

    def _text(self, parameters: Mapping[str, Any]) -> str:
        return json.dumps({self.name: parameters, **self.other_inputs}, sort_keys=True)

    @staticmethod
    def state_rows(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
        """Plain values as rows of a state table, without `epoch` and `batch_id`."""
        return table.arrow_rows(rows).drop_columns(["epoch", "batch_id"])

    def metric(self, name: str) -> Metric:
        """The declaration of one of its metrics."""
        return next(metric for metric in self.metrics if metric.name == name)

    @abstractmethod
    def check(self, spark: SparkSession) -> None:
        """Check the settings of the learner; writes nothing.

        Raises:
            BadSettings: a setting or expression is invalid.
        """

    @abstractmethod
    def reads(self) -> QueryInput:
        """The input of the stage."""

    @abstractmethod
    def select(self, frame: DataFrame) -> DataFrame:
        """The rows to learn, from rows of the input."""

    @abstractmethod
    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        """Score a batch with the state before it, and then learn it. A batch without rows changes nothing."""

    def needs_history(self, stored: StateTables[Rows]) -> bool:
        """Whether the next batch calls `LearnerBatch.history`, if there is one."""
        return False

    def learn_again(self, batch: LearnerBatch[Rows]) -> Learned | None:
        """Full passes on request: the rows of the batch are all rows that were learned, and already in the state.

        Null if the state does not change.
        """
        raise NotImplementedError(f"{self.name} has no full passes")

    @abstractmethod
    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """The state without some users, as if their rows had never been learned; without an evaluation.

        Args:
            stored: the state.
            keys: the users: a column `user_id` with unique values; those that the state does not have are ignored.
            events: all learned rows of these users, from `select`.
        """

    def last_rows(self, spark: SparkSession, table: Table, epoch: str, before: int) -> pa.Table:
        """The rows that the last batch of an epoch before a batch appended to a table; none if it appended none."""
        paths, txn = self.settings.paths, Txn(self.stage_name(), epoch, before)
        # Spark makes no commit for an append without rows, but such a batch has changed another state table.
        batches = [commits.last_batch(spark, each, paths, txn.app_id(each)) for each in self.tables]
        last = max((one for one in batches if one is not None), default=None)
        rows = table.read(spark, paths).where(F.col("epoch") == epoch)
        if last is not None and last >= before:
            last = rows.where(F.col("batch_id") < before).agg(F.max("batch_id")).collect()[0][0]
        return table.arrow_schema.empty_table() if last is None else rows.where(F.col("batch_id") == last).toArrow()

    @property
    def publication(self) -> Publication | None:
        """How its state is published as a registered model; null: it is not."""
        return None


# Makes a spec from the settings: a class.
Learner = Callable[[Settings], LearnerSpec]
