"""Benchmarks of the stages that derive tables, with the shipped declarations.

Most baselines write the same rows as the stage, computed beforehand ("finished" rows).
"""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from delta.tables import DeltaTable
from profilestream.base import commits, streaming, tables
from profilestream.base import settings as settings_module
from profilestream.base.commits import Txn
from profilestream.base.delta_table import Table
from profilestream.base.queries import Query, RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import fold_stage, profiles, sessions, tiles
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_101
DERIVE = Path(__file__).parent.parent / "conf" / "derive"
BATCH_SIZE = 100_000
ACTIVE_USERS = 80_000


def profile_fold_vs_merge(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_profiles batch, divided by those of a plain MERGE of as many finished rows."""
    finished = _finished_profiles(spark, work)
    users = finished.count()
    home = _prepare_batch(spark, work / "home", _profiles(finished, 200_000))
    table = derived_table(derive_settings(home), "user_profiles").table
    merged = _rows_of_batch_users(finished).persist()
    rows = merged.count()

    seconds = measure_alternately(
        3,
        lambda: _merge_seconds(merged, table, _copy_home(home, work / "merge")),
        lambda: _batch_seconds(spark, _copy_home(home, work / "stage"), profiles.STAGE),
    )
    merged.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH_SIZE:,} events of {rows:,} users, 200,000 profiles ({users:,} distinct states); "
        f"{statistics.median(seconds[1]):.1f} s, MERGE {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result(
        "profile_fold_vs_merge", ratio, "ratio of seconds", 1.4, "lower", "plain MERGE of finished rows", detail
    )


def profile_state_20x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_profiles batch with 2 M profiles in the table, divided by those with 100,000."""
    finished = _finished_profiles(spark, work)
    small, large = (_prepare_batch(spark, work / str(size), _profiles(finished, size)) for size in (100_000, 2_000_000))
    ratio, detail = _size_ratio(spark, profiles.STAGE, small, large, work / "run")
    return Result("profile_state_20x", ratio, "ratio of seconds", 1.4, "lower", "a table of 100,000", detail)


def tiles_vs_append(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_features batch, divided by those of plain appends of the same finished rows."""
    home = _prepare_batch(spark, work / "home", None)
    settings = derive_settings(home)
    events = tables.EVENTS.read(spark, settings.paths)
    tile_tables = [d for d in fold_stage.declared_tables(settings).values() if d.write == "append"]
    finished = {d.name: _stamp(Fold(d).partials(events), d).persist() for d in tile_tables}
    rows = {name: frame.count() for name, frame in finished.items()}

    def append() -> float:
        target = derive_settings(empty_folder(work / "append"))
        for derived in tile_tables:
            derived.table.create(spark, target.paths)
        started = time.monotonic()
        for derived in tile_tables:
            finished[derived.name].write.format("delta").mode("append").save(derived.table.path(target.paths))
        return time.monotonic() - started

    seconds = measure_alternately(3, append, lambda: _batch_seconds(spark, _copy_home(home, work / "run"), tiles.STAGE))
    for frame in finished.values():
        frame.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    row_counts = ", ".join(f"{count:,} rows of {name}" for name, count in rows.items())
    detail = f"{BATCH_SIZE:,} events, {row_counts}; {statistics.median(seconds[1]):.1f} s; seed {SEED}"
    return Result("tiles_vs_append", ratio, "ratio of seconds", 4.0, "lower", "plain appends of finished rows", detail)


def sessions_vs_merge(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_sessions batch, divided by those of a plain MERGE of as many finished rows."""
    home = _prepare_sessions(spark, work / "home", 600_000)
    finished = derive_settings(_copy_home(home, work / "finished"))
    _batch_seconds(spark, work / "finished", sessions.STAGE)
    table = sessions.table(finished)
    merged = table.read(spark, finished.paths).where("batch_id = 1").persist()
    rows = merged.count()

    seconds = measure_alternately(
        3,
        lambda: _merge_seconds(merged, table, _copy_home(home, work / "merge")),
        lambda: _batch_seconds(spark, _copy_home(home, work / "stage"), sessions.STAGE),
    )
    merged.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH_SIZE:,} events after 600,000, {rows:,} sessions; {statistics.median(seconds[1]):.1f} s, MERGE "
        f"{statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("sessions_vs_merge", ratio, "ratio of seconds", 3.0, "lower", "plain MERGE of finished rows", detail)


def sessions_history_10x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a derive_sessions batch after 3 M events, divided by those of the same batch after 300,000."""
    small, large = (_prepare_sessions(spark, work / str(rows), rows) for rows in (300_000, 3_000_000))
    ratio, detail = _size_ratio(spark, sessions.STAGE, small, large, work / "run")
    return Result("sessions_history_10x", ratio, "ratio of seconds", 1.4, "lower", "after 300,000 events", detail)


def backfill_rate(spark: SparkSession, work: Path, rows: int = 2_000_000) -> Result:
    """Rows/s of deriving tiles and profiles from 2 M events, divided by those of the baseline of capture_vs_copy."""
    log = workloads.write_json_log(spark, work / "log", first=0, rows=rows, files=40, seed=SEED)
    home = empty_folder(work / "home")
    settings = derive_settings(home)
    tables.EVENTS.create(spark, settings.paths)
    write_events(workloads.to_events_rows(workloads.shop_log(spark, 0, rows, seed=SEED, files=8)), settings)

    def copy() -> float:
        return workloads.copy_seconds(spark, log, empty_folder(work / "copy"), files_per_batch=20)

    def derive() -> float:
        target = derive_settings(_copy_home(home, work / "run"))
        queries = [*tiles.queries(target), *profiles.queries(target)]
        options = RunOptions(accept_new_epoch=True)
        return measure_seconds(lambda: streaming.run(spark, queries, target, options))

    seconds = measure_alternately(1, copy, derive)
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    detail = f"{rows:,} events; {rows / statistics.median(seconds[1]):,.0f} rows/s; seed {SEED}"
    return Result("backfill_rate", ratio, "ratio of rows/s", 0.20, "higher", "plain JSON-to-Delta stream", detail)


def profile_bytes_10(spark: SparkSession, work: Path) -> Result:
    """Bytes on disk per user of user_profiles, with 10 events per user."""
    return _profile_bytes(spark, work, events=10, users=5_000, bound=1_000)


def profile_bytes_1000(spark: SparkSession, work: Path) -> Result:
    """Bytes on disk per user of user_profiles, with 1,000 events per user."""
    return _profile_bytes(spark, work, events=1_000, users=300, bound=6_000)


def _profile_bytes(spark: SparkSession, work: Path, *, events: int, users: int, bound: int) -> Result:
    settings = derive_settings(empty_folder(work / "home"))
    derived = derived_table(settings, "user_profiles")
    derived.table.create(spark, settings.paths)
    log = workloads.shop_log(spark, 0, events * users, seed=SEED, files=4, users=users)
    rows = _stamp(Fold(derived).partials(workloads.to_events_rows(log)), derived)
    commits.append(rows.coalesce(1), derived.table, settings.paths, Txn("bench", "bench", 0))
    size = sum(file.stat().st_size for file in Path(derived.table.path(settings.paths)).glob("*.parquet"))
    stored_users = derived.table.read(spark, settings.paths).count()
    detail = f"{stored_users:,} users, one file; seed {SEED}"
    name = f"profile_bytes_{events}"
    against = f"{events:,} events per user"
    return Result(name, size / stored_users, "bytes per user", float(bound), "lower", against, detail)


def derive_settings(home: Path, overrides: list[str] | None = None) -> Settings:
    """Settings of a warehouse in a folder, with the shipped declarations."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "derive.toml"
    features = [str(DERIVE / f"{name}.toml") for name in ("user_hours", "item_hours", "category_hours")]
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "{DERIVE.parent.parent}/benchmarks/shop.toml"\n'
        f'[derive]\nfeatures = {features}\nprofiles = ["{DERIVE}/user_profiles.toml"]\n'
        "[derive.sessions]\nenabled = true\n"
    )
    return settings_module.load(str(config), overrides or [])


