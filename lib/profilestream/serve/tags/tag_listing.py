"""Who has which tag, as lines for a terminal."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.serve.tags import assign_tags, tag_declaration
from profilestream.serve.tags.tag_declaration import Tags
from profilestream.serve.users import user_frame

_MOST = 20


def shares(spark: SparkSession, settings: Settings) -> list[str]:
    """A line a tag: how many users have it, how many of them since the newest event, and one of them."""
    users = user_frame.stored(spark, USER_GROUPS, settings).agg(F.count("*").alias("n"), F.max("as_of").alias("at"))
    rows = user_frame.stored(spark, USER_TAGS, settings).where("until IS NULL").crossJoin(F.broadcast(users))
    counted = rows.groupBy("tag").agg(
        F.count("*").alias("having"),
        F.count_if(F.col("since") == F.col("at")).alias("new"),
        F.try_divide(F.count("*"), F.max("n")).alias("share"),
        F.min_by(F.concat_ws(": ", "user_id", "evidence"), "user_id").alias("one"),
    )
    found = {row["tag"]: row for row in counted.collect()}
    declared = tag_declaration.named(settings).tags
    width = max(map(len, declared))
    lines = []
    for name, tag in declared.items():
        row, label = found.get(name), f"{tag.facet.ljust(10)}  {name.ljust(width)}"
        told = f"{row['having']:7,} {row['share']:6.1%} {row['new']:7,} new  {row['one']}" if row else "      0"
        lines.append(f"{label} {told}")
    return lines


def compared(spark: SparkSession, settings: Settings, other: Tags) -> list[str]:
    """A line a tag: how many users would have it after a run by both declarations, only by the other, only by ours."""
    known = user_frame.known(spark, settings)
    if known is None:
        return ["there are no users yet"]
    stored = user_frame.stored(spark, USER_TAGS, settings)

    def having(declared: Tags) -> DataFrame:
        rows = assign_tags.with_groups(known, assign_tags.grouping(known, declared, settings))
        return assign_tags.decided(rows, declared, stored, known.at).where(assign_tags.HAS).select("user_id", "tag")

    ours, theirs = map(having, (tag_declaration.named(settings), other))
    each = ours.withColumn("side", F.lit("ours")).unionByName(theirs.withColumn("side", F.lit("theirs")))
    by = each.groupBy("user_id", "tag").agg(F.concat_ws(" ", F.sort_array(F.collect_set("side"))).alias("by"))
    counts = {"both": "ours theirs", "gain": "theirs", "lose": "ours"}
    rows = by.groupBy("tag").pivot("by", list(counts.values())).count().na.fill(0).orderBy("tag").collect()
    width = max((len(row["tag"]) for row in rows), default=0)
    return [
        "  ".join([row["tag"].ljust(width), *(f"{row[by]:7,} {name}" for name, by in counts.items())]) for row in rows
    ]


def holders(spark: SparkSession, settings: Settings, tag: str) -> list[str]:
    """A line a user who has the tag: since when, and why; those who gained it last, first.

    Raises:
        BadSettings: no such tag is declared.
    """
    declared = tag_declaration.named(settings).tags
    if tag not in declared:
        do = f"name one of {', '.join(declared)}"
        raise BadSettings(f"no tag is called {tag!r}", where=settings.serve.tags.file, do=do)
    rows = user_frame.stored(spark, USER_TAGS, settings).where((F.col("tag") == tag) & F.col("until").isNull())
    first = rows.orderBy(F.desc("since"), "user_id").limit(_MOST)
    since = F.date_format("since", "yyyy-MM-dd HH:mm")
    return [row[0] for row in first.select(F.concat_ws("  ", "user_id", since, "evidence")).collect()]
