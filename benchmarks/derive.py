"""Benchmarks of the derived tables, with the shipped declarations. Baselines write what the engine would write."""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from delta.tables import DeltaTable
from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.queries import Query, RunOptions
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, profiles, sessions, tiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.measuring import emptied, in_turn
from benchmarks.result import Result

SEED = 20_260_101
DERIVE = Path(__file__).parent.parent / "conf" / "derive"
BATCH = 100_000
ACTIVE = 80_000


def profile_fold_vs_merge(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_profiles batch over those of a bare MERGE of as many finished rows into the same table."""
    finished = _finished(spark, work)
    users = finished.count()
    home = _home(spark, work / "home", _profiles(finished, 200_000))
    table = _declared(_settings(home), "user_profiles").table
    bare = _batch_rows(finished).persist()
    rows = bare.count()

    seconds = in_turn(
        3,
        lambda: _merge_seconds(bare, table, _copied(home, work / "bare")),
        lambda: _batch_seconds(spark, _copied(home, work / "ours"), profiles.STAGE),
    )
    bare.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH:,} events of {rows:,} users, 200,000 profiles ({users:,} of them different); "
        f"{statistics.median(seconds[1]):.1f} s against {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result(
        "profile_fold_vs_merge", ratio, "ratio of seconds", 3.0, "lower", "bare MERGE of finished rows", detail
    )


def profile_state_20x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_profiles batch with 2 M profiles in the table over those with 100,000."""
    finished = _finished(spark, work)
    few, many = (_home(spark, work / str(size), _profiles(finished, size)) for size in (100_000, 2_000_000))
    ratio, detail = _grown(spark, profiles.STAGE, few, many, work / "run")
    return Result("profile_state_20x", ratio, "ratio of seconds", 1.4, "lower", "a table of 100,000", detail)


def tiles_vs_append(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_features batch over those of bare appends of the same finished rows to the same tables."""
    home = _home(spark, work / "home", None)
    settings = _settings(home)
    events = tables.EVENTS.read(spark, settings.paths)
    declared = [d for d in fold_stage.declared_tables(settings).values() if d.write == "append"]
    finished = {d.name: _stamped(Fold.of(d).partials(events), d).persist() for d in declared}
    rows = {name: frame.count() for name, frame in finished.items()}

    def append() -> float:
        target = _settings(emptied(work / "bare"))
        for derived in declared:
            derived.table.create(spark, target.paths)
        began = time.monotonic()
        for derived in declared:
            finished[derived.name].write.format("delta").mode("append").save(derived.table.path(target.paths))
        return time.monotonic() - began

    seconds = in_turn(3, append, lambda: _batch_seconds(spark, _copied(home, work / "run"), tiles.STAGE))
    for frame in finished.values():
        frame.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    told = ", ".join(f"{count:,} rows of {name}" for name, count in rows.items())
    detail = f"{BATCH:,} events, {told}; {statistics.median(seconds[1]):.1f} s; seed {SEED}"
    return Result("tiles_vs_append", ratio, "ratio of seconds", 4.0, "lower", "bare appends of finished rows", detail)


def sessions_vs_merge(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_sessions batch over those of a bare MERGE of as many finished rows into the same table."""
    home = _visited(spark, work / "home", 600_000)
    done = _settings(_copied(home, work / "done"))
    _batch_seconds(spark, work / "done", sessions.STAGE)
    table = sessions.table(done)
    bare = table.read(spark, done.paths).where("batch_id = 1").persist()
    rows = bare.count()

    seconds = in_turn(
        3,
        lambda: _merge_seconds(bare, table, _copied(home, work / "bare")),
        lambda: _batch_seconds(spark, _copied(home, work / "ours"), sessions.STAGE),
    )
    bare.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH:,} events after 600,000, {rows:,} sessions; {statistics.median(seconds[1]):.1f} s against "
        f"{statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("sessions_vs_merge", ratio, "ratio of seconds", 3.0, "lower", "bare MERGE of finished rows", detail)


def sessions_history_10x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_sessions batch after 3 M events over those of the same batch after 300,000."""
    few, many = (_visited(spark, work / str(rows), rows) for rows in (300_000, 3_000_000))
    ratio, detail = _grown(spark, sessions.STAGE, few, many, work / "run")
    return Result("sessions_history_10x", ratio, "ratio of seconds", 1.4, "lower", "after 300,000 events", detail)


def backfill_rate(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Rows/s of 2 M events into all derived tables over those of the bare copy of capture_vs_copy."""
    log = workloads.json_log(spark, work / "log", first=0, rows=rows, files=40, seed=SEED)
    home = emptied(work / "home")
    settings = _settings(home)
    tables.EVENTS.create(spark, settings.paths)
    stored = workloads.stored_events(workloads.shop_log(spark, 0, rows, seed=SEED, files=8))
    _write_events(stored, settings)

    def copy() -> float:
        return workloads.bare_copy(spark, log, emptied(work / "copy"), files_per_batch=20)

    def ours() -> float:
        copied = _settings(_copied(home, work / "run"))
        began = time.monotonic()
        queries = [*tiles.queries(copied), *profiles.queries(copied)]
        streaming.run(spark, queries, copied, RunOptions(accept_new_epoch=True))
        return time.monotonic() - began

    seconds = in_turn(1, copy, ours)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} events; {rows / statistics.median(seconds[1]):,.0f} rows/s; seed {SEED}"
    return Result("backfill_rate", ratio, "ratio of rows/s", 0.15, "higher", "bare JSON-to-Delta stream", detail)


