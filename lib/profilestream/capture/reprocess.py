"""Reprocesses rejected rows once after the mapping was corrected.

A reprocess batch has `kind` = `reprocess`. It reads the rows of `rejected_events` of one epoch that no earlier batch
of this kind read, at the table version in its plan; rows of another epoch can have the same positions. It writes the
same three tables as a source batch. Rows that are clean now are added to `events`. Other rows are rejected again, and
`reprocessed_from` names the batch that rejected them before. Per epoch, `capture_batches` contains the last batch whose
rejected rows were reprocessed, so no row is reprocessed twice.
"""

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import delta_table, files, locks, startup_checks, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.settings import Settings
from profilestream.capture import corrected_files, execute_mapping, ingest, raw_records, row_payload, side_tables
from profilestream.capture.corrected_files import CorrectedFile
from profilestream.capture.guarded_sql import null_if_raises
from profilestream.capture.ingest import CaptureSource
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources import kafka_records
from profilestream.capture.sources.file_source import reading_files
from profilestream.capture.sources.kafka_source import KafkaSource
from profilestream.capture.sources.record_source import InputBatch

STAGE = "capture_reprocess"
log = logging.getLogger(__name__)
# Maintenance has removed the payload; a record without a value has none.
_IS_CLEARED = "payload IS NULL AND rule <> 'tombstone'"
# Matches the name of each partition folder in the path of a file.
_FOLDER_NAMES = r"(?:^|/)([^=/]+)=[^/]*(?=/)"


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


def unfinished_plan(spark: SparkSession, settings: Settings, query: str, checkpoint: Checkpoint) -> Plan | None:
    """The plan of the last batch, if that is not complete.

    Args:
        query: `capture_reprocess/<source>`.
    """
    last, paths = _last_planned(spark, checkpoint), settings.paths
    if last < 0 or startup_checks.contains_batch(spark, tables.CAPTURE_BATCHES, paths, query, checkpoint, last):
        return None
    return checkpoint.plan(last)


def _last_planned(spark: SparkSession, checkpoint: Checkpoint) -> int:
    """The last batch that has a plan; -1 without one."""
    return max((int(n) for n in files.names(spark, f"{checkpoint.path}/plans") if n.isdigit()), default=-1)


def _next_batch(
    spark: SparkSession, settings: Settings, source: CaptureSource, checkpoint: Checkpoint, rules: list[str] | None,
    version: int,
) -> Batch | None:  # fmt: skip
    """A retry of the unfinished batch if there is one, else a new batch; null if there are no rows to reprocess.

    Args:
        version: of `rejected_events`, whose rows a new batch reads.
    """
    query = f"{STAGE}/{source.name}"
    last = _last_planned(spark, checkpoint)
    plan = unfinished_plan(spark, settings, query, checkpoint)
    if plan is not None:
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
    capture_checkpoint = Checkpoint(spark, checkpoint_path(settings.paths, f"{ingest.STAGE}/{source.name}"))
    specs = corrected_files.earlier_options([capture_checkpoint, checkpoint])
    equal = [name for name, spec in specs.items() if corrected_files.are_equal(spec, source.mapping.input)]
    plan = replace(plan, settings=json.dumps({"rules": rules, "equal_options": equal}))
    rows = _pending_rows(replace(batch, plan=plan), source)
    epoch = rows.agg(F.min("epoch")).collect()[0][0]
    _warn_of_cleared_rows(replace(batch, plan=plan), source, epoch)
    if epoch is None:
        return None
    of_epoch = F.col("epoch") == epoch
    others = _unprocessed_rows(batch, source).where(of_epoch).join(rows, ["epoch", "batch_id", "position"], "left_anti")
    corrected = corrected_files.choose(spark, settings, source, rows.where(of_epoch), others, specs)
    planned = {"rules": rules, "epoch": epoch, "source": source.settings_text, "equal_options": equal,
               "corrected_files": [asdict(file) for file in corrected]}  # fmt: skip
    plan = replace(plan, settings=json.dumps(planned))
    checkpoint.store_plan(last + 1, plan)
    return replace(batch, plan=plan)


def _warn_of_cleared_rows(batch: Batch, source: CaptureSource, epoch: str | None) -> None:
    """Log the number of rows of an epoch (null: of all) that would be reprocessed if their payloads were stored."""
    cleared = _selected_rows(batch, source).where(_IS_CLEARED)
    count = cleared.where(F.lit(epoch is None) | (F.col("epoch") == F.lit(epoch))).count()
    if count:
        log.warning(
            "%s: %s rejected rows are not reprocessed, because maintain.rejected_payload_days removed their payloads: "
            "capture their files again under new names", source.name, f"{count:,}",
        )  # fmt: skip


def _pending_rows(batch: Batch, source: CaptureSource) -> DataFrame:
    """The rows of `_selected_rows` whose payloads are stored."""
    return _selected_rows(batch, source).where(f"NOT ({_IS_CLEARED})")


