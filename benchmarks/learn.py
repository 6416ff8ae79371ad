"""Benchmarks of the learners on Spark against MLlib in the same session; quality.py measures the quality of models."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.keyed_rows import KeyedRows
from profilestream.base.queries import Batch, Query
from profilestream.base.settings import Settings
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.learner_spec import Learner
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.scores import pinned_models, recommend
from pyspark.ml.clustering import KMeans
from pyspark.ml.functions import array_to_vector
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import derive, workloads
from benchmarks.result import Result
from benchmarks.timing import empty_folder, measure_alternately, measure_seconds

SEED = 20_260_102
PROFILES_FILE = Path(__file__).parent.parent / "conf" / "derive" / "user_profiles.toml"
PROFILES, SEGMENTS = 200_000, 20
PAST_EVENTS, BATCH_SIZE, USERS, ITEMS = 2_000_000, 10_000, 100_000, 50_000


@dataclass
class Shop:
    """A model learned from 2 M events of `users` and `items`, and the batches that follow."""

    spark: SparkSession
    settings: Settings
    users: int
    items: int
    batches: int = 0
    indexes: dict[str, KeyedRows] = field(default_factory=dict)

    @classmethod
    def learned(cls, spark: SparkSession, home: Path, users: int, items: int, *settings: str) -> "Shop":
        """A shop whose model has learned the past events as one batch."""
        empty_folder(home)
        overrides = [*_WITHOUT_EXTRAS, "learn.factors.reweighted_events=0", *settings]
        shop = cls(spark, _settings(home, overrides), users, items)
        (query,) = stage.queries(FactorsSpec, shop.settings)
        for table in query.tables:
            table.create(spark, shop.settings.paths)
        shop.learn(_interactions(spark, 0, PAST_EVENTS, users, items))
        return shop

    def learn(self, interactions: DataFrame, *overrides: str) -> float:
        """Seconds of a batch in the stage, from cached events to the commit."""
        home = Path(self.settings.paths.warehouse).parent
        settings = _settings(home, list(overrides)) if overrides else self.settings
        (query,) = stage.queries(FactorsSpec, settings)
        seconds = _write_batch(self.spark, query, settings, _events(interactions), self.batches, self.indexes)
        self.batches += 1
        return seconds

    def next_batch(self) -> DataFrame:
        """The events that follow those that were learned."""
        return _interactions(self.spark, PAST_EVENTS + self.batches * BATCH_SIZE, BATCH_SIZE, self.users, self.items)


def factors_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch of 10,000 events, divided by those of a retrain of MLlib's ALS on all events."""
    shop = Shop.learned(spark, work / "home", USERS, ITEMS)
    ratings = _ratings(spark).persist()
    ratings.count()
    seconds = measure_alternately(3, lambda: _fit(ratings)[0], lambda: shop.learn(shop.next_batch()))
    reweighted = statistics.median(
        shop.learn(shop.next_batch(), "learn.factors.reweighted_events=10", *_WITHOUT_EXTRAS) for _ in range(3)
    )
    ratings.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH_SIZE:,} events, {USERS:,} users x {ITEMS:,} items, {PAST_EVENTS:,} past events, k 32, "
        f"reweighted_events 0: {statistics.median(seconds[1]):.1f} s, MLlib {statistics.median(seconds[0]):.1f} s; "
        f"reweighted_events 10: {reweighted:.1f} s; without evaluation and neighbors; seed {SEED}"
    )
    return Result(
        "factors_vs_mllib", ratio, "ratio of seconds", 0.2, "lower", "MLlib ALS, rank 32, 10 iterations", detail
    )


