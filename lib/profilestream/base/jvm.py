"""Java classes by name. PySpark looks for every part of a dotted name in every jar: up to 10 ms a name, so once."""

import functools
from typing import Any

from pyspark.sql import SparkSession


def java_class(spark: SparkSession, name: str) -> Any:
    """The class of this name in the session's JVM."""
    return _found(spark._jvm, name)


@functools.cache
def _found(jvm: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), jvm)
