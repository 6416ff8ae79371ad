"""Seeded inputs of the benchmarks. The same seed gives the same rows on every machine."""

import os
import shutil
import time
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).parent.parent
# Seconds since 1970 of event number 0.
START = 1_700_000_000
EVENTS_PER_DAY = 100_000
RAW_COLUMNS = (
    "event_id string, event_type string, event_time string, user_id string, item_id string, category string, "
    "brand string, price double, quantity double, session_id string, channel string"
)


def shop_log(spark: SparkSession, first: int, rows: int, *, seed: int, files: int, users: int = 100_000) -> DataFrame:
    """The events with numbers from `first` to `first + rows - 1`, in `files` partitions.

    There are 100,000 events per day, ordered by time except for 5 % that are up to a day late.
    """

    def draw(salt: int, modulus: int) -> str:
        return f"pmod(xxhash64(id, {seed}, {salt}), {modulus})"

    delay = f"CASE WHEN {draw(1, 20)} = 0 THEN {draw(2, 86_400_000)} ELSE 0 END"
    milliseconds = f"{START}000 + CAST(id * 86400000 / {EVENTS_PER_DAY} AS BIGINT) - {delay}"
    types = "array('view', 'view', 'view', 'view', 'click', 'click', 'cart', 'purchase')"
    return spark.range(first, first + rows, 1, files).selectExpr(
        f"concat('e', hex(xxhash64(id, {seed}))) AS event_id",
        f"element_at({types}, CAST(1 + {draw(3, 8)} AS INT)) AS event_type",
        f"date_format(timestamp_millis({milliseconds}), \"yyyy-MM-dd'T'HH:mm:ss.SSS'Z'\") AS event_time",
        f"concat('u', {draw(4, users)}) AS user_id",
        f"concat('i', {draw(5, 20_000)}) AS item_id",
        f"concat('c', {draw(5, 300)}) AS category",
        f"concat('brand', {draw(5, 900)}) AS brand",
        f"{draw(5, 100_000)} / 100 AS price",
        f"CAST(1 + {draw(6, 3)} AS DOUBLE) AS quantity",
        f"concat('s', {draw(7, 500_000)}) AS session_id",
        f"element_at(array('web', 'app', 'store'), CAST(1 + {draw(8, 3)} AS INT)) AS channel",
    )


def to_events_rows(log: DataFrame) -> DataFrame:
    """The log as rows of the table `events`, with the values that capture would write."""
    null_texts = ("order_id", "currency", "query", "text", "target_user_id", "device", "region")
    return log.withColumns(
        {
            "event_time": F.col("event_time").cast("timestamp"),
            "event_date": F.to_date("event_time"),
            "event_period": F.to_date("event_time"),
            "ingest_time": F.timestamp_seconds(F.lit(START)),
            "value": F.col("price") * F.col("quantity"),
            "rating": F.lit(None).cast("double"),
            **{name: F.lit(None).cast("string") for name in null_texts},
            "attributes": F.lit(None).cast("map<string,string>"),
            "extra": F.lit(None).cast("map<string,string>"),
            "warnings": F.array().cast("array<string>"),
            "source": F.lit("shop"),
            "position": F.concat(F.lit("history:"), "event_id"),
            "epoch": F.lit("history"),
            "batch_id": F.lit(0).cast("bigint"),
        }
    )


def write_json_log(
    spark: SparkSession, folder: Path, *, first: int, rows: int, files: int, seed: int, users: int = 100_000
) -> Path:
    """The folder, with the log as JSON lines; modification times ascend, so batches read the files in order."""
    shutil.rmtree(folder, ignore_errors=True)
    shop_log(spark, first, rows, seed=seed, files=files, users=users).write.json(str(folder))
    for number, file in enumerate(sorted(folder.glob("part-*.json"))):
        os.utime(file, (START + number, START + number))
    return folder


def copy_seconds(spark: SparkSession, log: Path, target: Path, *, files_per_batch: int) -> float:
    """Seconds of a plain Structured Streaming copy of the log to a Delta table."""
    started = time.monotonic()
    typed = RAW_COLUMNS.replace("event_time string", "event_time timestamp")
    rows = spark.readStream.schema(typed).option("maxFilesPerTrigger", files_per_batch).json(str(log))
    query = rows.writeStream.format("delta").option("checkpointLocation", f"{target}/checkpoint")
    query.trigger(availableNow=True).start(f"{target}/table").awaitTermination()
    return time.monotonic() - started


def write_user_features(home: Path) -> Path:
    """A file in the folder with the shipped window features of users only; they need one tile table instead of five."""
    shipped = (ROOT / "conf" / "derive" / "windows.toml").read_text().split("\n# Items:")[0]
    file = home / "windows.toml"
    file.write_text("\n".join(line for line in shipped.splitlines() if "_hours" not in line or "user_hours" in line))
    return file


def write_tags(home: Path) -> Path:
    """A file in the folder with the shipped tags that need no window features, and a tag of probes (shop_events.py)."""
    head, *rules = (ROOT / "conf" / "tags.toml").read_text().split("\n[tags.")
    probe = """load_probe]
question = "When is the row of a probe visible?"
facet = "basic"
enter_when = "user_id LIKE '%:probe%'"
evidence = "'a probe'"
"""
    file = home / "tags.toml"
    file.write_text("\n[tags.".join([head, *(rule for rule in rules if "features." not in rule), probe]))
    return file
