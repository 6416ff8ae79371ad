"""The Spark session: the only place that makes one, after checking that what it needs is there."""

import functools
import gc
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from typing import Any, cast

from pyspark import SparkConf, SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.util import inheritable_thread_target

from profilestream.base import jvm
from profilestream.base.errors import BadSettings

SPARK, DELTA, JAVA = "4.2.0", "4.4.0", 17

# Rows up to which one side of a join is sent to every task.
FEW = 1_000_000

# What the code relies on, whoever starts it.
FIXED = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    # Spark would look up the line of code behind each of the 250 columns that a batch is built from: 0.3 s.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # A log line may hold a key twice, or one that a clip writes too.
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    # Aggregates whose state is an object (lists, sketches) go by sorted rows: the hash kind falls back to sorting
    # after 128 keys anyway, and sorts what the fold engine has sorted already. A fifth of a batch of profiles.
    "spark.sql.execution.useObjectHashAggregateExec": "false",
    # The default is looked up by code at every value that a lambda reads; a set value is not.
    "spark.sql.types.framework.enabled": "false",
    # A batch takes 70 to 190 generated classes: of the default 100 none is left when the next one begins.
    "spark.sql.codegen.cache.maxEntries": "2000",
    # A task that writes a few event dates keeps their files open side by side instead of sorting its rows by date.
    "spark.sql.maxConcurrentOutputFileWriters": "40",
    # Delta would list a table's files in the checksum of each commit, if there are at most 50: nothing reads that list,
    # and making a table takes 0.25 s instead of 0.15.
    "spark.databricks.delta.allFilesInCrc.enabled": "false",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


def open_session(app: str, properties: str = "") -> SparkSession:
    """The session, in UTC, with Delta.

    Args:
        properties: a file of `key value` lines as for spark-submit's --properties-file. Under spark-submit leave it
            empty: what was submitted is used.

    Raises:
        BadSettings: Java, Spark or Delta is missing or of another version; the message says what is needed.
    """
    check_versions()
    conf = SparkConf()
    for key, value in properties_of(properties).items():
        conf.setIfMissing(key, value)
    quiet = os.path.join(os.path.dirname(os.path.abspath(properties)), "log4j2.properties")
    if properties and os.path.exists(quiet):
        given = conf.get("spark.driver.extraJavaOptions", "")
        conf.set("spark.driver.extraJavaOptions", f"{given} -Dlog4j2.configurationFile={quiet}".strip())
    for key, value in FIXED.items():
        conf.set(key, value)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # then the jars were named to spark-submit
    if not submitted and not conf.contains("spark.jars") and not conf.contains("spark.jars.packages"):
        conf.set("spark.jars", ",".join(_delta_jars()))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if SparkContext._active_spark_context is None:
        check_java()
    spark = SparkSession.builder.appName(app).config(conf=conf).getOrCreate()
    _check_delta_classes(spark)
    jvm.remember(spark)
    gc.freeze()  # modules stay: jvm.collect_garbage need not look through them at every batch
    return spark


class Threads(ThreadPoolExecutor):
    """Threads for calls of Spark; each call is made as `carried` says."""

    def __init__(self, spark: SparkSession, at_once: int) -> None:
        super().__init__(max(1, at_once))
        self._spark = spark

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin the call in a thread."""
        return super().submit(carried(self._spark, call), *args, **kwargs)


def carried(spark: SparkSession, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call for another thread, with the session and with the properties by which Spark stops a query's jobs.

    A new thread of Python's has no session in Java, which is where Delta looks for one when it must plan a query for
    itself: a commit without its checksum file, as a killed process leaves it, could not be read.
    """

    @functools.wraps(call)
    def with_session(*args: Any, **kwargs: Any) -> Any:
        jvm.java_class(spark, "org.apache.spark.sql.classic.SparkSession").setActiveSession(spark._jsparkSession)
        return call(*args, **kwargs)

    return cast(Callable[..., Any], inheritable_thread_target(spark)(with_session))


