"""Evaluates the SQL of a mapping such that an error on one row costs this row, and not the batch.

Spark has a `try_` form of some functions only. Here any expression that can raise is wrapped in Catalyst's `TryEval`,
which returns null when the expression raises. To tell this null from a null value, the expression is wrapped in a
struct of one field first. Spark evaluates a subexpression that two columns share before both, outside of `TryEval`,
where it would raise. It does not do so inside a branch of CASE WHEN, so every `TryEval` is such a branch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.classic.column import Column as ClassicColumn

from profilestream.base.columns import quoted
from profilestream.base.jvm import java_class

# Resolved expressions that raise for no value, such as plain columns. All others are guarded.
_NEVER_RAISES = frozenset(
    "AttributeReference Literal Alias GetStructField Coalesce CaseWhen If IsNull IsNotNull And Or Not EqualTo In InSet "
    "Concat Lower Upper StringTrim StringTrimLeft StringTrimRight StringReplace NamedLambdaVariable".split()
)
# Functions whose result can be large, and the position of the argument that is its size.
_SIZED = {"StringRepeat": 1, "ArrayRepeat": 1, "StringLPad": 1, "StringRPad": 1, "StringSpace": 0}
_SIZED_NAMES = re.compile(r"\b(sequence|repeat|array_repeat|lpad|rpad|space)\b", re.IGNORECASE)
MAX_CONSTANT_SIZE = 1_000_000
_STRINGS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_IDENTIFIERS = re.compile(r"((?:raw\.)?)(?:`([^`]+)`|([^\W\d]\w*))", re.IGNORECASE)
_VALUE_LENGTH = 200


@dataclass(frozen=True)
class Guarded:
    """An expression of a mapping as columns.

    Args:
        key: its key in the mapping, such as `columns.event_time`.
        data_type: of the value.
        value: its value; null where it raises.
        failed: whether it raises on the row; null when it can raise for no row.
        reason: the key, and the values that the expression reads.
    """

    key: str
    data_type: T.DataType
    value: Column
    failed: Column | None
    reason: Column


def guarded(frame: DataFrame, expressions: Mapping[str, str], condition: Column) -> dict[str, Guarded]:
    """The expressions by key, evaluated on the rows for which the condition is true, and null on other rows.

    Args:
        expressions: SQL over the columns of the frame, by key.
        condition: over the columns of the frame; must not be constant.

    Raises:
        PySparkException: Spark does not accept an expression.
    """
    if not expressions:
        return {}
    selected = frame.select(*[F.expr(sql).alias(f"e{n}") for n, sql in enumerate(expressions.values())])
    resolved = selected._jdf.queryExecution().analyzed().expressions()
    types = [field.dataType for field in selected.schema]
    values = _values(frame)
    result = {}
    for n, (key, sql) in enumerate(expressions.items()):
        value, failed = F.expr(sql), None
        if _can_raise(resolved.apply(n)):
            attempt = null_if_raises(F.struct(value.alias("v")), condition)
            value, failed = attempt["v"], condition & attempt.isNull()
        result[key] = Guarded(key, types[n], value, failed, _reason(key, sql, values))
    return result


def null_if_raises(column: Column, condition: Column) -> Column:
    """The column where the condition is true and the column does not raise, else null.

    Args:
        condition: must not be constant: Spark would remove the CASE WHEN.
    """
    spark = SparkSession.active()
    expressions = java_class(spark, "org.apache.spark.sql.classic.ExpressionUtils")
    try_eval = java_class(spark, "org.apache.spark.sql.catalyst.expressions.TryEval")
    attempt = try_eval(expressions.expression(column._jc))
    return F.when(condition, ClassicColumn(expressions.column(attempt)))


def _can_raise(expression: Any) -> bool:
    name = str(expression.getClass().getSimpleName())
    is_safe = name in _NEVER_RAISES or (name == "Cast" and str(expression.evalMode()) != "ANSI")
    children = expression.children()
    return not is_safe or any(_can_raise(children.apply(n)) for n in range(children.size()))


def largest_constant(frame: DataFrame, sql: str) -> int:
    """The largest number of elements or characters of a constant in the frame's columns, such as `repeat('a', 5)`.

    Spark computes constants while it plans, in the memory of the driver, so a large one would end the process.

    Args:
        sql: of the columns.
    """
    if not _SIZED_NAMES.search(sql):
        return 0
    expressions = frame._jdf.queryExecution().analyzed().expressions()
    return max((_constant_size(expressions.apply(n)) for n in range(expressions.size())), default=0)


def _constant_size(expression: Any) -> int:
    children = [expression.children().apply(n) for n in range(expression.children().size())]
    name, sizes = str(expression.getClass().getSimpleName()), [_constant_size(child) for child in children]
    if expression.foldable() and name in _SIZED:
        sizes.append(int(children[_SIZED[name]].eval(None) or 0))
    elif expression.foldable() and name == "Sequence" and children[0].dataType().typeName() in ("integer", "long"):
        first, last, *step = (int(child.eval(None) or 0) for child in children)
        sizes.append(abs(last - first) // max([1, *map(abs, step)]) + 1)
    return max(sizes, default=0)


def _values(frame: DataFrame) -> dict[str, tuple[str, Column]]:
    """The names and values of the columns and the raw columns, by the name in small letters."""
    values = {name.lower(): (name, F.col(quoted(name))) for name in frame.columns if name != "raw"}
    raw = frame.schema["raw"].dataType.names if "raw" in frame.columns else []  # type: ignore[attr-defined]
    return values | {f"raw.{name.lower()}": (f"raw.{name}", F.col("raw")[name]) for name in raw}


def _reason(key: str, sql: str, values: Mapping[str, tuple[str, Column]]) -> Column:
    """`<key> fails on this row: <column> = <value>, ...` for the columns that the expression names."""
    names = ["".join(parts).lower() for parts in _IDENTIFIERS.findall(_STRINGS.sub("", sql))]
    used = dict(values[name] for name in names if name in values)
    texts = [
        F.concat(F.lit(f"{name} = "), F.coalesce(_as_text(value), F.lit("(none)"))) for name, value in used.items()
    ]
    shown = F.left(F.concat_ws(", ", *texts), F.lit(_VALUE_LENGTH)) if texts else F.lit(" ".join(sql.split()))
    return F.concat(F.lit(f"{key} fails on this row: "), shown)


def _as_text(value: Column) -> Column:
    """A value of any type in JSON, without the name."""
    text = F.to_json(F.array(value))
    return F.substr(text, F.lit(2), F.length(text) - 2)
