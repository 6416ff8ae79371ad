"""serve_audience: the users of an audience as files, with the changes since the last export.

`audience_users` contains the users who may be at the receiver. A commit before the files are replaced marks the changes
as not delivered, and one after it as delivered. After a crash between them, the next run repeats these changes.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, locks
from profilestream.base.commits import Txn
from profilestream.base.errors import BadSettings, NothingToDo, value_errors_as_bad_settings
from profilestream.base.session import broadcast_if_small, frame_of_arrow, materialize
from profilestream.base.settings import Settings
from profilestream.base.tables import AUDIENCE_USERS
from profilestream.serve.audiences import audience_condition, audience_files, suppression_lists
from profilestream.serve.audiences.audience_condition import Audience
from profilestream.serve.plain_tables import changed_rows, users_table
from profilestream.serve.plain_tables.changed_rows import DELETED
from profilestream.serve.users import all_users

STEP = "serve_audience"
_MATCHES, _IS_USER, _IS_SUPPRESSED, _IS_DELIVERED = "_matches", "_is_user", "_is_suppressed", "_is_delivered"


@dataclass(frozen=True)
class AudienceCounts:
    """Numbers of an export.

    Args:
        users: users in the complete list.
        all_users: rows of `users`.
        spent_net: sum over the complete list; null without a value.
        currency: of spent_net; empty if it is unknown.
        added, removed: users in the change lists.
        erased: users of earlier exports without a row in `users`; they are in no list.
        suppressed: users of the audience in suppression lists.
        listed, listed_users: ids in suppression lists, and how many of them are rows of `users`.
    """

    users: int
    all_users: int
    spent_net: float | None
    currency: str
    added: int
    removed: int
    erased: int
    suppressed: int
    listed: int
    listed_users: int

    @property
    def changes(self) -> int:
        """Users whose rows in `audience_users` change."""
        return self.added + self.removed + self.erased

    @property
    def text(self) -> str:
        """The numbers in a few lines."""
        spent = "without a value" if self.spent_net is None else f"{self.spent_net:,.2f} {self.currency}".strip()
        lines = [
            f"{self.users:,} users, {self.users / self.all_users:.1%} of all {self.all_users:,}; spent_net {spent}",
            f"since the last export: {self.added:,} added, {self.removed:,} removed, {self.erased:,} erased",
            f"{self.suppressed:,} suppressed; suppression lists: {self.listed:,} ids, {self.listed_users:,} of users",
        ]
        if self.erased:
            lines.append("erased users are in no list: replace the receiver's list by the complete one")
        return "\n".join(lines)


def check(spark: SparkSession, settings: Settings, audience: Audience) -> None:
    """Check the condition, the columns and the suppression lists; writes nothing. Tags need the table `users`.

    Raises:
        BadSettings, SourceMissing, SourceUnreadable: one of them is invalid or does not exist.
    """
    table = users_table.table(settings)
    users = all_users.read_or_empty(spark, table, settings)
    _check_columns(users, settings)
    suppression_lists.read(spark, settings.serve.audience.suppression)
    if audience.where or table.exists(spark, settings.paths):
        audience_condition.condition(users, audience, settings)


def run(
    spark: SparkSession, settings: Settings, audience: Audience, path: Path, *, is_dry_run: bool = False
) -> AudienceCounts:
    """Write the complete list and the change lists, and store who was exported; a dry run writes nothing.

    Args:
        path: of the complete list, .csv or .parquet.

    Raises:
        SourceMissing: `users` or a suppression list does not exist, or `users` has no rows.
        BadSettings, SourceUnreadable: the condition, a column, a list or a text is invalid; a file cannot be written.
        Refused: another export is running.
    """
    if is_dry_run:
        return _export(spark, settings, audience, path, is_dry_run=True)
    with locks.hold_lock(settings.paths.lock_folder, STEP):
        return _export(spark, settings, audience, path, is_dry_run=False)


def _export(
    spark: SparkSession, settings: Settings, audience: Audience, path: Path, *, is_dry_run: bool
) -> AudienceCounts:
    users, all_count = _users(spark, settings)
    suppressed = suppression_lists.read(spark, settings.serve.audience.suppression)
    is_match = audience_condition.condition(users, audience, settings)
    if not is_dry_run:
        AUDIENCE_USERS.prepare(spark, settings.paths)
    stored = all_users.read_or_empty(spark, AUDIENCE_USERS, settings).where(F.col("audience") == audience.name)
    with value_errors_as_bad_settings(
        f"the condition {audience.where!r} fails on a row", where="--where", shows_value=False,
        do="use a function that returns null instead, such as try_cast or try_divide",
    ):  # fmt: skip
        ids = broadcast_if_small(frame_of_arrow(spark, suppressed), len(suppressed))
        rows = materialize(_rows(users, is_match, stored, ids, settings))
    counts, lists = _counts(rows, all_count, len(suppressed)), _lists(rows, path, settings)
    for rows_of_list in lists.values():
        audience_files.check_formulas(path, rows_of_list)
    if not is_dry_run:
        _commit(_before_delivery(rows), counts.changes, audience, settings)
        audience_files.write(lists)
        _commit(_after_delivery(rows), counts.changes, audience, settings)
    return counts


def _users(spark: SparkSession, settings: Settings) -> tuple[DataFrame, int]:
    """The table `users`, and the number of its rows, which is not 0."""
    table = users_table.table(settings)
    table.require(spark, settings.paths, do="run jobs/serve_tables.py first")
    users, count = all_users.read_or_empty(spark, table, settings), table.row_count(spark, settings.paths)
    if not count:
        do = "capture events with user ids, then run jobs/derive_profiles.py and jobs/serve_tables.py"
        raise NothingToDo("the table users has no rows", where=settings.paths.warehouse, do=do)
    _check_columns(users, settings)
    return users, count


def _check_columns(users: DataFrame, settings: Settings) -> None:
    if unknown := [name for name in settings.serve.audience.columns if name not in users.columns]:
        raise BadSettings(
            f"users has no columns {unknown}",
            where=f"{settings.config_file}, serve.audience.columns",
            do=f"use some of {', '.join(users.columns)}",
        )


def _rows(
    users: DataFrame, is_match: Column, stored: DataFrame, suppressed: DataFrame, settings: Settings
) -> DataFrame:
    """Users who match, were exported earlier, or are suppressed, with the flags; no flag is null except _IS_DELIVERED.

    Args:
        stored: rows of `audience_users`; _IS_DELIVERED is null for other users.
    """
    columns = dict.fromkeys([*settings.serve.audience.columns, "spent_net", "currency"])
    matches = users.select(*columns, is_match.alias(_MATCHES), F.lit(True).alias(_IS_USER))
    exported = stored.select("user_id", F.col("is_delivered").alias(_IS_DELIVERED))
    rows = matches.join(exported, "user_id", "full")
    rows = rows.join(suppressed.withColumn(_IS_SUPPRESSED, F.lit(True)), "user_id", "left")
    flags = {name: F.coalesce(name, F.lit(False)) for name in (_MATCHES, _IS_USER, _IS_SUPPRESSED)}
    rows = rows.withColumns(flags)
    return rows.where(F.col(_MATCHES) | F.col(_IS_SUPPRESSED) | F.col(_IS_DELIVERED).isNotNull())


def _is_member() -> Column:
    return F.col(_MATCHES) & ~F.col(_IS_SUPPRESSED)


def _is_added() -> Column:
    return _is_member() & ~F.coalesce(_IS_DELIVERED, F.lit(False))


def _is_removed() -> Column:
    return F.col(_IS_USER) & ~_is_member() & F.col(_IS_DELIVERED).isNotNull()


def _is_erased() -> Column:
    return ~F.col(_IS_USER) & F.col(_IS_DELIVERED).isNotNull()


def _lists(rows: DataFrame, path: Path, settings: Settings) -> dict[Path, pa.Table]:
    """The lists by path, in order of user id."""
    columns = settings.serve.audience.columns
    flags = {"_is_member": _is_member(), "_is_added": _is_added(), "_is_removed": _is_removed()}
    exported = rows.where(_is_member() | _is_removed()).select(
        *columns, *[flag.alias(name) for name, flag in flags.items()]
    )
    users = audience_files.cells(exported, path).toArrow().sort_by("user_id")
    return {
        audience_files.change_list(path, "removed"): users.filter(users["_is_removed"]).select(["user_id"]),
        audience_files.change_list(path, "added"): users.filter(users["_is_added"]).select(columns),
        path: users.filter(users["_is_member"]).select(columns),
    }


def _before_delivery(rows: DataFrame) -> DataFrame:
    """Changes of `audience_users` before the files are replaced: it is unknown whether the receiver has the users."""
    is_new = _is_added() & F.col(_IS_DELIVERED).isNull()
    is_leaving = _is_removed() & F.col(_IS_DELIVERED)
    changed = rows.where(is_new | is_leaving | _is_erased())
    return changed.select("user_id", F.lit(False).alias("is_delivered"), _is_erased().alias(DELETED))


def _after_delivery(rows: DataFrame) -> DataFrame:
    """Changes of `audience_users` after the files were replaced."""
    changed = rows.where(_is_added() | _is_removed())
    return changed.select("user_id", F.lit(True).alias("is_delivered"), _is_removed().alias(DELETED))


def _commit(changed: DataFrame, count: int, audience: Audience, settings: Settings) -> None:
    if not count:
        return
    version = commits.version(changed.sparkSession, AUDIENCE_USERS, settings.paths)
    rows = changed.select(F.lit(audience.name).alias("audience"), *changed.columns)
    changed_rows.merge(rows, count, AUDIENCE_USERS, settings, Txn(STEP, str(uuid.uuid4()), 0), version)


def _counts(rows: DataFrame, all_count: int, listed: int) -> AudienceCounts:
    is_member = _is_member()
    spent = F.when(is_member, F.col("spent_net"))
    flags = {
        "users": is_member,
        "added": _is_added(),
        "removed": _is_removed(),
        "erased": _is_erased(),
        "suppressed": F.col(_MATCHES) & F.col(_IS_SUPPRESSED),
        "listed_users": F.col(_IS_USER) & F.col(_IS_SUPPRESSED),
    }
    counts = [F.count_if(flag).alias(name) for name, flag in flags.items()]
    (row,) = rows.agg(*counts, F.sum(spent).alias("spent_net"), F.max("currency").alias("currency")).collect()
    values = {**row.asDict(), "currency": row["currency"] or ""}
    return AudienceCounts(all_users=all_count, listed=listed, **values)
