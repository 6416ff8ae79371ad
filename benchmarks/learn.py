"""Benchmarks of the learners on Spark, against MLlib in the same session. Quality of the models: quality.py."""

import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profilestream.base import commits
from profilestream.base import settings as settings_module
from profilestream.base.checkpoints import Checkpoint, Plan
from profilestream.base.commits import Txn
from profilestream.base.queries import Batch
from profilestream.base.settings import Settings
from profilestream.learn import factors, segments
from profilestream.serve.scores import recommend
from pyspark.ml.clustering import KMeans
from pyspark.ml.functions import array_to_vector
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks import workloads
from benchmarks.measuring import emptied, in_turn, seconds_of
from benchmarks.result import Result

SEED = 20_260_102
PROFILES = Path(__file__).parent.parent / "conf" / "derive" / "user_profiles.toml"
PEOPLE, SEGMENTS = 200_000, 20
PAST, BATCH, USERS, ITEMS = 2_000_000, 10_000, 100_000, 50_000


@dataclass
class Shop:
    """A model of so many users and items, learned from 2 M events, and batches to learn next."""

    spark: SparkSession
    settings: Settings
    users: int
    items: int
    batches: int = 0

    @classmethod
    def learned(cls, spark: SparkSession, home: Path, users: int, items: int, *settings: str) -> "Shop":
        """The model after the past events, learned as one batch."""
        emptied(home)
        made = [
            "learn.factors.eval_users=0",
            "learn.factors.neighbors=0",
            "learn.factors.reweighted_events=0",
            *settings,
        ]
        shop = cls(spark, _settings(home, made), users, items)
        factors.table(shop.settings).create(spark, shop.settings.paths)
        shop.learn(_said(spark, 0, PAST, users, items))
        return shop

    def learn(self, said: DataFrame, *settings: str) -> float:
        """Seconds of a batch, from what its events say to the commit."""
        made = _settings(Path(self.settings.paths.warehouse).parent, list(settings)) if settings else self.settings
        table, paths = factors.table(made), made.paths
        said = said.persist()
        said.count()
        began = time.monotonic()
        version = commits.version(self.spark, table, paths)
        txn = Txn("bench", "bench", self.batches)
        batch = Batch(self.spark, paths, txn, Plan("", versions={table.name: version}))
        learned = factors.learn(said, factors.read(self.spark, made, version), batch, made)
        batch.merge(commits.stamped(learned.rows, table, txn), table)
        seconds = time.monotonic() - began
        self.batches += 1
        said.unpersist()
        return seconds

    def next_batch(self) -> DataFrame:
        """Events after all that were learned."""
        return _said(self.spark, PAST + self.batches * BATCH, BATCH, self.users, self.items)


def factors_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch of 10,000 events over those of a retrain of MLlib's ALS on all events."""
    shop = Shop.learned(spark, work / "home", USERS, ITEMS)
    ratings = _ratings(spark).persist()
    ratings.count()
    seconds = in_turn(3, lambda: _fit(ratings)[0], lambda: shop.learn(shop.next_batch()))
    refreshed = statistics.median(
        shop.learn(shop.next_batch(), "learn.factors.reweighted_events=10", *_BARE) for _ in range(3)
    )
    ratings.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH:,} events, {USERS:,} users x {ITEMS:,} items, {PAST:,} past events, k 32, refresh 0: "
        f"{statistics.median(seconds[1]):.1f} s against {statistics.median(seconds[0]):.1f} s; "
        f"refresh 10: {refreshed:.1f} s; no judging, no neighbors; seed {SEED}"
    )
    return Result(
        "factors_vs_mllib", ratio, "ratio of seconds", 0.33, "lower", "MLlib ALS, rank 32, 10 iterations", detail
    )


