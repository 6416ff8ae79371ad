"""One micro-batch of a source: reads records, writes clean events and rejected rows, and accounts for every row."""

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, TypeVar, cast

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from profilestream.base import event_period, tables
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, NothingWritten, StateCorrupt
from profilestream.base.queries import Batch, BatchResult, Query, QueryInput, stage_query
from profilestream.base.session import frame_of_dicts, materialize
from profilestream.base.settings import Capture, Settings, Source, fingerprint
from profilestream.capture import (
    batch_monitor,
    cleaning_rules,
    currency,
    dedupe,
    execute_mapping,
    raw_records,
    side_tables,
    time_warnings,
)
from profilestream.capture import mapping as mappings
from profilestream.capture.batch_monitor import AlarmResult, TrendCache
from profilestream.capture.cleaning_rules import BOT_WARNING, FAULTS
from profilestream.capture.execute_mapping import FAILED
from profilestream.capture.mapping import Lookup, Mapping
from profilestream.capture.sources.delta_source import DeltaSource
from profilestream.capture.sources.file_source import FileSource, reading_files
from profilestream.capture.sources.record_source import InputBatch, RecordSource

log = logging.getLogger(__name__)

STAGE = "capture_events"
_ROWS_PER_FILE = 500_000
# Fewer rows do not show that an expression of the mapping is wrong.
_MIN_ROWS_OF_FINDINGS = 100
# With at most this number of rows, one task writes the events of a date faster than several tasks: fewer files.
_SMALL_BATCH_ROWS = 50_000
Built = TypeVar("Built")


