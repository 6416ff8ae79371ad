"""Finds the rows for which an expression of a mapping ends the task, and rejects them.

`guarded_sql` handles exceptions. It cannot handle an error of Java, such as a stack overflow in a regular expression
over a long text, or an array that does not fit into the memory: Spark ends the task. If a batch fails with such an
error, the driver collects its rows in chunks. It evaluates each expression alone for a chunk, and for the single rows
of a chunk that fails. Other batches have no cost.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base.errors import BadSettings
from profilestream.base.jvm import java_class
from profilestream.base.session import frame_of_dicts
from profilestream.capture import guarded_sql
from profilestream.capture.cleaning_rules import EXPRESSION_FAILED
from profilestream.capture.execute_mapping import FAILED, is_parsed
from profilestream.capture.guarded_sql import Guarded

_MAX_ROWS = 10_000
_ROWS_PER_CHUNK = 500
# Nested calls around an expression in the driver. They use a part of the stack, so that a text which hardly fits there
# is rejected: in a task, it could fail.
_CALLS = 200
_JAVA_ERROR = re.compile(r"\bjava\.lang\.(\w+Error)\b|Cannot grow BufferHolder")
_MARKS = T.StructType([T.StructField(f"_failing_{name}", T.StringType()) for name in ("position", "key", "reason")])


@dataclass(frozen=True)
class FailingRow:
    """A row for which an expression ends the task.

    Args:
        key: of the expression in the mapping.
        reason: the key, the values that the expression reads, and the error.
    """

    position: str
    key: str
    reason: str


def is_java_error(error: BaseException) -> bool:
    """Whether an expression can be the cause of an error. A full disk or a lost executor is another error."""
    return _JAVA_ERROR.search(str(error)) is not None


def reject(records: DataFrame, rows: Sequence[FailingRow]) -> DataFrame:
    """The records, of which these rows are rejected by `expression_failed`. No expression is evaluated for them."""
    if not rows:
        return records
    values = [{"_failing_position": r.position, "_failing_key": r.key, "_failing_reason": r.reason} for r in rows]
    marks = frame_of_dicts(records.sparkSession, values, _MARKS)
    marked = records.join(F.broadcast(marks), F.col("position") == F.col("_failing_position"), "left")
    is_failing = F.col("_failing_key").isNotNull()
    columns = {
        "fault": F.when(is_failing, EXPRESSION_FAILED).otherwise(F.col("fault")),
        "fault_reason": F.coalesce("_failing_reason", "fault_reason"),
    }
    if FAILED in records.columns:
        columns[FAILED] = F.coalesce("_failing_key", FAILED)
    return marked.withColumns(columns).drop(*_MARKS.names)


@dataclass(frozen=True)
class _Expression:
    """An expression over the columns of a frame, to be evaluated in the driver.

    Args:
        function: returns its value for a row of the frame.
    """

    rows: DataFrame
    attempt: Guarded
    function: Any

    @cached_property
    def _texts(self) -> Any:
        return _row_function(self.rows, F.struct("position", self.attempt.reason), 1)

    def failing_row(self, row: Any, error: Exception) -> FailingRow:
        """The row with the reason."""
        texts = self._texts.apply(row).getStruct(0, 2)
        position, reason = (str(texts.getUTF8String(n).toString()) for n in range(2))
        return FailingRow(position, self.attempt.key, f"{reason} ({_error_name(error)})")


def find(frame: DataFrame, expressions: Mapping[str, str], file: str) -> list[FailingRow]:
    """The rows of a frame with `position` and `fault` for which one of these expressions ends a task.

    Args:
        expressions: SQL over the columns of the frame, by key.
        file: of the mapping.

    Raises:
        BadSettings: an expression fails on more than 10,000 rows, or without reading a row.
    """
    if not expressions:
        return []
    rows = frame.persist()
    try:
        return list(_failing_rows(rows, expressions, file))
    finally:
        rows.unpersist()


def _failing_rows(rows: DataFrame, expressions: Mapping[str, str], file: str) -> Iterator[FailingRow]:
    attempts = guarded_sql.guarded(rows, expressions, is_parsed()).values()
    evaluated = [_Expression(rows, a, _function(rows, a, file)) for a in attempts if a.failed is not None]
    count = 0
    for chunk in _chunks(rows.where(is_parsed())):
        for row, expression, error in _failing(chunk, evaluated):
            count += 1
            if count > _MAX_ROWS:
                where = f"on more than {_MAX_ROWS:,} rows of a batch"
                raise _wrong_expression(expression.attempt.key, where, error, file)
            yield expression.failing_row(row, error)


def _chunks(rows: DataFrame) -> Iterator[Any]:
    chunks = rows._jdf.queryExecution().executedPlan().executeToIterator().grouped(_ROWS_PER_CHUNK)
    while chunks.hasNext():
        yield chunks.next()


def _failing(chunk: Any, expressions: list[_Expression]) -> Iterator[tuple[Any, _Expression, Exception]]:
    """The rows of a chunk for which an expression fails with an error of Java, each once, with the error."""
    rejected = set()
    for expression in expressions:
        function = expression.function
        if _error(lambda f=function: chunk.foreach(f)) is None:
            continue
        for n in range(chunk.length()):
            row = chunk.apply(n)
            error = None if n in rejected else _error(lambda f=function, r=row: f.apply(r))
            if error is not None and is_java_error(error):
                rejected.add(n)
                yield row, expression, error


def _error(call: Any) -> Exception | None:
    """The error of a call into Java; null if it returns."""
    try:
        call()
    except (PySparkException, Py4JJavaError) as error:
        return error
    return None


def _function(rows: DataFrame, attempt: Guarded, file: str) -> Any:
    """The function of an expression. Spark evaluates an expression that reads no row when it plans the function."""
    try:
        return _row_function(rows, attempt.value, _CALLS)
    except (PySparkException, Py4JJavaError) as error:
        if not is_java_error(error):
            raise
        raise _wrong_expression(attempt.key, "on every row", error, file) from None


def _row_function(rows: DataFrame, column: Column, calls: int) -> Any:
    """A column over the rows as a function of one row, inside this number of nested calls, at least 1."""
    spark = rows.sparkSession
    plan = rows.select(column.alias("value"))._jdf.queryExecution().optimizedPlan()
    projections = java_class(spark, "org.apache.spark.sql.catalyst.expressions.UnsafeProjection")
    projection = projections.create(plan.expressions(), plan.children().apply(0).output())
    identity = getattr(java_class(spark, "scala.Predef"), "$conforms")()
    # Py4J cannot apply the projection itself: all generated classes have one name.
    return reduce(lambda inner, _: inner.compose(identity), range(calls), projection)


def _error_name(error: Exception) -> str:
    match = _JAVA_ERROR.search(str(error))
    return (match and match[1]) or "the value is too long"


def _wrong_expression(key: str, rows: str, error: Exception, file: str) -> BadSettings:
    return BadSettings(
        f"{key} fails {rows}: {_error_name(error)}",
        where=f"{file}, {key}",
        do="correct the expression; then plan the batch again: --replan",
    )
