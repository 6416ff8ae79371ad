"""Segments in words, from the tables: `segment_descriptions`, and a sample of profile vectors to choose k by."""

import json

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import profiles
from profilestream.learn import segment_rules, segments, segments_batch
from profilestream.learn.als import Floats, Longs
from profilestream.learn.segments import Model

STEP = "describe_segments"


def run(spark: SparkSession, settings: Settings) -> None:
    """Describe the segments of the newest batch, unless that was done with the same words; none, no description.

    The tree is grown over `learn.segments.sample` users, drawn by a hash.
    """
    paths, told = settings.paths, segments.descriptions_table()
    checkpoint = Checkpoint(spark, checkpoint_path(paths, segments.STAGE))
    batch_id = checkpoint.last_finished()
    model = None if batch_id is None else segments.read(spark, settings, checkpoint.epoch(), batch_id)
    if batch_id is None or model is None:
        return
    told.create(spark, paths)
    told.register(spark, paths)
    words = json.dumps(_words(settings), sort_keys=True)
    txn = Txn(f"{STEP}/{fingerprint(words)}", checkpoint.epoch(), batch_id)
    if commits.is_done(spark, told, paths, txn):
        return
    rows = _described(spark, settings, model)
    commits.replace(commits.stamped(rows, told, txn), told, paths, txn, where="true")


def _described(spark: SparkSession, settings: Settings, model: Model) -> DataFrame:
    state = model.state
    points, labels = _drawn(segments.users_table(settings).read(spark, settings.paths), settings)
    centers = dict(zip(state.ids.tolist(), state.centers, strict=True))
    tree = segment_rules.grown(points, labels, centers, model.space)
    found = segment_rules.told(tree, centers, model.space, _words(settings))
    users = dict(zip(state.ids.tolist(), state.sums.users.tolist(), strict=True))
    values = [
        {
            "segment_id": one.segment_id, "description": one.description, "rule": one.rule,
            "precision": one.precision, "recall": one.recall, "users": users[one.segment_id],
            "share": users[one.segment_id] / sum(users.values()), "tree": json.dumps(tree),
        }
        for one in found
    ]  # fmt: skip
    rows = frame_of_dicts(spark, values, segments.descriptions_table().schema)
    return rows.withColumn("as_of", F.timestamp_micros(F.lit(state.sums.now)))


def _words(settings: Settings) -> dict[str, tuple[str, str]]:
    declared = segments.profile(settings).population
    return {} if declared is None else declared.words


def told(spark: SparkSession, settings: Settings) -> list[str]:
    """A line a segment, the largest first; none while there are none."""
    table = segments.descriptions_table()
    if not table.exists(spark, settings.paths):
        return []
    rows = table.read(spark, settings.paths).orderBy(F.desc("users"), "segment_id").collect()
    return [
        f"segment {row['segment_id']}  {row['users']:,} users ({row['share']:.1%})  {row['description']}"
        + (f"; {row['precision']:.0%} of those with {row['rule']}" if row["rule"] else "")
        for row in rows
    ]


def sampled(spark: SparkSession, settings: Settings) -> Floats:
    """Profile vectors of a sample of users as they are now, in standard deviations of all users, (users, dimensions).

    Raises:
        SourceMissing: there are no profiles yet.
    """
    derived = segments.profile(settings)
    assert derived.population is not None
    derived.table.require(spark, settings.paths, do=f"run jobs/{profiles.STAGE}.py first")
    mean = derived.vector.means(F.col(derived.population.of))
    rows = derived.table.read(spark, settings.paths).select("user_id", mean.alias("mean")).where("mean IS NOT NULL")
    space = segments_batch.space_of(rows, segments.weights(derived))
    return _drawn(
        rows.select("user_id", F.lit(0).alias("segment_id"), segments_batch.point(F.col("mean"), space).alias("point")),
        settings,
    )[0]


def _drawn(rows: DataFrame, settings: Settings) -> tuple[Floats, Longs]:
    """Points and segments of so many users, drawn by a hash."""
    found = segments_batch.drawn(rows, segments.params(settings)).select("point", "segment_id").toArrow()
    points = np.array(found["point"].to_pylist(), dtype=np.float64)
    return points.reshape(len(points), -1), found["segment_id"].to_numpy()