def _selected_rows(batch: Batch, source: CaptureSource) -> DataFrame:
    """The rows of `_unprocessed_rows` that the batch may reprocess, by its plan.

    Unless rules are named, rows that the same mapping rejected are excluded: it would reject them again. A line inside
    a quoted cell is no record, unless the options of the text changed.
    """
    planned = json.loads(batch.plan.settings)
    rejected, rules = _unprocessed_rows(batch, source), planned["rules"]
    is_record = F.col("reason") != raw_records.INSIDE_QUOTES_REASON
    # Plans of earlier versions of this job have no list of options.
    has_equal_options = F.col("fingerprint").isin(planned.get("equal_options", []))
    is_selected = F.col("fingerprint") != source.fingerprint if rules is None else F.col("rule").isin(rules)
    return rejected.where((is_record | ~has_equal_options) & is_selected)


def _unprocessed_rows(batch: Batch, source: CaptureSource) -> DataFrame:
    """Rejected rows of the source, at the planned version, that no earlier batch reprocessed; no skipped files.

    Returns:
        Columns of `rejected_events`, `source_file`, and `fingerprint` of the settings that rejected the row.
    """
    stored = tables.REJECTED_EVENTS.read(batch.spark, batch.paths, version=batch.plan.versions["rejected_events"])
    rejected = stored.where((F.col("source") == source.name) & (F.col("rule") != "file_unreadable"))
    batches = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths).where(F.col("source") == source.name)
    # A batch that was stopped before its row in this table was written has no fingerprint.
    fingerprints = batches.select("epoch", "batch_id", "fingerprint").dropDuplicates(["epoch", "batch_id"])
    rejected = rejected.join(F.broadcast(fingerprints), ["epoch", "batch_id"], "left")
    rejected = rejected.withColumns(
        {"fingerprint": F.coalesce("fingerprint", F.lit("")), "source_file": corrected_files.file_of_position()}
    )
    is_this_or_later = (F.col("epoch") == batch.txn.epoch) & (F.col("batch_id") >= batch.txn.batch_id)
    earlier = batches.where((F.col("kind") == "reprocess") & ~is_this_or_later)
    ranges = [
        ReprocessedRange(row["reprocessed_up_to"], row["reprocessed_rules"])
        for row in earlier.select("reprocessed_up_to", "reprocessed_rules").collect()
    ]
    return reduce(_exclude, ranges, rejected)


def _exclude(rows: DataFrame, reprocessed: ReprocessedRange) -> DataFrame:
    for epoch, up_to in reprocessed.up_to.items():
        is_covered = (F.col("epoch") == epoch) & (F.col("batch_id") <= up_to)
        if reprocessed.rules is not None:
            is_covered = is_covered & F.col("rule").isin(reprocessed.rules)
        rows = rows.where(~is_covered)
    return rows


def _write(batch: Batch, source: CaptureSource) -> BatchResult:
    start_time, spark = time.monotonic(), batch.spark
    planned = json.loads(batch.plan.settings)
    corrected = [CorrectedFile(**file) for file in planned.get("corrected_files", [])]
    corrected_files.check_unchanged(spark, corrected, where=f"{batch.txn.query}, batch {batch.txn.batch_id}")
    rows = _pending_rows(batch, source).where(F.col("epoch") == planned["epoch"]).persist()
    up_to = {planned["epoch"]: rows.agg(F.max("batch_id")).collect()[0][0]}
    paths = [file.path for file in corrected]
    with reading_files(spark, paths):
        records = _records(rows, source, corrected)
    origins = _origins(rows, records, source, corrected)
    inputs = InputBatch(lambda: records, batch.plan.versions["ingest_micros"], paths, [], origins)
    result = ingest.write_batch(
        inputs, source, batch, kind="reprocess", start_time=start_time, reprocessed_up_to=up_to,
        reprocessed_rules=planned["rules"],
    )  # fmt: skip
    rows.unpersist()
    return result


def _origins(rows: DataFrame, records: DataFrame, source: CaptureSource, corrected: list[CorrectedFile]) -> DataFrame:
    """The batch that rejected each row before, by `position`; of a file that is read completely, for each line."""
    # Without `explode`, a rejected element stands for its line.
    position = F.col("position") if source.mapping.input.explode else execute_mapping.line_position()
    origins = rows.select(
        position.alias("position"), "source_file", F.concat_ws("/", "epoch", "batch_id").alias("reprocessed_from")
    ).dropDuplicates(["position"])
    complete = [file.name for file in corrected if file.is_complete]
    if complete:
        is_complete = F.col("source_file").isin(complete)
        of_files = origins.where(is_complete).groupBy("source_file").agg(F.max("reprocessed_from").alias("from"))
        of_lines = records.join(F.broadcast(of_files), "source_file").select("position", "source_file", "from")
        origins = origins.where(~is_complete).union(of_lines)
    return origins.select("position", "reprocessed_from")


def _records(rows: DataFrame, source: CaptureSource, corrected: list[CorrectedFile]) -> DataFrame:
    """The rejected rows as records: from their files, or from the stored text."""
    if not corrected:
        return _stored_records(rows, source)
    names = [file.name for file in corrected]
    stored = _stored_records(rows.where(~F.col("source_file").isin(names)), source)
    return stored.unionByName(corrected_files.records(rows.sparkSession, source, corrected))


