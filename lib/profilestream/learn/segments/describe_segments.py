"""The step that writes `segment_descriptions`, and a sample of profile vectors for the choice of k."""

import json

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, runner, tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.commits import Txn
from profilestream.base.query_runner import checkpoint_path
from profilestream.base.session import frame_of_dicts
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import population, profiles
from profilestream.learn.kernels.arrays import Floats, Longs
from profilestream.learn.segments import profile_points, segment_rules
from profilestream.learn.segments.segments_spec import SegmentModel, SegmentsSpec

STEP = "describe_segments"


def run(spark: SparkSession, settings: Settings) -> None:
    """Describe the segments of the last batch; does nothing without segments, or if the table is up to date.

    The tree is fitted to `learn.segments.init_size` users, selected by a hash.
    """
    paths, descriptions = settings.paths, tables.SEGMENT_DESCRIPTIONS
    checkpoint = Checkpoint(spark, checkpoint_path(paths, SegmentsSpec.stage_name()))
    batch_id = checkpoint.last_finished()
    model = None if batch_id is None else SegmentsSpec(settings).model_after(spark, checkpoint.epoch(), batch_id)
    if batch_id is None or model is None:
        return
    descriptions.create(spark, paths)
    descriptions.register(spark, paths)
    words = json.dumps(_words(settings), sort_keys=True)
    txn = Txn(f"{STEP}/{fingerprint(words)}", checkpoint.epoch(), batch_id)
    if commits.is_done(spark, descriptions, paths, txn):
        return
    rows = _description_rows(spark, settings, model)
    commits.replace(commits.with_batch_columns(rows, descriptions, txn), descriptions, paths, txn, where="true")


def _description_rows(spark: SparkSession, settings: Settings, model: SegmentModel) -> DataFrame:
    state = model.state
    points, segment_ids = _sample(SegmentsSpec(settings).users_table.read(spark, settings.paths), settings)
    centers = dict(zip(state.ids.tolist(), state.centers, strict=True))
    tree = segment_rules.fit_tree(points, segment_ids, centers, model.scaling)
    users = dict(zip(state.ids.tolist(), state.sums.users.tolist(), strict=True))
    values = [
        {
            "segment_id": one.segment_id, "description": one.description, "rule": one.rule,
            "precision": one.precision, "recall": one.recall, "users": users[one.segment_id],
            "share": users[one.segment_id] / sum(users.values()), "tree": json.dumps(tree),
        }
        for one in segment_rules.describe(tree, centers, model.scaling, _words(settings))
    ]  # fmt: skip
    rows = frame_of_dicts(spark, values, tables.SEGMENT_DESCRIPTIONS.schema)
    return rows.withColumn("as_of", F.timestamp_micros(F.lit(state.sums.as_of)))


def _words(settings: Settings) -> dict[str, tuple[str, str]]:
    population = SegmentsSpec(settings).profile.population
    return {} if population is None else population.words


def description_lines(spark: SparkSession, settings: Settings) -> list[str]:
    """One line per segment for the console, the largest segment first; empty without descriptions."""
    table = tables.SEGMENT_DESCRIPTIONS
    if not table.exists(spark, settings.paths):
        return []
    rows = table.read(spark, settings.paths).orderBy(F.desc("users"), "segment_id").collect()
    return [
        f"segment {row['segment_id']}  {row['users']:,} users ({row['share']:.1%})  {row['description']}"
        + (f"; {row['precision']:.0%} of users with {row['rule']}" if row["rule"] else f"; {segment_rules.NO_RULE}")
        for row in rows
    ]


def sample_points(spark: SparkSession, settings: Settings) -> Floats:
    """Current profile vectors of a sample of users, in standard deviations of all users, (users, dimensions).

    Raises:
        SourceMissing: there is no profile table.
    """
    spec = SegmentsSpec(settings)
    derived = spec.profile
    derived.table.require(spark, settings.paths, do=f"run jobs/{profiles.STAGE}.py first")
    mean = population.means_of(F.col(derived.vector_state)).alias("mean")
    rows = derived.table.read(spark, settings.paths)
    users = rows.select("user_id", mean, "as_of", profile_points.sample_hash(spec.params)).where("mean IS NOT NULL")
    points = profile_points.contributions(users, profile_points.fit_scaling(users, spec.weights))
    return _sample(points.select("user_id", F.lit(0).alias("segment_id"), "point"), settings)[0]


def _sample(rows: DataFrame, settings: Settings) -> tuple[Floats, Longs]:
    """Points and segment ids of a sample of the users."""
    params = SegmentsSpec(settings).params
    hashed = rows.select("*", profile_points.sample_hash(params))
    sample = runner.first_rows(hashed, ("sample_hash", "user_id"), params.init_size)
    points = np.array(sample["point"].to_pylist(), dtype=np.float64)
    return points.reshape(len(points), -1), sample["segment_id"].to_numpy()