def profile_bytes_10(spark: SparkSession, work: Path) -> Result:
    """Bytes a user of user_profiles on disk, 10 events a user."""
    return _profile_bytes(spark, work, events=10, users=5_000, bound=1_000)


def profile_bytes_1000(spark: SparkSession, work: Path) -> Result:
    """Bytes a user of user_profiles on disk, 1,000 events a user."""
    return _profile_bytes(spark, work, events=1_000, users=300, bound=6_000)


def _profile_bytes(spark: SparkSession, work: Path, *, events: int, users: int, bound: int) -> Result:
    derived = _declared(_settings(emptied(work / "home")), "user_profiles")
    log = workloads.shop_log(spark, 0, events * users, seed=SEED, files=4, users=users)
    rows = _stamped(Fold.of(derived).partials(workloads.stored_events(log)), derived)
    target = str(emptied(work / "bytes"))
    rows.coalesce(1).write.format("delta").mode("overwrite").save(target)
    size = sum(file.stat().st_size for file in Path(target).glob("*.parquet"))
    found = spark.read.format("delta").load(target).count()
    detail = f"{found:,} users, one file; seed {SEED}"
    name = f"profile_bytes_{events}"
    return Result(name, size / found, "bytes a user", float(bound), "lower", f"{events:,} events a user", detail)


def _settings(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    config = home / "derive.toml"
    features = [str(DERIVE / f"{name}.toml") for name in ("user_hours", "item_hours", "category_hours")]
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "{DERIVE.parent.parent}/benchmarks/shop.toml"\n'
        f'[derive]\nfeatures = {features}\nprofiles = ["{DERIVE}/user_profiles.toml"]\n'
        "[derive.sessions]\nenabled = true\n"
    )
    return settings_module.load(str(config), [])


def _declared(settings: Settings, name: str) -> DerivedTable:
    return next(derived for derived in fold_stage.declared_tables(settings).values() if derived.name == name)


def _batch_events(spark: SparkSession) -> DataFrame:
    return workloads.stored_events(workloads.shop_log(spark, 0, BATCH, seed=SEED, files=4, users=ACTIVE))


def _write_events(events: DataFrame, settings: Settings) -> None:
    rows = events.select(*tables.EVENTS.names).repartition("event_date")
    rows.write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))


def _stamped(rows: DataFrame, derived: DerivedTable) -> DataFrame:
    stamp = {"epoch": F.lit("bench"), "batch_id": F.lit(0).cast("bigint")}
    return rows.withColumns(stamp).select(*derived.table.names)


