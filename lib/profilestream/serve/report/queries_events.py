"""What the events say of the shop and its users: tables to numbers."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from profilestream.serve.report import view_model
from profilestream.serve.report.view_model import Cohort, Log, Period, Users

_COHORTS = 24
_LOOKED = "event_type IN ('view', 'click')"
_CARTED = "event_type IN ('cart', 'favorite')"
_BOUGHT = "event_type = 'purchase'"


def log(events: DataFrame, zone: str) -> Log | None:
    """The events as a whole, by the clock of a zone."""
    local = F.from_utc_timestamp("event_time", zone)
    value = F.expr(f"CASE WHEN {_BOUGHT} THEN value END")
    rows = (
        events.groupBy(F.weekday(local).alias("weekday"), F.hour(local).alias("hour"), "event_type")
        .agg(
            F.count(F.lit(1)).alias("events"), F.count_if(F.col("user_id").isNull()).alias("guests"),
            F.min("event_time").alias("first"), F.max("event_time").alias("last"), F.sum(value).alias("value"),
            F.min("currency").alias("currency"), F.max("currency").alias("other"),
        )
        .collect()
    )  # fmt: skip
    if not rows:
        return None
    by_hour: dict[tuple[int, int], int] = {}
    by_type: dict[str, int] = {}
    for row in rows:
        hour = (row["weekday"], row["hour"])
        by_hour[hour] = by_hour.get(hour, 0) + row["events"]
        by_type[row["event_type"]] = by_type.get(row["event_type"], 0) + row["events"]
    currencies = {row[name] for row in rows for name in ("currency", "other")} - {None}
    return Log(
        first=min(row["first"] for row in rows),
        last=max(row["last"] for row in rows),
        by_hour=by_hour,
        by_type=by_type,
        guests=sum(row["guests"] for row in rows),
        value=sum(row["value"] or 0.0 for row in rows),
        currency=currencies.pop() if len(currencies) == 1 else "",
        zone=zone,
    )


def users(events: DataFrame, told: Log) -> Users | None:
    """Known users over time, by cohort and by step."""
    fine, coarse = view_model.grains(told.first, told.last)
    local = f"from_utc_timestamp(event_time, '{told.zone}')"
    bought_on = F.expr(f"CASE WHEN {_BOUGHT} THEN date({local}) END")
    # A row a user and period, out of which all else is counted.
    visits = (
        events.where("user_id IS NOT NULL")
        .groupBy(
            "user_id",
            F.expr(view_model.NUMBERED[fine].format(local)).alias("fine"),
            F.expr(view_model.NUMBERED[coarse].format(local)).alias("coarse"),
        )
        .agg(
            F.expr(f"bool_or({_LOOKED})").alias("looked"),
            F.expr(f"bool_or({_CARTED})").alias("carted"),
            F.expr("bool_or(event_type = 'return')").alias("returned"),
            F.min(bought_on).alias("bought"),
            F.max(bought_on).alias("bought_again"),
        )
        .persist()
    )
    try:
        steps, bought_carted = _steps(visits)
        if not steps:
            return None
        return Users(fine, coarse, _periods(visits, fine), _cohorts(visits, coarse), steps, bought_carted)
    finally:
        visits.unpersist()


def _periods(visits: DataFrame, fine: view_model.Grain) -> tuple[Period, ...]:
    buyers = F.count_distinct(F.when(F.col("bought").isNotNull(), F.col("user_id")))
    rows = visits.groupBy("fine").agg(F.count_distinct("user_id").alias("active"), buyers.alias("buyers"))
    found = {row["fine"]: row for row in rows.collect()}
    every = range(min(found), max(found) + 1)
    return tuple(
        Period(view_model.begin(fine, n), *((found[n]["active"], found[n]["buyers"]) if n in found else (0, 0)))
        for n in every
    )


def _cohorts(visits: DataFrame, coarse: view_model.Grain) -> tuple[Cohort, ...]:
    """The newest cohorts, oldest first, each up to the newest period."""
    first = F.min("coarse").over(Window.partitionBy("user_id"))
    met = visits.select("user_id", "coarse").distinct().withColumn("first", first)
    rows = met.groupBy("first", "coarse").count().where(F.col("first") + _COHORTS > _newest(met)).collect()
    last = max(row["coarse"] for row in rows)
    users = {(row["first"], row["coarse"]): row["count"] for row in rows}
    return tuple(
        Cohort(view_model.begin(coarse, n), tuple(users.get((n, later), 0) for later in range(n, last + 1)))
        for n in sorted({n for n, _ in users})
    )


def _newest(met: DataFrame) -> int:
    row = met.agg(F.max("coarse")).first()
    assert row is not None
    return int(row[0])


def _steps(visits: DataFrame) -> tuple[dict[str, int], int]:
    """Users by step; a step that nobody took is one that the log does not have."""
    by_user = visits.groupBy("user_id").agg(
        F.max("looked").alias("looked"), F.max("carted").alias("carted"), F.max("returned").alias("returned"),
        F.min("bought").alias("bought"), F.max("bought_again").alias("again"),
    )  # fmt: skip
    has_bought = F.col("bought").isNotNull()
    counts = {
        "did anything": F.lit(True),
        "looked": F.col("looked"),
        "put into the cart": F.col("carted"),
        "bought": has_bought,
        "bought on another day too": F.col("again") > F.col("bought"),
        "returned something": F.col("returned"),
    }
    both = F.count_if(F.col("carted") & has_bought)
    row = by_user.agg(*[F.count_if(says).alias(name) for name, says in counts.items()], both).first()
    assert row is not None
    return {name: row[name] for name in counts if row[name]}, row[len(counts)]