def derived_table(settings: Settings, name: str) -> DerivedTable:
    """The declared table of that name."""
    return next(derived for derived in fold_stage.declared_tables(settings).values() if derived.name == name)


def _batch_events(spark: SparkSession) -> DataFrame:
    return workloads.to_events_rows(workloads.shop_log(spark, 0, BATCH_SIZE, seed=SEED, files=4, users=ACTIVE_USERS))


def write_events(events: DataFrame, settings: Settings) -> None:
    """Append rows to `events`, one file per date."""
    rows = events.select(*tables.EVENTS.names).repartition("event_date")
    rows.write.format("delta").mode("append").save(tables.EVENTS.path(settings.paths))


def _stamp(rows: DataFrame, derived: DerivedTable) -> DataFrame:
    columns = {"epoch": F.lit("bench"), "batch_id": F.lit(0).cast("bigint")}
    return rows.withColumns(columns).select(*derived.table.names)


def _finished_profiles(spark: SparkSession, work: Path) -> DataFrame:
    """Rows of user_profiles, computed from the 600,000 events of 80,000 users before the batch."""
    derived = derived_table(derive_settings(empty_folder(work / "finished_home")), "user_profiles")
    log = workloads.shop_log(spark, -600_000, 600_000, seed=SEED, files=4, users=ACTIVE_USERS)
    path = str(work / "finished")
    _stamp(Fold(derived).partials(workloads.to_events_rows(log)), derived).write.parquet(path)
    return spark.read.parquet(path)


