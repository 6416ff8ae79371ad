"""Costs of each stage in large batches, and sizes of the tables: the numbers of the cost model (capacity.py)."""

import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from delta.tables import DeltaTable
from profilestream import flow, table_registry
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.derive import profiles
from pyspark.sql import SparkSession

from benchmarks import derive, load_run, workloads
from benchmarks.machine import machine
from benchmarks.result import Result

SEED = 20_261_130
RESULTS = Path(__file__).parent / "results" / "costs.json"
_ROWS, _WARM_UP_ROWS, _FILES = 500_000, 100_000, 20
_USERS_PER_EVENT = 0.4
# Spark updates the sums of its executors at this interval at most.
_UPDATE_SECONDS = 1.0


@dataclass(frozen=True)
class StageCost:
    """What a stage needs for each event of the log.

    Args:
        core_seconds: per million events.
        written, shuffled, read: bytes per event; `read` is what Spark read from files.
    """

    core_seconds: float
    written: float
    shuffled: float
    read: float


@dataclass(frozen=True)
class TableSize:
    """Rows and bytes of a table at the end; the bytes are those of its data files, compressed."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """A measurement of all stages over the same events.

    Args:
        events: lines of the log.
        users, items: that occur in it.
        rows_per_batch: of derive_profiles, on average.
        id_search: core-seconds of capture per million stored events on the dates that a batch is compared with.
    """

    machine: str
    date: str
    events: int
    users: int
    items: int
    rows_per_batch: int
    id_search: float
    stages: dict[str, StageCost]
    tables: dict[str, TableSize]


def read() -> Costs:
    """The results of the last run of cost_per_million."""
    fields = json.loads(RESULTS.read_text())
    stages = {name: StageCost(**cost) for name, cost in fields["stages"].items()}
    sizes = {name: TableSize(**size) for name, size in fields["tables"].items()}
    return Costs(**{**fields, "stages": stages, "tables": sizes})


def cost_per_million(spark: SparkSession, work: Path) -> Result:
    """Core-hours for a million events in large batches, all stages added up; stores costs.json."""
    measure(spark, work / "warm_up", _WARM_UP_ROWS)
    costs = measure(spark, work / "measured", _ROWS)
    costs = replace(costs, id_search=round(_id_search(spark, work / "id_search", _ROWS), 2))
    RESULTS.write_text(json.dumps(asdict(costs), indent=1) + "\n")
    hours = {name: cost.core_seconds / 3600 for name, cost in costs.stages.items()}
    by_stage = ", ".join(f"{name} {value:.4f}" for name, value in hours.items())
    detail = f"{costs.events:,} events, {costs.rows_per_batch:,} rows per batch; {by_stage}; seed {SEED}"
    return Result("cost_per_million", sum(hours.values()), "core-hours", 0.2, "lower", "absolute", detail)


def measure(spark: SparkSession, home: Path, rows: int) -> Costs:
    """Run each stage alone over the same events, without `id_search`; a stage reads what those before it wrote."""
    log = workloads.write_json_log(
        spark, home / "input", first=0, rows=rows, files=_FILES, seed=SEED, users=int(rows * _USERS_PER_EVENT)
    )
    settings = load_run.load_settings(home, load_run.Input(log), learners=True)
    task_bytes = {
        stage.name: _measured_bytes(spark, stage, settings) for stage in flow.STAGES if stage.queries(settings)
    }
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).collect()
    stages = {}
    for name, (shuffled, read_bytes) in task_bytes.items():
        own = [batch for batch in batches if batch["stage"] == name]
        stages[name] = StageCost(
            core_seconds=round(sum(batch["cpu_seconds"] for batch in own) / rows * 1e6, 1),
            written=round(sum(batch["bytes_written"] or 0 for batch in own) / rows, 1),
            shuffled=round(shuffled / rows, 1),
            read=round(read_bytes / rows, 1),
        )
    events = tables.EVENTS.read(spark, settings.paths)
    ids = events.selectExpr("count(DISTINCT user_id)", "count(DISTINCT item_id)").collect()[0]
    return Costs(
        machine=machine(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        events=rows,
        users=ids[0],
        items=ids[1],
        rows_per_batch=round(statistics.mean(one["rows_in"] for one in batches if one["stage"] == profiles.STAGE)),
        id_search=0.0,
        stages=stages,
        tables=_sizes(spark, settings),
    )


def _id_search(spark: SparkSession, home: Path, rows: int) -> float:
    """Core-seconds of a batch of capture per million stored events with which its ids are compared."""
    counts, seconds = [], []
    for number, parts in enumerate((1, 1 + max(rows // workloads.EVENTS_PER_DAY, 1))):
        # A day of new events, among as many events of the same and the neighboring days in each part.
        first, day = 10 * workloads.EVENTS_PER_DAY, workloads.EVENTS_PER_DAY
        log = workloads.write_json_log(spark, home / f"{number}/input", first=first, rows=day, files=1, seed=SEED)
        settings = load_run.load_settings(home / f"{number}/home", load_run.Input(log))
        ingest.events_table(settings.capture).create(spark, settings.paths)
        for part in range(parts):
            history = workloads.shop_log(spark, first - day, 3 * day, seed=part, files=4)
            derive.write_events(workloads.to_events_rows(history), settings)
        streaming.run(spark, flow.CAPTURE.queries(settings), settings, RunOptions(accept_new_epoch=True))
        (batch,) = tables.STAGE_BATCHES.read(spark, settings.paths).collect()
        counts.append(parts * 3 * day / 1e6)
        seconds.append(batch["cpu_seconds"])
    return float((seconds[1] - seconds[0]) / (counts[1] - counts[0]))


def _measured_bytes(spark: SparkSession, stage: flow.Stage, settings: Settings) -> tuple[int, int]:
    """Run a stage to the end of its input; returns the bytes that its tasks shuffled, and read from files."""
    before = _task_bytes(spark)
    streaming.run(spark, stage.queries(settings), settings, RunOptions(accept_new_epoch=True))
    after = _task_bytes(spark)
    return after[0] - before[0], after[1] - before[1]


def _task_bytes(spark: SparkSession) -> tuple[int, int]:
    """Bytes that all tasks so far wrote for shuffles, and read from files."""
    time.sleep(_UPDATE_SECONDS)
    executors = spark.sparkContext._jsc.sc().statusStore().executorList(False)
    summaries = [executors.apply(n) for n in range(executors.size())]
    return sum(one.totalShuffleWrite() for one in summaries), sum(one.totalInputBytes() for one in summaries)


def _sizes(spark: SparkSession, settings: Settings) -> dict[str, TableSize]:
    sizes = {}
    for table in table_registry.registry(settings):
        if table.exists(spark, settings.paths):
            path = table.path(settings.paths)
            size = DeltaTable.forPath(spark, path).detail().collect()[0]["sizeInBytes"]
            sizes[table.name] = TableSize(table.read(spark, settings.paths).count(), size)
    return sizes
