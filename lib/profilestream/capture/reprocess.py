"""Reprocesses rejected rows once after the mapping was corrected.

A reprocess batch has `kind` = `reprocess`. It reads the rows of `rejected_events` of one epoch that no earlier batch
of this kind read, at the table version in its plan; rows of another epoch can have the same positions. It writes the
same three tables as a source batch. Rows that are clean now are added to `events`. Other rows are rejected again, and
`reprocessed_from` names the batch that rejected them before. Per epoch, `capture_batches` contains the last batch whose
rejected rows were reprocessed, so no row is reprocessed twice.
"""

import json
import time
from dataclasses import dataclass, replace
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import delta_table, files, locks, startup_checks, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult
from profilestream.base.settings import Settings
from profilestream.capture import execute_mapping, ingest, raw_records, row_payload, side_tables
from profilestream.capture.ingest import CaptureSource
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources import file_paths
from profilestream.capture.sources.record_source import InputBatch

STAGE = "capture_reprocess"


@dataclass(frozen=True)
class ReprocessedRange:
    """The rejected rows that one batch reprocessed: up to a batch id per epoch, of some rules (null: of all rules)."""

    up_to: dict[str, int]
    rules: list[str] | None


def run(spark: SparkSession, settings: Settings, name: str, rules: list[str] | None) -> BatchResult:
    """Reprocess the rejected rows of a source.

    Args:
        rules: only rows rejected by these rules; null: all rows.

    Returns:
        Reprocessed rows, and how many of them are clean now; zero rows if all rows were reprocessed before.

    Raises:
        SourceMissing: the source was never captured.
        Refused: capture of the source is running, or the mapping differs from the one of an unfinished batch.
    """
    source = ingest.load_source(settings, name)
    with locks.hold_lock(settings.paths.lock_folder, source.lock):
        if not tables.CAPTURE_BATCHES.exists(spark, settings.paths):
            raise SourceMissing(
                f"{name} was never captured", where=settings.paths.warehouse, do="run capture_events first"
            )
        tables.CAPTURE_BATCHES.prepare(spark, settings.paths)
        ingest.events_table(settings.capture).check_stored(spark, settings.paths)
        checkpoint = Checkpoint(spark, f"{files.qualified(settings.paths.checkpoints)}/{STAGE}/{name}")
        total = BatchResult()
        # Rows that a batch of this run rejects again are not reprocessed in the same run.
        version = delta_table.delta_version(spark, tables.REJECTED_EVENTS.path(settings.paths))
        while (batch := _next_batch(spark, settings, source, checkpoint, rules, version)) is not None:
            result = _write(batch, source)
            total = BatchResult(total.rows_in + result.rows_in, total.rows_out + result.rows_out)
        return total


def _next_batch(
    spark: SparkSession, settings: Settings, source: CaptureSource, checkpoint: Checkpoint, rules: list[str] | None,
    version: int,
) -> Batch | None:  # fmt: skip
    """A retry of the unfinished batch if there is one, else a new batch; null if there are no rows to reprocess.

    Args:
        version: of `rejected_events`, whose rows a new batch reads.
    """
    query = f"{STAGE}/{source.name}"
    last = max((int(n) for n in files.names(spark, f"{checkpoint.path}/plans") if n.isdigit()), default=-1)
    plan = checkpoint.plan(last) if last >= 0 else None
    if plan is not None and not startup_checks.contains_batch(
        spark, tables.CAPTURE_BATCHES, settings.paths, query, checkpoint, last
    ):
        if plan.fingerprint != source.fingerprint:
            raise Refused(
                f"reprocess batch {last} of {source.name} was started with another mapping and is not finished",
                where=f"{checkpoint.path}/plans/{last}",
                do="restore the mapping that is stored in that file, run once, then edit it",
            )
        return Batch(spark, settings.paths, Txn(query, checkpoint.epoch(), last), plan, is_retry=True)
    versions = {"rejected_events": version, "ingest_micros": int(time.time() * 1e6)}
    versions |= side_tables.current_versions(spark, source.lookups)
    plan = Plan(source.fingerprint, "", versions)
    batch = Batch(spark, settings.paths, Txn(query, checkpoint.epoch(), last + 1), plan)
    epoch = _pending_rows(batch, source, rules).agg(F.min("epoch")).collect()[0][0]
    if epoch is None:
        return None
    plan_settings = json.dumps({"rules": rules, "epoch": epoch, "source": source.settings_text})
    plan = replace(plan, settings=plan_settings)
    checkpoint.store_plan(last + 1, plan)
    return replace(batch, plan=plan)


