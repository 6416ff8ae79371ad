"""user_groups: a row a user, its fifths by recency, frequency and money, RFM segment, loyalty tier and cohort.

The borders of the fifths are quantiles over all users by logarithmic bins (derive/map_statistics.py), so they hang neither on the
order of users nor on how they are spread over tasks. A value in the same bin as a border is not above it.
"""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.tables import USER_GROUPS
from profilestream.derive.map_statistics import Quantiles
from profilestream.serve.tags.tag_declaration import Groups, Tier

QUINTILES = {"recency_quintile": "recency_days", "frequency_quintile": "frequency", "monetary_quintile": "money"}
GONE, CHANGED = "_gone", "_changed"
_QUANTILES = Quantiles(kind="quantiles")


def measured(people: DataFrame, declared: Groups) -> DataFrame:
    """`user_id`, `at`, and what the declaration takes from a user's row."""
    taken = [F.expr(sql).try_cast(kind).alias(name) for name, (sql, kind) in declared.measures.items()]
    return people.select("user_id", "at", *taken)


def with_quintiles(rows: DataFrame) -> DataFrame:
    """Rows as `measured` gives them, with a fifth of each measure, 5 is best; null without a recency."""
    fifths = {fifth: _fifth(name, descending=name == "recency_days") for fifth, name in QUINTILES.items()}
    return rows.crossJoin(F.broadcast(_borders(rows))).withColumns(fifths)


def _borders(rows: DataFrame) -> DataFrame:
    """One row: of each measure what divides the users who have a recency into fifths."""
    bins = F.create_map(*[part for name in QUINTILES.values() for part in (F.lit(name), _QUANTILES.cell(F.col(name)))])
    counted = rows.where("recency_days IS NOT NULL").select(F.explode(bins).alias("measure", "bin"))
    weights = counted.where("bin IS NOT NULL").groupBy("measure", "bin").agg(F.count("*").cast("double").alias("n"))

    def borders(name: str) -> Column:
        weight = F.when(F.col("measure") == name, F.struct("bin", "n"))
        state = F.map_from_entries(F.collect_list(weight))
        return F.array(*[_QUANTILES.read(state, fifth / 5) for fifth in (1, 2, 3, 4)])

    return weights.agg(*[borders(name).alias(f"_{name}") for name in QUINTILES.values()])


def _fifth(name: str, *, descending: bool) -> Column:
    value = _QUANTILES.rounded(F.col(name))
    below = F.size(F.filter(F.col(f"_{name}"), lambda border: border < value))
    has = F.col("recency_days").isNotNull() & F.col(name).isNotNull()
    return F.when(has, F.lit(5) - below if descending else F.lit(1) + below)


def segment(rfm: dict[str, str]) -> Column:
    """The first segment whose condition is true; null when none is."""
    whens = reversed([(F.expr(sql), name) for name, sql in rfm.items()])
    return reduce(lambda found, when: F.when(when[0], when[1]).otherwise(found), whens, F.lit(None).cast("string"))


def tier(points: Column, earlier: Column, tiers: dict[str, Tier]) -> Column:
    """The highest tier that is entered, or not yet left by who had it or a higher one; null below all."""
    names, found = list(tiers), F.lit(None).cast("string")
    for place, (name, borders) in enumerate(tiers.items()):
        stays = earlier.isin(names[place:]) & (points >= borders.leave)
        found = F.when((points >= borders.enter) | stays, name).otherwise(found)
    return found


def told(rows: DataFrame, declared: Groups, stored: DataFrame, zone: str) -> DataFrame:
    """Rows of `user_groups`, and whether each differs from the stored row, or has to go with a user that is gone.

    Args:
        rows: as `measured` gives them.
        stored: the table as it is; tells which tier a user had.
        zone: in which months of cohorts begin and end.
    """
    was = stored.select("user_id", F.struct(*stored.columns).alias("_was"))
    rows = with_quintiles(rows).join(was, "user_id", "full")
    loyalty = tier(F.col("points"), F.col("_was.loyalty"), declared.loyalty.tiers)
    rows = rows.withColumns({"rfm": segment(declared.rfm), "loyalty": loyalty})
    same = F.col("loyalty") == F.col("_was.loyalty")
    since = F.when(same, F.col("_was.loyalty_since")).otherwise(F.when(F.col("loyalty").isNotNull(), F.col("at")))
    cohort = F.date_format(F.from_utc_timestamp("first_seen", zone), "yyyy-MM")
    rows = rows.withColumns({"loyalty_since": since, "cohort": cohort, "as_of": F.col("at")})
    is_same = F.struct(*USER_GROUPS.columns).eqNullSafe(F.col("_was"))
    return rows.select(*USER_GROUPS.columns, F.col("at").isNull().alias(GONE), (~is_same).alias(CHANGED))
