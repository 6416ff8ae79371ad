"""`users`: one row per user with plain columns, from the tables of other stages and steps.

No column of a user changes only because time passes: the weights of a list halve at the same rate, so their order is
that of the stored row.
"""

import re
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.columns import Column as TableColumn
from profilestream.base.columns import as_of
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings, fingerprint
from profilestream.derive import profiles
from profilestream.derive.statistics import Heaviest
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.outcomes import outcome_declaration
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcome
from profilestream.learn.segments.segments_spec import SegmentsSpec
from profilestream.serve.plain_tables import changed_rows, item_names
from profilestream.serve.plain_tables.changed_rows import PinnedTables
from profilestream.serve.tags import rfm
from profilestream.serve.users import all_users, user_summary

NAME = "users"
MAX_FAVORITES, MAX_NEXT_ITEMS = 5, 10
# The list of the first purpose that a user has is `next_items`.
NEXT_PURPOSES = ("next_basket", "for_you")
_FAVORITES = {
    "favorite_categories": "preference.categories",
    "favorite_brands": "preference.brands",
    "favorite_items": "preference.items",
}
_GROUP_COLUMNS = ("recency_quintile", "frequency_quintile", "monetary_quintile", "rfm_segment", "loyalty_tier")
# Scores within .05 % are equal for the bands, so that their quantiles need little memory.
_SCORE_LOG_STEP = 0.001
_TAGS_OFF, _SCORES_OFF = "`serve_tags` is off or has not run", "`serve_scores` is off or has not run"
_BEFORE_SCORES = (
    tables.USER_ID,
    TableColumn("first_seen", "TIMESTAMP", "Time of the first event; null: the profile does not have it.", "UTC"),
    TableColumn("last_seen", "TIMESTAMP", "Time of the latest event; null: the profile does not have it.", "UTC"),
    TableColumn(
        "orders", "BIGINT",
        "Number of orders; a purchase without an order id is an order. Null: the profile does not have it.", "orders",
    ),
    TableColumn(
        "spent_net", "DOUBLE", "Value of purchases less value of returns; null: no purchase or return has a value.",
        "currency",
    ),
    TableColumn("spent_gross", "DOUBLE", "Value of purchases; null: no purchase or return has a value.", "currency"),
    TableColumn(
        "currency", "STRING",
        "ISO code of the currency of all values; null: the log has none, or items with prices in several.",
    ),
    TableColumn(
        "average_order", "DOUBLE",
        "Value of purchases per order; null: no order, or no purchase or return has a value.", "currency",
    ),
    TableColumn(
        "favorite_categories", "ARRAY<STRING>",
        "Categories with the largest weight, recent events count more, at most 5, best first. Null: the profile does "
        "not have them.",
    ),
    TableColumn("favorite_brands", "ARRAY<STRING>", "As favorite_categories, of brands."),
    TableColumn(
        "favorite_items", "ARRAY<STRING>",
        "As favorite_categories, names of items; the id of an item without a name.", subject=tables.NAMES,
    ),
    TableColumn(
        "recency_quintile", "INT",
        f"Quintile of the buyers by recency, 5 is most recent. Null: no purchase, or {_TAGS_OFF}.",
    ),
    TableColumn(
        "frequency_quintile", "INT",
        f"Quintile of the buyers by orders, 5 is most frequent. Null: no purchase, or {_TAGS_OFF}.",
    ),
    TableColumn(
        "monetary_quintile", "INT",
        f"Quintile of the buyers by net value, 5 is highest. Null: no value, or {_TAGS_OFF}.",
    ),
    TableColumn("rfm_segment", "STRING", f"Name of the RFM segment. Null: no purchase, or {_TAGS_OFF}."),
    TableColumn("loyalty_tier", "STRING", f"Loyalty tier. Null: below the lowest, or {_TAGS_OFF}."),
    TableColumn(
        "segment", "STRING",
        "The cluster of users with similar behavior, in words. Null: the user is in none, or `learn_segments` is off "
        "or has not run.",
    ),
    TableColumn("tags", "ARRAY<STRING>", f"Names of the tags of the user, in order. Null: {_TAGS_OFF}."),
)  # fmt: skip
_AFTER_SCORES = (
    TableColumn(
        "next_items", "ARRAY<STRING>",
        "Names of the items that the user is expected to buy next, at most 10, best first; the id of an item without a "
        f"name. Null: there is no list for the user, or {_SCORES_OFF}.", subject=tables.NAMES,
    ),
    as_of("Newest event time of the user. Other columns than those of events are from the latest runs of their steps."),
)  # fmt: skip


