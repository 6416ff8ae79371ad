"""derive_profiles: events -> profiles, one merged row per user, with a change feed."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.queries import Query
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable

STAGE = "derive_profiles"
CATEGORY_TILES = "category_hours"


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; none when no profiles are declared."""
    return fold_stage.queries(STAGE, settings.derive.profiles, settings)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing."""
    fold_stage.check(spark, settings.derive.profiles, settings)


def profile_table(settings: Settings) -> DerivedTable:
    """The profile table: the first declared table with one row per user.

    Raises:
        BadSettings: there is none.
    """
    derived = find_profile_table(settings)
    if derived is None:
        raise BadSettings(
            "no table with one row per user is declared",
            where="derive.profiles",
            do='declare one, such as profiles = ["derive/user_profiles.toml"]',
        )
    return derived


def find_profile_table(settings: Settings) -> DerivedTable | None:
    """The profile table; null when none is declared."""
    for derived in fold_stage.declared_tables(settings).values():
        if derived.write == "merge" and list(derived.keys) == ["user_id"]:
            return derived
    return None


def price_levels(profiles: DataFrame, categories: DataFrame, declared: DerivedTable) -> DataFrame:
    """`user_id` and `price_level`: prices paid, relative to the mean price of the same categories; 1 is the mean.

    The decayed mean, over the user's purchases, of price over the category's mean price. It is exact under any order of
    events, and uses the category prices at the time of reading. Null without purchases in a category with prices.

    Args:
        profiles: rows returned by fold.Fold.read.
        categories: rows of category_hours, merged, with the statistic `prices`.
        declared: the declaration of category_hours.
    """
    means = (
        Fold(declared)
        .read(categories)
        .groupBy("category")
        .agg(F.try_divide(F.sum(F.col("prices.mean") * F.col("purchases")), F.sum("purchases")).alias("mean"))
        .where("mean > 0")
    )
    counts = profiles.select("user_id", F.explode("preference.purchases_by_category").alias("category", "purchases"))
    paid = profiles.select("user_id", F.explode("preference.prices_by_category").alias("category", "paid"))
    joined = counts.join(paid, ["user_id", "category"]).join(F.broadcast(means), "category")
    level = F.try_divide(F.sum(F.col("paid") / F.col("mean")), F.sum("purchases"))
    return joined.groupBy("user_id").agg(level.alias("price_level"))
