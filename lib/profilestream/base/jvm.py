"""The JVM behind the session: its classes by name, and what it keeps for Python."""

import functools
import gc
from typing import Any

from pyspark.sql import SparkSession


def java_class(spark: SparkSession, name: str) -> Any:
    """The class of this name in the session's JVM.

    PySpark looks for every part of a dotted name in every jar: up to 10 ms a name, so once.
    """
    return _found(spark._jvm, name)


def remember(spark: SparkSession) -> None:
    """Keep what PySpark looks up in the JVM anew for every column, half a millisecond each: a batch has hundreds."""
    jvm = spark._jvm
    for name, members in (
        ("org.apache.spark.sql.functions", ("col", "lit", "expr", "when", "coalesce")),
        ("functions", ("col", "lit")),
        ("PythonUtils", ("toSeq",)),
    ):
        found = getattr(jvm, name)
        setattr(jvm, name, found)
        for member in members:
            setattr(found, member, getattr(found, member))


def collect_garbage() -> None:
    """Let Java forget plans and frames that Python no longer uses.

    Java keeps an object as long as Python's stand-in for it is there. Py4J's stand-ins refer to themselves, so only
    Python's collector removes them, and to that one they are few and small: it comes too late for Java's heap.
    """
    gc.collect()


@functools.cache
def _found(jvm: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), jvm)
