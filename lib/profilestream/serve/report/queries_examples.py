"""Three different kinds of customers for the report, from `user_scores` and the orders."""

from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.serve.report import queries_outcomes
from profilestream.serve.report.view_shop import ExampleCustomer, ExampleKind

# Prefixes of the names of outcomes with examples of customers; the first one that has scores is used.
_OUTCOMES = ("value", "spend", "purchase")
_NEW_WEEKS = 4


def examples(
    orders: DataFrame, scores: DataFrame, outcomes: list[str], risk_by_user: DataFrame, weeks: range, *, has_risk: bool
) -> tuple[ExampleCustomer, ...]:
    """A valuable customer at risk, a new one and a typical one; those without a candidate are left out.

    - At risk: spent most in the last 52 weeks, of those at risk. Without scores of the risk: spent most, of those who
      are not new.
    - New: first order in the last four weeks, of which one is open, and not at risk. The one with the highest score
      below the highest score of all, because that one is often the limit of the scores.
    - Typical: neither at risk nor new; the score is nearest to the median of all scores, which is approximate for more
      than 10,000 different scores.

    Equal customers are in the order of their ids, the last one first.

    Args:
        orders: as queries_sales.orders.
        outcomes: names in `scores`.
        risk_by_user: as queries_outcomes.risk_by_user.
        weeks: numbers of the usual weeks.
        has_risk: whether there is an outcome of the customers at risk.
    """
    candidates = (name for prefix in _OUTCOMES for name in outcomes if name.startswith(prefix))
    outcome = next(candidates, None)
    if outcome is None:
        return ()
    scored = scores.where(F.col("outcome") == outcome)
    customers = _customers(orders, scored, risk_by_user)
    limits = customers.agg(F.max("value"), F.percentile_approx("value", 0.5, 10_000)).collect()[0]
    chosen = _chosen(customers, weeks.stop - _NEW_WEEKS, *limits, has_risk=has_risk)
    ids = [row["user_id"] for row in chosen.values()]
    users = {row["user_id"]: queries_outcomes.scored_user(row) for row in _rows_of(scored, ids)}
    return tuple(ExampleCustomer(kind, users[row["user_id"]], row["spent"]) for kind, row in chosen.items())


def _customers(orders: DataFrame, scored: DataFrame, risk_by_user: DataFrame) -> DataFrame:
    """One row per customer with a score: `value` of the score, `spent`, `first_week`, `is_at_risk`."""
    all_sources = orders.where("source IS NULL AND user_id IS NOT NULL").groupBy("user_id")
    by_user = all_sources.agg(
        F.coalesce(F.sum("spent"), F.lit(0.0)).alias("spent"), F.min("week").alias("first_week")
    ).where("first_week IS NOT NULL")
    values = scored.select("user_id", F.coalesce("probability", "score").alias("value"))
    joined = values.join(by_user, "user_id").join(risk_by_user, "user_id", "left")
    return joined.withColumn("is_at_risk", F.coalesce("is_at_risk", F.lit(False)))


def _chosen(
    customers: DataFrame, newest: int, highest: float | None, median: float | None, *, has_risk: bool
) -> dict[ExampleKind, Any]:
    """Rows with `user_id` and `spent` by kind."""
    is_new = ~F.col("is_at_risk") & (F.col("first_week") >= newest)
    is_other = ~F.col("is_at_risk") & ~is_new
    value = F.col("value")
    first_kind: ExampleKind = "at_risk" if has_risk else "highest"
    orders: dict[ExampleKind, Column] = {
        first_kind: F.when(F.col("is_at_risk") if has_risk else is_other, F.struct("spent", value, "user_id")),
        "new": F.when(is_new, F.struct(value < F.lit(highest), value, "user_id")),
        "typical": F.when(is_other, F.struct(-F.abs(value - F.lit(median)), "user_id")),
    }
    picks = (F.max_by(F.struct("user_id", "spent"), order).alias(kind) for kind, order in orders.items())
    row = customers.agg(*picks).collect()[0]
    chosen: dict[ExampleKind, Any] = {}
    for kind in orders:
        if row[kind] is not None and row[kind]["user_id"] not in {one["user_id"] for one in chosen.values()}:
            chosen[kind] = row[kind]
    return chosen


def _rows_of(scored: DataFrame, user_ids: list[str]) -> list[Any]:
    return scored.where(F.col("user_id").isin(user_ids)).collect() if user_ids else []
