"""One micro-batch of a source: records in, clean events and rejected rows out, every row accounted for."""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, TypeVar, cast

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import tables
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, StateCorrupt, naming
from profilestream.base.queries import Batch, BatchResult, Query, QueryInput, stage_query
from profilestream.base.session import frame_of_dicts, materialize
from profilestream.base.settings import Capture, Settings, Source, fingerprint
from profilestream.capture import (
    batch_monitor,
    canonical_columns,
    cleaning_rules,
    dedupe,
    raw_records,
    side_tables,
    sources,
)
from profilestream.capture import mapping as mappings
from profilestream.capture.cleaning_rules import BOT_WARNING
from profilestream.capture.mapping import Mapping

STAGE = "capture_events"
_ROWS_A_FILE = 500_000
Built = TypeVar("Built")
TABLES = (tables.EVENTS, tables.REJECTED_EVENTS, tables.CAPTURE_BATCHES)


@dataclass(frozen=True)
class Log:
    """A source with its mapping read and the rules that hold for every source.

    Args:
        memory: what its last batch in this run left for the next one.
    """

    name: str
    source: Source
    mapping: Mapping
    capture: Capture
    memory: batch_monitor.Memory = field(default_factory=batch_monitor.Memory, compare=False, repr=False)
    _built: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def expressions(self, records: DataFrame) -> canonical_columns.Expressions:
        """The canonical columns, built once."""
        return self._once("expressions", lambda: canonical_columns.expressions(records, self.mapping))

    def verdict(self, columns: list[str]) -> cleaning_rules.Verdict:
        """The rules as columns, built once."""
        return self._once("verdict", lambda: cleaning_rules.verdict(columns, self.mapping, self.capture))

    def _once(self, name: str, build: Callable[[], Built]) -> Built:
        if name not in self._built:
            self._built[name] = build()
        return cast(Built, self._built[name])

    @property
    def settings(self) -> str:
        """All that changes what a row becomes, in readable form."""
        general = self.capture.model_dump(mode="json", exclude={"sources", "alarms"})
        return json.dumps({"capture": general, "mapping": self.mapping.model_dump(mode="json")}, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Changes when `settings` does."""
        return fingerprint(self.settings)

    @property
    def lock(self) -> str:
        """Held by capture and by capture_reprocess of the source."""
        return f"capture/{self.name}"


@dataclass(frozen=True)
class Tally:
    """Rows of a batch by what became of them."""

    rows_in: int
    clean: int
    duplicate: int
    rejected_by_rule: dict[str, int]
    warned_by_rule: dict[str, int]
    event_time_min: int | None
    event_time_max: int | None

    @property
    def rejected(self) -> int:
        """All rejected rows."""
        return sum(self.rejected_by_rule.values())


def log_of(settings: Settings, name: str) -> Log:
    """The named source of the settings."""
    source = settings.capture.sources[name]
    mapping = mappings.load(source.mapping)
    cleaning_rules.check_names(mapping, source.mapping)
    return Log(name, source, mapping, settings.capture)


def chosen_sources(settings: Settings, name: str | None) -> list[str]:
    """The named source, or all of them.

    Raises:
        BadSettings: the settings know no such source.
    """
    known = list(settings.capture.sources)
    if name is not None and name not in known:
        raise BadSettings(f"no source is called {name!r}", where="--source", do=f"name one of {known}")
    return known if name is None else [name]


def query(settings: Settings, name: str) -> Query:
    """The streaming query that captures one source."""
    log = log_of(settings, name)

    def write(frame: DataFrame, batch: Batch) -> BatchResult:
        began = time.monotonic()
        with batch.phase("list"):
            came = sources.arrived(
                frame, log.source, log.mapping, batch_id=batch.txn.batch_id, skip_files=batch.plan.skip_files,
                max_line_bytes=log.capture.max_line_bytes,
            )  # fmt: skip
        return write_batch(came, log, batch, kind="source", began=began)

    reads = QueryInput(
        lambda spark: sources.read_stream(spark, log.source, log.mapping, settings),
        folder="" if log.mapping.input.format == "delta" else log.source.path,
        glob=log.mapping.input.glob,
    )
    return stage_query(
        STAGE,
        reads,
        TABLES,
        write,
        settings=log.settings,
        source=name,
        lock=log.lock,
        versions=lambda spark, *_: side_tables.versions(spark, log.mapping),
    )


def judge(raw: DataFrame, log: Log, *, ingest_micros: int, versions: dict[str, int]) -> DataFrame:
    """Exploded records -> canonical rows with rule, reason and warnings, ids in their spaces. Lazy; no action."""
    mapping = log.mapping
    sides = side_tables.side_tables(raw.sparkSession, mapping, versions)
    whole = canonical_columns.looked_up(raw, mapping, sides)
    events = canonical_columns.expressed(whole, log.expressions(whole))
    timed = events.withColumn("_ingest_time", F.timestamp_micros(F.lit(ingest_micros)))
    judged = cleaning_rules.judged(timed, log.verdict(events.columns))
    bad = F.col("rule").isNotNull()
    return canonical_columns.identified(judged, mapping).select(
        *canonical_columns.carried(mapping),
        "position",
        "rule",
        "reason",
        *[F.when(bad, F.col(name)).alias(name) for name in ("payload", "payload_encoding", "payload_header")],
        dedupe.id_hash().alias(dedupe.ID_HASH),
    )


def write_batch(
    came: sources.Arrived, log: Log, batch: Batch, *, kind: str, began: float,
    reprocessed_up_to: dict[str, int] | None = None, reprocessed_rules: list[str] | None = None,
) -> BatchResult:  # fmt: skip
    """Judge the records, find duplicates, and write the three tables, the trusted one last."""
    if batch.is_retry:
        where = f"{batch.txn.query}, batch {batch.txn.batch_id}"
        side_tables.check_unchanged(batch.spark, log.mapping, batch.plan.versions, where=where)
    counted = Observation(f"{log.name} rows in")
    raw = _records(came, log)
    judged = judge(
        raw.observe(counted, F.count(F.lit(1)).alias("n")), log,
        ingest_micros=came.ingest_micros, versions=batch.plan.versions,
    ).persist()  # fmt: skip
    try:
        do = "write try_cast, try_divide, try_to_timestamp, ... which give null instead, and start with --replan"
        told = naming("an expression of the mapping fails on a row", where=log.source.mapping, do=do)
        with batch.phase("read and judge"), raw_records.reading(batch.spark, came.paths), told:
            summary = _summary(judged, log.mapping)
        rows_in = int(counted.get["n"]) + len(came.skipped)
        with batch.phase("find duplicates"):
            good = judged.where(F.col("rule").isNull())
            dropped = dedupe.dropped(good, _stored(batch, log, summary), canonical_columns.said(log.mapping))
            kept = dedupe.survivors(good, dropped)
            busy = _busy_minutes(kept, log.mapping)
        tally = _tally(rows_in, summary, dropped, busy, log.mapping, len(came.skipped))
        with raw_records.reading(batch.spark, came.paths):
            tally = _checked(tally, raw, log, batch)
        found = _compared(summary, tally, log, came, batch) if kind == "source" else batch_monitor.Outcome([], {}, {})
        if tally.clean:
            batch.append(_clean(kept, busy, log, came, batch.txn), tables.EVENTS)
        if tally.rejected:
            with raw_records.reading(batch.spark, came.paths):
                batch.append(_rejected(judged, dropped, log, came, batch, tally), tables.REJECTED_EVENTS)
    finally:
        judged.unpersist()
    batch_monitor.append(found, _stamp(log, came, batch.txn), tally.event_time_max, batch, log.capture.alarms)
    seconds = time.monotonic() - began
    row = _batch_row(tally, log, came, batch, kind, seconds, reprocessed_up_to, reprocessed_rules, found.row)
    batch.append(row, tables.CAPTURE_BATCHES)
    log.memory.keep(batch, found.trends)
    return BatchResult(rows_in=tally.rows_in, rows_out=tally.clean, files=len(came.paths) + len(came.skipped))


def _records(came: sources.Arrived, log: Log) -> DataFrame:
    """The batch's records; of a replayed line only the elements that were rejected."""
    raw = canonical_columns.exploded(came.records, log.mapping)
    if came.replayed is None:
        return raw
    wanted = F.broadcast(came.replayed.select(F.col("position").alias("_wanted")))
    line = canonical_columns.line_position()
    return raw.join(wanted, F.col("_wanted").isin(F.col("position"), line), "left_semi")


def _warned(mapping: Mapping) -> list[Column]:
    _, warns = cleaning_rules.names(mapping)
    return [F.count_if(F.array_contains("warnings", name)).alias(f"warned {name}") for name in warns]


def _summary(judged: DataFrame, mapping: Mapping) -> list[Any]:
    """Rows of the batch by rule and date. The first action on the batch: it fills the cache."""
    return (
        judged.groupBy("rule", "event_date")
        .agg(
            F.count(F.lit(1)).alias("n"),
            F.unix_micros(F.min("event_time")).alias("first"),
            F.unix_micros(F.max("event_time")).alias("last"),
            batch_monitor.sums(mapping),
            *_warned(mapping),
        )
        .collect()
    )


def _stored(batch: Batch, log: Log, summary: list[Any]) -> DataFrame:
    dates: list[date] = sorted({row["event_date"] for row in summary if row["rule"] is None})
    stored = tables.EVENTS.read(batch.spark, batch.paths)
    return dedupe.earlier(stored, source=log.name, dates=dates, epoch=batch.txn.epoch, batch_id=batch.txn.batch_id)


def _tally(
    rows_in: int, summary: list[Any], dropped: DataFrame | None, busy: DataFrame | None, mapping: Mapping, skipped: int
) -> Tally:
    by_verdict: dict[str, Any] = {}
    if dropped is not None:
        counted = dropped.groupBy("verdict").agg(F.count(F.lit(1)).alias("n"), *_warned(mapping))
        by_verdict = {row["verdict"]: row for row in counted.collect()}
    reject_names, warn_names = cleaning_rules.names(mapping)
    rejected: Counter[str] = Counter(dict.fromkeys(reject_names, 0))
    for row in summary:
        if row["rule"] is not None:
            rejected[row["rule"]] += row["n"]
    rejected["file_unreadable"] += skipped
    duplicate, reused = (by_verdict[v]["n"] if v in by_verdict else 0 for v in ("duplicate", "id_reused"))
    rejected["id_reused"] += reused
    good = [row for row in summary if row["rule"] is None]
    warned = {
        n: sum(r[f"warned {n}"] for r in good) - sum(r[f"warned {n}"] for r in by_verdict.values()) for n in warn_names
    }
    if busy is not None:
        warned[BOT_WARNING] = busy.agg(F.coalesce(F.sum("count"), F.lit(0)).alias("n")).collect()[0]["n"]
    return Tally(
        rows_in=rows_in,
        clean=sum(row["n"] for row in good) - duplicate - reused,
        duplicate=duplicate,
        rejected_by_rule=dict(rejected),
        warned_by_rule=warned,
        event_time_min=min((row["first"] for row in good), default=None),
        event_time_max=max((row["last"] for row in good), default=None),
    )


def _checked(tally: Tally, raw: DataFrame, log: Log, batch: Batch) -> Tally:
    """The tally, once its rows add up. A task that ran twice is counted twice at the source, so count again first."""
    parts = tally.clean + tally.rejected + tally.duplicate
    skipped = tally.rejected_by_rule["file_unreadable"]
    if tally.rows_in != parts and raw.count() + skipped != parts:
        raise StateCorrupt(
            f"{tally.rows_in} rows came in, but {tally.clean} are clean, {tally.rejected} rejected and "
            f"{tally.duplicate} duplicate",
            where=f"{batch.txn.query}, batch {batch.txn.batch_id}",
            do=f"check that the keys of the mapping's lookups are unique: {sorted(log.mapping.lookup)}",
        )
    return replace(tally, rows_in=parts)


def _compared(summary: list[Any], tally: Tally, log: Log, came: sources.Arrived, batch: Batch) -> batch_monitor.Outcome:
    """The batch against the earlier ones of its source; raises when its alarms are to stop it."""
    skipped, alarms = len(came.skipped), log.capture.alarms
    rows, rejected = tally.rows_in - skipped, tally.rejected - skipped
    seen = batch_monitor.measured(summary, rows, rejected, came, log.mapping, alarms.min_rows)
    return batch_monitor.compared(seen, log.name, log.memory, batch, alarms, came)


def _busy_minutes(kept: DataFrame, mapping: Mapping) -> DataFrame | None:
    """Users and minutes with more events than the mapping's bot rule allows; null without such a rule."""
    if mapping.bots is None:
        return None
    by_minute = kept.where(F.col("user_id").isNotNull()).groupBy(
        F.col("user_id").alias("_user"), F.date_trunc("minute", "event_time").alias("_minute")
    )
    return materialize(by_minute.count().where(F.col("count") > mapping.bots.max_events_per_minute))


def _clean(kept: DataFrame, busy: DataFrame | None, log: Log, came: sources.Arrived, txn: Txn) -> DataFrame:
    """The rows of `events`."""
    if busy is not None:
        minute = F.date_trunc("minute", "event_time")
        same = (F.col("user_id") == F.col("_user")) & (minute == F.col("_minute"))
        marked = F.when(F.col("_user").isNotNull(), F.array_append("warnings", F.lit(BOT_WARNING)))
        kept = kept.join(F.broadcast(busy), same, "left").withColumn("warnings", F.coalesce(marked, "warnings"))
    stamped = kept.withColumns(_stamp(log, came, txn))
    have = set(stamped.columns)
    # One text a column: thirty Column objects cost 0.15 s a batch.
    cells = {f.name: (f.name if f.name in have else "NULL", f.dataType.simpleString()) for f in tables.EVENTS.schema}
    return stamped.selectExpr(*[f"CAST({cell} AS {kind}) AS {name}" for name, (cell, kind) in cells.items()])


def _rejected(
    judged: DataFrame, dropped: DataFrame | None, log: Log, came: sources.Arrived, batch: Batch, tally: Tally
) -> DataFrame:
    """The rows of `rejected_events`: broken rules, ids reused with other content, files passed over."""
    said = ("position", "rule", "reason", "payload", "payload_encoding", "payload_header")
    rows = judged.where(F.col("rule").isNotNull()).select(*said)
    if dropped is not None and tally.rejected_by_rule["id_reused"]:
        reused = F.broadcast(dropped.where("verdict = 'id_reused'").select("position", "event_id"))
        payloads = _records(came, log).select("position", "payload", "payload_encoding", "payload_header")
        reason = F.concat(F.lit("the id "), "event_id", F.lit(" already stands for an event with other content"))
        rows = rows.unionByName(
            payloads.join(reused, "position").select(
                "position", F.lit("id_reused").alias("rule"), reason.alias("reason"), *said[3:]
            )
        )
    if came.skipped:
        skipped = [(path, "file_unreadable", "passed over by --skip-file", path, "utf8", None) for path in came.skipped]
        rows = rows.unionByName(batch.spark.createDataFrame(skipped, ", ".join(f"{name} string" for name in said)))
    linked = rows.withColumn("reprocessed_from", F.lit(None).cast("string"))
    if came.replayed is not None:
        origins = came.replayed.select(
            F.col("position").alias("_position"), F.col("reprocessed_from").alias("_reprocessed_from")
        )
        line = canonical_columns.line_position()
        linked = linked.join(F.broadcast(origins), F.col("_position").isin(F.col("position"), line), "left")
        linked = linked.withColumn("reprocessed_from", F.col("_reprocessed_from"))
    stamped = linked.withColumns(_stamp(log, came, batch.txn))
    return stamped.select(*tables.REJECTED_EVENTS.columns).coalesce(1 + tally.rejected // _ROWS_A_FILE)


def _stamp(log: Log, came: sources.Arrived, txn: Txn) -> dict[str, Column]:
    return {
        "source": F.lit(log.name),
        "ingest_time": F.timestamp_micros(F.lit(came.ingest_micros)),
        "epoch": F.lit(txn.epoch),
        "batch_id": F.lit(txn.batch_id).cast("bigint"),
    }


def _batch_row(
    tally: Tally, log: Log, came: sources.Arrived, batch: Batch, kind: str, seconds: float,
    reprocessed_up_to: dict[str, int] | None, reprocessed_rules: list[str] | None, measures: dict[str, dict[str, Any]],
) -> DataFrame:  # fmt: skip
    """The row of `capture_batches`."""
    first, last = tally.event_time_min, tally.event_time_max
    lateness = None if first is None else (came.ingest_micros - first) / 1e6
    values = {
        "kind": kind,
        "files": len(came.paths) + len(came.skipped),
        "rows_in": tally.rows_in,
        "rows_clean": tally.clean,
        "rows_rejected": tally.rejected,
        "rows_duplicate": tally.duplicate,
        "rejected_by_rule": tally.rejected_by_rule,
        "warned_by_rule": tally.warned_by_rule,
        "first": first,
        "last": last,
        "lateness_seconds_max": lateness,
        "seconds": seconds,
        "fingerprint": log.fingerprint,
        "reprocessed_up_to": reprocessed_up_to,
        "reprocessed_rules": reprocessed_rules,
        "measures": measures or None,
    }
    kinds = {f.name: f.dataType for f in tables.CAPTURE_BATCHES.schema} | dict.fromkeys(("first", "last"), T.LongType())
    row = frame_of_dicts(batch.spark, [values], T.StructType([T.StructField(name, kinds[name]) for name in values]))
    times = {"event_time_min": F.timestamp_micros("first"), "event_time_max": F.timestamp_micros("last")}
    return row.withColumns({**_stamp(log, came, batch.txn), **times}).select(*tables.CAPTURE_BATCHES.columns)