def _pending_rows(batch: Batch, source: CaptureSource, rules: list[str] | None) -> DataFrame:
    """Rejected rows of the source, at the planned version, that no earlier batch reprocessed.

    Unless rules are named, rows that the same mapping rejected are excluded: it would reject them again. Skipped files
    have no rows to reprocess, and a line inside a quoted cell is no record.
    """
    stored = tables.REJECTED_EVENTS.read(batch.spark, batch.paths, version=batch.plan.versions["rejected_events"])
    is_record = (F.col("rule") != "file_unreadable") & (F.col("reason") != raw_records.INSIDE_QUOTES_REASON)
    rejected = stored.where((F.col("source") == source.name) & is_record)
    batches = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths).where(F.col("source") == source.name)
    same_mapping = batches.where(F.col("fingerprint") == source.fingerprint).select("epoch", "batch_id")
    if rules is None:
        pending = rejected.join(F.broadcast(same_mapping), ["epoch", "batch_id"], "left_anti")
    else:
        pending = rejected.where(F.col("rule").isin(rules))
    is_this_or_later = (F.col("epoch") == batch.txn.epoch) & (F.col("batch_id") >= batch.txn.batch_id)
    earlier = batches.where((F.col("kind") == "reprocess") & ~is_this_or_later)
    ranges = [
        ReprocessedRange(row["reprocessed_up_to"], row["reprocessed_rules"])
        for row in earlier.select("reprocessed_up_to", "reprocessed_rules").collect()
    ]
    return reduce(_exclude, ranges, pending)


def _exclude(rows: DataFrame, reprocessed: ReprocessedRange) -> DataFrame:
    for epoch, up_to in reprocessed.up_to.items():
        is_covered = (F.col("epoch") == epoch) & (F.col("batch_id") <= up_to)
        if reprocessed.rules is not None:
            is_covered = is_covered & F.col("rule").isin(reprocessed.rules)
        rows = rows.where(~is_covered)
    return rows


def _write(batch: Batch, source: CaptureSource) -> BatchResult:
    start_time = time.monotonic()
    planned = json.loads(batch.plan.settings)
    rules = planned["rules"]
    rows = _pending_rows(batch, source, rules).where(F.col("epoch") == planned["epoch"]).persist()
    up_to = {planned["epoch"]: rows.agg(F.max("batch_id")).collect()[0][0]}
    origins = rows.select("position", F.concat_ws("/", "epoch", "batch_id").alias("reprocessed_from"))
    inputs = InputBatch(lambda: _records(rows, source), batch.plan.versions["ingest_micros"], [], [], origins)
    result = ingest.write_batch(
        inputs, source, batch, kind="reprocess", start_time=start_time, reprocessed_up_to=up_to,
        reprocessed_rules=rules,
    )  # fmt: skip
    rows.unpersist()
    return result


def _records(rows: DataFrame, source: CaptureSource) -> DataFrame:
    """The payloads of rejected rows as records. A payload that several elements of one line share is parsed once.

    A payload is a text, or bytes in the encoding of the file. A CSV line is parsed with the header of its file, and a
    typed row with its type.
    """
    spec = source.mapping.input
    is_bytes = F.col("payload_encoding") == "base64"
    lines = rows.select(
        F.when(is_bytes, F.unbase64("payload").cast("string")).otherwise(F.col("payload")).alias("value"),
        F.when(is_bytes, spec.encoding).otherwise("UTF-8").alias("charset"),
        execute_mapping.line_position().alias("position"),
        F.when(F.lit(spec.format != "delta"), F.regexp_extract("position", "^(.*):[^:]*$", 1)).alias("source_file"),
        "payload",
        "payload_encoding",
        "payload_header",
    ).dropDuplicates(["position"])
    # With a corrected separator, the first line of a file is its header again.
    is_header = spec.header & F.coalesce(F.col("value") == F.col("payload_header"), F.lit(False))
    lines = lines.where(~is_header)
    groups = [tuple(row) for row in lines.select("payload_header", "charset").distinct().collect()]
    folders = _folder_columns(lines)
    frames = [raw_records.empty(rows.sparkSession, spec)]
    for header, charset in groups:
        group = lines.where(F.col("payload_header").eqNullSafe(F.lit(header)) & (F.col("charset") == charset))
        if header is not None and spec.format in ("parquet", "delta"):
            frames.append(_typed_records(group, header, spec, folders))
            continue
        has_header = header is not None and spec.format == "csv" and spec.header
        names = raw_records.split_header(header, spec) if has_header else raw_records.column_names(spec)
        frames.append(
            raw_records.parse_lines(
                group, spec, names, max_line_bytes=source.capture.max_line_bytes, charset=charset,
                folder_columns=folders,
            )
        )  # fmt: skip
    return reduce(DataFrame.unionByName, frames)


def _typed_records(rows: DataFrame, header: str, spec: InputSpec, folders: tuple[str, ...]) -> DataFrame:
    stored = row_payload.row_type(header)
    row = row_payload.decode(F.col("payload"), F.col("payload_encoding"), stored)
    return raw_records.from_struct(rows.select("position", "source_file", row.alias("row")), stored, spec, folders)


def _folder_columns(lines: DataFrame) -> tuple[str, ...]:
    """Names of the partition values in the paths of the files."""
    files_with_values = lines.where(F.col("source_file").contains("=")).select("source_file").distinct()
    names = [file_paths.folder_names(row[0]) for row in files_with_values.collect()]
    return tuple(dict.fromkeys(name for group in names for name in group))
