"""`--try N FILE`: what a mapping makes of one file, on the screen. Nothing is written."""

import time
from collections.abc import Callable

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import files
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.capture import canonical_columns, capture_checks, dedupe, ingest, raw_records
from profilestream.capture.ingest import Log


def run(spark: SparkSession, settings: Settings, names: list[str], rows: str, path: str) -> None:
    """`show` as the command line asks for it.

    Raises:
        BadSettings: the number of rows is none, or several sources could be meant.
    """
    if not rows.isdigit():
        raise BadSettings(f"--try {rows!r} is not a number of rows", where="--try", do="write --try 20 FILE")
    if len(names) > 1:
        raise BadSettings(f"several sources could be meant: {names}", where="--try", do="name one with --source")
    show(spark, ingest.log_of(settings, names[0]), int(rows), path)


def show(spark: SparkSession, log: Log, rows: int, path: str, tell: Callable[[str], None] = print) -> None:
    """Print the first canonical rows of a file and how many of its rows are clean, rejected (by rule), duplicate.

    Raises:
        SourceMissing: there is no such file.
        SourceUnreadable: it breaks while it is read.
    """
    if not files.exists(spark, path):
        raise SourceMissing(f"there is no file {path}", where="--try", do="name a file of the source")
    capture_checks.expressions(spark, log)
    now = int(time.time() * 1e6)
    shape = log.mapping.input
    if shape.format == "delta":
        raw = raw_records.from_rows(spark.read.format("delta").load(files.qualified(path)), shape, 0)
    else:
        paths = list(files.sizes(spark, path))
        raw = raw_records.from_files(spark, paths, path, shape, max_line_bytes=log.capture.max_line_bytes)
    judged = ingest.judge(canonical_columns.exploded(raw, log.mapping), log, ingest_micros=now, versions={}).persist()
    with raw_records.reading(spark, [path]):
        by_rule = {r["rule"]: r["count"] for r in judged.groupBy("rule").count().collect()}
    good = judged.where(F.col("rule").isNull())
    dropped = dedupe.dropped(good, None, canonical_columns.said(log.mapping))
    verdicts = (
        {} if dropped is None else {r["verdict"]: r["count"] for r in dropped.groupBy("verdict").count().collect()}
    )
    clean = by_rule.pop(None, 0)
    duplicate, reused = verdicts.get("duplicate", 0), verdicts.get("id_reused", 0)
    by_rule = {**by_rule, **({"id_reused": reused} if reused else {})}
    mapped = [c for c in canonical_columns.carried(log.mapping) if c not in ("event_date", "extra")]
    tell(f"first {rows} clean rows of {path} (mapped columns):")
    kept = dedupe.survivors(good, dropped).orderBy(F.length("position"), "position").limit(rows)
    for number, row in enumerate(kept.select(F.to_json(F.struct(*mapped))).collect()):
        tell(f"{number + 1:4d}  {row[0]}")
    total = clean + sum(by_rule.values()) - reused
    rejected = sum(by_rule.values())
    tell(f"{total:,} rows = {clean - duplicate - reused:,} clean + {rejected:,} rejected + {duplicate:,} duplicate")
    examples = (
        judged.where("rule IS NOT NULL")
        .groupBy("rule")
        .agg(F.min_by(F.struct("reason", F.left("payload", F.lit(120)).alias("payload")), "position").alias("e"))
    )
    said = {r["rule"]: (r["e"]["reason"], r["e"]["payload"]) for r in examples.collect()}
    for rule, count in sorted(by_rule.items(), key=lambda item: (-item[1], item[0])):
        reason, payload = said.get(rule, ("an earlier row has the id and other content", ""))
        tell(f"  rejected {count:,} by {rule}: {reason}" + (f"\n      such as {payload}" if payload else ""))
    tell("nothing was written")
    judged.unpersist()
