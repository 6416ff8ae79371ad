"""Creates the Spark session (only this module does) after checks of versions; helpers for threads and frames."""

import functools
import gc
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib import metadata
from typing import Any, cast

import pyarrow as pa
from pyspark import SparkConf, SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.util import inheritable_thread_target

from profilestream.base import console, jvm, log_store
from profilestream.base.errors import BadSettings

SPARK, DELTA, JAVA = "4.2.0", "4.4.0", 17

# A frame with at most this number of rows is broadcast in a join.
BROADCAST_ROWS = 1_000_000

# Settings that the code depends on; set in every session.
REQUIRED_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
    # Otherwise Spark looks up the source line of each of the 250 columns of a batch: 0.3 s.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # A log line may contain a key twice, or a key that a clip also writes.
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    # Aggregates with object state, such as lists, use sorted rows: the hash aggregate falls back to sorting after 128
    # keys anyway.
    "spark.sql.execution.useObjectHashAggregateExec": "false",
    # If this is not set, Spark computes the default for every value that a lambda function reads.
    "spark.sql.types.framework.enabled": "false",
    # A batch uses 70 to 190 generated classes; with the default of 100, none is cached when the next batch starts.
    "spark.sql.codegen.cache.maxEntries": "2000",
    # A task that writes a few event dates keeps their files open instead of sorting its rows by date.
    "spark.sql.maxConcurrentOutputFileWriters": "40",
    # By default Delta lists the files of small tables in every checksum; nothing reads that list. Creating a table
    # takes 0.25 s with this list and 0.15 s without it.
    "spark.databricks.delta.allFilesInCrc.enabled": "false",
    # By default Spark writes times in a deprecated form of 12 bytes, which Parquet has no minimum and maximum of.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A stack overflow in an expression, such as a regular expression over a long text, ends the task, not the process.
    "spark.executor.killOnFatalError.depth": "0",
    # Spark itself decodes a few charsets only; Java knows those of all logs.
    "spark.sql.legacy.javaCharsets": "true",
    # The local file system with checksum files cannot read a file with a colon in its name. Both interfaces of Hadoop
    # are set, so that neither leaves a checksum file of a file that the other one removed.
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.hadoop.fs.local.RawLocalFs",
    # With a limit, Spark computes the size of all columns after every row that it sends to Python: 22 CPU seconds
    # instead of 0.7 for 500,000 profiles. spark.sql.execution.arrow.maxRecordsPerBatch still limits a batch.
    "spark.sql.execution.arrow.maxBytesPerBatch": "2147483647",
    log_store.SETTING: log_store.CLASS,
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


def open_session(app: str, properties: str = "") -> SparkSession:
    """The session, in UTC, with Delta.

    Args:
        properties: a file of `key value` lines as for spark-submit's --properties-file. Leave it empty under
            spark-submit, which passes its own properties.

    Raises:
        BadSettings: Java, Spark or Delta is missing or has another version; the message names the needed one.
    """
    check_versions()
    conf = SparkConf()
    for key, value in properties_of(properties).items():
        conf.setIfMissing(key, value)
    log_settings = os.path.join(os.path.dirname(os.path.abspath(properties)), "log4j2.properties")
    if properties and os.path.exists(log_settings):
        java_options = conf.get("spark.driver.extraJavaOptions", "")
        conf.set("spark.driver.extraJavaOptions", f"{java_options} -Dlog4j2.configurationFile={log_settings}".strip())
    for key, value in REQUIRED_CONF.items():
        conf.set(key, value)
    is_submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit passes the jars
    if not is_submitted and not conf.contains("spark.jars") and not conf.contains("spark.jars.packages"):
        conf.set("spark.jars", ",".join(_delta_jars()))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if SparkContext._active_spark_context is None:
        check_java()
    with console.java_output() if SparkContext._gateway is None and not is_submitted else nullcontext():
        with _interrupts_delayed():
            spark = SparkSession.builder.appName(app).config(conf=conf).getOrCreate()
    _check_delta_classes(spark)
    if warning := properties_warning(spark.sparkContext.getConf()):
        console.line(f"warning: {warning}")
    jvm.cache_lookups(spark)
    log_store.install(spark)
    gc.freeze()  # loaded modules are permanent: jvm.collect_garbage need not scan them at every batch
    return spark


@contextmanager
def conf_set(spark: SparkSession, values: dict[str, str]) -> Iterator[None]:
    """Settings of the session during the block."""
    previous: dict[str, str | None] = {key: spark.conf.get(key, None) for key in values}
    try:
        for key, value in values.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, earlier in previous.items():
            if earlier is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, earlier)


@contextmanager
def _interrupts_delayed() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, and restore the handler from before the block.

    PySpark installs a handler that calls Java from within a call to Java, which fails with several stack traces.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Threads(ThreadPoolExecutor):
    """A thread pool for calls into Spark; every call runs with the session (`with_spark_session`)."""

    def __init__(self, spark: SparkSession, at_once: int) -> None:
        super().__init__(max(1, at_once))
        self._spark = spark

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the call in a thread."""
        return super().submit(with_spark_session(self._spark, call), *args, **kwargs)


def with_spark_session(spark: SparkSession, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, prepared for another thread: it sets the active session, and the properties to cancel a query's jobs.

    A new Python thread has no active session in Java. Delta needs one when it plans a query itself, for example to read
    a commit without its checksum file, which a killed process leaves.
    """

    @functools.wraps(call)
    def call_with_session(*args: Any, **kwargs: Any) -> Any:
        jvm.java_class(spark, "org.apache.spark.sql.classic.SparkSession").setActiveSession(spark._jsparkSession)
        return call(*args, **kwargs)

    return cast(Callable[..., Any], inheritable_thread_target(spark)(call_with_session))


