"""Access to the session's JVM: Java classes by name, cached lookups, and freeing of its objects."""

import functools
import gc
from typing import Any

from pyspark.sql import SparkSession


def java_class(spark: SparkSession, name: str) -> Any:
    """The class with this name in the session's JVM.

    Cached: PySpark searches every jar for every part of a dotted name, up to 10 ms per name.
    """
    return _java_class(spark._jvm, name)


def cache_lookups(spark: SparkSession) -> None:
    """Cache the JVM functions that PySpark looks up for every column: 0.5 ms each, hundreds per batch."""
    jvm = spark._jvm
    for name, members in (
        ("org.apache.spark.sql.functions", ("col", "lit", "expr", "when", "coalesce")),
        ("functions", ("col", "lit")),
        ("PythonUtils", ("toSeq",)),
    ):
        java_object = getattr(jvm, name)
        setattr(jvm, name, java_object)
        for member in members:
            setattr(java_object, member, getattr(java_object, member))


def collect_garbage() -> None:
    """Let Java free plans and frames that Python no longer uses.

    Java holds an object as long as Python holds its Py4J proxy. Proxies refer to themselves, so only Python's cyclic
    garbage collector frees them; they are few and small, so it runs too rarely for Java's heap.
    """
    gc.collect()


@functools.cache
def _java_class(jvm: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), jvm)
