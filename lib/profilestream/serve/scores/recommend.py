"""serve_scores: recommendation lists for all users, from one version of each model and one version of the profiles."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.errors import SourceMissing
from profilestream.base.passes import Pass, run_pass
from profilestream.base.session import materialize
from profilestream.base.settings import UNITS_SQL, Settings
from profilestream.base.tables import EVENTS, FACTORS, RECOMMENDATIONS
from profilestream.derive import profiles
from profilestream.learn.factors import factors_batch
from profilestream.learn.factors.kernels import item_index
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.kernels import basket_rows
from profilestream.learn.rankers.kernels.blend import BlendState
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.serve.scores import basket_lists, ranked_lists
from profilestream.serve.scores.basket_lists import BasketListOptions
from profilestream.serve.scores.pinned_models import (
    FOR_YOU,
    PinnedFactors,
    PinnedVersions,
    basket_purposes,
    pin_factors,
    pin_versions,
)
from profilestream.serve.scores.ranked_lists import ListOptions

STEP = "serve_scores"
RANK_ITEMS = Pass(
    ranked_lists.rank_items,
    inputs={
        "users": ranked_lists.USER, "preferences": ranked_lists.PREFERENCE, "bought": ranked_lists.PAIR,
        "reserved": ranked_lists.PAIR, "items": item_index.SCHEMA,
    },
    keys={"users": "key", "preferences": "user_id", "bought": "user_id", "reserved": "user_id"},
    outputs={"lists": ranked_lists.SCHEMA},
)  # fmt: skip
RANK_BASKETS = Pass(
    basket_lists.rank_baskets,
    inputs={"users": basket_rows.USER, "items": basket_rows.ITEM},
    keys={"users": "key"},
    outputs={"lists": basket_lists.SCHEMA},
)
_DELETED = "_deleted"
PREFERRED_ITEMS = "preference.items"


@dataclass(frozen=True)
class SelectedUsers:
    """Users who get a list.

    Args:
        in_model: rows with ranked_lists.USER.
        by_profile: rows with ranked_lists.PREFERENCE of users with a profile only.
        with_baskets: rows with basket_rows.USER; null without lists by the rankers.
    """

    in_model: DataFrame
    by_profile: DataFrame
    with_baskets: DataFrame | None = None

    @property
    def ids(self) -> DataFrame:
        """`user_id` of each user."""
        keys = [
            rows.select(F.col("key").alias("user_id"))
            for rows in (self.in_model, self.with_baskets)
            if rows is not None
        ]
        return reduce(DataFrame.unionByName, [*keys, self.by_profile.select("user_id")]).distinct()

    @contextmanager
    def cached(self) -> Iterator[None]:
        """Hold the rows during the block."""
        persisted = [rows.persist() for rows in (self.in_model, self.by_profile, self.with_baskets) if rows is not None]
        try:
            yield
        finally:
            for rows in persisted:
                rows.unpersist()


def run(spark: SparkSession, settings: Settings) -> int:
    """Replace the lists of all selected users in one commit; no commit when the latest lists are from the same inputs.

    Returns:
        The number of users with at least one row.

    Raises:
        SourceMissing, BadSettings: as for pin_versions.
    """
    paths = settings.paths
    pinned = pin_versions(spark, settings)
    RECOMMENDATIONS.prepare(spark, paths)
    txn = commits.next_txn(spark, RECOMMENDATIONS, paths, STEP, _inputs(settings, pinned))
    if txn is None:
        return RECOMMENDATIONS.read(spark, paths).select("user_id").distinct().count()
    selected = selected_users(spark, settings, pinned)
    with selected.cached():
        lists = recommendations(selected, settings, pinned)
        removed = (
            RECOMMENDATIONS.read(spark, paths)
            .join(selected.ids, "user_id", "left_semi")
            .join(lists.select(*RECOMMENDATIONS.key), list(RECOMMENDATIONS.key), "left_anti")
        )
        changed = lists.withColumn(_DELETED, F.lit(False)).unionByName(removed.withColumn(_DELETED, F.lit(True)))
        commits.merge(changed, RECOMMENDATIONS, paths, txn, delete_flag=_DELETED)
        return lists.select("user_id").distinct().count()


def _inputs(settings: Settings, pinned: PinnedVersions) -> str:
    """All that the lists are computed from, as text."""
    factors = None if pinned.factors is None else (pinned.factors.params, pinned.factors.model_version)
    versions = {**vars(pinned), "factors": factors}
    weights = sorted(settings.derive.event_weights.items())
    return repr((settings.serve.scores, weights, settings.learn.rankers, versions))


def recommendations(users: SelectedUsers, settings: Settings, pinned: PinnedVersions) -> DataFrame:
    """Rows of `recommendations`."""
    lists = []
    if FOR_YOU in settings.serve.scores.purposes:
        lists.append(_new_items(users, settings, pinned))
    if users.with_baskets is not None:
        lists.append(_basket_items(users.with_baskets, settings, pinned))
    return reduce(DataFrame.unionByName, lists)


def _basket_items(users: DataFrame, settings: Settings, pinned: PinnedVersions) -> DataFrame:
    """Rows of `recommendations` by the rankers of `basket_counts`."""
    scores, spec = settings.serve.scores, RankersSpec(settings)
    rows = spec.tables[0].read(users.sparkSession, settings.paths, version=pinned.counts_version)
    items, _ = run_pass(rankers_batch.COPY_ITEMS, {"stored": rows.where("side = 'item'")})
    options = BasketListOptions(
        purposes=basket_purposes(settings),
        top_k=scores.top_k,
        min_as_of=_min_time(scores.max_item_age_days, pinned),
        action="bought" if spec.config.event_types == ("purchase",) else "looked at",
    )
    blend = BlendState.from_rows(rows.where("side = 'blend'").select(*basket_rows.BLEND.names).toArrow())
    if blend.gate.is_passed:
        options = replace(options, blend_weights=tuple(blend.weights.tolist()))
    outputs, _ = run_pass(RANK_BASKETS, {"users": users, **items}, params=spec.params, options=options)
    versions = {
        "model_version": F.lit(f"{spec.tables[0].name}@{pinned.counts_version}"),
        "profile_version": F.lit(None).cast("bigint"),
    }
    return materialize(outputs["lists"]).withColumns(versions).select(*RECOMMENDATIONS.names)


def _min_time(max_age_days: float | None, pinned: PinnedVersions) -> int | None:
    """This many days before the newest event, microseconds; null: no limit."""
    if max_age_days is None or math.isinf(max_age_days):
        return None
    return int(pinned.newest - max_age_days * MICROS_PER_DAY)


def _new_items(users: SelectedUsers, settings: Settings, pinned: PinnedVersions) -> DataFrame:
    """Rows of `recommendations` by the factors."""
    scores, factors = settings.serve.scores, pinned.for_you
    options = ListOptions(
        top_k=scores.top_k,
        exclude_bought=scores.exclude_bought,
        exclude_seen=scores.exclude_seen,
        min_event_time=_min_time(scores.max_item_age_days, pinned),
        max_per_category=scores.max_per_category,
        average_user=_average_user(factors),
    )
    events = EVENTS.read(users.in_model.sparkSession, settings.paths, version=pinned.events_version)
    inputs = {
        "users": users.in_model,
        "preferences": users.by_profile,
        "bought": bought_items(events).join(users.ids, "user_id", "left_semi"),
        "items": factors_batch.packed_items(factors.state, factors.state.global_sums, factors.params),
    }
    lists = _lists_within_share(inputs, options, factors.params, scores.max_share_per_item)
    constants = {
        "purpose": F.lit(FOR_YOU),
        "model_version": F.lit(factors.model_version),
        "profile_version": F.lit(pinned.profile_version).cast("bigint"),
        "as_of": F.timestamp_micros(F.lit(pinned.newest)),
    }
    return lists.withColumns(constants).select(*RECOMMENDATIONS.names)


def _average_user(factors: PinnedFactors) -> tuple[float, ...]:
    """The mean vector of all users of the model."""
    users = factors.state.users.select("key", "vector")
    sums = partial(ranked_lists.vector_sums, params=factors.params)
    parts = users.mapInArrow(sums, "total binary, rows bigint").collect()
    total = np.sum([np.zeros(factors.params.width), *(np.frombuffer(row["total"]) for row in parts)], axis=0)
    return tuple((total / max(1, sum(row["rows"] for row in parts))).tolist())


def bought_items(events: DataFrame) -> DataFrame:
    """Distinct (user_id, item_id) that the user bought and did not return completely.

    An item is returned completely when the returned pieces are at least the bought ones and the last purchase is not
    after the last return. A purchase or return without a quantity is one piece.
    """
    is_purchase, is_return = (F.col("event_type") == name for name in ("purchase", "return"))
    pieces = F.expr(UNITS_SQL)
    pairs = (
        events.where((is_purchase | is_return) & F.col("user_id").isNotNull() & F.col("item_id").isNotNull())
        .groupBy("user_id", "item_id")
        .agg(
            F.max(F.when(is_purchase, F.col("event_time"))).alias("last_purchase"),
            F.max(F.when(is_return, F.col("event_time"))).alias("last_return"),
            F.sum(F.when(is_purchase, pieces).otherwise(-pieces)).alias("pieces"),
        )
    )
    is_kept = F.col("last_return").isNull() | (F.col("pieces") > 0) | (F.col("last_purchase") > F.col("last_return"))
    return pairs.where(F.col("last_purchase").isNotNull() & is_kept).select("user_id", "item_id")


def _lists_within_share(
    inputs: Mapping[str, DataFrame], options: ListOptions, params: AlsParams, max_share: float | None
) -> DataFrame:
    """Lists in which no item is in more than this share of the lists (at least in one); null: no limit.

    An item above the limit is closed: it stays in the lists in which its rank is best (then its score, then the user
    id), and the other users get their next items. That can bring other items above the limit, so it is repeated.
    """
    lists = _rank(inputs, options, params)
    if max_share is None:
        return lists
    best = Window.partitionBy("item_id").orderBy("rank", F.desc("score"), "user_id")
    while True:
        limit = max(1, int(max_share * lists.where("rank = 1").count()))
        counts = lists.groupBy("item_id").count().where(F.col("count") > limit).orderBy("item_id")
        full = [row["item_id"] for row in counts.collect()]
        if not full:
            return lists
        options = replace(options, closed_items=tuple(dict.fromkeys((*options.closed_items, *full))))
        closed = lists.where(F.col("item_id").isin(*options.closed_items)).withColumn("n", F.row_number().over(best))
        reserved = closed.where(F.col("n") <= limit)
        lists = _rank({**inputs, "reserved": reserved}, options, params)


def _rank(inputs: Mapping[str, DataFrame], options: ListOptions, params: AlsParams) -> DataFrame:
    outputs, _ = run_pass(RANK_ITEMS, inputs, params=params, options=options)
    return materialize(outputs["lists"])


def selected_users(spark: SparkSession, settings: Settings, pinned: PinnedVersions) -> SelectedUsers:
    """Users who get a list.

    A user in the model has one row. A user with a profile only has one row per preferred item, or one with a null item.
    """
    since = _min_time(settings.serve.scores.active_within_days, pinned)

    def active(rows: DataFrame) -> DataFrame:
        return rows if since is None else rows.where(F.col("as_of") >= F.timestamp_micros(F.lit(since)))

    no_factors = spark.createDataFrame([], FACTORS.schema)
    in_factors = no_factors if pinned.factors is None else pinned.factors.state.users
    in_model, with_baskets = active(in_factors).select(*ranked_lists.USER.names), None
    if pinned.counts_version is not None:
        counts = RankersSpec(settings).tables[0].read(spark, settings.paths, version=pinned.counts_version)
        with_baskets = active(counts.where("side = 'user'")).select(*basket_rows.USER.names)
    profile_table = profiles.find_profile_table(settings)
    if profile_table is None or pinned.profile_version is None:
        no_profiles = "user_id string, item_id string, weight double"
        return SelectedUsers(in_model, spark.createDataFrame([], no_profiles), with_baskets)
    stored = active(profile_table.table.read(spark, settings.paths, version=pinned.profile_version))
    facet, _, field = PREFERRED_ITEMS.partition(".")
    no_items = F.array().cast("array<struct<key: string, weight: double>>")
    preferences = F.col(facet)[field] if PREFERRED_ITEMS in profile_table.statistics else no_items
    only_profile = stored.join(in_factors.select(F.col("key").alias("user_id")), "user_id", "left_anti")
    by_profile = only_profile.select("user_id", F.inline_outer(preferences).alias("item_id", "weight"))
    return SelectedUsers(in_model, by_profile, with_baskets)


def similar(
    spark: SparkSession, settings: Settings, side: str, key: str, max_results: int = 10
) -> list[tuple[str, float]]:
    """The most similar other users (items) by cosine of their vectors, with the cosine; most similar first.

    Args:
        side: `user` or `item`.

    Raises:
        SourceMissing: the model does not contain the user (item).
    """
    factors = pin_factors(spark, settings)
    rows = (factors.state.users if side == "user" else factors.state.items).select("key", "vector")
    own = rows.where(F.col("key") == key).first()
    if own is None:
        raise SourceMissing(
            f"the model does not contain {side} {key!r}",
            where=factors.model_version,
            do="use an id of the table factors, including its prefix, such as uk_gifts:12347",
        )
    step = partial(ranked_lists.cosine_similarities, vector=bytes(own["vector"]), params=factors.params)
    cosines = rows.where(F.col("key") != key).mapInArrow(step, "key string, cosine double")
    nearest = cosines.orderBy(F.desc("cosine"), "key").limit(max_results).collect()
    return [(row["key"], row["cosine"]) for row in nearest]