def factors_model_10x(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch with a model ten times as large over those with the smaller one."""
    small = Shop.learned(spark, work / "small", USERS // 10, ITEMS // 10)
    large = Shop.learned(spark, work / "large", USERS, ITEMS)
    seconds = in_turn(3, *[(lambda shop=shop: shop.learn(shop.next_batch())) for shop in (small, large)])
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    detail = (
        f"{BATCH:,} events; {USERS:,} users x {ITEMS:,} items {statistics.median(seconds[1]):.1f} s, "
        f"a tenth of both {statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    return Result("factors_model_10x", ratio, "ratio of seconds", 2.0, "lower", "a tenth of users and items", detail)


def topn_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Lists a second of top 100 of 50,000 items for 100,000 users over those of MLlib's ALSModel."""
    shop = Shop.learned(
        spark, work / "home", USERS, ITEMS, "serve.scores.top_n=100", "serve.scores.gone_after_days=9999"
    )
    _, model = _fit(_ratings(spark))
    pinned = recommend.pin(spark, shop.settings)
    people = recommend.people_of(spark, shop.settings, pinned).persist()
    count = people.count()
    users = spark.range(USERS).select(F.col("id").cast("int").alias("user"))

    def theirs() -> float:
        began = time.monotonic()
        model.recommendForUserSubset(users, 100).write.format("noop").mode("overwrite").save()
        return time.monotonic() - began

    def ours() -> float:
        began = time.monotonic()
        recommend.recommendations(people, shop.settings, pinned).write.format("noop").mode("overwrite").save()
        return time.monotonic() - began

    # Each takes minutes and nothing is left to warm up.
    a, b = theirs(), ours()
    told = "one run of each; what a user has is left out of ours"
    detail = f"{count:,} users: {b:.0f} s against {a:.0f} s, {told}; seed {SEED}"
    ratio = (count / b) / (USERS / a)
    return Result("topn_vs_mllib", ratio, "ratio of lists/s", 1.0, "higher", "ALSModel.recommendForUserSubset", detail)


def segments_batch_vs_mllib(spark: SparkSession, work: Path) -> Result:
    """Seconds of a batch of 10,000 changed users over those of MLlib's KMeans on all 200,000, same k, 20 iterations."""
    settings = _settings(emptied(work / "home"), [f"learn.segments.k={SEGMENTS}", "learn.segments.enabled=true"])
    (query,) = segments.queries(settings)
    for table in query.tables:
        table.create(spark, settings.paths)
    done = itertools.count()

    def learn(first: int, people: int) -> float:
        batch_id = next(done)
        changes = _changes(spark, settings, first, people, batch_id).persist()
        changes.count()
        began = time.monotonic()
        versions = query.versions(spark, Checkpoint(spark, f"{work}/none"), batch_id)
        batch = Batch(spark, settings.paths, Txn(query.name, "bench", batch_id), Plan("", "", versions))
        with commits.states_ready(spark, query.tables, settings.paths):  # as a stream has it
            query.write(changes, batch)
        seconds = time.monotonic() - began
        changes.unpersist()
        return seconds

    learn(0, PEOPLE)
    points = (
        segments.users_table(settings)
        .read(spark, settings.paths)
        .select(array_to_vector(F.col("point")).alias("features"))
    )
    points = points.repartition(4).persist()
    points.count()
    full = KMeans(k=SEGMENTS, maxIter=20, tol=0.0, seed=SEED)
    starts = itertools.cycle(range(0, PEOPLE, BATCH))
    seconds = in_turn(3, lambda: seconds_of(lambda: full.fit(points)), lambda: learn(next(starts), BATCH))
    points.unpersist()
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    newest = segments.read(spark, settings, "bench", next(done) - 1)
    assert newest is not None and newest.state.sums.users.sum() == PEOPLE
    detail = (
        f"{BATCH:,} of {PEOPLE:,} users, 9 dimensions, k {SEGMENTS}; {statistics.median(seconds[1]):.1f} s against "
        f"{statistics.median(seconds[0]):.1f} s; seed {SEED}"
    )
    against = "MLlib KMeans, k-means||, 20 iterations"
    return Result("segments_batch_vs_mllib", ratio, "ratio of seconds", 0.5, "lower", against, detail)


def _changes(spark: SparkSession, settings: Settings, first: int, people: int, batch_id: int) -> DataFrame:
    """Rows of the change feed of profiles: users of twenty kinds, who differ a little from batch to batch."""
    names = list(segments.profile(settings).vector.dimensions)
    draw = f"(pmod(xxhash64({{}}, {SEED}), 1000000) / 1000000D)"
    kind = f"CAST({draw.format('id')} * {SEGMENTS} AS INT)"
    cells = [
        f"{draw.format(f'{kind}, {n}')} + 0.1D * ({draw.format(f'id, {n}')} + {draw.format(f'id, {n}, {batch_id}')})"
        for n in range(len(names))
    ]
    weighed = f"named_struct('weight', 1.0D, 'sums', array({', '.join(cells)}))"
    return spark.range(first, first + people, 1, 4).selectExpr(
        "concat('u', id) AS user_id",
        f"timestamp_micros({(workloads.START + batch_id * 3600) * 1_000_000}) AS as_of",
        f"named_struct('vector', {weighed}) AS behavior",
        "'insert' AS _change_type",
        f"{batch_id}L AS _commit_version",
    )


_BARE = ("learn.factors.eval_users=0", "learn.factors.neighbors=0")


def _said(spark: SparkSession, first: int, rows: int, users: int, items: int) -> DataFrame:
    """What events say, as factors.rated gives it: purchases, the first items the most popular, 100,000 a day."""
    draw = f"(pmod(xxhash64(id, {SEED}, {{}}), 1000000) / 1000000D)"
    return spark.range(first, first + rows, 1, 4).selectExpr(
        f"concat('u', CAST({draw.format(1)} * {users} AS INT)) AS key",
        f"concat('i', CAST(pow({draw.format(2)}, 2) * {items} AS INT)) AS other",
        "5.0D AS weight",
        "CAST(NULL AS DOUBLE) AS rating",
        "1700000000000000L + id * 864000L AS at",
        "CAST(NULL AS STRING) AS category",
    )


def _ratings(spark: SparkSession) -> DataFrame:
    said = _said(spark, 0, PAST + BATCH, USERS, ITEMS)
    return said.selectExpr("int(substr(key, 2)) AS user", "int(substr(other, 2)) AS item", "float(weight) AS rating")


def _fit(ratings: DataFrame) -> tuple[float, ALSModel]:
    began = time.monotonic()
    als = ALS(
        rank=32, maxIter=10, implicitPrefs=True, alpha=1.0, regParam=0.05, seed=SEED, userCol="user", itemCol="item"
    )
    model: Any = als.setRatingCol("rating").fit(ratings)
    return time.monotonic() - began, model


def _settings(home: Path, overrides: list[str]) -> Settings:
    config = home / "learn.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.shop]\npath = "{home}"\nmapping = "shop.toml"\n[learn.factors]\nenabled = true\n'
        f'[derive]\nprofiles = ["{PROFILES}"]\n'
    )
    return settings_module.load(str(config), overrides)
