"""serve_scores: recommendation lists for all users, from one version of each model and one version of the profiles."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial, reduce

import numpy as np
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.passes import Pass, run_pass
from profilestream.base.session import materialize
from profilestream.base.settings import UNITS_SQL, Settings
from profilestream.base.tables import EVENTS, RECOMMENDATIONS
from profilestream.derive import profiles
from profilestream.learn.factors import factors_batch, factors_spec, published_factors
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels import item_index
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.rankers import rankers_batch
from profilestream.learn.rankers.kernels import basket_rows
from profilestream.learn.rankers.kernels.blend import BlendState
from profilestream.learn.rankers.rankers_spec import RankersSpec
from profilestream.serve.scores import basket_lists, ranked_lists
from profilestream.serve.scores.basket_lists import BasketListOptions
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
FOR_YOU = "for_you"
_DELETED = "_deleted"
PREFERRED_ITEMS = "preference.items"


@dataclass(frozen=True)
class PinnedVersions:
    """Model and profile versions that one run reads.

    Args:
        state: rows and global sums of the model.
        model_version: `factors@<version of the Delta table>` or `published:<version of the registered model>`.
        profile_version: version of the profile table; null when there is none.
        events_version: version of `events`.
        counts_version: version of `basket_counts`; null without lists by the rankers.
    """

    state: FactorsState[DataFrame]
    params: AlsParams
    model_version: str
    profile_version: int | None
    events_version: int
    counts_version: int | None


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
        SourceMissing: the model has not been learned or published.
        BadSettings: learn.factors is not enabled.
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
    versions = {field.name: getattr(pinned, field.name) for field in fields(pinned) if field.name != "state"}
    weights = sorted(settings.derive.event_weights.items())
    return repr((settings.serve.scores, weights, settings.learn.rankers, versions))


def pin_versions(spark: SparkSession, settings: Settings) -> PinnedVersions:
    """The current versions of the models and the profile table.

    Raises:
        SourceMissing: the model has not been learned, or no published version has the alias.
        BadSettings: learn.factors is not enabled.
    """
    alias, events_version = settings.serve.scores.model, commits.version(spark, EVENTS, settings.paths)
    profile_table, profile_version = profiles.find_profile_table(settings), None
    if profile_table is not None and profile_table.table.exists(spark, settings.paths):
        profile_version = commits.version(spark, profile_table.table, settings.paths)
    counts, counts_version = RankersSpec(settings), None
    if _basket_purposes(settings) and counts.config.enabled and counts.tables[0].exists(spark, settings.paths):
        counts_version = commits.version(spark, counts.tables[0], settings.paths)
    if FOR_YOU not in settings.serve.scores.purposes and counts_version is None:
        do = "enable learn.rankers and run jobs/learn_rankers.py, or add for_you to serve.scores.purposes"
        raise SourceMissing("no counts of baskets were learned", where=settings.paths.warehouse, do=do)
    others = profile_version, events_version, counts_version
    if alias != "newest":
        published = published_factors.read_factors(spark, settings, alias)
        model_version = f"published:{published.model_version}"
        return PinnedVersions(published.state, published.params, model_version, *others)
    table = FactorsSpec(settings).table
    if not settings.learn.factors.enabled:
        do = "set it to true and run jobs/learn_factors.py"
        raise BadSettings("no model is learned", where="learn.factors.enabled", do=do)
    if not table.exists(spark, settings.paths):
        do = "run jobs/learn_factors.py first"
        raise SourceMissing("nothing was learned yet", where=settings.paths.warehouse, do=do)
    version = commits.version(spark, table, settings.paths)
    state = factors_spec.read_state(spark, settings, version)
    return PinnedVersions(state, FactorsSpec(settings).params, f"factors@{version}", *others)


def _basket_purposes(settings: Settings) -> tuple[str, ...]:
    """The purposes whose lists the rankers of `basket_counts` give."""
    return tuple(purpose for purpose in settings.serve.scores.purposes if purpose != FOR_YOU)


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
        purposes=_basket_purposes(settings),
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
    """This many days before the newest event of the factors, microseconds; null: no limit."""
    if max_age_days is None or math.isinf(max_age_days):
        return None
    return int(pinned.state.global_sums.as_of - max_age_days * MICROS_PER_DAY)


def _new_items(users: SelectedUsers, settings: Settings, pinned: PinnedVersions) -> DataFrame:
    """Rows of `recommendations` by the factors."""
    scores = settings.serve.scores
    options = ListOptions(
        top_k=scores.top_k,
        exclude_bought=scores.exclude_bought,
        exclude_seen=scores.exclude_seen,
        min_event_time=_min_time(scores.max_item_age_days, pinned),
        max_per_category=scores.max_per_category,
        average_user=_average_user(pinned),
    )
    events = EVENTS.read(users.in_model.sparkSession, settings.paths, version=pinned.events_version)
    inputs = {
        "users": users.in_model,
        "preferences": users.by_profile,
        "bought": bought_items(events).join(users.ids, "user_id", "left_semi"),
        "items": factors_batch.packed_items(pinned.state, pinned.state.global_sums, pinned.params),
    }
    lists = _lists_within_share(inputs, options, pinned.params, scores.max_share_per_item)
    constants = {
        "purpose": F.lit(FOR_YOU),
        "model_version": F.lit(pinned.model_version),
        "profile_version": F.lit(pinned.profile_version).cast("bigint"),
        "as_of": F.timestamp_micros(F.lit(pinned.state.global_sums.as_of)),
    }
    return lists.withColumns(constants).select(*RECOMMENDATIONS.names)


def _average_user(pinned: PinnedVersions) -> tuple[float, ...]:
    """The mean vector of all users of the model."""
    users = pinned.state.users.select("key", "vector")
    sums = partial(ranked_lists.vector_sums, params=pinned.params)
    parts = users.mapInArrow(sums, "total binary, rows bigint").collect()
    total = np.sum([np.zeros(pinned.params.width), *(np.frombuffer(row["total"]) for row in parts)], axis=0)
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

    in_model, with_baskets = active(pinned.state.users).select(*ranked_lists.USER.names), None
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
    in_factors = pinned.state.users.select(F.col("key").alias("user_id"))
    only_profile = stored.join(in_factors, "user_id", "left_anti")
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
    pinned = pin_versions(spark, settings)
    rows = (pinned.state.users if side == "user" else pinned.state.items).select("key", "vector")
    own = rows.where(F.col("key") == key).first()
    if own is None:
        raise SourceMissing(
            f"the model does not contain {side} {key!r}",
            where=pinned.model_version,
            do="use an id of the table factors, including its prefix, such as uk_gifts:12347",
        )
    step = partial(ranked_lists.cosine_similarities, vector=bytes(own["vector"]), params=pinned.params)
    cosines = rows.where(F.col("key") != key).mapInArrow(step, "key string, cosine double")
    nearest = cosines.orderBy(F.desc("cosine"), "key").limit(max_results).collect()
    return [(row["key"], row["cosine"]) for row in nearest]
