"""One micro-batch of a source: reads records, writes clean events and rejected rows, and accounts for every row."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, TypeVar, cast

import pyarrow as pa
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, NothingWritten, StateCorrupt
from profilestream.base.queries import Batch, BatchResult, Query, QueryInput, stage_query
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import materialize
from profilestream.base.settings import Capture, Settings, Source, fingerprint
from profilestream.capture import (
    batch_monitor,
    cleaning_rules,
    currency,
    dedupe,
    execute_mapping,
    failing_rows,
    local_rows,
    prepared_query,
    raw_records,
    sequence_audit,
    side_tables,
    spark_rows,
    time_warnings,
)
from profilestream.capture import mapping as mappings
from profilestream.capture.batch_monitor import AlarmResult, TrendCache
from profilestream.capture.batch_rows import BatchContext
from profilestream.capture.cleaning_rules import BOT_WARNING, FAULTS
from profilestream.capture.execute_mapping import FAILED
from profilestream.capture.failing_rows import FailingRow
from profilestream.capture.known_ids import KnownIds
from profilestream.capture.local_rows import LocalRows
from profilestream.capture.mapping import Lookup, Mapping
from profilestream.capture.prepared_query import PreparedQuery
from profilestream.capture.sources.delta_source import DeltaSource
from profilestream.capture.sources.file_source import FileSource, reading_files
from profilestream.capture.sources.kafka_source import KafkaSource
from profilestream.capture.sources.record_source import FewLines, InputBatch, RecordSource
from profilestream.capture.spark_rows import SparkRows

log = logging.getLogger(__name__)

STAGE = "capture_events"
# Fewer rows do not show that an expression of the mapping is wrong.
_MIN_ROWS_OF_FINDINGS = 100
# All payloads of a batch with an exploded array, if each element is rejected, are at most half of this number of bytes.
_MAX_EXPLODED_BYTES = 256 << 20
Built = TypeVar("Built")


@dataclass(frozen=True)
class CaptureSource:
    """A source with its mapping, the settings of capture, and values that the batches of a run share.

    Args:
        config: the settings of the source.
        reader: reads its records.
        trend_cache: trends of the alarms after the last batch of this run.
        known_ids: ids of its stored events that this run loaded.
    """

    name: str
    config: Source
    mapping: Mapping
    capture: Capture
    reader: RecordSource
    trend_cache: TrendCache = field(default_factory=TrendCache, compare=False, repr=False)
    known_ids: KnownIds = field(default_factory=lambda: KnownIds("", 0), compare=False, repr=False)
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def expressions(self, records: DataFrame) -> execute_mapping.Expressions:
        """The canonical columns; built once per run."""
        return self._cached(
            "expressions", lambda: execute_mapping.build_expressions(records, self.mapping, self.capture)
        )

    def rules(self, events: DataFrame) -> cleaning_rules.RuleColumns:
        """The rules as columns; built once per run."""
        return self._cached("rules", lambda: cleaning_rules.build_rules(events, self.mapping, self.capture))

    def prepared_query(self, spark: SparkSession, layout: Hashable, versions: dict[str, int]) -> PreparedQuery:
        """The rows of LocalRows from lines with this layout; planned again after a side table changed."""
        reader = self.reader

        def build(lines: DataFrame) -> DataFrame:
            records = reader.records_of_lines(lines, layout)
            return rows_to_collect(execute_mapping.explode(records, self.mapping), self, versions)

        key = (self.settings_text, type(reader), layout)
        return prepared_query.prepared(spark, key, versions, reader.line_schema, build)

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
        texts: dict[str, Any] = {"capture": general, "mapping": self.mapping.model_dump(mode="json")}
        if self.mapping.input.schemas is not None:
            texts["schemas"] = asdict(self.mapping.input.schemas)
        return json.dumps(texts, sort_keys=True)

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
    known_ids = KnownIds(name, settings.stream.local_max_keys)
    reader = _reader(name, config, mapping, settings)
    return CaptureSource(name, config, mapping, settings.capture, reader, known_ids=known_ids)


def _reader(name: str, config: Source, mapping: Mapping, settings: Settings) -> RecordSource:
    max_rows = settings.stream.local_max_rows
    if config.kafka is not None:
        path = checkpoint_path(settings.paths, f"{STAGE}/{name}")
        return KafkaSource(
            name, config.kafka, mapping.input, settings.capture.max_line_bytes, max_rows, path, settings.paths
        )
    limit: tuple[str, int] = (
        "maxFilesPerTrigger",
        config.max_files_per_trigger or settings.stream.max_files_per_trigger,
    )
    if settings.stream.max_bytes_per_trigger and config.max_files_per_trigger is None:
        limit = ("maxBytesPerTrigger", settings.stream.max_bytes_per_trigger)
    if mapping.input.format == "delta":
        return DeltaSource(name, config.path, mapping.input, config.on_change, limit)
    return FileSource(name, config.path, mapping.input, limit, settings.capture.max_line_bytes, max_rows)


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
    records: DataFrame, source: CaptureSource, *, versions: dict[str, int], has_all_payloads: bool = False
) -> DataFrame:
    """Exploded records, with `_ingest_time`, as canonical rows with rule, reason, warnings and ids. Runs no action.

    Args:
        versions: of the side tables.
        has_all_payloads: whether good rows have payloads too.
    """
    mapping = source.mapping
    side = side_tables.read_all(records.sparkSession, mapping, versions)
    records = execute_mapping.join_side_tables(records, mapping, side)
    events = execute_mapping.apply_expressions(records, source.expressions(records))
    if source.capture.currency is not None:
        events = currency.with_reporting_value(events, source.capture.currency, versions)
    with_rules = cleaning_rules.evaluate(events, source.rules(events))
    is_rejected, payloads = F.col("rule").isNotNull(), ("payload", "payload_encoding", "payload_header")
    # Values of rejected rows can be outside the range of Python's types, and no later step needs them.
    with_ids = execute_mapping.add_ids(with_rules, mapping)
    return with_ids.select(
        *[F.when(~is_rejected, F.col(name)).alias(name) for name in execute_mapping.mapped_columns(mapping)],
        "position",
        "rule",
        "reason",
        FAILED,
        *[payload if has_all_payloads else F.when(is_rejected, F.col(payload)).alias(payload) for payload in payloads],
        dedupe.id_hash().alias(dedupe.ID_HASH),
        *([] if mapping.audit is None else [execute_mapping.PRODUCER, execute_mapping.SEQUENCE]),
    )


def rows_to_collect(records: DataFrame, source: CaptureSource, versions: dict[str, int]) -> DataFrame:
    """The rows of LocalRows, from the arguments of `apply_mapping`."""
    rows = apply_mapping(records, source, versions=versions, has_all_payloads=True)
    return rows.select("*", *local_rows.summarized_columns(source.mapping, source.capture.partition_by))


@contextmanager
def evaluated_batch(
    spark: SparkSession, inputs: InputBatch, source: CaptureSource, versions: dict[str, int]
) -> Iterator[SparkRows]:
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
            batch = _evaluate(spark, raw_records.reject_lines(lines, quoted), inputs, source, versions)
        yield batch
    finally:
        batch.rows.unpersist()


def _evaluate(
    spark: SparkSession, lines: DataFrame, inputs: InputBatch, source: CaptureSource, versions: dict[str, int],
    failing: tuple[FailingRow, ...] = (),
) -> SparkRows:  # fmt: skip
    """As evaluated_batch.

    Args:
        failing: rows that are rejected, because an expression ends the task that evaluates them.
    """
    observation = Observation(f"{source.name} rows in")
    records = _records(lines, inputs, source, failing)
    rows = apply_mapping(records.observe(observation, F.count(F.lit(1)).alias("n")), source, versions=versions)
    try:
        with reading_files(spark, inputs.units):
            summary = spark_rows.summarize(rows.persist(), source.mapping)
    except (PySparkException, Py4JJavaError) as error:
        rows.unpersist()
        if not failing_rows.is_java_error(error):
            raise
        with reading_files(spark, inputs.units):
            found = _failing_rows(lines, inputs, source, versions, failing)
        if not found:
            raise
        return _evaluate(spark, lines, inputs, source, versions, (*failing, *found))
    return SparkRows(rows, records, summary, int(observation.get["n"]))


def _failing_rows(
    lines: DataFrame, inputs: InputBatch, source: CaptureSource, versions: dict[str, int],
    known: tuple[FailingRow, ...],
) -> list[FailingRow]:  # fmt: skip
    """Further rows for which an expression ends a task. The expressions are evaluated in the order of a batch."""
    mapping, found = source.mapping, list(known)

    def records() -> DataFrame:
        return _records(lines, inputs, source, found)

    def joined() -> DataFrame:
        side = side_tables.read_all(lines.sparkSession, mapping, versions)
        return execute_mapping.join_side_tables(records(), mapping, side)

    def events(of: Mapping) -> DataFrame:
        frame = joined()
        return execute_mapping.apply_expressions(frame, execute_mapping.build_expressions(frame, of, source.capture))

    explode = {"input.explode": mapping.input.explode} if mapping.input.explode else {}
    steps: list[tuple[Callable[[], DataFrame], dict[str, str]]] = [
        (lambda: failing_rows.reject(lines.select("*", "raw.*"), found), explode),
        (records, {f"lookup.{name}.on": lookup.on for name, lookup in mapping.lookup.items()}),
        (joined, {f"columns.{name}": sql for name, sql in mapping.columns.items()}),
        (lambda: events(mapping.model_copy(update={"fill": {}})), {f"fill.{n}": s for n, s in mapping.fill.items()}),
        (lambda: events(mapping), cleaning_rules.conditions(mapping)),
    ]
    for frame, expressions in steps:
        if expressions:
            found += failing_rows.find(frame(), expressions, source.config.mapping)
    return found[len(known) :]


def _local_rows(inputs: InputBatch, source: CaptureSource, batch: Batch) -> LocalRows | None:
    """The rows of a small batch; null if Spark must process the batch."""
    try:
        return _collected_rows(inputs, source, batch)
    except (PySparkException, Py4JJavaError) as error:
        if not failing_rows.is_java_error(error):
            raise
        return None


def _collected_rows(inputs: InputBatch, source: CaptureSource, batch: Batch) -> LocalRows | None:
    few_lines, spark, versions = inputs.few_lines, batch.spark, batch.plan.versions
    if inputs.max_rows is None or not batch.is_local(inputs.max_rows, tables.EVENTS):
        return None
    if few_lines is not None and prepared_query.is_possible(spark) and _is_explosion_small(few_lines, source.mapping):
        micros = {"_ingest_micros": inputs.ingest_micros}
        evaluated = [
            source.prepared_query(spark, layout, versions).execute([{**line, **micros} for line in lines])
            for layout, lines in few_lines.items()
        ]
        rows = LocalRows(pa.concat_tables(evaluated), source.mapping)
    elif source.mapping.input.explode:
        return None
    else:
        with reading_files(spark, inputs.units):
            table = rows_to_collect(_records(inputs.records, inputs, source), source, versions).toArrow()
        rows = LocalRows(table, source.mapping)
    # Lines in a quoted cell that spans lines are looked for by Spark.
    return None if any(row["open_quotes"] for row in rows.summary) else rows


def _is_explosion_small(few_lines: FewLines, mapping: Mapping) -> bool:
    """Whether the payloads of all elements fit into memory if each of them is rejected."""
    sizes = [len(line["value"] or "") for lines in few_lines.values() for line in lines]
    return not mapping.input.explode or sum(size**2 for size in sizes) <= _MAX_EXPLODED_BYTES


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
    context = BatchContext(source.name, mapping, source.capture.partition_by, source.known_ids, inputs, batch)
    if batch.is_retry:
        where = f"{batch.txn.query}, batch {batch.txn.batch_id}"
        side_tables.check_unchanged(spark, source.lookups, batch.plan.versions, where=where)
    with ExitStack() as stack:
        with batch.phase("read and evaluate"):
            evaluated: SparkRows | LocalRows | None = _local_rows(inputs, source, batch)
            if evaluated is None:
                evaluated = stack.enter_context(evaluated_batch(spark, inputs, source, batch.plan.versions))
                batch.prepare_writes(evaluated.rows_in)
        is_audited = mapping.audit is not None and kind == "source"
        ranges = sequence_audit.ranges(evaluated.rows) if is_audited else None
        summary = evaluated.summary
        failing = _failing_expressions(summary)
        if kind == "source":
            _check_expressions(failing, source, batch)
        dates = rows_by_date(summary)
        with batch.phase("find duplicates"):
            repeats = evaluated.find_repeats(context, list(dates))
            busy = None if mapping.bots is None else evaluated.add_bot_warnings(mapping.bots.max_events_per_minute)
            mixed = _rows_in_other_currencies(evaluated, source, batch)
        skipped = len(inputs.skipped_units)
        counts = _row_counts(evaluated.rows_in + skipped, summary, repeats, busy, mapping, skipped)
        if mixed:
            counts = replace(counts, warned_by_rule={**counts.warned_by_rule, currency.MIXED: mixed})
        with reading_files(spark, inputs.units):
            counts = _checked_counts(counts, evaluated, source, batch)
        name = f"{source.name}, batch {batch.txn.batch_id}"
        time_warnings.check(dates, counts.event_time_min, counts.event_time_max, name)
        result = AlarmResult([], {}, {})
        if kind == "source":
            result = _evaluate_alarms(summary, counts, failing, source, inputs, batch)
        if counts.clean:
            batch.append(evaluated.events(context, dates), tables.EVENTS, counts.clean)
        if counts.rejected:
            with reading_files(spark, inputs.units):
                rejected = evaluated.rejected(context, counts.rejected, counts.rejected_by_rule["id_reused"])
                batch.append(rejected, tables.REJECTED_EVENTS, counts.rejected)
        if ranges is not None:
            sequence_audit.append(ranges, context)
    batch_monitor.append_alarms(result, context.constants, counts.event_time_max, batch, source.capture.alarms)
    seconds = time.monotonic() - start_time
    row = _batch_row(counts, source, context, kind, seconds, reprocessed_up_to, reprocessed_rules, result.column)
    batch.append(row, tables.CAPTURE_BATCHES)
    source.trend_cache.store(batch, result.trends)
    units = len(inputs.units) + len(inputs.skipped_units)
    return BatchResult(
        rows_in=counts.rows_in, rows_out=counts.clean, files=units, rows_rejected=counts.rejected,
        rows_duplicate=counts.duplicate, event_time_max=counts.event_time_max,
    )  # fmt: skip


def _records(
    lines: DataFrame, inputs: InputBatch, source: CaptureSource, failing: Sequence[FailingRow] = ()
) -> DataFrame:
    """The records of the batch; of a reprocessed line only the elements that were rejected.

    Args:
        failing: lines and records that are rejected.
    """
    records = execute_mapping.explode(failing_rows.reject(lines, failing), source.mapping)
    records = failing_rows.reject(records, failing)
    records = records.withColumn(raw_records.INGEST_TIME, F.timestamp_micros(F.lit(inputs.ingest_micros)))
    if inputs.reprocessed_rows is None:
        return records
    rejected = F.broadcast(inputs.reprocessed_rows.select(F.col("position").alias("_rejected")))
    return records.join(rejected, spark_rows.is_of_position("_rejected", source.mapping), "left_semi")


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


def _rows_in_other_currencies(rows: SparkRows | LocalRows, source: CaptureSource, batch: Batch) -> int:
    """Rows whose currency is not the main one of the source, if their values cannot be converted. Logs a warning."""
    if source.capture.currency is not None or not currency.has_currencies(source.mapping):
        return 0
    found = {code for row in rows.summary if row["rule"] is None for code in row["currencies"]}
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
    return rows.count_currencies(others)


def rows_by_date(summary: list[Any]) -> dict[date, int]:
    """Number of rows that no rule rejects by date, in order of date, from the summary of a batch."""
    rows: Counter[date] = Counter()
    for row in summary:
        if row["rule"] is None:
            rows[date.fromisoformat(row["event_date"])] += row["n"]
    return dict(sorted(rows.items()))


def _row_counts(
    rows_in: int, summary: list[Any], repeats: list[dict[str, Any]], busy: int | None, mapping: Mapping, skipped: int
) -> RowCounts:
    by_outcome = {row["outcome"]: row for row in repeats}
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
        warned[BOT_WARNING] = busy
    return RowCounts(
        rows_in=rows_in,
        clean=sum(row["n"] for row in good) - duplicate - reused,
        duplicate=duplicate,
        rejected_by_rule=dict(rejected),
        warned_by_rule=warned,
        event_time_min=min((row["first"] for row in good), default=None),
        event_time_max=max((row["last"] for row in good), default=None),
    )


def _checked_counts(counts: RowCounts, rows: SparkRows | LocalRows, source: CaptureSource, batch: Batch) -> RowCounts:
    """The counts, if they add up. An observation counts the rows of a repeated task twice, so a mismatch is recounted.

    Raises:
        StateCorrupt: they do not add up.
    """
    parts = counts.clean + counts.rejected + counts.duplicate
    skipped = counts.rejected_by_rule["file_unreadable"]
    if counts.rows_in != parts and rows.count_records() + skipped != parts:
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


def _batch_row(
    counts: RowCounts, source: CaptureSource, context: BatchContext, kind: str, seconds: float,
    reprocessed_up_to: dict[str, int] | None, reprocessed_rules: list[str] | None, measures: dict[str, dict[str, Any]],
) -> pa.Table:  # fmt: skip
    """The row of `capture_batches`."""
    inputs, first = context.inputs, counts.event_time_min
    maps = {
        "rejected_by_rule": counts.rejected_by_rule,
        "warned_by_rule": counts.warned_by_rule,
        "reprocessed_up_to": reprocessed_up_to,
        "measures": measures or None,
    }
    values = {
        **context.constants,
        "kind": kind,
        "files": len(inputs.units) + len(inputs.skipped_units),
        "rows_in": counts.rows_in,
        "rows_clean": counts.clean,
        "rows_rejected": counts.rejected,
        "rows_duplicate": counts.duplicate,
        "event_time_min": first,
        "event_time_max": counts.event_time_max,
        "lateness_seconds_max": None if first is None else (inputs.ingest_micros - first) / 1e6,
        "seconds": seconds,
        "fingerprint": source.fingerprint,
        "reprocessed_rules": reprocessed_rules,
        **{name: None if value is None else list(value.items()) for name, value in maps.items()},
    }
    return tables.CAPTURE_BATCHES.arrow_rows([values])