@dataclass(frozen=True)
class CaptureSource:
    """A source with its mapping, the settings of capture, and values that the batches of a run share.

    Args:
        config: the settings of the source.
        reader: reads its records.
        trend_cache: trends of the alarms after the last batch of this run.
    """

    name: str
    config: Source
    mapping: Mapping
    capture: Capture
    reader: RecordSource
    trend_cache: TrendCache = field(default_factory=TrendCache, compare=False, repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def expressions(self, records: DataFrame) -> execute_mapping.Expressions:
        """The canonical columns; built once per run."""
        return self._cached(
            "expressions", lambda: execute_mapping.build_expressions(records, self.mapping, self.capture)
        )

    def rules(self, events: DataFrame) -> cleaning_rules.RuleColumns:
        """The rules as columns; built once per run."""
        return self._cached("rules", lambda: cleaning_rules.build_rules(events, self.mapping, self.capture))

    def main_currency(self, batch: Batch, default: str) -> str:
        """The currency of an event of the source; the default before the first one. Read once per run."""

        def read() -> str:
            is_known = (F.col("source") == self.name) & F.col("currency").isNotNull()
            row = tables.EVENTS.read(batch.spark, batch.paths).where(is_known).select("currency").first()
            return default if row is None else str(row[0])

        return self._cached("main_currency", read)

    def _cached(self, name: str, build: Callable[[], Built]) -> Built:
        if name not in self._cache:
            self._cache[name] = build()
        return cast(Built, self._cache[name])

    @property
    def lookups(self) -> dict[str, Lookup]:
        """The side tables of the mapping and of the settings, by name."""
        rates = {} if self.capture.currency is None else {currency.RATES: currency.lookup(self.capture.currency)}
        return {**self.mapping.lookup, **rates}

    @property
    def settings_text(self) -> str:
        """All settings that change the stored rows, as JSON."""
        general = self.capture.model_dump(mode="json", exclude={"sources", "alarms"})
        return json.dumps({"capture": general, "mapping": self.mapping.model_dump(mode="json")}, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Changes when `settings_text` changes."""
        return fingerprint(self.settings_text)

    @property
    def lock(self) -> str:
        """Name of the lock of capture_events and capture_reprocess for this source."""
        return f"capture/{self.name}"


@dataclass(frozen=True)
class RowCounts:
    """Row accounting of a batch. Event times are microseconds since 1970; null when no row is good."""

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


def load_source(settings: Settings, name: str) -> CaptureSource:
    """The source of that name in the settings, with its mapping."""
    config = settings.capture.sources[name]
    mapping = mappings.load(config.mapping)
    cleaning_rules.check_names(mapping, config.mapping)
    return CaptureSource(name, config, mapping, settings.capture, _reader(name, config, mapping, settings))


def _reader(name: str, config: Source, mapping: Mapping, settings: Settings) -> RecordSource:
    limit: tuple[str, int] = (
        "maxFilesPerTrigger",
        config.max_files_per_trigger or settings.stream.max_files_per_trigger,
    )
    if settings.stream.max_bytes_per_trigger and config.max_files_per_trigger is None:
        limit = ("maxBytesPerTrigger", settings.stream.max_bytes_per_trigger)
    if mapping.input.format == "delta":
        return DeltaSource(name, config.path, mapping.input, config.on_change, limit)
    return FileSource(name, config.path, mapping.input, limit, settings.capture.max_line_bytes)


def chosen_sources(settings: Settings, name: str | None) -> list[str]:
    """The name of one source, or the names of all sources for null.

    Raises:
        BadSettings: the settings have no source of that name.
    """
    source_names = list(settings.capture.sources)
    if name is not None and name not in source_names:
        raise BadSettings(f"there is no source {name!r}", where="--source", do=f"choose one of {source_names}")
    return source_names if name is None else [name]


def events_table(capture: Capture) -> Table:
    """`events` with the setting that its partitions depend on."""
    return replace(tables.EVENTS, fixed_settings={"capture.partition_by": capture.partition_by})


def output_tables(capture: Capture) -> tuple[Table, ...]:
    """The tables of capture, in the order in which a batch writes them."""
    return events_table(capture), tables.REJECTED_EVENTS, tables.CAPTURE_BATCHES


def query(settings: Settings, name: str) -> Query:
    """The streaming query that captures one source."""
    source = load_source(settings, name)

    def write(frame: DataFrame, batch: Batch) -> BatchResult:
        start_time = time.monotonic()
        with batch.phase("list"):
            inputs = source.reader.read_batch(frame, batch.txn.batch_id, batch.plan.skipped_units)
        return write_batch(inputs, source, batch, kind="source", start_time=start_time)

    return stage_query(
        STAGE,
        QueryInput(source.reader.read_stream, external=source.reader),
        output_tables(settings.capture),
        write,
        settings=source.settings_text,
        source=name,
        lock=source.lock,
        versions=lambda spark, *_: side_tables.current_versions(spark, source.lookups),
    )


def apply_mapping(
    records: DataFrame, source: CaptureSource, *, ingest_micros: int, versions: dict[str, int]
) -> DataFrame:
    """Exploded records as canonical rows with rule, reason, warnings and ids. Lazy: no Spark action.

    Args:
        ingest_micros: time of the batch, microseconds since 1970 UTC.
        versions: of the side tables.
    """
    mapping = source.mapping
    side = side_tables.read_all(records.sparkSession, mapping, versions)
    records = execute_mapping.join_side_tables(records, mapping, side)
    events = execute_mapping.apply_expressions(records, source.expressions(records))
    with_time = events.withColumn("_ingest_time", F.timestamp_micros(F.lit(ingest_micros)))
    with_rules = cleaning_rules.evaluate(with_time, source.rules(with_time))
    is_rejected = F.col("rule").isNotNull()
    # Values of rejected rows can be outside the range of Python's types, and no later step needs them.
    with_ids = execute_mapping.add_ids(with_rules, mapping)
    if source.capture.currency is not None:
        with_ids = currency.with_reporting_value(with_ids, source.capture.currency, versions)
    return with_ids.select(
        *[F.when(~is_rejected, F.col(name)).alias(name) for name in execute_mapping.mapped_columns(mapping)],
        "position",
        "rule",
        "reason",
        FAILED,
        *[F.when(is_rejected, F.col(name)).alias(name) for name in ("payload", "payload_encoding", "payload_header")],
        dedupe.id_hash().alias(dedupe.ID_HASH),
    )


@dataclass(frozen=True)
class EvaluatedBatch:
    """The rows of a batch with rule and reason, in the cache.

    Args:
        rows: as `apply_mapping` returns them.
        records: the exploded records that they are computed from.
        summary: rows of `_summary`.
        rows_in: number of records, counted while they were read.
    """

    rows: DataFrame
    records: DataFrame
    summary: list[Any]
    rows_in: int

    @property
    def good(self) -> DataFrame:
        """The rows that no rule rejects."""
        return self.rows.where(F.col("rule").isNull())


@contextmanager
def evaluated_batch(
    spark: SparkSession, inputs: InputBatch, source: CaptureSource, versions: dict[str, int]
) -> Iterator[EvaluatedBatch]:
    """Evaluate the mapping and the rules on the records of a batch; the rows are cached during the block.

    Args:
        versions: of the side tables.

    Raises:
        SourceUnreadable: a file fails while it is read.
    """
    lines = inputs.records
    batch = _evaluate(spark, lines, inputs, source, versions)
    try:
        if any(row["open_quotes"] for row in batch.summary) and isinstance(source.reader, FileSource) and inputs.units:
            quoted = source.reader.quoted_lines(spark, inputs.units)
            with reading_files(spark, inputs.units):
                quoted = materialize(quoted)
            batch.rows.unpersist()
            batch = _evaluate(spark, _reject_lines(lines, quoted), inputs, source, versions)
        yield batch
    finally:
        batch.rows.unpersist()


def _evaluate(
    spark: SparkSession, lines: DataFrame, inputs: InputBatch, source: CaptureSource, versions: dict[str, int]
) -> EvaluatedBatch:
    observation = Observation(f"{source.name} rows in")
    records = _records(lines, inputs, source)
    rows = apply_mapping(
        records.observe(observation, F.count(F.lit(1)).alias("n")), source,
        ingest_micros=inputs.ingest_micros, versions=versions,
    ).persist()  # fmt: skip
    with reading_files(spark, inputs.units):
        summary = _summary(rows, source.mapping)
    return EvaluatedBatch(rows, records, summary, int(observation.get["n"]))


def _reject_lines(lines: DataFrame, quoted: DataFrame) -> DataFrame:
    """The records, with those at these positions rejected as parts of a quoted cell."""
    marked = lines.join(F.broadcast(quoted.withColumn("_is_quoted", F.lit(True))), "position", "left")
    is_quoted = F.col("_is_quoted").isNotNull() & F.col("fault").isNull()
    return marked.withColumns(
        {
            "fault_reason": F.when(is_quoted, raw_records.INSIDE_QUOTES_REASON).otherwise(F.col("fault_reason")),
            "fault": F.when(is_quoted, "unparseable").otherwise(F.col("fault")),
        }
    ).select(*raw_records.COLUMNS)


def write_batch(
    inputs: InputBatch, source: CaptureSource, batch: Batch, *, kind: str, start_time: float,
    reprocessed_up_to: dict[str, int] | None = None, reprocessed_rules: list[str] | None = None,
) -> BatchResult:  # fmt: skip
    """Evaluate the rules, find duplicates, and write the three tables; `capture_batches` is the last one.

    Args:
        kind: value of the column `kind` of `capture_batches`: `source` or `reprocess`.
        start_time: of the batch, by time.monotonic().
        reprocessed_up_to, reprocessed_rules: columns of `capture_batches`; null unless rows are reprocessed.

    Raises:
        NothingWritten: an expression of a new mapping raises on every row.
        Refused: files of a side table changed since the first attempt, or an alarm stops the batch.
        SourceUnreadable: a file fails while it is read.
        StateCorrupt: the row counts do not add up.
    """
    spark, mapping = batch.spark, source.mapping
    if batch.is_retry:
        where = f"{batch.txn.query}, batch {batch.txn.batch_id}"
        side_tables.check_unchanged(spark, source.lookups, batch.plan.versions, where=where)
    with ExitStack() as stack:
        with batch.phase("read and evaluate"):
            evaluated = stack.enter_context(evaluated_batch(spark, inputs, source, batch.plan.versions))
        batch.prepare_writes(evaluated.rows_in)
        records, summary = evaluated.records, evaluated.summary
        failing = _failing_expressions(summary)
        if kind == "source":
            _check_expressions(failing, source, batch)
        dates = rows_by_date(summary)
        with batch.phase("find duplicates"):
            stored = _stored_events(batch, source, list(dates))
            repeats = dedupe.find_repeats(evaluated.good, stored, mapping)
            clean = dedupe.without_repeats(evaluated.good, repeats)
            busy = _busy_minutes(clean, mapping)
            mixed = _rows_in_other_currencies(clean, summary, source, batch)
        skipped = len(inputs.skipped_units)
        counts = _row_counts(evaluated.rows_in + skipped, summary, repeats, busy, mapping, skipped)
        if mixed:
            counts = replace(counts, warned_by_rule={**counts.warned_by_rule, currency.MIXED: mixed})
        with reading_files(spark, inputs.units):
            counts = _checked_counts(counts, records, source, batch)
        name = f"{source.name}, batch {batch.txn.batch_id}"
        time_warnings.check(dates, counts.event_time_min, counts.event_time_max, name)
        result = AlarmResult([], {}, {})
        if kind == "source":
            result = _evaluate_alarms(summary, counts, failing, source, inputs, batch)
        if counts.clean:
            events = _event_rows(clean, busy, source, inputs, batch.txn)
            batch.append(_in_date_order(events, dates), tables.EVENTS, counts.clean)
        if counts.rejected:
            with reading_files(spark, inputs.units):
                rejected = _rejected_rows(evaluated, repeats, source, inputs, batch, counts)
                batch.append(rejected, tables.REJECTED_EVENTS, counts.rejected)
    batch_columns = _batch_columns(source, inputs, batch.txn)
    batch_monitor.append_alarms(result, batch_columns, counts.event_time_max, batch, source.capture.alarms)
    seconds = time.monotonic() - start_time
    row = _batch_row(counts, source, inputs, batch, kind, seconds, reprocessed_up_to, reprocessed_rules, result.column)
    batch.append(row, tables.CAPTURE_BATCHES, 1)
    source.trend_cache.store(batch, result.trends)
    units = len(inputs.units) + len(inputs.skipped_units)
    return BatchResult(rows_in=counts.rows_in, rows_out=counts.clean, files=units)


def _records(lines: DataFrame, inputs: InputBatch, source: CaptureSource) -> DataFrame:
    """The records of the batch; of a reprocessed line only the elements that were rejected."""
    records = execute_mapping.explode(lines, source.mapping)
    if inputs.reprocessed_rows is None:
        return records
    rejected = F.broadcast(inputs.reprocessed_rows.select(F.col("position").alias("_rejected")))
    line = execute_mapping.line_position()
    return records.join(rejected, F.col("_rejected").isin(F.col("position"), line), "left_semi")


def _failing_expressions(summary: list[Any]) -> list[str]:
    """Keys of the expressions that raise on every record of the batch that could be parsed."""
    parsed = sum(row["n"] for row in summary if row["rule"] not in FAULTS)
    failures: Counter[str] = Counter()
    for row in summary:
        for key in (row[FAILED] or "").split(","):
            failures[key] += row["n"]
    return [key for key, count in failures.items() if key and count == parsed >= _MIN_ROWS_OF_FINDINGS]


def _check_expressions(failing: list[str], source: CaptureSource, batch: Batch) -> None:
    """Refuse the first batch of a mapping in which an expression raises on every row."""
    if not failing or batch.is_done(tables.EVENTS) or batch.is_done(tables.REJECTED_EVENTS):
        return
    batches = tables.CAPTURE_BATCHES.read(batch.spark, batch.paths)
    same = (F.col("source") == source.name) & (F.col("fingerprint") == source.fingerprint)
    if batches.where(same & (F.col("kind") == "source")).isEmpty():
        raise NothingWritten(
            f"an expression of the mapping fails on every row: {', '.join(failing)}",
            where=f"{source.config.mapping}, {failing[0]} (nothing was written)",
            do="correct the expression; see single rows with --preview 20 FILE",
        )


def _warning_counts(mapping: Mapping) -> list[Column]:
    _, warnings = cleaning_rules.names(mapping)
    return [F.count_if(F.array_contains("warnings", name)).alias(f"warned {name}") for name in warnings]


def _summary(rows: DataFrame, mapping: Mapping) -> list[Any]:
    """Counts and sums of the batch by rule, date (ISO text, null for rejected rows) and failed expressions.

    The first action on the batch: it fills the cache.
    """
    return (
        rows.groupBy("rule", F.col("event_date").cast("string").alias("event_date"), FAILED)
        .agg(
            F.count(F.lit(1)).alias("n"),
            _currencies(mapping).alias("currencies"),
            F.count_if(F.col("reason") == raw_records.OPEN_QUOTE_REASON).alias("open_quotes"),
            F.unix_micros(F.min("event_time")).alias("first"),
            F.unix_micros(F.max("event_time")).alias("last"),
            batch_monitor.measure_sums(mapping),
            *_warning_counts(mapping),
        )
        .collect()
    )


def _currencies(mapping: Mapping) -> Column:
    return F.collect_set("currency") if currency.has_currencies(mapping) else F.array()


def _rows_in_other_currencies(clean: DataFrame, summary: list[Any], source: CaptureSource, batch: Batch) -> int:
    """Rows whose currency is not the main one of the source, if their values cannot be converted. Logs a warning."""
    if source.capture.currency is not None or not currency.has_currencies(source.mapping):
        return 0
    found = {code for row in summary if row["rule"] is None for code in row["currencies"]}
    if not found:
        return 0
    main = source.main_currency(batch, min(found))
    others = sorted(found - {main})
    if not others:
        return 0
    log.warning(
        "%s has values in %s and in %s, whose sum has no meaning; set capture.currency (docs/mappings.md#currencies)",
        source.name, main, ", ".join(others[:5]),
    )  # fmt: skip
    return clean.where(F.col("currency").isin(others)).count()


def rows_by_date(summary: list[Any]) -> dict[date, int]:
    """Number of rows that no rule rejects by date, in order of date, from the summary of a batch."""
    rows: Counter[date] = Counter()
    for row in summary:
        if row["rule"] is None:
            rows[date.fromisoformat(row["event_date"])] += row["n"]
    return dict(sorted(rows.items()))


def _stored_events(batch: Batch, source: CaptureSource, dates: list[date]) -> DataFrame:
    events = tables.EVENTS.read(batch.spark, batch.paths)
    epoch, batch_id = batch.txn.epoch, batch.txn.batch_id
    searched = dedupe.searched_dates(dates, source.mapping)
    return dedupe.stored_events(events, source=source.name, dates=searched, epoch=epoch, batch_id=batch_id)


def _row_counts(
    rows_in: int, summary: list[Any], repeats: DataFrame | None, busy: DataFrame | None, mapping: Mapping, skipped: int
) -> RowCounts:
    by_outcome: dict[str, Any] = {}
    if repeats is not None:
        outcomes = repeats.groupBy("outcome").agg(F.count(F.lit(1)).alias("n"), *_warning_counts(mapping))
        by_outcome = {row["outcome"]: row for row in outcomes.collect()}
    reject_names, warn_names = cleaning_rules.names(mapping)
    rejected: Counter[str] = Counter(dict.fromkeys(reject_names, 0))
    for row in summary:
        if row["rule"] is not None:
            rejected[row["rule"]] += row["n"]
    rejected["file_unreadable"] += skipped
    duplicate, reused = (by_outcome[o]["n"] if o in by_outcome else 0 for o in ("duplicate", "id_reused"))
    rejected["id_reused"] += reused
    good = [row for row in summary if row["rule"] is None]
    warned = {
        n: sum(r[f"warned {n}"] for r in good) - sum(r[f"warned {n}"] for r in by_outcome.values()) for n in warn_names
    }
    if busy is not None:
        warned[BOT_WARNING] = busy.agg(F.coalesce(F.sum("count"), F.lit(0)).alias("n")).collect()[0]["n"]
    return RowCounts(
        rows_in=rows_in,
        clean=sum(row["n"] for row in good) - duplicate - reused,
        duplicate=duplicate,
        rejected_by_rule=dict(rejected),
        warned_by_rule=warned,
        event_time_min=min((row["first"] for row in good), default=None),
        event_time_max=max((row["last"] for row in good), default=None),
    )


def _checked_counts(counts: RowCounts, records: DataFrame, source: CaptureSource, batch: Batch) -> RowCounts:
    """The counts, if they add up. An observation counts the rows of a repeated task twice, so a mismatch is recounted.

    Raises:
        StateCorrupt: they do not add up.
    """
    parts = counts.clean + counts.rejected + counts.duplicate
    skipped = counts.rejected_by_rule["file_unreadable"]
    if counts.rows_in != parts and records.count() + skipped != parts:
        raise StateCorrupt(
            f"{counts.rows_in} rows were read, but {counts.clean} are clean, {counts.rejected} rejected and "
            f"{counts.duplicate} duplicate",
            where=f"{batch.txn.query}, batch {batch.txn.batch_id}",
            do=f"check that the keys of the mapping's lookups are unique: {sorted(source.mapping.lookup)}",
        )
    return replace(counts, rows_in=parts)


def _evaluate_alarms(
    summary: list[Any], counts: RowCounts, failing: list[str], source: CaptureSource, inputs: InputBatch, batch: Batch
) -> AlarmResult:
    skipped, settings = len(inputs.skipped_units), source.capture.alarms
    rows, rejected = counts.rows_in - skipped, counts.rejected - skipped
    measures = batch_monitor.measure_batch(summary, rows, rejected, inputs, source.mapping, settings.min_rows)
    certain = [batch_monitor.failing_expression(key, settings) for key in failing]
    return batch_monitor.evaluate_batch(measures, certain, source.name, source.trend_cache, batch, settings, inputs)


def _busy_minutes(clean: DataFrame, mapping: Mapping) -> DataFrame | None:
    """Users and minutes with more events than the bot rule of the mapping allows; null without a bot rule."""
    if mapping.bots is None:
        return None
    by_minute = clean.where(F.col("user_id").isNotNull()).groupBy(
        F.col("user_id").alias("_user"), F.date_trunc("minute", "event_time").alias("_minute")
    )
    return materialize(by_minute.count().where(F.col("count") > mapping.bots.max_events_per_minute))


def _event_rows(
    clean: DataFrame, busy: DataFrame | None, source: CaptureSource, inputs: InputBatch, txn: Txn
) -> DataFrame:
    """The rows of `events`."""
    if busy is not None:
        minute = F.date_trunc("minute", "event_time")
        is_busy = (F.col("user_id") == F.col("_user")) & (minute == F.col("_minute"))
        warnings = F.when(F.col("_user").isNotNull(), F.array_append("warnings", F.lit(BOT_WARNING)))
        clean = clean.join(F.broadcast(busy), is_busy, "left").withColumn("warnings", F.coalesce(warnings, "warnings"))
    rows = clean.withColumns(_batch_columns(source, inputs, txn))
    names = set(rows.columns)
    # One SQL text per column: thirty Column objects cost 0.15 s per batch.
    cells = {f.name: (f.name if f.name in names else "NULL", f.dataType.simpleString()) for f in tables.EVENTS.schema}
    cells["event_period"] = (event_period.sql(source.capture.partition_by), "date")
    return rows.selectExpr(*[f"CAST({cell} AS {sql_type}) AS {name}" for name, (cell, sql_type) in cells.items()])


def _in_date_order(events: DataFrame, rows: dict[date, int]) -> DataFrame:
    """The rows of `events`, partitioned and sorted by date, so that the files of a commit are in order of date.

    A stream reads the files of a commit in the order in which tasks write them, and a learner is evaluated in that
    order. A task writes one file per partition; without the ranges, every task of a backfill writes one for every date.
    Several tasks write a date with many rows.

    Args:
        rows: number of rows by date, in order of date.
    """
    total = sum(rows.values())
    if total <= _ROWS_PER_FILE:
        ordered = events.coalesce(1) if total <= _SMALL_BATCH_ROWS or len(rows) > 1 else events
        return ordered.sortWithinPartitions("event_period", "event_date")
    # Ranges from known counts: repartitionByRange would compute the rows once more to find them.
    ranges = _ranges(rows)
    day, number = F.col("event_date"), F.lit(0)
    for (_, tasks), (first, _) in itertools.pairwise(ranges):
        number += F.when(day >= first, tasks).otherwise(0)
    for first, tasks in ranges:
        if tasks > 1:
            number += F.when(day == first, F.pmod(F.xxhash64("event_id"), F.lit(tasks))).otherwise(0)
    tasks = sum(tasks for _, tasks in ranges)
    return events.repartitionById(tasks, number.cast("int")).sortWithinPartitions("event_period", "event_date")


def _ranges(rows: dict[date, int]) -> list[tuple[date, int]]:
    """First date and number of tasks of each range of dates; a date with many rows is a range of several tasks."""
    ranges: list[tuple[date, int]] = []
    size = 0
    for day, count in rows.items():
        if not ranges or size + count > _ROWS_PER_FILE:
            ranges.append((day, -(-count // _ROWS_PER_FILE)))
            size = 0
        size += count
    return ranges


def _rejected_rows(
    evaluated: EvaluatedBatch, repeats: DataFrame | None, source: CaptureSource, inputs: InputBatch, batch: Batch,
    counts: RowCounts,
) -> DataFrame:  # fmt: skip
    """The rows of `rejected_events`: rows rejected by a rule, reused ids with different content, skipped files."""
    columns = ("position", "rule", "reason", "payload", "payload_encoding", "payload_header")
    rejected = evaluated.rows.where(F.col("rule").isNotNull()).select(*columns)
    if repeats is not None and counts.rejected_by_rule["id_reused"]:
        reused = F.broadcast(repeats.where("outcome = 'id_reused'").select("position", "event_id"))
        payloads = evaluated.records.select("position", "payload", "payload_encoding", "payload_header")
        reason = F.concat(F.lit("another event with different content has the id "), "event_id")
        rejected = rejected.unionByName(
            payloads.join(reused, "position").select(
                "position", F.lit("id_reused").alias("rule"), reason.alias("reason"), *columns[3:]
            )
        )
    if inputs.skipped_units:
        files = [
            (path, "file_unreadable", "skipped by --skip-file", path, "utf8", None) for path in inputs.skipped_units
        ]
        schema = ", ".join(f"{name} string" for name in columns)
        rejected = rejected.unionByName(batch.spark.createDataFrame(files, schema))
    rejected = _with_reprocessed_from(rejected, inputs).withColumns(_batch_columns(source, inputs, batch.txn))
    return rejected.select(*tables.REJECTED_EVENTS.names).coalesce(1 + counts.rejected // _ROWS_PER_FILE)


def _with_reprocessed_from(rejected: DataFrame, inputs: InputBatch) -> DataFrame:
    if inputs.reprocessed_rows is None:
        return rejected.withColumn("reprocessed_from", F.lit(None).cast("string"))
    origins = inputs.reprocessed_rows.select(F.col("position").alias("_position"), "reprocessed_from")
    line = execute_mapping.line_position()
    return rejected.join(F.broadcast(origins), F.col("_position").isin(F.col("position"), line), "left")


def _batch_columns(source: CaptureSource, inputs: InputBatch, txn: Txn) -> dict[str, Column]:
    """Columns that are constant in a batch, for every table of capture."""
    return {
        "source": F.lit(source.name),
        "ingest_time": F.timestamp_micros(F.lit(inputs.ingest_micros)),
        "epoch": F.lit(txn.epoch),
        "batch_id": F.lit(txn.batch_id).cast("bigint"),
    }


def _batch_row(
    counts: RowCounts, source: CaptureSource, inputs: InputBatch, batch: Batch, kind: str, seconds: float,
    reprocessed_up_to: dict[str, int] | None, reprocessed_rules: list[str] | None, measures: dict[str, dict[str, Any]],
) -> DataFrame:  # fmt: skip
    """The row of `capture_batches`."""
    first, last = counts.event_time_min, counts.event_time_max
    lateness = None if first is None else (inputs.ingest_micros - first) / 1e6
    values = {
        "kind": kind,
        "files": len(inputs.units) + len(inputs.skipped_units),
        "rows_in": counts.rows_in,
        "rows_clean": counts.clean,
        "rows_rejected": counts.rejected,
        "rows_duplicate": counts.duplicate,
        "rejected_by_rule": counts.rejected_by_rule,
        "warned_by_rule": counts.warned_by_rule,
        "first": first,
        "last": last,
        "lateness_seconds_max": lateness,
        "seconds": seconds,
        "fingerprint": source.fingerprint,
        "reprocessed_up_to": reprocessed_up_to,
        "reprocessed_rules": reprocessed_rules,
        "measures": measures or None,
    }
    types = {f.name: f.dataType for f in tables.CAPTURE_BATCHES.schema} | dict.fromkeys(("first", "last"), T.LongType())
    row = frame_of_dicts(batch.spark, [values], T.StructType([T.StructField(name, types[name]) for name in values]))
    times = {"event_time_min": F.timestamp_micros("first"), "event_time_max": F.timestamp_micros("last")}
    return row.withColumns({**_batch_columns(source, inputs, batch.txn), **times}).select(*tables.CAPTURE_BATCHES.names)