def _finished(spark: SparkSession, work: Path) -> DataFrame:
    """Rows of user_profiles, as 600,000 events of 80,000 users before the batch made them."""
    derived = _declared(_settings(emptied(work / "finished_home")), "user_profiles")
    log = workloads.shop_log(spark, -600_000, 600_000, seed=SEED, files=4, users=ACTIVE)
    path = str(work / "finished")
    _stamped(Fold.of(derived).partials(workloads.stored_events(log)), derived).write.parquet(path)
    return spark.read.parquet(path)


def _profiles(finished: DataFrame, size: int) -> DataFrame:
    """So many profiles: the finished ones, all of which a batch may find, and copies of them under other ids."""
    copies = finished.crossJoin(finished.sparkSession.range(-(-size // ACTIVE)).withColumnRenamed("id", "_copy"))
    named = copies.withColumn("user_id", F.concat_ws("_", "user_id", "_copy")).drop("_copy")
    return finished.unionByName(named.limit(size - finished.count()))


def _batch_rows(finished: DataFrame) -> DataFrame:
    """Finished rows of the users of the batch."""
    users = _batch_events(finished.sparkSession).select("user_id").distinct()
    return finished.join(users, "user_id", "left_semi").select(*finished.columns)


def _home(spark: SparkSession, home: Path, stored: DataFrame | None) -> Path:
    """A warehouse with the batch in `events`, and profiles if there are any."""
    settings = _settings(emptied(home))
    tables.EVENTS.create(spark, settings.paths)
    _write_events(_batch_events(spark), settings)
    if stored is not None:
        table = _declared(settings, "user_profiles").table
        table.create(spark, settings.paths)
        stored.repartition(4).write.format("delta").mode("append").save(table.path(settings.paths))
    return home


def _visited(spark: SparkSession, home: Path, rows: int) -> Path:
    """A warehouse with the sessions of so many events before the batch, and the batch in `events`."""
    settings = _settings(emptied(home))
    tables.EVENTS.create(spark, settings.paths)
    log = workloads.shop_log(spark, -rows, rows, seed=SEED, files=4, users=ACTIVE)
    _write_events(workloads.stored_events(log), settings)
    _batch_seconds(spark, home, sessions.STAGE)
    _write_events(_batch_events(spark), settings)
    return home


def _copied(home: Path, to: Path) -> Path:
    shutil.copytree(home, emptied(to), dirs_exist_ok=True)
    return to


def _merge_seconds(rows: DataFrame, table: Table, home: Path) -> float:
    """Seconds of a bare MERGE of finished rows into a table."""
    target = table.path(_settings(home).paths)
    began = time.monotonic()
    on = " AND ".join(f"t.{column} = s.{column}" for column in table.key)
    merger = DeltaTable.forPath(rows.sparkSession, target).alias("t").merge(rows.alias("s"), on)
    merger.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
    return time.monotonic() - began


def _grown(spark: SparkSession, name: str, few: Path, many: Path, run: Path) -> tuple[float, str]:
    """Seconds of a stage's batch in a warehouse that holds many rows over those in one that holds few, and a detail."""
    homes = [(lambda home=home: _batch_seconds(spark, _copied(home, run), name)) for home in (few, many)]
    seconds = in_turn(3, *homes)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    return (
        ratio,
        f"{BATCH:,} events; {statistics.median(seconds[1]):.1f} s against {statistics.median(seconds[0]):.1f} s",
    )


def _batch_seconds(spark: SparkSession, home: Path, name: str) -> float:
    """Seconds of the newest batch of a stage, once it has run to its end; as stage_batches has them."""
    settings = _settings(home)
    queries: dict[str, Callable[[Settings], list[Query]]] = {
        tiles.STAGE: tiles.queries,
        profiles.STAGE: profiles.queries,
        sessions.STAGE: sessions.queries,
    }
    streaming.run(spark, queries[name](settings), settings, RunOptions(accept_new_epoch=True))
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).where(F.col("stage") == name)
    (row,) = batches.orderBy(F.desc("batch_id")).limit(1).collect()
    return float(row["seconds"])