def materialize(frame: DataFrame) -> DataFrame:
    """The frame's rows, computed now and stored on the executors, in two copies if there are at least two executors.

    With one copy, the loss of an executor fails the batch: its rows cannot be computed again.
    """
    is_single = frame.sparkSession._jsc.sc().getExecutorMemoryStatus().size() < 3  # the size includes the driver
    return frame.localCheckpoint(
        storageLevel=StorageLevel.MEMORY_AND_DISK if is_single else StorageLevel.MEMORY_AND_DISK_2
    )


@contextmanager
def persisted(frame: DataFrame) -> Iterator[DataFrame]:
    """The frame, whose rows Spark computes once and stores during the block."""
    try:
        yield frame.persist()
    finally:
        frame.unpersist()


def broadcast_if_small(frame: DataFrame, rows: int) -> DataFrame:
    """The frame, marked for a broadcast join when it has at most BROADCAST_ROWS rows."""
    return F.broadcast(frame) if rows <= BROADCAST_ROWS else frame


def frame_of_arrow(spark: SparkSession, rows: pa.Table) -> DataFrame:
    """The rows as a frame. Spark 4.2.0 loses all rows after a chunk without rows, which a filter can leave."""
    return spark.createDataFrame(rows.combine_chunks())


def frame_of_dicts(spark: SparkSession, rows: list[dict[str, Any]], schema: T.StructType) -> DataFrame:
    """A frame of plain values, parsed from JSON in the JVM: createDataFrame would start Python workers, 0.3 s."""
    parsed = F.from_json(F.lit(json.dumps(rows)), T.ArrayType(schema))
    return spark.range(1).select(F.inline(parsed)).coalesce(1)


def java_version(text: str) -> int | None:
    """The feature release in the output of `java -version`: "1.8.0_392" is 8, "17.0.15" is 17; null when unreadable."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def check_versions() -> None:
    """Raise BadSettings unless the installed Python packages have the supported versions."""
    installed = {name: metadata.version(name) for name in ("pyspark", "delta-spark")}
    supported = {"pyspark": SPARK, "delta-spark": DELTA}
    if installed != supported:
        raise BadSettings(
            f"unsupported versions: {installed}; needed: {supported}",
            where="Python packages",
            do="run make set-up, or pip install -c conf/constraints.txt .",
        )


@functools.cache
def check_java() -> None:
    """Raise BadSettings unless JAVA_HOME or the PATH has a Java that Spark supports."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        raise BadSettings("there is no Java", where="PATH and JAVA_HOME", do=f"install Java {JAVA} or newer")
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = java_version(printed)
    if version is None or version < JAVA:
        raise BadSettings(
            f"Java {version or 'of unknown version'} is too old: Spark {SPARK} needs {JAVA} or newer",
            where=java,
            do=f"install Java {JAVA} or newer and point JAVA_HOME at it",
        )


def properties_of(path: str) -> dict[str, str]:
    """A properties file as a dict; empty for an empty path."""
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
    incomplete = [pair[0] for pair in pairs if len(pair) != 2]
    if incomplete:
        raise BadSettings(f"lines without a value: {incomplete}", where=path, do="write one `key value` pair per line")
    return {key: value for key, value in pairs}


def properties_warning(conf: SparkConf) -> str:
    """What to do when Spark runs on one machine with its defaults, which are for clusters; empty when there is nothing.

    The files conf/spark-*.conf set the number of shuffle partitions, so a session without it has no properties file.
    """
    master = conf.get("spark.master") or ""
    if not re.match(r"local(\[|$)", master) or conf.contains("spark.sql.shuffle.partitions"):
        return ""
    return (
        f"Spark runs on {master} without a properties file, so a batch takes up to three times as long: set "
        "spark.properties in the settings to the path of conf/spark-local.conf, or add "
        "--properties-file conf/spark-local.conf to spark-submit"
    )


def _delta_jars() -> list[str]:
    folder = os.path.join(sys.prefix, "jars")
    jars = sorted(glob.glob(os.path.join(folder, "*.jar")))
    if not any(f"-{DELTA}.jar" in jar and "delta-spark" in jar for jar in jars):
        raise BadSettings(
            f"the jars of Delta {DELTA} are not in {folder}",
            where="spark.jars",
            do="run make set-up, or set spark.jars or spark.jars.packages",
        )
    return jars


def _check_delta_classes(spark: SparkSession) -> None:
    is_loaded = spark._jvm.org.apache.spark.util.Utils.classIsLoadable("io.delta.tables.DeltaTable")  # type: ignore[union-attr]
    if not is_loaded or "DeltaSparkSessionExtension" not in str(spark.conf.get("spark.sql.extensions", "")):
        raise BadSettings(
            "the session has no Delta",
            where="spark.jars, spark.sql.extensions",
            do="submit with --properties-file conf/spark-cluster.conf",
        )