def factors_model_10x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch with a model ten times as large, divided by those with the smaller one."""
    small = Shop.learned(spark, work / "small", USERS // 10, ITEMS // 10)
    large = Shop.learned(spark, work / "large", USERS, ITEMS)
    seconds = measure_alternately(3, *[(lambda shop=shop: shop.learn(shop.next_batch())) for shop in (small, large)])
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH_SIZE:,} events; {USERS:,} users x {ITEMS:,} items {statistics.median(seconds[1]):.1f} s, "
        f"a tenth of the users and items {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("factors_model_10x", ratio, "ratio of seconds", 2.0, "lower", "a tenth of users and items", detail)


def topn_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Lists per second, divided by those of MLlib's ALSModel: the top 100 of 50,000 items for 100,000 users.

    MLlib does not leave out the items that a user bought.
    """
    shop = Shop.learned(
        spark, work / "home", USERS, ITEMS, "serve.scores.top_k=100", "serve.scores.max_item_age_days=9999"
    )
    purchases = _events(_interactions(spark, 0, PAST_EVENTS, USERS, ITEMS))
    number = F.monotonically_increasing_id()
    required = {
        "event_id": F.concat("user_id", F.lit("-"), number), "price": F.lit(1.0), "quantity": F.lit(1.0),
        **{name: F.lit(None).cast("string") for name in ("brand", "session_id", "channel")},
    }  # fmt: skip
    log = workloads.to_events_rows(purchases.withColumns(required))
    tables.EVENTS.create(spark, shop.settings.paths)
    derive.write_events(log, shop.settings)
    _, model = _fit(_ratings(spark))
    pinned = pinned_models.pin_versions(spark, shop.settings)
    users = recommend.selected_users(spark, shop.settings, pinned)
    count = users.in_model.persist().count()
    mllib_users = spark.range(USERS).select(F.col("id").cast("int").alias("user"))

    def write(lists: DataFrame) -> None:
        lists.write.format("noop").mode("overwrite").save()

    # One run of each: a run takes minutes, so a warm-up changes little.
    mllib_seconds = measure_seconds(lambda: write(model.recommendForUserSubset(mllib_users, 100)))
    seconds = measure_seconds(lambda: write(recommend.recommendations(users, shop.settings, pinned)))
    detail = f"{count:,} users: {seconds:.0f} s, MLlib {mllib_seconds:.0f} s, one run of each; seed {SEED}"
    ratio = (count / seconds) / (USERS / mllib_seconds)
    return Result("topn_vs_mllib", ratio, "ratio of lists/s", 1.2, "higher", "ALSModel.recommendForUserSubset", detail)


def factors_small_batch(spark: SparkSession, work: Path) -> Result:
    """Seconds of a warm batch of 100 events into 100,000 users, divided by those of an append of 100 rows by Spark."""
    settings = _settings(empty_folder(work / "home"), ["learn.factors.first_full_passes=0"])
    seconds = _small_batches(
        spark, settings, FactorsSpec, lambda n, rows: _events(_interactions(spark, n, rows, USERS, ITEMS)), _SMALL_PAST
    )
    detail = (
        f"100 events, {USERS:,} users x {ITEMS:,} items, {_SMALL_PAST:,} past events, k 32, with evaluation and "
        "neighbors"
    )
    return _small_batch_result("factors_small_batch", seconds, _append_seconds(spark, work), detail)


def segments_small_batch(spark: SparkSession, work: Path) -> Result:
    """Seconds of a warm batch of 100 of 200,000 profiles, divided by those of an append of 100 rows by Spark."""
    overrides = [f"learn.segments.k={SEGMENTS}", "learn.segments.enabled=true"]
    settings = _settings(empty_folder(work / "home"), overrides)
    numbers = itertools.count()
    seconds = _small_batches(
        spark,
        settings,
        SegmentsSpec,
        lambda n, rows: _profile_changes(spark, settings, n % PROFILES, rows, next(numbers)),
        PROFILES,
    )
    detail = f"100 of {PROFILES:,} users, 9 dimensions, k {SEGMENTS}"
    return _small_batch_result("segments_small_batch", seconds, _append_seconds(spark, work), detail)


_SMALL_PAST, _SMALL_BATCHES = 500_000, 8