def table(settings: Settings) -> Table:
    """`users`, with two columns per declared outcome.

    Raises:
        BadSettings: the declaration of outcomes is invalid, or the name of an outcome cannot be that of a column.
    """
    columns = (*_BEFORE_SCORES, *_score_columns(settings), *_AFTER_SCORES)
    return Table(
        name=NAME,
        meaning="One row per user: who the user is, what the user bought, and what the user is expected to do.",
        writer=changed_rows.STEP,
        columns=columns,
        key=("user_id",),
        properties=tables.UPDATABLE,
        declaration=fingerprint(repr([column.ddl for column in columns])),
    )


def _score_columns(settings: Settings) -> list[TableColumn]:
    if not settings.learn.outcomes.file:
        return []
    declared = outcome_declaration.load(settings)
    names = [name for outcome in declared.outcomes for name in (outcome, band_of(outcome))]
    others = {column.name for column in (*_BEFORE_SCORES, *_AFTER_SCORES)}
    wrong = sorted(
        name for name in names if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in others or names.count(name) > 1
    )
    if wrong:
        raise BadSettings(
            f"outcomes whose columns in {NAME} would be {wrong}",
            where=f"{settings.learn.outcomes.file}, outcomes",
            do="rename these outcomes: small letters, digits and _, and not the name of another column",
        )
    columns = []
    for name, outcome in declared.outcomes.items():
        label = declared.labels[outcome.label]
        days, null = outcome.value_days or outcome.horizon_days, "null: the user has no score of it"
        meaning = f"Prediction of `user_scores` for the next {days} days: {label.question} {null.capitalize()}."
        columns.append(TableColumn(name, "DOUBLE", meaning, _unit(outcome, label.unit)))
        meaning = f"`low`, `middle` or `high`: the third of all users by `{name}`; {null}."
        columns.append(TableColumn(band_of(name), "STRING", meaning))
    return columns


def _unit(outcome: DeclaredOutcome, label_unit: str) -> str:
    return {"logistic": "probability, 0 to 1", "hinge": "margin"}.get(outcome.loss, label_unit)


def band_of(outcome: str) -> str:
    """The column with the band of an outcome."""
    return f"{outcome}_band"


def update(spark: SparkSession, settings: Settings) -> int:
    """Bring `users` up to date; returns the number of written and deleted rows.

    Raises:
        BadSettings: no profile table is declared, and as for `table`.
        SourceMissing: the profile table does not exist.
    """
    derived = profiles.profile_table(settings)
    derived.table.require(spark, settings.paths, do=f"run jobs/{profiles.STAGE}.py first")
    pinned = changed_rows.pin(spark, settings, [derived.table, tables.ITEMS, *_optional_inputs(settings)])
    users = table(settings)
    parameters = (users.declaration, derived.table.declaration, settings.capture.currency)
    return changed_rows.update(users, pinned, parameters, lambda: user_rows(pinned, users))


