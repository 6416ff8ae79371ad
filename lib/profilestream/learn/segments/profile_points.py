"""Profiles as points: the latest profiles of a batch, the scaling of their vectors, and their contributions."""

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.derive import population
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments.kernels.kmeans import KMeansParams
from profilestream.learn.segments.segment_rules import Scaling


def latest_profiles(changes: DataFrame, derived: DerivedTable) -> DataFrame:
    """Rows of the change feed of the profiles -> one row per user: `user_id`, `mean`, `as_of`, after the last commit.

    `mean` is the mean vector of the user's events (an array by dimension, in the dimensions' own units), null if the
    profile was deleted.
    """
    exists = F.col("_change_type") != "delete"
    mean = F.when(exists, population.means_of(F.col(derived.vector_state)))
    latest = F.max_by(F.struct(mean.alias("mean"), "as_of"), F.struct("_commit_version", exists))
    profiles = changes.where("_change_type != 'update_preimage'").groupBy("user_id").agg(latest.alias("profile"))
    return profiles.select("user_id", "profile.*")


def fit_scaling(profiles: DataFrame, weights: dict[str, float]) -> Scaling:
    """The scaling of points: mean of the users, and standard deviation / weight of the dimension.

    A standard deviation of 0 counts as 1. The scale of a dimension with weight 0 is 0.
    """
    moments = [
        moment for n in range(len(weights)) for moment in (F.avg(F.col("mean")[n]), F.stddev_pop(F.col("mean")[n]))
    ]
    (row,) = profiles.agg(*moments).collect()
    location = np.array([value or 0.0 for value in row[0::2]])
    deviation = np.array([value or 1.0 for value in row[1::2]])
    weight = np.array(list(weights.values()))
    scale = np.divide(deviation, weight, out=np.zeros(len(weight)), where=weight != 0)
    return Scaling(tuple(weights), location, scale)


def contributions(profiles: DataFrame, scaling: Scaling, params: KMeansParams) -> DataFrame:
    """Rows with kmeans_tasks.CONTRIBUTION from those of `latest_profiles`."""
    return profiles.select("user_id", scaled_point(F.col("mean"), scaling).alias("point"), "as_of", sample_hash(params))


def scaled_point(mean: Column, scaling: Scaling) -> Column:
    """(mean - location) / scale by dimension, as array; null if `mean` is null.

    0 in a dimension whose scale is 0.
    """
    coordinates = [
        (mean[n] - F.lit(float(location))) / F.lit(float(scale)) if scale else F.lit(0.0)
        for n, (location, scale) in enumerate(zip(scaling.location, scaling.scale, strict=True))
    ]
    return F.when(mean.isNotNull(), F.array(*coordinates))


def sample_hash(params: KMeansParams) -> Column:
    """`sample_hash`: a hash of the user id and the seed; the users with the smallest ones are a sample."""
    return F.xxhash64("user_id", F.lit(params.seed)).alias("sample_hash")
