"""Events -> profiles: one row a user, merged, with a change feed."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.queries import Query
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import Derived

STAGE = "derive_profiles"
CATEGORY_TILES = "category_hours"


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when no profiles are declared."""
    return fold_stage.query(STAGE, settings.derive.profiles, settings)


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every declared expression against the columns of `events`; writes nothing."""
    fold_stage.check(spark, settings.derive.profiles, settings)


def of_users(settings: Settings) -> Derived:
    """The declared profile table: the first of one row a user.

    Raises:
        BadSettings: there is none.
    """
    for derived in fold_stage.declared(settings).values():
        if derived.write == "merge" and list(derived.keys) == ["user_id"]:
            return derived
    raise BadSettings(
        "no table of one row a user is declared",
        where="derive.profiles",
        do='name one, such as profiles = ["derive/user_profiles.toml"]',
    )


def price_levels(said: DataFrame, categories: DataFrame, declared: Derived) -> DataFrame:
    """`user_id` and `price_level`: what a user pays, against the mean price of the same categories; 1 is usual.

    Sum over the user's purchases of price over the category's mean price, divided by their number, both decayed; so it
    is exact under any order of events, and says what was paid against the prices of the time of reading. Null without
    purchases in a category that has prices.

    Args:
        said: profiles as fold.Fold.read gives them.
        categories: rows of category_hours, merged, with the statistic `prices`.
        declared: the declaration of category_hours.
    """
    usual = (
        Fold.of(declared)
        .read(categories)
        .groupBy("category")
        .agg(F.try_divide(F.sum(F.col("prices.mean") * F.col("purchases")), F.sum("purchases")).alias("usual"))
        .where("usual > 0")
    )
    bought = said.select("user_id", F.explode("preference.purchases_by_category").alias("category", "purchases"))
    paid = said.select("user_id", F.explode("preference.prices_by_category").alias("category", "paid"))
    both = bought.join(paid, ["user_id", "category"]).join(F.broadcast(usual), "category")
    level = F.try_divide(F.sum(F.col("paid") / F.col("usual")), F.sum("purchases"))
    return both.groupBy("user_id").agg(level.alias("price_level"))
