"""A folder of files as a source.

Spark streams the folder as a list of files; the rows are read when a batch is written. So each file can have its own
header, an unreadable file can be named and skipped, and the checkpoint contains file names only, no schema.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import ProfilestreamError, Refused, SourceUnreadable
from profilestream.base.queries import RunOptions
from profilestream.capture import raw_records
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources import file_paths, parquet_files, text_files
from profilestream.capture.sources.record_source import FewLines, InputBatch, RecordSource, reading

MAX_QUOTED_LINES = 1000  # that one cell can span
_FILE_SCHEMA = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
# By default Spark silently ignores files that are a week older than the newest one.
_MAX_FILE_AGE = "36500d"
_BYTES_PER_TASK = 16 << 20
# Larger batches have more than `local_max_rows` rows, or lines that are too long for the memory of the driver.
_BYTES_PER_ROW = 1000
_MAX_LOCAL_BYTES = 8 << 20


@dataclass(frozen=True)
class FileSource(RecordSource):
    """The files of a folder, or one file.

    Args:
        path: the folder or file.
        rate_limit: option of Spark's file source that limits a micro-batch, and its value.
        max_line_bytes: longer lines are rejected.
        local_max_rows: setting `stream.local_max_rows`.
    """

    name: str
    path: str
    spec: InputSpec
    rate_limit: tuple[str, int]
    max_line_bytes: int
    local_max_rows: int = 0
    line_schema = text_files.LINE_SCHEMA

    def read_stream(self, spark: SparkSession) -> DataFrame:
        """One row per file: `path`, `length` and `ingest_time`."""
        reader = spark.readStream.format("binaryFile").schema(_FILE_SCHEMA).option("recursiveFileLookup", True)
        reader = reader.option("maxFileAge", _MAX_FILE_AGE).option(*self.rate_limit)
        if self.spec.glob:
            reader = reader.option("pathGlobFilter", self.spec.glob)
        return reader.load(files.qualified(self.path)).select(
            "path", "length", F.current_timestamp().alias("ingest_time")
        )

    def read_batch(self, frame: DataFrame, batch_id: int, skipped: list[str]) -> InputBatch:
        """The units are the paths of the files of the batch."""
        spark = frame.sparkSession
        micros = F.unix_micros("ingest_time").alias("micros")
        listed: list[Any] = sorted(frame.select("path", micros, "length").collect())
        paths = [row["path"] for row in listed if files.qualified(row["path"]) not in skipped]
        skipped_paths = [row["path"] for row in listed if row["path"] not in paths]
        cores = spark.sparkContext.defaultParallelism
        tasks = cores * max(1, math.ceil(sum(row["length"] for row in listed) / _BYTES_PER_TASK / cores))
        micros_of_batch = max((row["micros"] for row in listed), default=0)
        few_lines, max_rows = None, None
        if sum(row["length"] for row in listed) <= min(_MAX_LOCAL_BYTES, _BYTES_PER_ROW * self.local_max_rows):
            if self.spec.format == "parquet":
                max_rows = parquet_files.count_rows(paths)
            else:
                few_lines = self._few_lines(spark, paths)
                max_rows = None if few_lines is None else sum(map(len, few_lines.values()))
        return InputBatch(
            lambda: self.records(spark, paths, tasks), micros_of_batch, paths, skipped_paths, max_rows=max_rows,
            few_lines=few_lines,
        )  # fmt: skip

    def _few_lines(self, spark: SparkSession, paths: list[str]) -> FewLines | None:
        """The lines of text files by layout, read without Spark; null if only Spark can read them."""
        few_lines: FewLines = defaultdict(list)
        try:
            for path in paths:
                lines = text_files.few_lines(spark, path, self.path, self.spec, self.local_max_rows)
                if lines is None:
                    return None
                few_lines[text_files.layout_of(spark, path, self.path, self.spec)] += lines
        except (OSError, PySparkException, Py4JJavaError, ProfilestreamError):
            return None  # Spark reads the files again and reports the error
        return few_lines or None

    def records_of_lines(self, lines: DataFrame, layout: Any) -> DataFrame:
        """As RecordSource; the layout is a TextLayout."""
        return text_files.records_of_few_lines(lines, self.spec, layout, self.max_line_bytes)

    def records(self, spark: SparkSession, paths: list[str], tasks: int = 2) -> DataFrame:
        """Records of files; positions are relative to the folder of the source.

        Args:
            tasks: maximum number of tasks that read and parse the files.

        Raises:
            SourceUnreadable: the header or the schema of a file cannot be read.
        """
        module: Any = parquet_files if self.spec.format == "parquet" else text_files
        by_layout: dict[Any, list[str]] = defaultdict(list)
        for path in paths:
            try:
                by_layout[module.layout_of(spark, path, self.path, self.spec)].append(path)
            except ProfilestreamError:
                raise
            except Exception as error:
                raise unreadable(path, error) from error
        frames = [
            module.read_records(
                spark, group, self.path, self.spec, layout, self.max_line_bytes,
                max(1, tasks * len(group) // len(paths)),
            )
            for layout, group in by_layout.items()
        ]  # fmt: skip
        return reduce(DataFrame.unionByName, frames) if frames else raw_records.empty(spark, self.spec)

    def read_once(self, spark: SparkSession, path: str, ingest_micros: int) -> InputBatch:
        """The files at a path. Positions are relative to the folder of the source if the path is below it.

        Otherwise they are relative to the folder above the partition folders of the path.
        """
        root = files.qualified(self.path).rstrip("/")
        is_in_source = f"{files.qualified(path)}/".startswith(f"{root}/")
        source = self if is_in_source else replace(self, path=file_paths.folder_above_partitions(path))
        paths = list(files.file_stats(spark, path))
        return InputBatch(lambda: source.records(spark, paths), ingest_micros, paths, [])

    def quoted_lines(self, spark: SparkSession, paths: list[str]) -> DataFrame:
        """Positions (`position`) of the CSV lines that belong to a quoted cell which begins on an earlier line."""
        return reduce(DataFrame.unionByName, [self._quoted_lines_of(spark, path) for path in paths])

    def _quoted_lines_of(self, spark: SparkSession, path: str) -> DataFrame:
        start = F.coalesce(F.regexp_extract("position", r":(\d+)\+\d+$", 1).try_cast("bigint"), F.lit(0))
        line = F.regexp_extract("position", r"(\d+)$", 1).cast("bigint")
        lines = self.records(spark, [path]).select(
            "position",
            F.row_number().over(Window.orderBy(start, line)).alias("line"),
            (F.col("fault_reason") == raw_records.OPEN_QUOTE_REASON).alias("is_open"),
            raw_records.has_open_quote(F.col("payload"), self.spec).alias("is_odd"),
        )
        odd: list[Any] = lines.where("is_odd").orderBy("line").collect()
        ranges = list(_quoted_ranges([(row["line"], bool(row["is_open"])) for row in odd]))
        bounds = spark.createDataFrame(ranges, "first bigint, last bigint")
        return lines.join(
            F.broadcast(bounds), F.col("line").between(F.col("first"), F.col("last")), "left_semi"
        ).select("position")

    def check(self, spark: SparkSession, checkpoint: Checkpoint, options: RunOptions) -> None:
        """Refuse files that changed after they were read, and Parquet files without content."""
        self.check_exists(spark)
        listed = _listed_times(_file_entries(checkpoint))
        stored = files.file_stats(spark, self.path, self.spec.glob)
        changed = [path for path, (_, modified) in stored.items() if path in listed and listed[path] != modified]
        if changed and not options.accept_changed_units:
            raise Refused(
                f"{len(changed)} file(s) changed after they were read; added rows would be lost: {changed[:3]}",
                where=f"query capture_events/{self.name}",
                do="copy them under new names (rows that were already read are recognized as duplicates), "
                "or ignore the changes: --accept-changed-files",
            )
        skipped = {files.qualified(path) for path in options.skipped_units}
        empty = [path for path, (size, _) in stored.items() if not size and path not in skipped]
        if empty and self.spec.format == "parquet":
            raise unreadable(empty[0], ValueError("a Parquet file of zero bytes"))
        _drop_unstarted_files(checkpoint)

    def new_units(self, spark: SparkSession, checkpoint: Checkpoint) -> int | None:
        """Files that the run will read. Spark skips empty files silently, so they are not counted."""
        entries = _file_entries(checkpoint)
        listed = _listed_times(entries)
        stored = files.file_stats(spark, self.path, self.spec.glob)
        new_paths = [path for path, (size, _) in stored.items() if size and path not in listed]
        unfinished = checkpoint.unfinished()
        in_batch = [entry for entry in entries if entry["batchId"] == unfinished]
        return len(new_paths) + len(in_batch)

    def explain(self, error: Exception, checkpoint: Checkpoint) -> ProfilestreamError | None:
        """Files have no such errors: `reading_files` reports them."""
        return None


@contextmanager
def reading_files(spark: SparkSession, paths: list[str]) -> Iterator[None]:
    """Encloses every Spark action that reads records of files.

    Raises:
        SourceUnreadable: one of the files cannot be read.
    """
    with reading(spark):
        try:
            yield
        except (PySparkException, Py4JJavaError) as error:
            text = str(error)
            named_paths = [
                path
                for path in paths
                if any(p.removeprefix("file:") in text for p in (path, files.metadata_path(path)))
            ]
            if "FAILED_READ_FILE" in text and named_paths:
                raise unreadable(named_paths[0], error) from error
            raise


def _quoted_ranges(odd_lines: list[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
    """First and last line, without the line on which the cell begins, of the quoted cells that span lines.

    A cell ends on the next line with an odd number of quotes. If that is more than MAX_QUOTED_LINES away, the quote is
    a stray one.

    Args:
        odd_lines: number of each line with an odd number of quotes, and whether it ends inside a quoted cell.
    """
    begin = None
    for line, is_open in odd_lines:
        if begin is not None and line - begin <= MAX_QUOTED_LINES:
            yield begin + 1, line
            begin = None
        else:
            begin = line if is_open else None


def unreadable(path: str, error: Exception) -> SourceUnreadable:
    """The error for a file that fails while it is read."""
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    message = (message.splitlines() or [type(error).__name__])[0]
    repair = f"repair or remove the file, or skip it: --skip-file {path}"
    if ":" in path.rsplit("/", 1)[-1]:
        repair = f"copy the file under a name without a colon, which this file system cannot read; or {repair}"
    return SourceUnreadable(f"a file cannot be read ({message[:200]})", where=path, do=repair)


def _listed_times(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Every input file that Spark has listed: qualified path -> modification time when it was listed, in ms."""
    return {files.qualified(unquote(entry["path"])): entry["timestamp"] for entry in entries}


