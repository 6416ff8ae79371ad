"""Profiles as points: the latest profiles of a batch, the scaling of their vectors, and their contributions."""

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base import runner
from profilestream.base.passes import Pass, run_pass
from profilestream.base.runner import Rows
from profilestream.derive import population
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments.kernels import kmeans_tasks, profile_scaling
from profilestream.learn.segments.kernels.kmeans import KMeansParams
from profilestream.learn.segments.kernels.profile_scaling import PROFILE, Scaling

SUM_MOMENTS = Pass(profile_scaling.sum_moments, inputs={"profiles": PROFILE}, results=("moments",))
SCALE_PROFILES = Pass(
    profile_scaling.scale_profiles, inputs={"profiles": PROFILE}, outputs={"contributions": kmeans_tasks.CONTRIBUTION}
)


def latest_profiles(changes: DataFrame, derived: DerivedTable, params: KMeansParams) -> DataFrame:
    """Rows of the change feed of the profiles -> rows with profile_scaling.PROFILE, one per user."""
    exists = F.col("_change_type") != "delete"
    mean = F.when(exists, population.means_of(F.col(derived.vector_state)))
    latest = F.max_by(F.struct(mean.alias("mean"), "as_of"), F.struct("_commit_version", exists))
    profiles = changes.where("_change_type != 'update_preimage'").groupBy("user_id").agg(latest.alias("profile"))
    return profiles.select("user_id", "profile.*", sample_hash(params))


def fit_scaling(profiles: Rows, weights: dict[str, float]) -> Scaling:
    """The scaling of the points of these profiles, as profile_scaling.fit."""
    first = runner.first_rows(runner.without_nulls(profiles, "mean"), ("sample_hash", "user_id"), 1)
    vectors = profile_scaling.vectors_of(first, len(weights))
    center = np.nan_to_num(vectors[0]) if len(vectors) else np.zeros(len(weights))
    _, results = run_pass(SUM_MOMENTS, {"profiles": profiles}, center=center)
    return profile_scaling.fit(center, results["moments"], weights)


def contributions(profiles: Rows, scaling: Scaling) -> Rows:
    """Rows with kmeans_tasks.CONTRIBUTION from those of `latest_profiles`."""
    return run_pass(SCALE_PROFILES, {"profiles": profiles}, scaling=scaling)[0]["contributions"]


def sample_hash(params: KMeansParams) -> Column:
    """`sample_hash`: a hash of the user id and the seed; the users with the smallest ones are a sample."""
    return F.xxhash64("user_id", F.lit(params.seed)).alias("sample_hash")
