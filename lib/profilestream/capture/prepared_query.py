"""A query over a few rows of the driver, planned once by Spark and executed for many small batches.

To build the columns of a mapping, to plan them and to compile their code takes Spark ten times as long as to evaluate
30 rows. A plan contains its input, so here the input is a file that each execution replaces: Spark reads a file of the
format `binaryFile` with the size that it has when a task starts.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.jvm import java_class

_MAX_QUERIES = 32
_LOCK = threading.Lock()
_QUERIES: dict[tuple[Hashable, ...], tuple[dict[str, int], "PreparedQuery"]] = {}


def is_possible(spark: SparkSession) -> bool:
    """Whether the tasks of the session read the local files of the driver."""
    return str(spark.sparkContext.master).startswith("local")


def prepared(
    spark: SparkSession,
    key: tuple[Hashable, ...],
    versions: dict[str, int],
    schema: str,
    build: Callable[[DataFrame], DataFrame],
) -> "PreparedQuery":
    """The query with this key; runs of the same process share it. It is planned again for each batch if it must be.

    Args:
        key: everything that the query depends on, except the versions of tables.
        versions: of the tables that it reads; only the query over the newest ones is stored.
        schema, build: as for PreparedQuery.
    """
    key = (spark.sparkContext.applicationId, *key)
    with _LOCK:
        stored = _QUERIES.pop(key, None)
        query = stored[1] if stored and stored[0] == versions else PreparedQuery(spark, schema, build)
        if query.is_reusable:
            _QUERIES[key] = versions, query  # the newest is the last one
        if len(_QUERIES) > _MAX_QUERIES:
            del _QUERIES[next(iter(_QUERIES))]
        return query


class PreparedQuery:
    """A query that is planned at construction. Several threads may execute it, one after the other.

    Args:
        schema: of its input rows, as DDL.
        build: the query over a frame of input rows; it must not depend on the batch.
    """

    def __init__(self, spark: SparkSession, schema: str, build: Callable[[DataFrame], DataFrame]) -> None:
        # Spark deletes this folder when the session ends.
        self._path = os.path.join(tempfile.mkdtemp(dir=spark.sparkContext._temp_dir), "rows.json")
        self._replace("[]")
        self._lock = threading.Lock()
        text = spark.read.format("binaryFile").load(files.qualified(self._path))
        rows = F.from_json(F.col("content").cast("string"), f"array<struct<{schema}>>", {"mode": "FAILFAST"})
        self._frame = build(text.select(F.inline(rows)))

    @cached_property
    def is_reusable(self) -> bool:
        """Whether the plan has no expression, such as `now()` or `uuid()`, whose value Spark fixes when it plans."""
        plan = self._frame._jdf.queryExecution().analyzed()
        patterns = java_class(self._frame.sparkSession, "org.apache.spark.sql.catalyst.trees.TreePattern")
        fixed = (patterns.CURRENT_LIKE(), patterns.EXPRESSION_WITH_RANDOM_SEED())
        return not any(plan.containsPattern(pattern) for pattern in fixed)

    def execute(self, rows: list[dict[str, Any]]) -> pa.Table:
        """The result for these input rows, in their order."""
        with self._lock:
            self._replace(json.dumps(rows))
            try:
                return self._frame.toArrow()
            finally:
                self._replace("[]")

    def _replace(self, text: str) -> None:
        with open(self._path, "w") as file:
            file.write(text)
