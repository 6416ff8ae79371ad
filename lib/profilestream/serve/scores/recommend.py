"""serve_scores: a list of items for every user, from one version of the model and one of the profiles."""

import uuid
from dataclasses import dataclass
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.base.tables import RECOMMENDATIONS
from profilestream.derive import profiles
from profilestream.derive.table_declaration import Derived
from profilestream.learn import als_tasks, factors, published_factors
from profilestream.learn.als import Params
from profilestream.serve.scores import ranked_lists
from profilestream.serve.scores.ranked_lists import Wanted

STAGE = "serve_scores"
_DAY, _GONE = 86_400_000_000, "_gone"
LIKED = "preference.items"


@dataclass(frozen=True)
class Pinned:
    """What a run reads.

    Args:
        model: `factors@<version of the Delta table>` or `published:<model version>`.
        profiles: version of the profile table; null when there is none.
    """

    state: factors.State
    params: Params
    model: str
    profiles: int | None


def run(spark: SparkSession, settings: Settings) -> int:
    """Put a new list in place of the old one of every user that is asked for, in one commit.

    Returns:
        The number of users that were asked for.

    Raises:
        SourceMissing: nothing was learned yet.
        BadSettings: no model is learned.
    """
    paths = settings.paths
    pinned = pin(spark, settings)
    RECOMMENDATIONS.create(spark, paths)
    RECOMMENDATIONS.register(spark, paths)
    people = people_of(spark, settings, pinned).persist()
    listed = recommendations(people, settings, pinned)
    users = people.select(F.col("key").alias("user_id")).distinct()
    shorter = (
        RECOMMENDATIONS.read(spark, paths)
        .join(users, "user_id", "left_semi")
        .join(listed.select(*RECOMMENDATIONS.key), list(RECOMMENDATIONS.key), "left_anti")
    )
    changed = listed.withColumn(_GONE, F.lit(False)).unionByName(shorter.withColumn(_GONE, F.lit(True)))
    commits.merge(changed, RECOMMENDATIONS, paths, Txn(STAGE, str(uuid.uuid4()), 0), gone=_GONE)
    count = users.count()
    people.unpersist()
    return count


def pin(spark: SparkSession, settings: Settings) -> Pinned:
    """The versions that a run reads, as of now.

    Raises:
        SourceMissing: nothing was learned yet, or nothing has the alias.
    """
    alias = settings.serve.scores.model
    profiles, known = _profiles(settings), None
    if profiles is not None and profiles.table.exists(spark, settings.paths):
        known = commits.version(spark, profiles.table, settings.paths)
    if alias != "newest":
        found = published_factors.read(spark, settings, alias)
        return Pinned(found.state, found.params, f"published:{found.model_version}", known)
    table = factors.table(settings)
    if not settings.learn.factors.enabled:
        raise BadSettings(
            "no model is learned", where="learn.factors.enabled", do="set it true and run jobs/learn_factors.py"
        )
    if not table.exists(spark, settings.paths):
        do = "run jobs/learn_factors.py first"
        raise SourceMissing("nothing was learned yet", where=settings.paths.warehouse, do=do)
    version = commits.version(spark, table, settings.paths)
    state = factors.read(spark, settings, version)
    return Pinned(state, factors.params(settings), f"factors@{version}", known)


def recommendations(people: DataFrame, settings: Settings, pinned: Pinned) -> DataFrame:
    """Rows of `recommendations` for the people."""
    made, params, known = settings.serve.scores, pinned.params, pinned.state.known
    wanted = Wanted(
        top_n=made.top_n,
        exclude_bought=made.exclude_bought,
        newest_since=None if made.gone_after_days is None else int(known.now - made.gone_after_days * _DAY),
        most_per_category=made.most_per_category,
        bought=settings.derive.event_weights.get("purchase", 1.0),
    )
    tasks = factors.tasks(people.sparkSession)
    inputs = [people, factors.catalogue(pinned.state.rows, tasks, known, params)]
    listed = factors.stepped(
        inputs, tasks, partial(ranked_lists.ranked, params=params, wanted=wanted), ranked_lists.COLUMNS
    )
    pins = {
        "kind": F.lit("items"),
        "model_version": F.lit(pinned.model),
        "profile_version": F.lit(pinned.profiles).cast("bigint"),
        "as_of": F.timestamp_micros(F.lit(known.now)),
    }
    return listed.withColumns(pins).select(*RECOMMENDATIONS.columns)


def people_of(spark: SparkSession, settings: Settings, pinned: Pinned) -> DataFrame:
    """Users to recommend to, as lists.ranked takes them; without a vector of their own, what their profile likes."""
    since = None
    if settings.serve.scores.active_days is not None:
        since = int(pinned.state.known.now - settings.serve.scores.active_days * _DAY)

    def active(rows: DataFrame) -> DataFrame:
        return rows if since is None else rows.where(F.col("as_of") >= F.timestamp_micros(F.lit(since)))

    users = pinned.state.rows.where("side = 'user'")
    own = active(users).select("key", "vector", "others", "weights").withColumn("kind", F.lit(als_tasks.STATE))
    profiles = _profiles(settings)
    if profiles is None or pinned.profiles is None:
        return own
    stored = active(profiles.table.read(spark, settings.paths, version=pinned.profiles))
    facet, _, field = LIKED.partition(".")
    known = (
        F.col(facet)[field]["weights"] if LIKED in profiles.statistics else F.create_map().cast("map<string,double>")
    )
    rest = stored.join(users.select(F.col("key").alias("user_id")), "user_id", "left_anti").select(
        F.col("user_id").alias("key"),
        F.lit(als_tasks.NEW).alias("kind"),
        F.explode_outer(known).alias("other", "weight"),
    )
    return own.unionByName(rest, allowMissingColumns=True)


def _profiles(settings: Settings) -> Derived | None:
    try:
        return profiles.of_users(settings)
    except BadSettings:
        return None


def similar(spark: SparkSession, settings: Settings, side: str, key: str, most: int = 10) -> list[tuple[str, float]]:
    """The users (items) whose vectors point most nearly the same way, with the cosine, best first; without itself.

    Args:
        side: `user` or `item`.

    Raises:
        SourceMissing: there is no such user (item) among those that were learned.
    """
    pinned = pin(spark, settings)
    rows = pinned.state.rows.where(F.col("side") == side).select("key", "vector")
    own = rows.where(F.col("key") == key).first()
    if own is None:
        raise SourceMissing(
            f"nothing was learned of {side} {key!r}",
            where=pinned.model,
            do="name one as `factors` has it, with its space",
        )
    step = partial(ranked_lists.cosines, vector=bytes(own["vector"]), params=pinned.params)
    told = rows.where(F.col("key") != key).mapInArrow(step, "key string, cosine double")
    found = told.orderBy(F.desc("cosine"), "key").limit(most).collect()
    return [(row["key"], row["cosine"]) for row in found]