def _profiles(finished: DataFrame, size: int) -> DataFrame:
    """`size` profiles: the finished ones, whose users a batch updates, and copies with other user ids."""
    copies = finished.crossJoin(finished.sparkSession.range(-(-size // ACTIVE_USERS)).withColumnRenamed("id", "_copy"))
    others = copies.withColumn("user_id", F.concat_ws("_", "user_id", "_copy")).drop("_copy")
    return finished.unionByName(others.limit(size - finished.count()))


def _rows_of_batch_users(finished: DataFrame) -> DataFrame:
    """The finished rows of users with events in the batch."""
    users = _batch_events(finished.sparkSession).select("user_id").distinct()
    return finished.join(users, "user_id", "left_semi").select(*finished.columns)


def _prepare_batch(spark: SparkSession, home: Path, stored_profiles: DataFrame | None) -> Path:
    """Write a warehouse with the batch in `events` and, if given, rows in user_profiles; returns its folder."""
    settings = derive_settings(empty_folder(home))
    tables.EVENTS.create(spark, settings.paths)
    write_events(_batch_events(spark), settings)
    if stored_profiles is not None:
        table = derived_table(settings, "user_profiles").table
        table.create(spark, settings.paths)
        stored_profiles.repartition(4).write.format("delta").mode("append").save(table.path(settings.paths))
    return home


def prepare_profiles(spark: SparkSession, home: Path, size: int) -> Path:
    """Write a warehouse with `size` profiles and no events; returns its folder."""
    settings = derive_settings(empty_folder(home))
    ingest.events_table(settings.capture).create(spark, settings.paths)
    table = derived_table(settings, "user_profiles").table
    table.create(spark, settings.paths)
    rows = _profiles(_finished_profiles(spark, home.parent), size)
    commits.append(rows.repartition(4), table, settings.paths, Txn("bench", "bench", 0))
    return home


def _prepare_sessions(spark: SparkSession, home: Path, rows: int) -> Path:
    """The folder of a new warehouse with the sessions of `rows` earlier events and the batch in `events`."""
    settings = derive_settings(empty_folder(home))
    tables.EVENTS.create(spark, settings.paths)
    log = workloads.shop_log(spark, -rows, rows, seed=SEED, files=4, users=ACTIVE_USERS)
    write_events(workloads.to_events_rows(log), settings)
    _batch_seconds(spark, home, sessions.STAGE)
    write_events(_batch_events(spark), settings)
    return home


def _copy_home(home: Path, target: Path) -> Path:
    shutil.copytree(home, empty_folder(target), dirs_exist_ok=True)
    return target


def _merge_seconds(rows: DataFrame, table: Table, home: Path) -> float:
    """Seconds of a plain MERGE of finished rows into a table."""
    target = table.path(derive_settings(home).paths)
    started = time.monotonic()
    on = " AND ".join(f"t.{column} = s.{column}" for column in table.key)
    merger = DeltaTable.forPath(rows.sparkSession, target).alias("t").merge(rows.alias("s"), on)
    merger.whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
    return time.monotonic() - started


def _size_ratio(spark: SparkSession, stage: str, small: Path, large: Path, run: Path) -> tuple[float, str]:
    """Seconds of a stage's batch in the large warehouse divided by those in the small one, and the detail."""
    runs = [(lambda home=home: _batch_seconds(spark, _copy_home(home, run), stage)) for home in (small, large)]
    seconds = measure_alternately(3, *runs)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH_SIZE:,} events; {statistics.median(seconds[1]):.1f} s, baseline {statistics.median(seconds[0]):.1f} s"
    )
    return ratio, f"{detail}; seed {SEED}"


def _batch_seconds(spark: SparkSession, home: Path, stage: str) -> float:
    """Run a stage; returns the seconds of its last batch from `stage_batches`."""
    settings = derive_settings(home)
    queries: dict[str, Callable[[Settings], list[Query]]] = {
        tiles.STAGE: tiles.queries,
        profiles.STAGE: profiles.queries,
        sessions.STAGE: sessions.queries,
    }
    streaming.run(spark, queries[stage](settings), settings, RunOptions(accept_new_epoch=True))
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).where(F.col("stage") == stage)
    (row,) = batches.orderBy(F.desc("batch_id")).limit(1).collect()
    return float(row["seconds"])
