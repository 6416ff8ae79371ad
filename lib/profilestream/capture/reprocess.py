"""Rejected rows put through again, once, after a mapping was mended.

A replay is a batch of its own kind. It takes the rows of `rejected_events` that no earlier replay took, as of a
version that its plan pins, and writes the same three tables: what is clean now goes to `events`, what is not is
rejected again with `reprocessed_from` naming the row it comes from. `capture_batches` keeps, per epoch, up to which batch
rejected rows were taken, so that none is taken twice.
"""

import json
import time
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files, locks, startup_checks, tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.errors import Refused, SourceMissing
from profilestream.base.queries import Batch, BatchResult
from profilestream.base.settings import Settings
from profilestream.capture import canonical_columns, ingest, raw_records, side_tables
from profilestream.capture.ingest import Log
from profilestream.capture.sources import Arrived

STAGE = "capture_reprocess"


@dataclass(frozen=True)
class Taken:
    """Rejected rows of one replay: up to which batch per epoch, and of which rules (null: of all)."""

    up_to: dict[str, int]
    rules: list[str] | None


def run(spark: SparkSession, settings: Settings, name: str, rules: list[str] | None) -> BatchResult:
    """Put a source's rejected rows through again.

    Args:
        rules: only rows rejected by these rules; all when null.

    Returns:
        Rows taken and rows that are clean now; zero rows when there is nothing that was not taken before.

    Raises:
        SourceMissing: the source was never captured.
        Refused: capture of the source is running, or an unfinished replay was begun with another mapping.
    """
    log = ingest.log_of(settings, name)
    with locks.held(settings.paths.lock_folder, log.lock):
        if not tables.CAPTURE_BATCHES.exists(spark, settings.paths):
            raise SourceMissing(
                f"{name} was never captured", where=settings.paths.warehouse, do="run capture_events first"
            )
        tables.CAPTURE_BATCHES.check_stored(spark, settings.paths)
        checkpoint = Checkpoint(spark, f"{files.qualified(settings.paths.checkpoints)}/{STAGE}/{name}")
        batch = _batch(spark, settings, log, checkpoint, rules)
        return BatchResult() if batch is None else _write(batch, log)


def _batch(
    spark: SparkSession, settings: Settings, log: Log, checkpoint: Checkpoint, rules: list[str] | None
) -> Batch | None:
    """The unfinished replay when there is one, else a new one; null when there is nothing to take."""
    query = f"{STAGE}/{log.name}"
    newest = max((int(n) for n in files.names(spark, f"{checkpoint.path}/plans") if n.isdigit()), default=-1)
    plan = checkpoint.plan(newest) if newest >= 0 else None
    if plan is not None and not startup_checks.holds(
        spark, tables.CAPTURE_BATCHES, settings.paths, query, checkpoint, newest
    ):
        if plan.fingerprint != log.fingerprint:
            raise Refused(
                f"replay {newest} of {log.name} was begun with another mapping and is not finished",
                where=f"{checkpoint.path}/plans/{newest}",
                do="restore the mapping kept in that file, run once, then edit",
            )
        return Batch(spark, settings.paths, Txn(query, checkpoint.epoch(), newest), plan, is_retry=True)
    version = tables.delta_version(spark, tables.REJECTED_EVENTS.path(settings.paths))
    versions = {"rejected_events": version, "ingest_micros": int(time.time() * 1e6)}
    versions |= side_tables.versions(spark, log.mapping)
    plan = Plan(log.fingerprint, json.dumps({"rules": rules, "log": log.settings}), versions)
    batch = Batch(spark, settings.paths, Txn(query, checkpoint.epoch(), newest + 1), plan)
    if _open_rows(batch, log, rules).isEmpty():
        return None
    checkpoint.store_plan(newest + 1, plan)
    return batch


def _open_rows(batch: Batch, log: Log, rules: list[str] | None) -> DataFrame:
    """Rejected rows of the source, as of the planned version, that no earlier replay took.

    Unless rules are named, rows that this same mapping has rejected are left alone: it would reject them again.
    Files that were passed over are not rows.
    """
    stored = tables.REJECTED_EVENTS.read(batch.spark, batch.paths, version=batch.plan.versions["rejected_events"])
    own = stored.where((F.col("source") == log.name) & (F.col("rule") != "file_unreadable"))
    batches = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths).where(F.col("source") == log.name)
    same_mapping = batches.where(F.col("fingerprint") == log.fingerprint).select("epoch", "batch_id")
    if rules is None:
        wanted = own.join(F.broadcast(same_mapping), ["epoch", "batch_id"], "left_anti")
    else:
        wanted = own.where(F.col("rule").isin(rules))
    this = (F.col("epoch") == batch.txn.epoch) & (F.col("batch_id") >= batch.txn.batch_id)
    before = batches.where((F.col("kind") == "replay") & ~this)
    taken = [
        Taken(row["reprocessed_up_to"], row["reprocessed_rules"])
        for row in before.select("reprocessed_up_to", "reprocessed_rules").collect()
    ]
    return reduce(_without, taken, wanted)


def _without(rows: DataFrame, taken: Taken) -> DataFrame:
    for epoch, up_to in taken.up_to.items():
        covered = (F.col("epoch") == epoch) & (F.col("batch_id") <= up_to)
        if taken.rules is not None:
            covered = covered & F.col("rule").isin(taken.rules)
        rows = rows.where(~covered)
    return rows


def _write(batch: Batch, log: Log) -> BatchResult:
    began = time.monotonic()
    rules = json.loads(batch.plan.settings)["rules"]
    rows = _open_rows(batch, log, rules).persist()
    up_to = {r["epoch"]: r["up_to"] for r in rows.groupBy("epoch").agg(F.max("batch_id").alias("up_to")).collect()}
    replayed = rows.select("position", F.concat_ws("/", "epoch", "batch_id").alias("reprocessed_from"))
    came = Arrived(_records(rows, log), batch.plan.versions["ingest_micros"], [], [], replayed)
    done = ingest.write_batch(
        came, log, batch, kind="replay", began=began, reprocessed_up_to=up_to, reprocessed_rules=rules
    )
    rows.unpersist()
    return done


def _records(rows: DataFrame, log: Log) -> DataFrame:
    """The payloads of rejected rows as records. Elements of one exploded line share it, so it is parsed once."""
    shape = log.mapping.input
    text = F.when(F.col("payload_encoding") == "base64", F.unbase64("payload").cast("string")).otherwise(
        F.col("payload")
    )
    lines = rows.select(
        text.alias("value"), canonical_columns.line_position().alias("position"), "payload_header"
    ).dropDuplicates(["position"])
    if shape.format != "csv":
        text_shape = shape.model_copy(update={"format": "jsonl"})
        return raw_records.parsed_lines(lines, text_shape, (), max_line_bytes=log.capture.max_line_bytes)
    headers = [row[0] for row in lines.select("payload_header").distinct().collect()]
    frames = []
    for header in headers:
        names = raw_records.split_header(header, shape) if header else tuple(raw_records.schema(shape).names)
        same = lines.where(F.col("payload_header").eqNullSafe(F.lit(header)))
        frames.append(raw_records.parsed_lines(same, shape, names, max_line_bytes=log.capture.max_line_bytes))
    return reduce(DataFrame.unionByName, frames)