def _small_batch_result(name: str, seconds: float, append: float, detail: str) -> Result:
    detail = f"{detail}; {seconds:.2f} s, append {append:.2f} s; seed {SEED}"
    against = "bare Spark append of 100 rows"
    return Result(name, seconds / append, "ratio of seconds", 3.0, "lower", against, detail)


def _small_batches(
    spark: SparkSession, settings: Settings, learner: Learner, rows_of: Callable[[int, int], DataFrame], past: int
) -> float:
    """Median seconds of batches of 100 rows, without the first three, after a batch with the past rows.

    Args:
        rows_of: function of the number of the first row, and of the number of rows.
    """
    (query,) = stage.queries(learner, settings)
    for table in query.tables:
        table.create(spark, settings.paths)
    indexes: dict[str, KeyedRows] = {}
    seconds = []
    for batch_id in range(_SMALL_BATCHES + 1):
        rows = rows_of(past + 100 * batch_id, 100) if batch_id else rows_of(0, past)
        seconds.append(_write_batch(spark, query, settings, rows, batch_id, indexes))
    return statistics.median(seconds[4:])


def _write_batch(
    spark: SparkSession, query: Query, settings: Settings, rows: DataFrame, batch_id: int, indexes: dict[str, KeyedRows]
) -> float:
    """Seconds of a batch in a stage, as in a run: the driver processes a small one."""
    rows = rows.persist()
    rows.count()
    started = time.monotonic()
    versions = query.versions(spark, Checkpoint(spark, f"{settings.paths.checkpoints}/none"), batch_id)
    batch = Batch(
        spark, settings.paths, Txn(query.name, "bench", batch_id), Plan("", "", versions),
        local_max_rows=settings.stream.local_max_rows, local_max_keys=settings.stream.local_max_keys, indexes=indexes,
    )  # fmt: skip
    query.write(rows, batch)
    seconds = time.monotonic() - started
    rows.unpersist()
    return seconds


def _append_seconds(spark: SparkSession, work: Path) -> float:
    """Median seconds of appends of 100 rows by Spark to a Delta table, without the first two."""
    rows, table = spark.range(100).coalesce(1), str(work / "appends")
    seconds = [measure_seconds(lambda: rows.write.format("delta").mode("append").save(table)) for _ in range(10)]
    return statistics.median(seconds[2:])


def _events(interactions: DataFrame) -> DataFrame:
    """Interactions as rows of `events`: purchases."""
    return interactions.selectExpr(
        "user_id", "item_id", "rating", "category", "'purchase' AS event_type",
        "timestamp_micros(time_micros) AS event_time",
    )  # fmt: skip


