"""Small logs, and the rows that the learners write for them: the content of tests/fixtures/learners."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels import als_rows, als_tasks, score_tasks
from profilestream.learn.factors.kernels.item_index import ItemIndex
from profilestream.learn.segments.segments_spec import SegmentsSpec
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests import log_files
from tests.builders import VECTOR_PROFILES, Shop
from tests.stage_batches import StageBatches

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "fixtures" / "learners"
START = datetime(2026, 1, 11, tzinfo=UTC)
_TEXTS = ("event_id", "user_id", "item_id", "event_type", "category")
_FIELDS: "list[pa.Field[Any]]" = [pa.field(name, pa.string()) for name in _TEXTS]
_FIELDS += [pa.field("event_time", pa.timestamp("us", "UTC")), pa.field("rating", pa.float64())]
EVENTS = pa.schema(_FIELDS)
ITEM_IDS = ("i0", "i 1", 'i"2"', "i🛒", "i4", "x" * 1000, "i6", "i7", "i8")
IMPLICIT = """
enabled = true
k = 8
max_events_per_user = 12
reweighted_events = 3
unobserved_weight = 20
max_neighbors = 8
category_weight = 0.1
"""
# Price and share of purchases of the profiles of each group.
GROUPS = {"a": (1.0, 0.0), "b": (100.0, 0.1), "c": (50.0, 1.0), "d": (160.0, 0.6)}


def _events(first: int, count: int, one: Callable[[int], dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{"event_id": f"e{n}", **one(n)} for n in range(first, first + count)], EVENTS)


def _shop_event(n: int) -> dict[str, Any]:
    """Every eleventh event has no user, every seventh no item; every fifth is one day late; some are returns."""
    return {
        "user_id": None if n % 11 == 0 else f"u{n % 13}", "item_id": None if n % 7 == 0 else ITEM_IDS[n * n % 9],
        "event_type": ("view", "purchase", "view", "return")[n % 4], "category": "xy"[n % 2],
        "event_time": START + timedelta(hours=n, days=-1 if n % 5 == 0 else 0),
    }  # fmt: skip


def _rating(n: int) -> dict[str, Any]:
    return {
        "user_id": f"u{n % 6}", "item_id": f"i{n * n % 11}", "event_type": "rate", "rating": float(1 + n * n % 5),
        "event_time": START + timedelta(hours=n),
    }  # fmt: skip


def _retail_events() -> list[pa.Table]:
    """Purchases and returns of some customers and items of Online Retail, in order of time, in two batches."""
    columns = ["InvoiceNo", "StockCode", "InvoiceDate", "CustomerID"]
    log = pq.read_table(ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet", columns=columns)
    rows = [
        {
            "user_id": row["CustomerID"], "item_id": row["StockCode"], "category": row["StockCode"][:2],
            "event_type": "return" if row["InvoiceNo"].startswith("C") else "purchase",
            "event_time": datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC),
        }
        for row in log.slice(0, 150_000).to_pylist()
        if row["CustomerID"][:5].isdigit() and int(row["CustomerID"][:5]) % 37 == 0
        if row["StockCode"][:5].isdigit() and int(row["StockCode"][:5]) % 8 < 2
    ]  # fmt: skip
    size = len(rows) * 2 // 3
    return [_events(begin, min(size, len(rows) - begin), rows.__getitem__) for begin in range(0, len(rows), size)]


@dataclass(frozen=True)
class FactorsLog:
    """Batches of events, and the settings of `learn_factors`.

    Args:
        has_history: the events are also in the table `events`, which full passes read.
    """

    settings: str
    batches: Callable[[], list[pa.Table]]
    has_history: bool = False

    def learned_rows(self, spark: SparkSession, home: Path) -> dict[str, pa.Table]:
        """The rows after all batches, by table."""
        shop = Shop(home, extra_settings=f"[learn.factors]{self.settings}")
        settings = shop.settings()
        (query,) = stage.queries(FactorsSpec, settings)
        batches = StageBatches(spark, settings, query)
        if self.has_history:
            ingest.events_table(settings.capture).create(spark, settings.paths)
        for n, batch in enumerate(self.batches()):
            batches.write(
                spark.createDataFrame(batch),
                versions={tables.EVENTS.name: n} if self.has_history else {},
                local_max_rows=settings.stream.local_max_rows * (n % 2),
            )
            if self.has_history:
                log_files.append_events(spark.createDataFrame(batch), settings)
        rows = {table.name: _rows(table.read(spark, settings.paths).toArrow(), table.key) for table in query.tables}
        return {**rows, "recommendations": _recommendations(rows["factors"], settings)}


@dataclass(frozen=True)
class SegmentsLog:
    """Batches of changed profiles: day of January, and group of each user; null: the profile is deleted."""

    batches: tuple[tuple[int, dict[str, str | None]], ...]

    def learned_rows(self, spark: SparkSession, home: Path) -> dict[str, pa.Table]:
        """The rows after all batches, by table."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "profiles.toml").write_text(VECTOR_PROFILES)
        learn = "enabled = true\nk = 3\nhalf_life_days = 10\ninit_passes = 3\npasses = 2\n"
        shop = Shop(home, extra_settings=f'[derive]\nprofiles = ["{home}/profiles.toml"]\n[learn.segments]\n{learn}')
        settings = shop.settings()
        (query,) = stage.queries(SegmentsSpec, settings)
        batches = StageBatches(spark, settings, query)
        state = "state struct<behavior: struct<vector: struct<weight: double, sums: array<double>>>>"
        for n, (day, group_of) in enumerate(self.batches):
            rows = [
                (
                    user,
                    START.replace(day=day, hour=m % 24),
                    (((2.0, _vector_sums(group or "a", m)),),),
                    "insert" if group else "delete",
                )
                for m, (user, group) in enumerate(group_of.items())
            ]
            changes = spark.createDataFrame(rows, f"user_id string, as_of timestamp, {state}, _change_type string")
            changes = changes.withColumn("_commit_version", F.lit(n))
            batches.write(changes, local_max_rows=settings.stream.local_max_rows * (n % 2))
        return {table.name: _rows(table.read(spark, settings.paths).toArrow(), table.key) for table in query.tables}


