"""Tags and their users, as lines for a terminal."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.serve.tags import assign_tags, tag_declaration
from profilestream.serve.tags.tag_declaration import TagDeclaration
from profilestream.serve.users import all_users

_MAX_USERS = 20


def tag_counts(spark: SparkSession, settings: Settings) -> list[str]:
    """One line per tag: number and share of users, number of new users, and an example with evidence.

    New users gained the tag in the 30 days before the newest event.
    """
    users = all_users.read_or_empty(spark, USER_GROUPS, settings)
    totals = users.agg(F.count("*").alias("n"), F.max("as_of").alias("at"))
    tags = all_users.read_or_empty(spark, USER_TAGS, settings).where("valid_to IS NULL")
    is_known = assign_tags.is_start_known(F.col("valid_from"), F.col("gained_after"))
    counts = (
        tags.crossJoin(F.broadcast(totals))
        .groupBy("tag")
        .agg(
            F.count("*").alias("users"),
            F.count_if(is_known & (F.col("valid_from") > F.col("at") - F.expr("INTERVAL 30 DAYS"))).alias("new"),
            F.try_divide(F.count("*"), F.max("n")).alias("share"),
            F.min_by(F.concat_ws(": ", "user_id", "evidence"), "user_id").alias("example"),
        )
    )
    row_of_tag = {row["tag"]: row for row in counts.collect()}
    rules = tag_declaration.from_settings(settings).tags
    width = max(map(len, rules))
    lines = []
    for name, tag in rules.items():
        row, label = row_of_tag.get(name), f"{tag.facet.ljust(10)}  {name.ljust(width)}"
        count = f"{row['users']:7,} {row['share']:6.1%} {row['new']:7,} new  {row['example']}" if row else "      0"
        lines.append(f"{label} {count}")
    return lines


def compare(spark: SparkSession, settings: Settings, other: TagDeclaration) -> list[str]:
    """One line per tag: users who would have it by both declarations, only by the other, only by the current one."""
    users = all_users.all_users(spark, settings)
    if users is None:
        return ["there are no users yet"]
    stored = all_users.read_or_empty(spark, USER_TAGS, settings)

    def users_with_tags(declaration: TagDeclaration) -> DataFrame:
        with_totals = assign_tags.join_all_users(users, declaration)
        rows = assign_tags.join_groups(with_totals, assign_tags.new_groups(with_totals, declaration, settings))
        tags = assign_tags.new_tags(rows, declaration, stored, users.as_of_micros)
        return tags.where(assign_tags.HAS_TAG).select("user_id", "tag")

    current, changed = map(users_with_tags, (tag_declaration.from_settings(settings), other))
    both = current.withColumn("side", F.lit("current")).unionByName(changed.withColumn("side", F.lit("other")))
    sides = both.groupBy("user_id", "tag").agg(F.concat_ws(" ", F.sort_array(F.collect_set("side"))).alias("sides"))
    labels = {"both": "current other", "gain": "other", "lose": "current"}
    rows = sides.groupBy("tag").pivot("sides", list(labels.values())).count().na.fill(0).orderBy("tag").collect()
    width = max((len(row["tag"]) for row in rows), default=0)
    return [
        "  ".join([row["tag"].ljust(width), *(f"{row[side]:7,} {label}" for label, side in labels.items())])
        for row in rows
    ]


def tag_users(spark: SparkSession, settings: Settings, tag: str) -> list[str]:
    """One line per user with the tag: user id, start time and evidence; the most recent 20.

    Raises:
        BadSettings: the tag is not declared.
    """
    rules = tag_declaration.from_settings(settings).tags
    if tag not in rules:
        do = f"name one of {', '.join(rules)}"
        raise BadSettings(f"there is no tag {tag!r}", where=settings.serve.tags.file, do=do)
    tags = all_users.read_or_empty(spark, USER_TAGS, settings)
    rows = tags.where((F.col("tag") == tag) & F.col("valid_to").isNull())
    recent = rows.orderBy(F.desc("valid_from"), "user_id").limit(_MAX_USERS)
    is_known = assign_tags.is_start_known(F.col("valid_from"), F.col("gained_after"))
    prefix = F.when(is_known, "").otherwise("at least ")
    start = F.concat(prefix, F.date_format("valid_from", "yyyy-MM-dd HH:mm"))
    return [row[0] for row in recent.select(F.concat_ws("  ", "user_id", start, "evidence")).collect()]