def _optional_inputs(settings: Settings) -> list[Table]:
    """The tables of the enabled stages and steps."""
    inputs = []
    if settings.serve.tags.enabled:
        inputs += [tables.USER_GROUPS, tables.USER_TAGS]
    if settings.serve.scores.enabled:
        inputs.append(tables.RECOMMENDATIONS)
    if settings.serve.outcomes.enabled:
        inputs.append(tables.USER_SCORES)
    if settings.learn.segments.enabled:
        inputs += [SegmentsSpec(settings).users_table, tables.SEGMENT_DESCRIPTIONS]
    return inputs


def user_rows(pinned: PinnedTables, users: Table) -> DataFrame:
    """All rows of `users`."""
    derived = profiles.profile_table(pinned.settings)
    stored = pinned.read(derived.table)
    assert stored is not None
    rows = _profile_columns(stored, derived).withColumn("currency", F.lit(_currency(pinned)).cast("string"))
    others = [_item_lists(pinned, stored, derived), _groups(pinned), _tags(pinned), _segments(pinned), _scores(pinned)]
    for other in others:
        rows = rows if other is None else rows.join(other, "user_id", "left")
    rows = rows.withColumns({
        "favorite_items": _or_empty("favorite_items", rows, is_available=_is_list(derived, "favorite_items")),
        "tags": _or_empty("tags", rows, is_available=tables.USER_TAGS.name in pinned.versions),
    })  # fmt: skip
    missing = {
        column.name: F.lit(None).cast(column.sql_type) for column in users.columns if column.name not in rows.columns
    }
    return rows.withColumns(missing).select(*users.names)


def _or_empty(name: str, rows: DataFrame, *, is_available: bool) -> Column:
    """The list, empty instead of null; null if its source is not available."""
    if not is_available:
        return F.lit(None).cast("array<string>")
    empty = F.array().cast("array<string>")
    return F.coalesce(name, empty) if name in rows.columns else empty


def _profile_columns(stored: DataFrame, derived: DerivedTable) -> DataFrame:
    """The columns from the stored values of the profile table; null for statistics that it does not declare."""

    def value(path: str, kind: str) -> Column:
        return (F.col(path) if path in derived.statistics else F.lit(None)).cast(kind)

    is_priced = F.coalesce(value("behavior.priced_events", "double") > 0, F.lit(True))
    gross, returned = (F.when(is_priced, value(f"behavior.{name}", "double")) for name in ("spent", "returned"))
    orders = value("behavior.orders", "bigint")
    return stored.select(
        "user_id",
        value("basic.first_seen", "timestamp").alias("first_seen"),
        value("basic.last_seen", "timestamp").alias("last_seen"),
        orders.alias("orders"),
        (gross - F.coalesce(returned, F.lit(0.0))).alias("spent_net"),
        gross.alias("spent_gross"),
        F.try_divide(gross, orders).alias("average_order"),
        *(_keys(derived, name).alias(name) for name in ("favorite_categories", "favorite_brands")),
        "as_of",
    )


def _is_list(derived: DerivedTable, name: str) -> bool:
    return isinstance(derived.statistics.get(_FAVORITES[name]), Heaviest)


def _keys(derived: DerivedTable, name: str) -> Column:
    """The heaviest keys of a list with weights, without those that returns have made negative."""
    if not _is_list(derived, name):
        return F.lit(None).cast("array<string>")
    positive = F.filter(F.col(_FAVORITES[name]), lambda entry: entry["weight"] > 0)
    return F.slice(F.transform(positive, lambda entry: entry["key"]), 1, MAX_FAVORITES)


def _currency(pinned: PinnedTables) -> str | None:
    """The reporting currency, or that of all items; null if it is unknown or there are several."""
    items = pinned.read(tables.ITEMS)
    rows = [] if items is None else items.select("currency").where("currency IS NOT NULL").distinct().limit(2).collect()
    return user_summary.currency_of(pinned.settings, [row["currency"] for row in rows]) or None


