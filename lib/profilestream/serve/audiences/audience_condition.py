"""An audience as a condition over `users`: SQL, a tag or a segment."""

import re
from dataclasses import dataclass

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.errors import BadSettings, first_sentence
from profilestream.base.jvm import java_class
from profilestream.base.settings import Settings
from profilestream.serve.tags import tag_declaration

_POSITION = re.compile(r"line (\d+),? pos (\d+)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Audience:
    """A named set of users; one of `where`, `tag` and `segment` is not empty.

    Args:
        name: small letters, digits, _ and -; exports with the same name have common change lists.
        where: SQL condition over the columns of `users`.
        segment: value of `rfm_segment` or `segment`.

    Raises:
        BadSettings: the name is invalid.
    """

    name: str
    where: str = ""
    tag: str = ""
    segment: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            do = "use small letters, digits, _ and -, such as lapsed_buyers"
            raise BadSettings(f"{self.name!r} cannot be the name of an audience", where="--name", do=do)


def condition(users: DataFrame, audience: Audience, settings: Settings) -> Column:
    """Whether a row of `users` is in the audience; null counts as false.

    Raises:
        BadSettings: the SQL is not a condition over these columns, or there is no such tag or segment.
    """
    if audience.tag:
        tags = _values(users.select(F.explode("tags").alias("tags")), "tags")
        if settings.serve.tags.file:
            tags |= tag_declaration.from_settings(settings).tags.keys()
        _check_exists(audience.tag, tags, "tag", "`serve_tags` has written no tags")
        return F.array_contains("tags", audience.tag)
    if audience.segment:
        segments = _values(users, "rfm_segment") | _values(users, "segment")
        _check_exists(audience.segment, segments, "segment", "`serve_tags` and `learn_segments` have written none")
        return (F.col("rfm_segment") == audience.segment) | (F.col("segment") == audience.segment)
    check_sql(users, audience.where)
    return F.expr(audience.where)


def check_sql(users: DataFrame, sql: str) -> None:
    """Raise BadSettings, with the position, if SQL is not a condition that reads only the columns of `users`.

    The parser of expressions accepts no statement. Subqueries read other tables. A function such as `rand()` has
    another result when Spark computes the row again, and `reflect` calls any Java method.
    """
    allowed = f"a condition may use the columns {', '.join(users.columns)}"
    try:
        analyzed = users.where(F.expr(sql))._jdf.queryExecution().analyzed().condition()
    except PySparkException as error:
        position = _POSITION.search(str(error))
        place = f", line {position[1]}, character {int(position[2]) + 1}" if position else ""
        what = f"the condition {sql!r} is not valid{place}: {first_sentence(str(error))}"
        raise BadSettings(what, where="--where", do=f"correct it; {allowed}") from None
    subqueries = java_class(users.sparkSession, "org.apache.spark.sql.catalyst.expressions.SubqueryExpression")
    if subqueries.hasSubquery(analyzed):
        raise BadSettings(f"the condition {sql!r} contains a subquery", where="--where", do=f"remove it; {allowed}")
    if not analyzed.deterministic():
        what = f"the condition {sql!r} contains a function whose result can change, such as rand() or reflect()"
        raise BadSettings(what, where="--where", do=f"remove it; {allowed}")


def _values(rows: DataFrame, column: str) -> set[str]:
    return {row[0] for row in rows.select(column).where(F.col(column).isNotNull()).distinct().collect()}


def _check_exists(name: str, names: set[str], kind: str, if_none: str) -> None:
    if name not in names:
        do = f"use one of: {', '.join(sorted(names))}" if names else f"{if_none}; enable and run it first"
        raise BadSettings(f"there is no {kind} {name!r}", where=f"--{kind}", do=do)