def _file_entries(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    folder = f"{checkpoint.path}/sources/0"
    logs = files.names(checkpoint.spark, folder)
    compacted = max((int(n.removesuffix(".compact")) for n in logs if n.endswith(".compact")), default=-1)
    selected = [n for n in logs if n == f"{compacted}.compact" or (n.isdigit() and int(n) > compacted)]
    entries: list[dict[str, Any]] = []
    for name in selected:
        lines = (files.read_text(checkpoint.spark, f"{folder}/{name}") or "").splitlines()
        entries += [json.loads(line) for line in lines if line.startswith("{")]
    return entries


def _drop_unstarted_files(checkpoint: Checkpoint) -> None:
    """Remove files that were listed for a batch that was never started.

    Spark logs the files of a batch before it logs the batch. After a crash between the two, Spark would read these
    files in one batch with the next files: no row is lost, but batches differ from a run without the crash.
    Every tenth list is compact: it repeats the earlier lists. Spark deletes those after 100 more batches.
    """
    started = checkpoint.last_started()
    last = -1
    if started is not None:
        offset = (files.read_text(checkpoint.spark, f"{checkpoint.path}/offsets/{started}") or "").splitlines()[-1]
        last = int(json.loads(offset)["logOffset"]) if offset.startswith('{"logOffset"') else sys.maxsize
    folder = f"{checkpoint.path}/sources/0"
    for name in files.names(checkpoint.spark, folder):
        number = name.removesuffix(".compact")
        if number.isdigit() and int(number) > last:
            files.delete(checkpoint.spark, f"{folder}/{name}")