def _item_lists(pinned: PinnedTables, stored: DataFrame, derived: DerivedTable) -> DataFrame | None:
    """`user_id`, `favorite_items` and `next_items`; null if there are neither."""
    lists, columns = [], {}
    if _is_list(derived, "favorite_items"):
        keys = F.posexplode(_keys(derived, "favorite_items")).alias("position", "item_id")
        lists.append(stored.select("user_id", F.lit("favorite_items").alias("list"), keys))
        columns["favorite_items"] = item_names.in_order("favorite_items")
    if (recommended := pinned.read(tables.RECOMMENDATIONS)) is not None:
        rows = recommended.where(F.col("purpose").isin(*NEXT_PURPOSES) & (F.col("rank") <= MAX_NEXT_ITEMS))
        lists.append(rows.select("user_id", F.col("purpose").alias("list"), F.col("rank").alias("position"), "item_id"))
        by_purpose = [item_names.in_order(purpose) for purpose in NEXT_PURPOSES]
        columns["next_items"] = F.coalesce(*[F.when(F.size(names) > 0, names) for names in by_purpose])
    if not lists:
        return None
    entries = lists[0] if len(lists) == 1 else lists[0].unionByName(lists[1])
    named = item_names.with_names(entries, pinned.read(tables.ITEMS))
    return named.groupBy("user_id").agg(*[column.alias(name) for name, column in columns.items()])


def _groups(pinned: PinnedTables) -> DataFrame | None:
    groups = pinned.read(tables.USER_GROUPS)
    return None if groups is None else groups.select("user_id", *_GROUP_COLUMNS)


def _tags(pinned: PinnedTables) -> DataFrame | None:
    tags = pinned.read(tables.USER_TAGS)
    if tags is None:
        return None
    return tags.where("valid_to IS NULL").groupBy("user_id").agg(F.sort_array(F.collect_list("tag")).alias("tags"))


def _segments(pinned: PinnedTables) -> DataFrame | None:
    descriptions = pinned.read(tables.SEGMENT_DESCRIPTIONS)
    of_users = pinned.read(SegmentsSpec(pinned.settings).users_table) if descriptions is not None else None
    if descriptions is None or of_users is None:
        return None
    words = descriptions.select("segment_id", F.col("description").alias("segment"))
    return of_users.select("user_id", "segment_id").join(F.broadcast(words), "segment_id").drop("segment_id")


def _scores(pinned: PinnedTables) -> DataFrame | None:
    """`user_id`, and the score and the band of each outcome that has scores."""
    scores = pinned.read(tables.USER_SCORES)
    if scores is None or not pinned.settings.learn.outcomes.file:
        return None
    limits = _band_limits(scores)
    names = [name for name in outcome_declaration.load(pinned.settings).outcomes if name in limits]
    value = {name: F.col("scores")[name] for name in names}
    columns = [value[name].alias(name) for name in names]
    columns += [_band(value[name], *limits[name]).alias(band_of(name)) for name in names]
    return all_users.scores_by_user(scores).select("user_id", *columns)


def _band_limits(scores: DataFrame) -> Mapping[str, tuple[float, float]]:
    """The terciles of the rounded scores, by outcome."""
    rounded = rfm.rounded(F.coalesce("probability", "score"), _SCORE_LOG_STEP).alias("rounded")
    terciles = F.expr("percentile_disc(array(1D/3, 2D/3)) WITHIN GROUP (ORDER BY rounded)").alias("terciles")
    rows = scores.select("outcome", rounded).groupBy("outcome").agg(terciles).where("terciles IS NOT NULL").collect()
    return {row["outcome"]: (row["terciles"][0], row["terciles"][1]) for row in rows}


def _band(score: Column, low: float, high: float) -> Column:
    """The band of a score, given both terciles; equal scores have equal bands, a score of most users `middle`."""
    value = rfm.rounded(score, _SCORE_LOG_STEP)
    is_low = (value <= low) & (value < high)
    return F.when(is_low, "low").when(value > high, "high").when(value.isNotNull(), "middle")
