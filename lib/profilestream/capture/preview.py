"""`--preview N FILE`: prints how a mapping reads one file. Nothing is written."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.capture import capture_checks, dedupe, execute_mapping, ingest
from profilestream.capture.ingest import CaptureSource
from profilestream.capture.spark_rows import SparkRows


def run(spark: SparkSession, settings: Settings, names: list[str], rows: str, path: str) -> None:
    """Print the preview of a file by the arguments of the command line.

    Raises:
        BadSettings: `rows` is not a number, or the settings have several sources and none is chosen.
    """
    if not rows.isdigit():
        raise BadSettings(f"{rows!r} is not a number of rows", where="--preview", do="write --preview 20 FILE")
    if len(names) > 1:
        raise BadSettings(f"the settings have several sources: {names}", where="--preview", do="choose one by --source")
    show(spark, ingest.load_source(settings, names[0]), int(rows), path)


@dataclass(frozen=True)
class PreviewCounts:
    """Counts of the rows of a preview, the dates of its good rows, and its lines."""

    rows: int
    clean: int
    duplicate: int
    rejected_by_rule: dict[str, int]
    dates: list[date]
    lines: list[str]

    @property
    def captured_share(self) -> float:
        """Share of the rows that are clean or duplicates of clean rows."""
        return (self.clean + self.duplicate) / max(1, self.rows)


def show(
    spark: SparkSession, source: CaptureSource, rows: int, path: str, print_line: Callable[[str], None] = print
) -> PreviewCounts:
    """Print the first clean rows of a file, and how many of its rows are clean, rejected (by rule) and duplicate.

    Raises:
        SourceMissing: the file does not exist.
        SourceUnreadable: the file fails while it is read.
    """
    if not files.exists(spark, path):
        raise SourceMissing(f"there is no file {path}", where="--preview", do="name a file of the source")
    capture_checks.check_mapping(spark, source)
    inputs = source.reader.read_once(spark, path, int(time.time() * 1e6))
    with ingest.evaluated_batch(spark, inputs, source, {}) as batch:
        lines: list[str] = []
        counts = _describe(batch, source, rows, path, lines)
    for line in lines:
        print_line(line)
    return counts


def _describe(batch: SparkRows, source: CaptureSource, rows: int, path: str, lines: list[str]) -> PreviewCounts:
    by_rule: Counter[str | None] = Counter()
    for group in batch.summary:
        by_rule[group["rule"]] += group["n"]
    good = batch.good
    repeats = dedupe.find_repeats(good, None, source.mapping)
    outcomes = (
        {} if repeats is None else {r["outcome"]: r["count"] for r in repeats.groupBy("outcome").count().collect()}
    )
    clean = by_rule.pop(None, 0)
    duplicate, reused = outcomes.get("duplicate", 0), outcomes.get("id_reused", 0)
    rejected_by_rule = {str(rule): n for rule, n in by_rule.items()} | ({"id_reused": reused} if reused else {})
    columns = [c for c in execute_mapping.mapped_columns(source.mapping) if c not in ("event_date", "extra")]
    lines.append(f"first {rows} clean rows of {path} (mapped columns):")
    first = dedupe.without_repeats(good, repeats).orderBy(F.length("position"), "position").limit(rows)
    for number, row in enumerate(first.select(F.to_json(F.struct(*columns))).collect()):
        lines.append(f"{number + 1:4d}  {row[0]}")
    rejected = sum(rejected_by_rule.values())
    clean -= duplicate + reused
    total = clean + rejected + duplicate
    lines.append(f"{total:,} rows = {clean:,} clean + {rejected:,} rejected + {duplicate:,} duplicate")
    lines += [*_rejected_lines(batch.rows, rejected_by_rule), "nothing was written"]
    dates = list(ingest.rows_by_date(batch.summary))
    return PreviewCounts(total, clean, duplicate, rejected_by_rule, dates, lines)


def _rejected_lines(canonical_rows: DataFrame, by_rule: dict[str, int]) -> Iterator[str]:
    first_rows = (
        canonical_rows.where("rule IS NOT NULL")
        .groupBy("rule")
        .agg(F.min_by(F.struct("reason", F.left("payload", F.lit(120)).alias("payload")), "position").alias("first"))
    )
    examples = {r["rule"]: (r["first"]["reason"], r["first"]["payload"]) for r in first_rows.collect()}
    for rule, count in sorted(by_rule.items(), key=lambda item: (-item[1], item[0])):
        reason, payload = examples.get(rule, ("an earlier row has this id and different content", ""))
        example = f"\n      such as {payload}" if payload else ""
        yield (f"  rejected {count:,} by {rule}: {reason}{example}")