def materialize(frame: DataFrame) -> DataFrame:
    """The frame's rows, computed now and kept by the executors, by two of them where there are two.

    With one copy a worker that is lost takes rows with it that nothing can compute again, and the batch fails.
    """
    alone = frame.sparkSession._jsc.sc().getExecutorMemoryStatus().size() < 3  # the driver counts too
    return frame.localCheckpoint(storageLevel=StorageLevel.MEMORY_AND_DISK if alone else StorageLevel.MEMORY_AND_DISK_2)


def broadcast_if_small(frame: DataFrame, rows: int) -> DataFrame:
    """The frame, to be sent to every task of a join when it has no more than a few rows."""
    return F.broadcast(frame) if rows <= FEW else frame


def frame_of_dicts(spark: SparkSession, rows: list[dict[str, Any]], schema: T.StructType) -> DataFrame:
    """Rows of plain values, made by Spark itself: rows made from Python objects start Python workers, 0.3 s."""
    told = F.from_json(F.lit(json.dumps(rows)), T.ArrayType(schema))
    return spark.range(1).select(F.inline(told)).coalesce(1)


def java_version(text: str) -> int | None:
    """The feature release in what `java -version` prints: "1.8.0_392" is 8, "17.0.15" is 17; null when unreadable."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def check_versions() -> None:
    """Raise BadSettings unless the Python packages are those that are known to work together."""
    have = {name: metadata.version(name) for name in ("pyspark", "delta-spark")}
    want = {"pyspark": SPARK, "delta-spark": DELTA}
    if have != want:
        raise BadSettings(
            f"these versions are not known to work together: {have}; needed: {want}",
            where="Python packages",
            do="run make set-up, or pip install -c conf/constraints.txt .",
        )


@functools.cache
def check_java() -> None:
    """Raise BadSettings unless a Java that Spark can use is found in JAVA_HOME or on the PATH."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        raise BadSettings("no Java was found", where="PATH and JAVA_HOME", do=f"install Java {JAVA} or newer")
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = java_version(printed)
    if found is None or found < JAVA:
        raise BadSettings(
            f"Java {found or 'of unknown version'} is too old: Spark {SPARK} needs {JAVA} or newer",
            where=java,
            do=f"install Java {JAVA} or newer and point JAVA_HOME at it",
        )


def properties_of(path: str) -> dict[str, str]:
    """A properties file as a dict; nothing for an empty path."""
    if not path:
        return {}
    try:
        with open(path) as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise BadSettings(
            f"cannot read {path}: {error.strerror}", where="spark.properties", do="name a file that exists"
        ) from None
    pairs = [re.split(r"[\s=]+", line, maxsplit=1) for line in lines if line and not line.startswith("#")]
    odd = [pair[0] for pair in pairs if len(pair) != 2]
    if odd:
        raise BadSettings(f"lines without a value: {odd}", where=path, do="write `key value`, one a line")
    return {key: value for key, value in pairs}


def _delta_jars() -> list[str]:
    folder = os.path.join(sys.prefix, "jars")
    jars = sorted(glob.glob(os.path.join(folder, "*.jar")))
    if not any(f"-{DELTA}.jar" in jar and "delta-spark" in jar for jar in jars):
        raise BadSettings(
            f"the jars of Delta {DELTA} are not in {folder}",
            where="spark.jars",
            do="run make set-up, or name them in spark.jars or spark.jars.packages",
        )
    return jars


def _check_delta_classes(spark: SparkSession) -> None:
    loaded = spark._jvm.org.apache.spark.util.Utils.classIsLoadable("io.delta.tables.DeltaTable")  # type: ignore[union-attr]
    if not loaded or "DeltaSparkSessionExtension" not in str(spark.conf.get("spark.sql.extensions", "")):
        raise BadSettings(
            "the running session has no Delta",
            where="spark.jars, spark.sql.extensions",
            do="submit with --properties-file conf/spark-cluster.conf",
        )