def segments_batch_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch of 10,000 changed profiles, divided by those of MLlib's KMeans on all 200,000, same k."""
    settings = _settings(empty_folder(work / "home"), [f"learn.segments.k={SEGMENTS}", "learn.segments.enabled=true"])
    (query,) = stage.queries(SegmentsSpec, settings)
    for table in query.tables:
        table.create(spark, settings.paths)
    batch_ids, indexes = itertools.count(), dict[str, KeyedRows]()

    def learn(first: int, users: int) -> float:
        batch_id = next(batch_ids)
        changes = _profile_changes(spark, settings, first, users, batch_id)
        return _write_batch(spark, query, settings, changes, batch_id, indexes)

    learn(0, PROFILES)
    points = (
        SegmentsSpec(settings)
        .users_table.read(spark, settings.paths)
        .select(array_to_vector(F.col("point")).alias("features"))
    )
    points = points.repartition(4).persist()
    points.count()
    full = KMeans(k=SEGMENTS, maxIter=20, tol=0.0, seed=SEED)
    starts = itertools.cycle(range(0, PROFILES, BATCH_SIZE))
    seconds = measure_alternately(
        3, lambda: measure_seconds(lambda: full.fit(points)), lambda: learn(next(starts), BATCH_SIZE)
    )
    points.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    model = SegmentsSpec(settings).model_after(spark, "bench", next(batch_ids) - 1)
    assert model is not None and model.state.sums.users.sum() == PROFILES
    detail = (
        f"{BATCH_SIZE:,} of {PROFILES:,} users, 9 dimensions, k {SEGMENTS}; {statistics.median(seconds[1]):.1f} s, "
        f"MLlib {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    against = "MLlib KMeans, k-means||, 20 iterations"
    return Result("segments_batch_vs_mllib", ratio, "ratio of seconds", 0.3, "lower", against, detail)


def _profile_changes(spark: SparkSession, settings: Settings, first: int, users: int, batch_id: int) -> DataFrame:
    """Rows of the change feed of profiles: points around 20 centers, with a small change in every batch."""
    names = list(SegmentsSpec(settings).profile.vector.dimensions)
    uniform = f"(pmod(xxhash64({{}}, {SEED}), 1000000) / 1000000D)"
    center = f"CAST({uniform.format('id')} * {SEGMENTS} AS INT)"
    values = [
        f"{uniform.format(f'{center}, {n}')}"
        f" + 0.1D * ({uniform.format(f'id, {n}')} + {uniform.format(f'id, {n}, {batch_id}')})"
        for n in range(len(names))
    ]
    weighed = f"named_struct('weight', 1.0D, 'sums', array({', '.join(values)}))"
    return spark.range(first, first + users, 1, 4).selectExpr(
        "concat('u', id) AS user_id",
        f"timestamp_micros({(workloads.START + batch_id * 3600) * 1_000_000}) AS as_of",
        f"named_struct('behavior', named_struct('vector', {weighed})) AS state",
        "'insert' AS _change_type",
        f"{batch_id}L AS _commit_version",
    )


_WITHOUT_EXTRAS = (
    "learn.factors.eval_users=0", "learn.factors.max_neighbors=0", "learn.factors.first_full_passes=0",
    "learn.factors.full_passes=0",
)  # fmt: skip


def _interactions(spark: SparkSession, first: int, rows: int, users: int, items: int) -> DataFrame:
    """Purchases as FactorsSpec.select returns them: 100,000 per day; items with small numbers are popular."""
    uniform = f"(pmod(xxhash64(id, {SEED}, {{}}), 1000000) / 1000000D)"
    return spark.range(first, first + rows, 1, 4).selectExpr(
        f"concat('u', CAST({uniform.format(1)} * {users} AS INT)) AS user_id",
        f"concat('i', CAST(pow({uniform.format(2)}, 2) * {items} AS INT)) AS item_id",
        "5.0D AS weight",
        "CAST(NULL AS DOUBLE) AS rating",
        "1700000000000000L + id * 864000L AS time_micros",
        "CAST(NULL AS STRING) AS category",
    )


def _ratings(spark: SparkSession) -> DataFrame:
    events = _interactions(spark, 0, PAST_EVENTS + BATCH_SIZE, USERS, ITEMS)
    return events.selectExpr(
        "int(substr(user_id, 2)) AS user", "int(substr(item_id, 2)) AS item", "float(weight) AS rating"
    )


def _fit(ratings: DataFrame) -> tuple[float, ALSModel]:
    """Seconds of a training of MLlib's ALS, and its model."""
    started = time.monotonic()
    als = ALS(
        rank=32, maxIter=10, implicitPrefs=True, alpha=1.0, regParam=0.05, seed=SEED, userCol="user", itemCol="item"
    )
    model: Any = als.setRatingCol("rating").fit(ratings)
    return time.monotonic() - started, model


def _settings(home: Path, overrides: list[str]) -> Settings:
    config = home / "learn.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "shop.toml"\n[learn.factors]\nenabled = true\n'
        f'[derive]\nprofiles = ["{PROFILES_FILE}"]\n'
    )
    return settings_module.load(str(config), overrides)