def _vector_sums(group: str, number: int) -> list[float]:
    price, buys = GROUPS[group]
    return [2 * (price + number % 7), 2 * (buys + number % 3 / 100), 0.0]


def _recommendations(rows: pa.Table, settings: Settings) -> pa.Table:
    """The ten best items of every user by the blend, computed from the rows of `factors`."""
    params = FactorsSpec(settings).params
    sides = {side: rows.filter(pc.equal(rows["side"], pa.scalar(side))) for side in ("user", "item", "global")}
    sums = als_rows.global_sums_from_bytes(sides["global"]["global_sums"][0].as_py(), params.width)
    packed = als_tasks.pack_items(sides["item"], global_sums=sums, params=params)["items"]
    index = ItemIndex.from_rows(packed, params)
    users = [str(key) for key in sides["user"]["key"].to_pylist()]
    return score_tasks.recommend_items([*users, "unknown"], sides["user"], index, params, ranker="blend", top_k=10)


def _rows(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """The rows in order of the key, without the epoch."""
    ordered = rows.sort_by([(name, "ascending") for name in key])
    return ordered.drop_columns("epoch").replace_schema_metadata(None)


LOGS: dict[str, FactorsLog | SegmentsLog] = {
    "retail": FactorsLog(f"{IMPLICIT}first_full_passes = 2\nfull_passes = 0\n", _retail_events),
    "full_passes": FactorsLog(
        f"{IMPLICIT}first_full_passes = 0\nfull_passes = 1\n",
        lambda: [_events(n, 30, _shop_event) for n in (0, 30)],
        has_history=True,
    ),
    "ratings": FactorsLog(
        f'{IMPLICIT}mode = "explicit"\nfirst_full_passes = 0\nfull_passes = 0\n',
        lambda: [_events(n, 20, _rating) for n in (0, 20)],
    ),
    "segments": SegmentsLog((
        (10, {f"u{n}": "ab"[n % 2] for n in range(24)}),
        (14, {"u0": "b", "u1": "a", **{f"n{n}": "cd"[n % 2] for n in range(16)}}),
        (12, {"u3": "c", "late": "a", "u4": None, "n2": None}),
    )),
}  # fmt: skip