def _stored_records(rows: DataFrame, source: CaptureSource) -> DataFrame:
    """The payloads of rejected rows as records. A payload that several elements of one line share is parsed once.

    A payload is a text, or bytes in the encoding of the file. A CSV line is parsed with the header of its file, and a
    typed row with its type.
    """
    spec, reader = source.mapping.input, source.reader
    is_bytes = F.col("payload_encoding") == "base64"
    lines = rows.select(
        F.when(is_bytes, F.unbase64("payload").cast("string")).otherwise(F.col("payload")).alias("value"),
        F.when(is_bytes, spec.encoding).otherwise("UTF-8").alias("charset"),
        execute_mapping.line_position().alias("position"),
        "source_file",
        "payload",
        "payload_encoding",
        "payload_header",
        (F.col("rule") == "header_unknown").alias("is_header_unknown"),
        (F.col("reason") == raw_records.INSIDE_QUOTES_REASON).alias("is_quoted"),
        # The names of the partition values in the path of the file.
        F.array_join(F.array_distinct(F.regexp_extract_all("source_file", F.lit(_FOLDER_NAMES), 1)), "/").alias(
            "folders"
        ),
    ).dropDuplicates(["position"])
    if isinstance(reader, KafkaSource):
        return kafka_records.parse(lines, spec, reader.max_line_bytes).select(*raw_records.COLUMNS)
    lines = _records_of_lines(lines, spec)
    layouts = lines.select("payload_header", "charset", "folders").distinct().collect()
    frames = [raw_records.empty(rows.sparkSession, spec)]
    for header, charset, folders in layouts:
        is_in_layout = F.col("payload_header").eqNullSafe(F.lit(header)) & (F.col("charset") == charset)
        of_layout = lines.where(is_in_layout & (F.col("folders") == folders))
        folder_columns = tuple(filter(None, folders.split("/")))
        if header is not None and spec.format in ("parquet", "delta"):
            frames.append(_typed_records(of_layout, header, spec, folder_columns))
            continue
        has_header = header is not None and spec.format == "csv" and spec.header
        names = raw_records.split_header(header, spec) if has_header else raw_records.column_names(spec)
        frames.append(
            raw_records.parse_lines(
                of_layout, spec, names, max_line_bytes=source.capture.max_line_bytes, charset=charset,
                folder_columns=folder_columns,
            )
        )  # fmt: skip
    records = reduce(DataFrame.unionByName, frames)
    # The lines around it may be no longer known, so a line inside a quoted cell remains rejected.
    return raw_records.reject_lines(records, lines.where("is_quoted").select("position"))


def _records_of_lines(lines: DataFrame, spec: InputSpec) -> DataFrame:
    """The stored lines that are records by the current options, with the header of their file."""
    if spec.format != "csv":
        return lines
    decoded = null_if_raises(F.decode(F.col("value").cast("binary"), spec.encoding), F.col("value").isNotNull())
    lines = lines.withColumn("_text", F.when(F.col("charset") == "UTF-8", F.col("value")).otherwise(decoded))
    is_start, number = ~F.col("position").rlike(r"\+\d+$"), F.regexp_extract("position", r"(\d+)$", 1).cast("bigint")
    is_record = ~(is_start & (number <= spec.skip_lines))
    if spec.comment:
        is_record = is_record & ~F.coalesce(F.startswith("_text", F.lit(spec.comment)), F.lit(False))
    lines = lines.where(is_record)
    if not spec.header:
        return lines
    # Of a file whose header was not recognized, all lines were rejected: one of them is the header.
    first = lines.where(is_start & (F.col("is_header_unknown") | F.col("payload_header").isNull()))
    first = first.groupBy("source_file").agg(F.min_by("_text", number).alias("_header"))
    names = set(raw_records.column_names(spec))
    headers = [row[0] for row in first.select("_header").distinct().collect() if row[0] is not None]
    headers = [header for header in headers if names & set(raw_records.split_header(header, spec))]
    lines = lines.join(F.broadcast(first.where(F.col("_header").isin(headers))), "source_file", "left")
    is_unknown = F.col("_header").isNotNull() & (F.col("is_header_unknown") | F.col("payload_header").isNull())
    lines = lines.withColumn("payload_header", F.when(is_unknown, F.col("_header")).otherwise(F.col("payload_header")))
    # With a corrected separator, the first line of a file is its header again.
    return lines.where(~F.coalesce(F.col("_text") == F.col("payload_header"), F.lit(False)))


def _typed_records(rows: DataFrame, header: str, spec: InputSpec, folders: tuple[str, ...]) -> DataFrame:
    stored = row_payload.row_type(header)
    row = row_payload.decode(F.col("payload"), F.col("payload_encoding"), stored)
    file = F.lit(None).cast("string") if spec.format == "delta" else F.col("source_file")
    placed = rows.select("position", file.alias("source_file"), row.alias("row"))
    return raw_records.from_struct(placed, stored, spec, folders)
